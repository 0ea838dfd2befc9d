package delivery_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// world is a core on the memory store, with devices and an Apple that do as they
// are told. It lives in a synctest bubble: time passes when everyone waits.
type world struct {
	*testing.T
	core  core
	store *testStore
	apple *apple
	sub   *delivery.Subscription
}

func options() delivery.Options {
	return delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: 24 * time.Hour, MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: 60 * 24 * time.Hour,
		Boottime: func() time.Duration { return 0 }, // the bubble's machine never sleeps
	}
}

// inWorld runs a test in a world of its own.
func inWorld(t *testing.T, test func(w *world)) { inWorldWith(t, options(), test) }

func inWorldWith(t *testing.T, opts delivery.Options, test func(w *world)) {
	testtool.Bubble(t, func(t *testing.T) {
		w := &world{T: t, apple: &apple{}}
		w.store = newStore(t)
		w.start(opts)
		test(w)
		w.stop()
		w.store.close()
	})
}

func (w *world) start(opts delivery.Options) {
	w.Helper()
	w.core = newCore(opts, w.store, w.apple, slog.New(slog.DiscardHandler))
	if err := w.core.Start(); err != nil {
		w.Fatal(err)
	}
	w.sub = w.core.Subscribe(1 << 16)
}

func (w *world) stop() {
	w.Helper()
	w.apple.release()
	if err := w.core.Stop(context.Background()); err != nil {
		w.Fatal(err)
	}
}

// restart is a crash without loss: a new core on what the store has.
func (w *world) restart(opts delivery.Options) {
	w.Helper()
	w.stop()
	w.start(opts)
}

func (w *world) accept(r delivery.Request) *delivery.Notification {
	w.Helper()
	if r.Title == "" {
		r.Title = "t"
	}
	if r.Account == "" {
		r.Account = "a"
	}
	receipt, err := w.core.Accept(context.Background(), r)
	if err != nil {
		w.Fatal(err)
	}
	return receipt.Notification
}

// acceptWhile calls meanwhile when a notification is on its way into the store.
func (w *world) acceptWhile(meanwhile func()) *delivery.Notification {
	release := w.store.hold()
	accepted := make(chan *delivery.Notification, 1)
	go func() { accepted <- w.accept(delivery.Request{}) }()
	settle()
	meanwhile()
	settle()
	release()
	return <-accepted
}

// timeline waits until everything has settled and returns the events by name.
func (w *world) timeline(n *delivery.Notification) []string {
	w.Helper()
	synctest.Wait()
	v, err := w.core.Get(context.Background(), n.ID)
	if err != nil {
		w.Fatal(err)
	}
	var names []string
	for _, e := range v.Timeline {
		name := e.Kind.String()
		if e.Detail == "late" {
			name += " late"
		}
		names = append(names, name)
	}
	return names
}

func (w *world) wantTimeline(n *delivery.Notification, want string) {
	w.Helper()
	if got := strings.Join(w.timeline(n), ", "); got != want {
		w.Errorf("timeline:\n got %s\nwant %s", got, want)
	}
}

func (w *world) wantState(n *delivery.Notification, want delivery.State) {
	w.Helper()
	synctest.Wait()
	v, err := w.core.Get(context.Background(), n.ID)
	if err != nil {
		w.Fatal(err)
	}
	if v.State != want {
		w.Errorf("state %v, want %v; timeline %v", v.State, want, w.timeline(n))
	}
}

// known registers a device of account a, with a push token if token is not empty.
func (w *world) known(id, token string) {
	w.Helper()
	w.knownOf("a", id, token)
}

func (w *world) knownOf(account, id, token string) {
	w.Helper()
	var t *delivery.Registration
	if token != "" {
		t = &delivery.Registration{Server: delivery.ServerAPNs, Token: token, App: "app"}
	}
	if err := w.core.PutDevice(context.Background(), account, id, t); err != nil {
		w.Fatal(err)
	}
}

// channel is one connection of a device, in the hands of the test.
type channel struct {
	w        *world
	presence delivery.Up
	acks     bool  // acknowledge at once
	refuse   error // what Publish answers
	closed   bool
	mu       sync.Mutex
	got      []delivery.Publication
}

// published waits and returns every publication so far.
func (ch *channel) published() []delivery.Publication {
	synctest.Wait()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return slices.Clone(ch.got)
}

// up brings a channel of device id of account a up.
func (w *world) up(id string, change ...func(*delivery.OnlineInfo, *channel)) *channel {
	w.Helper()
	ch := &channel{w: w}
	info := delivery.OnlineInfo{Device: id, Account: "a", Channel: ch, Keepalive: time.Minute}
	for _, c := range change {
		c(&info, ch)
	}
	p, err := w.core.Online(info)
	if err != nil {
		w.Fatal(err)
	}
	ch.presence = p
	return ch
}

func acking(_ *delivery.OnlineInfo, ch *channel) { ch.acks = true }

func (ch *channel) Closed() bool { return ch.closed }

func (ch *channel) Publish(p delivery.Publication) error {
	if ch.refuse != nil {
		return ch.refuse
	}
	ch.mu.Lock()
	ch.got = append(ch.got, p)
	ch.mu.Unlock()
	if ch.acks {
		go p.Acked() // the core's mutex is held
	}
	return nil
}

// ids waits and returns the IDs of every publication so far, of pseudo-notifications
// or of messages.
func (ch *channel) ids(message bool) (ids []string) {
	ch.w.Helper()
	for _, p := range ch.published() {
		if p.Message == message {
			n, err := ch.w.core.Notification(p.Seq)
			if err != nil {
				ch.w.Fatal(err)
			}
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (ch *channel) wantIDs(message bool, want ...string) {
	ch.w.Helper()
	if got := ch.ids(message); !slices.Equal(got, want) {
		ch.w.Errorf("published %v, want %v", got, want)
	}
}

// ack acknowledges the i-th publication.
func (ch *channel) ack(i int) { ch.published()[i].Acked() }

// apple answers pushes. Without a script it accepts all at once.
type apple struct {
	mu     sync.Mutex
	script []delivery.PushResult // answers in turn; the last one for ever
	hold   bool
	asks   bool // each push whether it is still wanted, as the router does
	held   []heldPush
	asked  []delivery.Push
}

// heldPush is a push that waits for its answer.
type heldPush struct {
	ctx  context.Context
	push delivery.Push
	done func(delivery.PushResult)
}

func (h heldPush) answer(r delivery.PushResult) {
	if h.ctx.Err() != nil {
		r = delivery.PushResult{Outcome: delivery.PushWithdrawn, Err: h.ctx.Err()}
	}
	h.done(r)
}

func (a *apple) Push(ctx context.Context, p delivery.Push, done func(delivery.PushResult)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := heldPush{ctx, p, done}
	if a.asks { // not here: the core's mutex is held
		go func() {
			if _, err := p.Current(); err != nil {
				h.answer(delivery.PushResult{Outcome: delivery.PushWithdrawn, Err: err})
				return
			}
			a.mu.Lock()
			a.asked = append(a.asked, p)
			a.mu.Unlock()
			h.answer(accepted)
		}()
		return
	}
	a.asked = append(a.asked, p)
	if a.hold {
		a.held = append(a.held, h)
		return
	}
	r := accepted
	if len(a.script) > 0 {
		r = a.script[0]
		if len(a.script) > 1 {
			a.script = a.script[1:]
		}
	}
	go h.answer(r)
}

var accepted = delivery.PushResult{Outcome: delivery.PushAccepted, Detail: "200"}

// release lets Apple answer the pushes that it held back.
func (a *apple) release() {
	a.mu.Lock()
	held := a.held
	a.hold, a.held = false, nil
	a.mu.Unlock()
	for _, h := range held {
		h.answer(accepted)
	}
}

var errNoRoom = errors.New("queue full")
