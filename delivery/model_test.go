package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// model is what a user may rely on, a page long, checked against the core under
// random interleavings of everything that can happen to it.
type model struct {
	*rapid.T
	w        *world
	accepted map[string]*delivery.Notification // by ID: its Accept has returned
	pushed   map[delivery.Key]int              // accepted pushes that Apple has told of
	unknown  map[delivery.Key]bool             // a crash hid whether Apple's answer was recorded
	channels map[string]*line                  // by device: the connection that is up
	former   []*line                           // connections that were
	answered map[delivery.Key]bool             // an ack of some kind has come
	ids      int
	began    time.Time // of the core that runs
}

// line is a connection and the packets that came down it.
type line struct {
	*channel
	device  string
	window  int
	open    map[delivery.Ref]bool // unacknowledged
	highest delivery.Seq          // of what came down for the first time
	seen    map[delivery.Seq]time.Time
	read    int
}

var devices = []string{"d1", "d2"}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		testtool.Bubble(t, func(t *testing.T) {
			m := newModel(t, rt)
			defer func() {
				// rapid fails by a panic, which has to leave the bubble, and the bubble's
				// goroutines have to end.
				if failure = recover(); failure != nil {
					m.w.core.Crash()
					m.w.store.close()
				}
			}()
			m.run()
		})
		// rapid takes failures of one traceback for one fault: those that are none, as
		// when it has run out of choices, must not look like those that are.
		if fmt.Sprintf("%T", failure) == "rapid.invalidData" {
			panic(failure)
		} else if failure != nil {
			panic(failure)
		}
	})
}

func newModel(t *testing.T, rt *rapid.T) *model {
	w := &world{T: t, apple: &apple{hold: true}}
	w.store = newStore(t)
	w.start(modelOptions())
	m := &model{
		T: rt, w: w, accepted: map[string]*delivery.Notification{}, pushed: map[delivery.Key]int{},
		unknown: map[delivery.Key]bool{}, channels: map[string]*line{}, answered: map[delivery.Key]bool{},
	}
	w.known("d1", "aa")
	w.known("d2", "bb")
	return m
}

func modelOptions() delivery.Options {
	o := options()
	o.MaxInflight, o.MaxOutstanding = 3, 8
	return o
}

func (m *model) run() {
	m.Repeat(map[string]func(*rapid.T){
		"accept":    m.accept,
		"up":        m.up,
		"down":      func(t *rapid.T) { m.down(rapid.SampledFrom(devices).Draw(t, "device")) },
		"heartbeat": m.heartbeat,
		"ack":       func(t *rapid.T) { m.answer(t, false) },
		"nack":      func(t *rapid.T) { m.answer(t, true) },
		"displayed": m.displayed,
		"app":       m.app,
		"apple":     m.apple,
		"token":     m.token,
		"cancel":    m.cancel,
		"possible":  func(*rapid.T) { m.w.core.PushPossible(delivery.ServerAPNs, "app") },
		"sign out":  m.signOut,
		"time": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
		},
		"crash":   m.crash,
		"restart": m.restart,
		"":        func(*rapid.T) { m.check() },
	})
	m.settle()
}

func (m *model) accept(t *rapid.T) {
	m.ids++
	r := delivery.Request{
		Account: "a", ID: fmt.Sprint(m.ids), Title: "t",
		TTL:         new(time.Duration(rapid.SampledFrom([]int{0, 1, 2, 3, 10, 100, 300}).Draw(t, "ttl")) * time.Second),
		Urgency:     rapid.SampledFrom([]delivery.Urgency{0, delivery.UrgencyNormal}).Draw(t, "urgency"),
		AckWindow:   rapid.SampledFrom([]*time.Duration{nil, new(time.Duration(0)), new(time.Second)}).Draw(t, "window"),
		CollapseKey: rapid.SampledFrom([]string{"", "", "k"}).Draw(t, "key"),
		Ack:         rapid.SampledFrom([]delivery.AckKind{delivery.AckReceived, delivery.AckDisplayed}).Draw(t, "ack"),
		NoFallback:  rapid.IntRange(0, 4).Draw(t, "fallback") == 0,
	}
	if rapid.Bool().Draw(t, "message") {
		r.Data = json.RawMessage(`{}`)
	}
	if rapid.Bool().Draw(t, "one") {
		r.Devices = []string{rapid.SampledFrom(devices).Draw(t, "device")}
	}
	if receipt, err := m.w.core.Accept(context.Background(), r); err == nil {
		m.accepted[r.ID] = receipt.Notification
	}
}

func (m *model) up(t *rapid.T) {
	id := rapid.SampledFrom(devices).Draw(t, "device")
	l := &line{device: id, open: map[delivery.Ref]bool{}, seen: map[delivery.Seq]time.Time{}}
	l.channel = m.w.up(id, func(i *delivery.OnlineInfo, _ *channel) {
		i.ReceiveMaximum = rapid.SampledFrom([]int{1, 2, 65535}).Draw(t, "receive maximum")
		i.Messages = true
		l.window = min(i.ReceiveMaximum, 3)
	})
	if old := m.channels[id]; old != nil {
		m.former = append(m.former, old)
		if rapid.Bool().Draw(t, "told") {
			old.presence.Offline("taken over") // comes late, and must not hurt
		}
	}
	m.channels[id] = l
}

func (m *model) down(id string) {
	if l := m.channels[id]; l != nil {
		l.presence.Offline("gone")
		m.former = append(m.former, l)
		delete(m.channels, id)
	}
}

func (m *model) heartbeat(t *rapid.T) {
	if l := m.channels[rapid.SampledFrom(devices).Draw(t, "device")]; l != nil {
		l.presence.Heartbeat()
	}
}

// answer acknowledges anything that ever came down a connection and was not.
func (m *model) answer(t *rapid.T, negative bool) {
	var open []delivery.Ref
	var of []*line
	for _, l := range append(m.lines(), m.former...) {
		for _, p := range l.published() {
			if l.open[p.Ref] {
				open, of = append(open, p.Ref), append(of, l)
			}
		}
	}
	if len(open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
	delete(of[i].open, open[i])
	if negative {
		open[i].Nacked("0x83")
	} else {
		m.answered[delivery.Key{Seq: open[i].Seq, Device: of[i].device}] = true
		open[i].Acked()
	}
}

func (m *model) lines() (all []*line) {
	for _, id := range devices {
		if l := m.channels[id]; l != nil {
			all = append(all, l)
		}
	}
	return all
}

func (m *model) displayed(t *rapid.T) {
	if m.ids > 0 {
		id, device := fmt.Sprint(rapid.IntRange(1, m.ids).Draw(t, "id")), rapid.SampledFrom(devices).Draw(t, "device")
		if n := m.accepted[id]; n != nil {
			m.answered[delivery.Key{Seq: n.Seq, Device: device}] = true
		}
		_ = m.w.core.AckByID(id, device, "a", delivery.AckDisplayed) // it may not be theirs
	}
}

func (m *model) app(t *rapid.T) {
	if l := m.channels[rapid.SampledFrom(devices).Draw(t, "device")]; l != nil {
		if err := l.presence.SetApp(rapid.SampledFrom([]delivery.AppState{delivery.AppForeground, delivery.AppBackground}).Draw(t, "app")); err != nil {
			t.Fatal(err)
		}
	}
}

// apple answers one of the pushes that are under way.
func (m *model) apple(t *rapid.T) {
	synctest.Wait()
	a := m.w.apple
	if len(a.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(a.held)-1).Draw(t, "which")
	h := a.held[i]
	a.held = append(a.held[:i:i], a.held[i+1:]...)
	r := rapid.SampledFrom([]delivery.PushResult{
		{Outcome: delivery.PushAccepted, Detail: "200"},
		{Outcome: delivery.PushRetry, RetryAfter: 5 * time.Second, Detail: "503"},
		{Outcome: delivery.PushRefused, Detail: "400"},
		{Outcome: delivery.PushTokenGone, Detail: "410"},
		{Outcome: delivery.PushTokenSuspended, Detail: "400 BadDeviceToken"},
		{Outcome: delivery.PushUnserved, Detail: "not configured"},
	}).Draw(t, "answer")
	if r.Outcome == delivery.PushAccepted && h.ctx.Err() == nil {
		m.pushed[delivery.Key{Seq: h.push.Seq, Device: h.push.Device}]++
	}
	h.answer(r)
}

func (m *model) token(t *rapid.T) {
	id := rapid.SampledFrom(devices).Draw(t, "device")
	if err := m.w.core.SetRegistration(id, "a", delivery.Registration{Server: delivery.ServerAPNs, Token: rapid.SampledFrom([]string{"aa", "bb", "cc"}).Draw(t, "token"), App: "app"}); err != nil {
		t.Fatal(err)
	}
}

// signOut has a device forgotten, and known again.
func (m *model) signOut(t *rapid.T) {
	id := rapid.SampledFrom(devices).Draw(t, "device")
	m.down(id)
	if err := m.w.core.SignOut(context.Background(), id, "a"); err != nil {
		t.Fatal(err)
	}
	if err := m.w.core.Register(id, "a"); err != nil {
		t.Fatal(err)
	}
}

func (m *model) cancel(t *rapid.T) {
	if m.ids > 0 {
		_ = m.w.core.Cancel(context.Background(), fmt.Sprint(rapid.IntRange(1, m.ids).Draw(t, "id"))) // it may have been refused
	}
}

// crash is a power cut at any moment: batches that were not synced may be gone, a
// push may have been accepted without anyone knowing.
func (m *model) crash(t *rapid.T) {
	for _, h := range m.w.apple.held {
		m.unknown[delivery.Key{Seq: h.push.Seq, Device: h.push.Device}] = true
	}
	for k := range m.pushed {
		m.unknown[k] = true // its record may not have been on the disk
	}
	m.w.core.Crash()
	m.w.apple.held = nil
	m.w.store.powerCut(rapid.IntRange(0, 10).Draw(t, "kept"))
	for _, p := range m.w.apple.asked { // what a crash must not repeat unknowingly is on the disk before it is done
		if p.Dismiss != nil {
			continue // taking away twice does no harm
		}
		timeline, err := m.w.store.Timeline(p.Seq)
		if err != nil {
			m.Fatal(err)
		}
		if !slices.ContainsFunc(timeline, func(e delivery.Event) bool {
			return e.Kind == delivery.EventPushRequested && e.Device == p.Device
		}) {
			m.Fatalf("a push for %d on %s was asked for before that was on the disk", p.Seq, p.Device)
		}
	}
	m.begin()
}

func (m *model) restart(*rapid.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, h := range m.w.apple.held {
		m.unknown[delivery.Key{Seq: h.push.Seq, Device: h.push.Device}] = true
	}
	_ = m.w.core.Stop(ctx) // it says which pushes it did not wait for
	for _, h := range m.w.apple.held {
		h.answer(delivery.PushResult{Outcome: delivery.PushRetry, Err: context.Canceled})
	}
	m.w.apple.held = nil
	m.begin()
}

func (m *model) begin() {
	m.began = time.Now()
	m.channels, m.former = map[string]*line{}, nil
	m.w.core = newCore(modelOptions(), m.w.store, m.w.apple, slog.New(slog.DiscardHandler))
	if err := m.w.core.Start(); err != nil {
		m.Fatal(err)
	}
}

// check is what holds after every step.
func (m *model) check() {
	synctest.Wait()
	if err := m.w.core.Flush(context.Background()); err != nil {
		m.Fatal(err)
	}
	synctest.Wait()
	unfinished := map[delivery.Key]delivery.Record{}
	if err := m.w.store.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool {
		unfinished[delivery.Key{Seq: r.Seq, Device: r.Device}] = *r
		return true
	}); err != nil {
		m.Fatal(err)
	}
	for id, n := range m.accepted {
		v, err := m.w.core.Get(context.Background(), id)
		if err != nil {
			m.Fatalf("an accepted notification is lost: %v", err) // guarantee 1
		}
		for _, d := range v.Deliveries {
			r, open := unfinished[delivery.Key{Seq: n.Seq, Device: d.Device}]
			if open && r.State != d.State {
				m.Fatalf("notification %s for %s: the timeline says %v, the record %v", id, d.Device, d.State, r.State)
			}
			if open && !m.goesOn(r, slices.Collect(maps.Values(unfinished))) {
				m.Fatalf("notification %s for %s is %v, and nothing is under way or planned", id, d.Device, d.State)
			}
			if !open && !d.State.Final() {
				m.Fatalf("notification %s for %s is %v, and nothing will ever happen to it", id, d.Device, d.State)
			}
			if open && d.State.Final() && r.Message == delivery.MessageNone {
				m.Fatalf("notification %s for %s is %v, and still in the store", id, d.Device, d.State)
			}
		}
	}
	for k, n := range m.pushed {
		if n > 1 && !m.unknown[k] {
			m.Fatalf("%d accepted pushes for %v", n, k) // guarantee 2
		}
	}
	totals, err := m.w.store.Totals()
	if err != nil {
		m.Fatal(err)
	}
	if totals.Accepted != totals.Finished+uint64(len(unfinished)) {
		m.Fatalf("accepted %d, finished %d, unfinished %d", totals.Accepted, totals.Finished, len(unfinished))
	}
	for _, l := range m.lines() {
		m.checkLine(l)
	}
}

// goesOn tells whether something will come of a delivery by itself, in the states
// where something has to.
func (m *model) goesOn(r delivery.Record, unfinished []delivery.Record) bool {
	switch r.State {
	case delivery.StatePublished, delivery.StatePushed:
		return !r.Deadline.IsZero()
	case delivery.StatePushing:
		if time.Since(m.began) <= modelOptions().Windows.Ack { // the device's time to come back after a start
			return true
		}
		// Planned, under way, or behind one of the device that is.
		return !r.Deadline.IsZero() || slices.ContainsFunc(m.w.apple.held, func(h heldPush) bool {
			return h.push.Device == r.Device && h.push.Dismiss == nil
		}) || slices.ContainsFunc(unfinished, func(o delivery.Record) bool {
			return o.Device == r.Device && o.Seq < r.Seq && o.State == delivery.StatePushing && !o.Deadline.IsZero()
		})
	}
	return true
}

// checkLine checks the packets that came down a connection since the last time:
// guarantee 3, and redelivery in every second copy.
func (m *model) checkLine(l *line) {
	all := l.published()
	for _, p := range all[l.read:] {
		l.open[p.Ref] = true
		if p.Message {
			continue
		}
		first, again := l.seen[p.Seq]
		switch {
		case again && !p.Redelivery:
			m.Fatalf("%d came twice down one connection, and does not say so", p.Seq)
		case again && time.Since(first) == 0 && p.Attempt < 2:
			m.Fatalf("%d came twice at once", p.Seq)
		case !again && p.Seq < l.highest:
			m.Fatalf("%d came after %d, which was accepted later", p.Seq, l.highest)
		}
		if !again {
			l.seen[p.Seq], l.highest = time.Now(), p.Seq
		}
	}
	l.read = len(all)
	distinct := map[string]bool{}
	for r := range l.open {
		if !r.Message && m.answered[delivery.Key{Seq: r.Seq, Device: l.device}] {
			continue // an older copy of what a later one has ended
		}
		distinct[fmt.Sprint(r.Seq, r.Message)] = true
	}
	if len(distinct) > 3 || l.window < 3 && len(l.open) > l.window {
		m.Fatalf("%d packets of %d deliveries are open, the window is %d", len(l.open), len(distinct), l.window)
	}
}

// settle lets every device come back, acknowledge and show: everything that was
// accepted ends at once, as something.
func (m *model) settle() {
	m.w.apple.mu.Lock()
	m.w.apple.hold = false
	m.w.apple.mu.Unlock()
	m.w.apple.release()
	for _, id := range devices {
		m.w.up(id, func(i *delivery.OnlineInfo, ch *channel) {
			ch.acks, i.Messages, i.App = true, true, delivery.AppForeground
		})
	}
	synctest.Wait()
	for id := range m.accepted {
		for _, d := range devices {
			_ = m.w.core.AckByID(id, d, "a", delivery.AckDisplayed) // it may not be theirs
		}
	}
	time.Sleep(time.Second)
	synctest.Wait()
	for id := range m.accepted {
		v, err := m.w.core.Get(context.Background(), id)
		if err != nil {
			m.Fatal(err)
		}
		if !v.State.Final() {
			m.Fatalf("notification %s is %v in the end: %v", id, v.State, v.Timeline)
		}
	}
	left := 0
	if err := m.w.store.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { left++; return true }); err != nil {
		m.Fatal(err)
	}
	if left > 0 {
		m.Fatalf("%d deliveries are unfinished in the end", left)
	}
	m.w.stop()
	m.w.store.close()
}
