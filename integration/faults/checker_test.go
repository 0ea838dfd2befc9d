package faults

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
)

// Evidence is the three ledgers and the facts about the run.
type Evidence struct {
	Acceptances []Acceptance
	Connections []*Connection
	Pushes      []apnssim.Received
	Cancels     []Cancel
	Lives       []Life            // of the program, in order
	ClockSteps  bool              // the program's clock was stepped: its times say nothing here
	Devices     map[string]string // a device's push token → the device
	Former      map[string][]string
	PushOrder   bool // the pushes of one registration are looked at for their order
	Window      int  // max_inflight_per_device; 0: not looked at
	// Unfinished: deliveries may be left over, as long as the store lists them.
	Unfinished bool
}

// Life is one run of the program's process.
type Life struct {
	Start, End time.Time // before the process started, after it had ended
	Killed     bool
}

// Result is a line of the table.
type Result struct {
	Accepted, Acked, Expired, Superseded, Cancelled int
	Unfinished                                      int // accepted, listed, not final
	Messages                                        int // received, and acknowledged

	Unaccounted int // accepted, and not in the store, or in a state that is not true
	Duplicates  int // within one connection
	Disorder    int // first copies on a connection out of the order of acceptance
	Pushes      int // accepted pushes above one for a delivery
	Other       int // broken rules that have no column: flow control, packet identifiers
	MostLost    int // copies of one notification whose events kills have lost, at most

	Problems []string // the first of them, in words
}

// Bad is how much is wrong.
func (r *Result) Bad() int { return r.Unaccounted + r.Duplicates + r.Disorder + r.Pushes + r.Other }

// Add adds the counts of another run.
func (r *Result) Add(o Result) {
	r.Accepted += o.Accepted
	r.Acked += o.Acked
	r.Expired += o.Expired
	r.Superseded += o.Superseded
	r.Cancelled += o.Cancelled
	r.Messages += o.Messages
	r.Unfinished += o.Unfinished
	r.Unaccounted += o.Unaccounted
	r.Duplicates += o.Duplicates
	r.Disorder += o.Disorder
	r.Pushes += o.Pushes
	r.Other += o.Other
	r.MostLost = max(r.MostLost, o.MostLost)
	r.Problems = append(r.Problems, o.Problems...)
}

const problemsKept = 25

func (r *Result) problem(column *int, format string, args ...any) {
	*column++
	if len(r.Problems) < problemsKept {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Store is what the checker reads of the program's store.
type Store interface {
	List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error
	Timeline(seq delivery.Seq) ([]delivery.Event, error)
	Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error
	Totals() (delivery.Totals, error)
}

// deliveryKey is a notification on its way to one device, by the backend's ID.
type deliveryKey struct{ id, device string }

// deviceRecord sums up the device's ledger for one delivery.
type deviceRecord struct {
	copies, messages    int
	acked, messageAcked bool
	ackedAt             time.Time // the first time
}

// storeRecord sums up the store's timeline of one delivery.
type storeRecord struct {
	deliveryKey
	seq     delivery.Seq
	state   delivery.State
	first   uint64         // number of its first event; 0: none
	final   delivery.Event // with which it became final
	dropped delivery.Event // with which its message was given up
	sent    []delivery.Event
	message bool

	published int // events of a publish
}

// ended is when no copy, or no message, was to be sent any more; the zero time:
// an ack ended it, or nothing.
func (t *storeRecord) ended(message bool) time.Time {
	if message && t.state == delivery.StateAcked {
		return t.dropped.Time
	}
	if t.state == delivery.StateAcked {
		return time.Time{}
	}
	return t.final.Time
}

// checker gathers what Check has read.
type checker struct {
	Result
	e             Evidence
	received      map[deliveryKey]*deviceRecord
	unfinished    map[delivery.Key]delivery.State
	order         map[string]delivery.Seq
	stored        map[deliveryKey]*storeRecord
	pushed        map[deliveryKey]int          // by the timeline
	cancelled     map[string]*time.Time        // a DELETE was asked for; when it was answered
	keys          map[[2]string][]*storeRecord // by device and collapse key
	lastPublishes []time.Time                  // of each life; the zero time: none
}

// slack is for two readings of a clock that do not happen at once.
const slack = 10 * time.Millisecond

// Check compares the ledgers with a store that nobody writes to any more.
func Check(store Store, e Evidence) (Result, error) {
	c := &checker{
		e: e, received: map[deliveryKey]*deviceRecord{}, unfinished: map[delivery.Key]delivery.State{}, order: map[string]delivery.Seq{},
		stored: map[deliveryKey]*storeRecord{}, pushed: map[deliveryKey]int{}, cancelled: map[string]*time.Time{}, keys: map[[2]string][]*storeRecord{},
		lastPublishes: make([]time.Time, len(e.Lives)),
	}
	c.devices()
	for _, x := range e.Cancels {
		at := c.cancelled[x.ID]
		if at == nil {
			at = new(time.Time)
			c.cancelled[x.ID] = at
		}
		if !x.Answered.IsZero() && (at.IsZero() || x.Answered.Before(*at)) {
			*at = x.Answered
		}
	}
	if err := store.Unfinished(delivery.Shard{}, func(rec *delivery.Record) bool {
		c.unfinished[delivery.Key{Seq: rec.Seq, Device: rec.Device}] = rec.State
		return true
	}); err != nil {
		return c.Result, fmt.Errorf("list what is unfinished: %w", err)
	}

	accepted := make(map[string]*answers, len(e.Acceptances))
	for _, a := range e.Acceptances {
		if accepted[a.ID] == nil {
			accepted[a.ID] = &answers{}
		}
		c.answer(accepted[a.ID], a)
	}
	c.Accepted = len(accepted)

	finished := 0
	var failed error
	err := store.List("", 0, func(n *delivery.Notification) bool {
		if other, twice := c.order[n.ID]; twice {
			c.problem(&c.Unaccounted, "%s is in the store twice, as %d and %d", n.ID, other, n.Seq)
		}
		c.order[n.ID] = n.Seq
		timeline, err := store.Timeline(n.Seq)
		if err != nil {
			failed = fmt.Errorf("read the timeline of %s: %w", n.ID, err)
			return false
		}
		c.recorded(timeline)
		worst := delivery.StateCancelled
		for _, device := range n.Devices {
			worst = min(worst, c.delivery(n, device, timeline))
			if _, open := c.unfinished[delivery.Key{Seq: n.Seq, Device: device}]; !open {
				finished++
			}
		}
		if a := accepted[n.ID]; a != nil {
			a.found = true
			if said := wire.FormatTime(n.AcceptedAt); a.acceptedAt != "" && a.acceptedAt != said {
				c.problem(&c.Unaccounted, "%s was accepted at %s, said the answer, and the store says %s", n.ID, a.acceptedAt, said)
			}
			switch worst {
			case delivery.StateAcked:
				c.Acked++
			case delivery.StateExpired:
				c.Expired++
			case delivery.StateSuperseded:
				c.Superseded++
			case delivery.StateCancelled:
				c.Cancelled++
			default:
				c.Result.Unfinished++
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return c.Result, fmt.Errorf("read the store: %w", err)
	}
	for id, a := range accepted {
		if !a.found {
			c.problem(&c.Unaccounted, "%s was accepted and is not in the store", id)
		}
	}
	totals, err := store.Totals()
	if err != nil {
		return c.Result, fmt.Errorf("read the store's own count: %w", err)
	}
	if totals.Accepted != totals.Finished+uint64(len(c.unfinished)) || totals.Finished != uint64(finished) {
		c.problem(&c.Unaccounted, "the store counts %d deliveries accepted and %d finished; it holds %d finished and lists %d unfinished",
			totals.Accepted, totals.Finished, finished, len(c.unfinished))
	}

	c.unrecorded()
	c.backends(e, c.order)
	for _, conn := range e.Connections {
		c.connection(conn)
	}
	c.superseded()
	c.foreground()
	c.pushes(e, c.pushed)
	if e.PushOrder {
		c.pushOrder()
	}
	return c.Result, nil
}

// devices sums up the devices' ledgers.
func (c *checker) devices() {
	for _, conn := range c.e.Connections {
		for _, x := range conn.Copies() {
			k := deliveryKey{x.ID, conn.Device}
			h := c.received[k]
			if h == nil {
				h = &deviceRecord{}
				c.received[k] = h
			}
			if x.Message {
				h.messages++
				h.messageAcked = h.messageAcked || x.Acked
				continue
			}
			h.copies++
			if x.Acked && (!h.acked || x.AckedAt.Before(h.ackedAt)) {
				h.acked, h.ackedAt = true, x.AckedAt
			}
		}
	}
}

// answers are the answers that backends got for one ID.
type answers struct {
	found      bool
	first      bool // a 202
	acceptedAt string
}

// answer: an ID is accepted once, however often it is asked for (contract §4).
func (c *checker) answer(known *answers, a Acceptance) {
	if a.AcceptedAt == "" {
		return
	}
	if known.first && a.Status == http.StatusAccepted {
		c.problem(&c.Unaccounted, "%s was answered with 202 twice", a.ID)
	}
	if known.acceptedAt != "" && known.acceptedAt != a.AcceptedAt {
		c.problem(&c.Unaccounted, "%s was accepted at %s, and then at %s", a.ID, known.acceptedAt, a.AcceptedAt)
	}
	known.first = known.first || a.Status == http.StatusAccepted
	known.acceptedAt = cmp.Or(known.acceptedAt, a.AcceptedAt)
}

// delivery checks one delivery and returns its state.
func (c *checker) delivery(n *delivery.Notification, device string, timeline []delivery.Event) delivery.State {
	var own []delivery.Event
	t := &storeRecord{deliveryKey: deliveryKey{n.ID, device}, seq: n.Seq, message: n.HasMessage}
	published, messageReceived := 0, false
	for _, ev := range timeline {
		if ev.Device != device {
			continue
		}
		own = append(own, ev)
		if t.first == 0 {
			t.first = ev.Number
		}
		switch ev.Kind {
		case delivery.EventPublished, delivery.EventRedelivered:
			published++
			if t.final.Kind != 0 {
				c.problem(&c.Unaccounted, "%s was published to %s after it was %s", n.ID, device, t.final.Kind)
			}
		case delivery.EventPushed:
			c.pushed[t.deliveryKey]++
		case delivery.EventMessageSent:
			t.sent = append(t.sent, ev)
			if t.dropped.Kind != 0 {
				c.problem(&c.Unaccounted, "the message of %s was sent to %s after it was %s", n.ID, device, t.dropped.Kind)
			}
		case delivery.EventMessageReceived:
			messageReceived = true
		case delivery.EventExpired:
			if ev.Time.Before(n.ExpiresAt.Add(-slack)) {
				c.problem(&c.Unaccounted, "%s to %s expired at %s, before its time was up at %s", n.ID, device, wire.FormatTime(ev.Time), wire.FormatTime(n.ExpiresAt))
			}
		}
		switch {
		case t.final.Kind == 0 && stateAfter(own[len(own)-1:], n.Ack).Final():
			t.final = ev
		case t.final.Kind != 0 && (ev.Kind == delivery.EventExpired || ev.Kind == delivery.EventCancelled):
			t.dropped = ev
		}
	}
	t.state = stateAfter(own, n.Ack)
	c.stored[t.deliveryKey] = t
	if n.CollapseKey != "" {
		k := [2]string{device, n.CollapseKey}
		c.keys[k] = append(c.keys[k], t)
	}
	h := c.received[t.deliveryKey]
	if h == nil {
		h = &deviceRecord{}
	}
	record, open := c.unfinished[delivery.Key{Seq: n.Seq, Device: device}]
	switch {
	case !t.state.Final() && !open:
		c.problem(&c.Unaccounted, "%s to %s is %s and not listed as unfinished", n.ID, device, t.state)
	case t.state.Final() && open && (record != t.state || !n.HasMessage):
		c.problem(&c.Unaccounted, "%s to %s is %s, and listed as unfinished in state %s", n.ID, device, t.state, record)
	case !t.state.Final() && !c.e.Unfinished:
		c.problem(&c.Unaccounted, "%s to %s has been left in state %s", n.ID, device, t.state)
	case open && t.state.Final() && !c.e.Unfinished:
		c.problem(&c.Unaccounted, "the message of %s to %s has been left", n.ID, device)
	case t.state == delivery.StateAcked && !h.acked:
		c.problem(&c.Unaccounted, "%s to %s says acked, and the device has not acknowledged it", n.ID, device)
	case t.state == delivery.StateCancelled && c.cancelled[n.ID] == nil:
		c.problem(&c.Unaccounted, "%s to %s is cancelled, and nobody has asked for it", n.ID, device)
	}
	if at := c.cancelled[n.ID]; at != nil && !at.IsZero() && (t.final.Kind == 0 || t.final.Time.After(at.Add(slack))) {
		c.problem(&c.Unaccounted, "%s to %s went on after its cancelling was answered, and is %s", n.ID, device, t.state)
	}
	t.published = published
	switch {
	case messageReceived && !h.messageAcked:
		c.problem(&c.Unaccounted, "the message of %s to %s says received, and the device has not acknowledged it", n.ID, device)
	case n.HasMessage && t.state == delivery.StateAcked && !open && !messageReceived && t.dropped.Kind == 0:
		c.problem(&c.Unaccounted, "the message of %s was kept for %s no longer, and never received", n.ID, device)
	case messageReceived:
		c.Messages++
	}
	return t.state
}

// unrecorded checks that each copy has its event. A kill loses the events that were
// not on the disk yet. Events of publishes are written in their order, up to 50 ms
// after the publish and a write later (an acceptance does not wait for them). So a
// copy may be without an event only if it came after the last recorded publish of a
// process that was killed. One kill can lose the events of several copies of one
// notification: on a busy machine, where a write takes 100 ms and more, a device that
// drops its connection gets the notification again on each new one before the write
// ends. An earlier bound of one copy a kill was wrong; it failed at a load of 7 with 6
// copies, 2 events and 3 kills.
//
// A connection belongs to the life in which it was dialled: the CONNECT was answered
// after that. When the CONNACK was noted says less: a rig that the machine does not run
// for 100 ms notes it in the next life, and finds copies there without an event.
func (c *checker) unrecorded() {
	excused, excusedMessages := map[deliveryKey]int{}, map[deliveryKey]int{}
	for _, conn := range c.e.Connections {
		i, _ := slices.BinarySearchFunc(c.e.Lives, conn.Dialled, func(l Life, dialled time.Time) int {
			if l.Start.After(dialled) {
				return 1
			}
			return -1
		})
		if i == 0 || !c.e.Lives[i-1].Killed {
			continue
		}
		for _, x := range conn.Copies() {
			switch k := (deliveryKey{x.ID, conn.Device}); {
			case !c.e.ClockSteps && x.At.Add(slack).Before(c.lastPublishes[i-1]):
			case x.Message:
				excusedMessages[k]++
			default:
				excused[k]++
			}
		}
	}
	for k, t := range c.stored {
		h := c.received[k]
		if h == nil {
			continue
		}
		if h.copies > t.published+excused[k] {
			c.problem(&c.Duplicates, "device %s got %d copies of %s, which was published %d times; kills can have lost %d events", k.device, h.copies, k.id, t.published, excused[k])
		}
		if h.messages > len(t.sent)+excusedMessages[k] {
			c.problem(&c.Duplicates, "device %s got the message of %s %d times, which was sent %d times; kills can have lost %d events", k.device, k.id, h.messages, len(t.sent), excusedMessages[k])
		}
		if lost := h.copies - t.published; lost > c.MostLost {
			c.MostLost = lost
		}
	}
}

// recorded notes the last recorded publish of each life of the program.
func (c *checker) recorded(timeline []delivery.Event) {
	for _, ev := range timeline {
		if ev.Kind != delivery.EventPublished && ev.Kind != delivery.EventRedelivered {
			continue
		}
		for i, l := range slices.Backward(c.e.Lives) {
			if !ev.Time.Before(l.Start) {
				if !ev.Time.After(l.End) && ev.Time.After(c.lastPublishes[i]) {
					c.lastPublishes[i] = ev.Time
				}
				break
			}
		}
	}
}

// superseded: of those with one collapse key, the newer ends the older, which a
// newer one alone can (contract §2).
func (c *checker) superseded() {
	for k, all := range c.keys {
		slices.SortFunc(all, func(a, b *storeRecord) int { return cmp.Compare(a.seq, b.seq) })
		for i, t := range all {
			switch {
			case i == len(all)-1:
				if t.state == delivery.StateSuperseded {
					c.problem(&c.Unaccounted, "%s to %s is superseded, and nothing newer has its collapse key %s", t.id, t.device, k[1])
				}
			case t.final.Kind == 0, all[i+1].first > 0 && t.final.Number > all[i+1].first:
				c.problem(&c.Unaccounted, "%s to %s went on after %s had taken its place", t.id, t.device, all[i+1].id)
			}
		}
	}
}

// foreground: a message is sent to a device that reports its app while that is in
// the foreground (contract §2): from a report on a connection to the answer to the
// next, or to the connection after.
func (c *checker) foreground() {
	type span struct{ from, to time.Time }
	spans := map[string][]span{}
	reported := map[string]time.Time{} // the first report's answer
	last := map[string]bool{}          // the span at the end is open
	for _, conn := range c.e.Connections {
		d := conn.Device
		end := func(at time.Time) {
			if last[d] {
				spans[d][len(spans[d])-1].to = at
				last[d] = false
			}
		}
		reports := conn.Reports()
		if reported[d].IsZero() && len(reports) == 0 {
			continue
		}
		end(conn.Up)
		for _, r := range reports {
			if !r.Confirmed.IsZero() && reported[d].IsZero() {
				reported[d] = r.Confirmed
			}
			switch {
			case r.Foreground && !last[d]:
				spans[d] = append(spans[d], span{from: r.At})
				last[d] = true
			case !r.Foreground && !r.Confirmed.IsZero():
				end(r.Confirmed)
			}
		}
	}
	for _, t := range c.stored {
		for _, ev := range t.sent {
			if reported[t.device].IsZero() || ev.Time.Before(reported[t.device]) {
				continue
			}
			if !slices.ContainsFunc(spans[t.device], func(s span) bool {
				return !ev.Time.Before(s.from.Add(-slack)) && (s.to.IsZero() || !ev.Time.After(s.to.Add(slack)))
			}) {
				c.problem(&c.Disorder, "the message of %s was sent to %s at %s, with its app in the background", t.id, t.device, wire.FormatTime(ev.Time))
			}
		}
	}
}

// backends: what one link was answered for is in the store in that order.
func (r *Result) backends(e Evidence, order map[string]delivery.Seq) {
	type last struct {
		place int
		seq   delivery.Seq
		id    string
	}
	links := map[[2]string]last{}
	for _, a := range e.Acceptances {
		seq, ok := order[a.ID]
		if !ok || a.Again {
			continue
		}
		k := [2]string{a.Link, a.Account}
		if l, ok := links[k]; ok && l.place < a.Place && l.seq > seq {
			r.problem(&r.Disorder, "%s was sent before %s on %s, and accepted after it", l.id, a.ID, a.Link)
		}
		links[k] = last{a.Place, seq, a.ID}
	}
}

// connection checks what a device got on one connection.
func (c *checker) connection(conn *Connection) {
	c.copies(conn, false)
	c.copies(conn, true)
	conn.mu.Lock()
	defer conn.mu.Unlock()
	for _, id := range conn.twice {
		c.problem(&c.Other, "device %s got %s under a packet identifier that was in use", conn.Device, id)
	}
	for _, what := range conn.unasked {
		c.problem(&c.Other, "device %s: %s", conn.Device, what)
	}
	if conn.ReceiveMaximum > 0 && conn.most > conn.ReceiveMaximum {
		c.problem(&c.Other, "device %s had %d packets to acknowledge, its Receive Maximum is %d", conn.Device, conn.most, conn.ReceiveMaximum)
	}
}

// copies checks the pseudo-notifications on a connection, or the messages.
func (c *checker) copies(conn *Connection, messages bool) {
	what := ""
	if messages {
		what = "the message of "
	}
	seen := map[string]bool{}
	var before []*storeRecord // first copies, each newer than those before it
	var beforeAt []Copy
	for _, x := range conn.Copies() {
		if x.Message != messages {
			continue
		}
		t := c.stored[deliveryKey{x.ID, conn.Device}]
		if t == nil || messages && !t.message {
			c.problem(&c.Unaccounted, "device %s got %s%s, which is not in the store", conn.Device, what, x.ID)
			continue
		}
		if at := t.ended(messages); !at.IsZero() && conn.Dialled.After(at.Add(slack)) {
			c.problem(&c.Unaccounted, "device %s got %s%s on a connection that it opened after the end at %s", conn.Device, what, x.ID, wire.FormatTime(at))
		}
		if messages {
			if h := c.received[t.deliveryKey]; !h.acked || h.ackedAt.After(x.At) {
				c.problem(&c.Disorder, "device %s got the message of %s before it had acknowledged the notification", conn.Device, x.ID)
			}
		}
		if seen[x.ID] {
			if messages || !x.Redelivery {
				c.problem(&c.Duplicates, "device %s got %s%s again on connection %d, not as a redelivery", conn.Device, what, x.ID, conn.Number)
			}
			continue
		}
		seen[x.ID] = true
		if n := len(before); n > 0 && t.seq < before[n-1].seq {
			if !messages || couldGo(t, before[n-1], beforeAt[n-1]) {
				c.problem(&c.Disorder, "device %s got %s%s after %s on connection %d", conn.Device, what, x.ID, before[n-1].id, conn.Number)
			}
			continue
		}
		before, beforeAt = append(before, t), append(beforeAt, x)
	}
}

// couldGo: the older message was free to go when the newer was sent, which came as
// x. One whose ack is missing waits for it, and holds up no other.
func couldGo(older, newer *storeRecord, x Copy) bool {
	sent := uint64(0)
	for _, ev := range newer.sent {
		if !ev.Time.After(x.At) {
			sent = ev.Number
		}
	}
	return older.state == delivery.StateAcked && older.final.Number < sent
}

// pushes counts what Apple has taken for one delivery. A crash between its answer
// and the record asks again under the same apns-id: that is the same push
// (contract §7.2).
func (c *checker) pushes(e Evidence, timeline map[deliveryKey]int) {
	r := &c.Result
	taken := map[deliveryKey]map[string]bool{}
	dismissed := map[deliveryKey]map[string]bool{} // background pushes: they take the notification off the screen
	for _, p := range e.Pushes {
		if p.Status != http.StatusOK && p.Action != apnssim.ActionDrop {
			continue
		}
		k := deliveryKey{pushedID(p), e.Devices[p.Token]}
		for _, before := range e.Former[p.Token] {
			if c.stored[k] == nil {
				k.device = before
			}
		}
		of := taken
		if p.PushType == "background" {
			of = dismissed
		}
		if of[k] == nil {
			of[k] = map[string]bool{}
		}
		if len(of[k]) > 0 && !of[k][p.APNsID] {
			r.problem(&r.Pushes, "%s was pushed to %s under another apns-id", k.id, k.device)
		}
		of[k][p.APNsID] = true
	}
	for k, n := range timeline {
		if n > 1 {
			r.problem(&r.Pushes, "the timeline of %s to %s has %d accepted pushes", k.id, k.device, n)
		}
		if taken[k] == nil {
			r.problem(&r.Unaccounted, "the timeline of %s says pushed to %s, and Apple's server has not taken it", k.id, k.device)
		}
	}
}

// pushOrder: of one registration and one urgency the pushes come in the order of
// acceptance, but for those that have failed three times; of a collapse key the newest
// comes last (contract §2).
func (c *checker) pushOrder() {
	type lane struct{ token, priority string }
	failed := map[string]int{} // by apns-id
	last := map[lane]*storeRecord{}
	seen := map[string]bool{}
	newest := map[[2]string]*storeRecord{} // by token and collapse key
	for _, p := range c.e.Pushes {
		if p.Status != http.StatusOK {
			failed[p.APNsID]++
			continue
		}
		t := c.stored[deliveryKey{pushedID(p), c.e.Devices[p.Token]}]
		if t == nil {
			continue
		}
		if p.CollapseID != "" && p.CollapseID != t.id {
			k := [2]string{p.Token, p.CollapseID}
			if before := newest[k]; before != nil && before.seq > t.seq {
				c.problem(&c.Disorder, "%s was pushed to %s after %s, which has taken its place", t.id, t.device, before.id)
			}
			newest[k] = t
		}
		if seen[p.APNsID] { // the answer to the first was lost
			continue
		}
		seen[p.APNsID] = true
		k := lane{p.Token, p.Priority}
		if before := last[k]; before != nil && before.seq > t.seq && failed[p.APNsID] < 3 {
			c.problem(&c.Disorder, "%s was pushed to %s after %s, with %d failures", t.id, t.device, before.id, failed[p.APNsID])
			continue
		}
		last[k] = t
	}
}

// pushedID is the notification's, which the collapse ID is not where it has a
// collapse key.
func pushedID(p apnssim.Received) string {
	var payload struct{ Heartline struct{ ID string } }
	if json.Unmarshal(p.Payload, &payload) != nil {
		return "" // a push for nothing: found as one that the store does not know
	}
	return payload.Heartline.ID
}

// stateAfter reads the state of a delivery back from its timeline. It is written
// apart from the program's own transitions, so that a fault there shows here.
func stateAfter(timeline []delivery.Event, ack delivery.AckKind) delivery.State {
	state := delivery.StatePending
	for _, e := range timeline {
		if state.Final() {
			return state
		}
		switch e.Kind {
		case delivery.EventPublished, delivery.EventRedelivered:
			state = delivery.StatePublished
		case delivery.EventAckTimeout, delivery.EventNacked, delivery.EventPushRequested:
			state = delivery.StatePushing
		case delivery.EventPushed:
			if state == delivery.StatePushing {
				state = delivery.StatePushed
			}
		case delivery.EventWaiting:
			state = delivery.StateWaiting
		case delivery.EventReceived:
			if ack != delivery.AckDisplayed {
				state = delivery.StateAcked
			}
		case delivery.EventDisplayed:
			state = delivery.StateAcked
		case delivery.EventExpired:
			state = delivery.StateExpired
		case delivery.EventSuperseded:
			state = delivery.StateSuperseded
		case delivery.EventCancelled:
			state = delivery.StateCancelled
		}
	}
	return state
}
