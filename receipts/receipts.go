package receipts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/store"
)

// Core is what a Receipts asks of *delivery.Core.
type Core interface {
	Source
	Notification(seq delivery.Seq) (*delivery.Notification, error)
}

// Hold is the time of the oldest event that somebody still has to receive: Oldest is
// for store.Options.Unread. Until a Receipts has it, it holds everything.
type Hold struct {
	of atomic.Pointer[Receipts]
}

// Oldest returns that time; false: there is no such event.
func (h *Hold) Oldest() (time.Time, bool) {
	if r := h.of.Load(); r != nil {
		return r.oldest()
	}
	return time.Time{}, true
}

// Options configure a Receipts.
type Options struct {
	Core  Core
	State store.State // keeps the positions; nil: they begin at the end at each start
	Tail  *Tail       // reads the events
	Hold  *Hold
	// Part is the partition of a webhook's name where several nodes share the store; nil:
	// this Receipts sends all. With it Take says which to send, and State only reads.
	Part func(name string) uint16
	// Node names the node that serves a partition, with Part; "": none does.
	Node func(part uint16) string
	// Relay has the node that serves a partition carry out an order, by the Do of its Receipts;
	// nil: an order about a webhook of another node is refused.
	Relay func(ctx context.Context, part uint16, o Order) (Outcome, error)
	// Retain is how long an event is kept for a webhook that does not take it.
	Retain time.Duration
	// Now is the clock of the events' times; nil: time.Now.
	Now func() time.Time
	// Agent is the User-Agent of the requests.
	Agent  string
	Logger *slog.Logger

	transport http.RoundTripper // of tests
	aside     int               // maxAside, but in tests
}

// Receipts sends events to webhooks. Create it with New, which reads the stored positions;
// Start, Reconfigure and Stop may be called at any time, and at once.
type Receipts struct {
	core   Core
	state  store.State
	tail   *Tail
	log    *slog.Logger
	seldom seldom.Log // of each event
	opts   Options
	retain atomic.Int64

	mu         sync.Mutex // held by what starts and stops workers
	started    bool
	stopped    bool
	done       chan struct{}      // closed when the first Stop returns
	configured []Webhook          // with Part
	tenures    map[uint16]*tenure // with Part
	tasks      sync.WaitGroup     // with Part

	listMu  sync.RWMutex
	workers []*worker // by name
}

// New returns a Receipts with these webhooks. It begins to send at Start.
func New(o Options, webhooks []Webhook) (*Receipts, error) {
	r := &Receipts{core: o.Core, state: o.State, tail: o.Tail, log: o.Logger, opts: o, done: make(chan struct{})}
	if r.opts.aside == 0 {
		r.opts.aside = maxAside
	}
	if r.state == nil {
		r.state = &volatile{}
	}
	r.retain.Store(int64(o.Retain))
	if r.opts.Now == nil {
		r.opts.Now = time.Now
	}
	if r.shared() {
		r.configured, r.tenures = webhooks, map[uint16]*tenure{}
	} else if err := r.reconcile(context.Background(), webhooks); err != nil {
		return nil, err
	}
	if o.Hold != nil {
		o.Hold.of.Store(r)
	}
	return r, nil
}

// Start begins to send.
func (r *Receipts) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.stopped {
		return
	}
	r.started = true
	for _, k := range r.list() {
		k.start()
	}
}

// Reconfigure replaces the webhooks. One that is there already, by its name, goes on where
// it is; one that is no longer there loses its position.
func (r *Receipts) Reconfigure(ctx context.Context, webhooks []Webhook, retain time.Duration) error {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return delivery.ErrStopped
	}
	r.retain.Store(int64(retain))
	if r.shared() {
		r.mu.Unlock()
		return r.reconfigure(ctx, webhooks)
	}
	defer r.mu.Unlock()
	return r.reconcile(ctx, webhooks)
}

// reconcile makes the workers those of webhooks.
func (r *Receipts) reconcile(ctx context.Context, webhooks []Webhook) error {
	stored, err := storedNames(r.state)
	if err != nil {
		return fmt.Errorf("read the positions of webhooks: %w", err)
	}
	before := r.list()
	var after, begun []*worker
	for _, w := range webhooks {
		if at := slices.IndexFunc(before, func(k *worker) bool { return k.name == w.Name }); at >= 0 {
			before[at].setWebhook(w)
			after = append(after, before[at])
			continue
		}
		k, err := r.newWorker(w, Tenure{State: r.state})
		if err != nil {
			return err
		}
		after, begun = append(after, k), append(begun, k)
	}
	slices.SortFunc(after, byName)
	r.listMu.Lock()
	r.workers = after
	r.listMu.Unlock()
	for _, k := range before {
		if !slices.Contains(after, k) {
			k.stop(ctx)
		}
	}
	var errs []error
	for _, name := range stored {
		if !slices.ContainsFunc(webhooks, func(w Webhook) bool { return w.Name == name }) {
			r.log.Warn("webhook is no longer configured: events that it has not received will not be sent", "webhook", name)
			errs = append(errs, r.state.ApplyState(removal(name)))
		}
	}
	if r.started {
		for _, k := range begun {
			k.start()
		}
	}
	return errors.Join(errs...)
}

func byName(a, b *worker) int { return cmp.Compare(a.name, b.name) }

// Stop ends the requests under way when ctx ends, and returns when everything has
// stopped. It is safe on a Receipts that was never started, twice, and twice at once.
func (r *Receipts) Stop(ctx context.Context) {
	r.mu.Lock()
	first := !r.stopped
	r.stopped = true
	for _, own := range r.tenures {
		own.end()
	}
	r.mu.Unlock()
	if !first {
		<-r.done
		return
	}
	defer close(r.done)
	var all sync.WaitGroup
	for _, k := range r.list() {
		all.Go(func() { k.stop(ctx) })
	}
	all.Wait()
	r.tasks.Wait()
}

func (r *Receipts) newSender(w Webhook) *sender {
	s := newSender(w, r.opts.Agent)
	if r.opts.transport != nil {
		s.client.Transport = r.opts.transport
	}
	return s
}

func (r *Receipts) list() []*worker {
	r.listMu.RLock()
	defer r.listMu.RUnlock()
	return r.workers
}

func (r *Receipts) worker(name string) *worker {
	for _, k := range r.list() {
		if k.name == name {
			return k
		}
	}
	return nil
}

func (r *Receipts) keep() time.Duration { return time.Duration(r.retain.Load()) }

// keptSince is the time of the oldest events that are not dropped.
func (r *Receipts) keptSince() time.Time { return r.opts.Now().Add(-r.keep()) }

// lag is how long ago an event happened.
func (r *Receipts) lag(at time.Time) time.Duration { return max(r.opts.Now().Sub(at), 0) }

func (r *Receipts) oldest() (at time.Time, ok bool) {
	if r.shared() {
		return r.storedOldest()
	}
	for _, k := range r.list() {
		if t, unread := k.oldest(); unread && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}

// event reads one event. The error wraps delivery.ErrNotFound if it is gone.
func (r *Receipts) event(at delivery.Position) (found *delivery.AccountEvent, err error) {
	before := at
	before.Number--
	err = r.core.EventsFrom(before, func(here delivery.Position, account string, e delivery.Event) bool {
		if here == at {
			found = &delivery.AccountEvent{Account: account, Event: e}
		}
		return false
	})
	if err == nil && found == nil {
		err = fmt.Errorf("event %s: %w", messageID(at.Partition, at.Number), delivery.ErrNotFound)
	}
	return found, err
}
