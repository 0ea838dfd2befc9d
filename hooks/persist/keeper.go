package persist

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/store"
)

// Options configure a Keeper.
type Options struct {
	// Store is where everything is kept. Required.
	Store store.State
	// MaxSessionExpiry bounds how long a session is kept without a connection (default
	// 30 days), and is how long those of MQTT 3.1.1 are.
	MaxSessionExpiry time.Duration
	// Gather is how long changes are gathered for one write (default 5 ms).
	Gather time.Duration
	// RetryInitial and RetryMax are the backoff after a write that failed
	// (default 500 ms, 30 s).
	RetryInitial, RetryMax time.Duration
	// StallAfter is how long one write may take before it is reported (default 10 s).
	StallAfter time.Duration
	// StopTimeout bounds how long Stop waits for the disk (default 5 s).
	StopTimeout time.Duration
	// Logger gets what an operator should know; default: nothing.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&o.MaxSessionExpiry, 30*24*time.Hour)
	or(&o.Gather, 5*time.Millisecond)
	or(&o.RetryInitial, 500*time.Millisecond)
	or(&o.RetryMax, 30*time.Second)
	or(&o.StallAfter, 10*time.Second)
	or(&o.StopTimeout, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Stats is what a Keeper has done. All but Waiting and Stalled only grow.
type Stats struct {
	Waiting  int    // changes that are not written yet
	Stalled  bool   // a write has not come back within Options.StallAfter
	Written  uint64 // changes
	Writes   uint64 // batches of them
	Failed   uint64 // batches that the store did not take, each to be written again
	Restored uint64 // sessions, subscriptions and messages taken up at the start
	Damaged  uint64 // values that could not be read then
}

// Keeper keeps the state of a Hub in a store: it is the Hub's journal and its disk. Call
// Restore before the Hub is used, and Stop after.
type Keeper struct {
	hub    *ordinary.Hub
	opts   Options
	log    *slog.Logger
	seldom seldom.Log // of each entry

	written atomic.Uint64
	writes  atomic.Uint64
	failed  atomic.Uint64

	mu      sync.Mutex
	marks   marks
	writing int       // marks that are being written
	stalled time.Time // since when a write has not come back, once that is too long

	wake  chan struct{} // one slot: there are marks
	quit  chan struct{}
	done  chan struct{} // closed when the writer has ended, or will never run
	begin sync.Once     // of Restore, or of a Stop before it
	stop  sync.Once

	stored map[string]struct{} // keys of packets in flight that are in the store; the writer's own once it runs
	count  struct{ restored, damaged atomic.Uint64 }
}

var (
	_ ordinary.Journal = (*Keeper)(nil)
	_ ordinary.Disk    = (*Keeper)(nil)
)

// New returns a Keeper of hub, which tells it of changes from now on. Its writer runs
// from Restore to Stop.
func New(hub *ordinary.Hub, o Options) *Keeper {
	h := &Keeper{
		hub: hub, opts: o.withDefaults(),
		marks: marks{accounts: map[string]*accountMarks{}}, stored: map[string]struct{}{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	h.log = h.opts.Logger
	hub.Keep(h, h)
	return h
}

// Stop writes the remaining marks and ends the writer. Call it when all clients are gone.
// It is safe before Restore, twice, and twice at once.
func (h *Keeper) Stop() {
	h.begin.Do(func() { close(h.done) }) // it never ran
	h.stop.Do(func() { close(h.quit) })
	t := time.NewTimer(h.opts.StopTimeout)
	defer t.Stop()
	select {
	case <-h.done:
	case <-t.C:
		h.log.Error("MQTT state not stored: the store does not answer, the latest changes are lost", "changes", h.Stats().Waiting)
	}
}

// Stats returns the present figures.
func (h *Keeper) Stats() Stats {
	h.mu.Lock()
	waiting, stalled := h.marks.count+h.writing, !h.stalled.IsZero()
	h.mu.Unlock()
	return Stats{
		Waiting: waiting, Stalled: stalled, Written: h.written.Load(), Writes: h.writes.Load(), Failed: h.failed.Load(),
		Restored: h.count.restored.Load(), Damaged: h.count.damaged.Load(),
	}
}

// Ready returns an error while the store does not come back from a write: ordinary
// MQTT goes on in memory, and a restart would lose later changes.
func (h *Keeper) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stalled.IsZero() {
		return nil
	}
	return fmt.Errorf("MQTT state: a write has not returned for %s; retained messages and sessions are not stored", time.Since(h.stalled).Round(time.Second))
}

// watch begins to wait for a write; end is called when it has come back. A store
// can hang for ever where its disk does, and nothing else would say so: nobody but
// the writer waits for it.
func (h *Keeper) watch() (end func()) {
	began, over := time.Now(), false
	t := time.AfterFunc(h.opts.StallAfter, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if over {
			return
		}
		h.stalled = began
		h.log.Error("MQTT state not stored for now: a write does not return", "after", h.opts.StallAfter)
	})
	return func() {
		t.Stop()
		h.mu.Lock()
		defer h.mu.Unlock()
		over = true
		if !h.stalled.IsZero() {
			h.stalled = time.Time{}
			h.log.Info("MQTT state: the hanging write returned", "after", time.Since(began).Round(time.Millisecond))
		}
	}
}

func (h *Keeper) mark(account string, m mark) {
	h.mu.Lock()
	h.marks.add(account, m)
	h.mu.Unlock()
	h.signal()
}

func (h *Keeper) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Session implements ordinary.Journal.
func (h *Keeper) Session(account, id string) {
	h.markOf(account, mark{kind: kindClient, client: id})
}

// Subscription implements ordinary.Journal.
func (h *Keeper) Subscription(account, id, filter string) {
	h.markOf(account, mark{kind: kindSubscription, client: id, name: filter})
}

// Outgoing implements ordinary.Journal.
func (h *Keeper) Outgoing(account, id string, packetID uint16) {
	h.markOf(account, mark{kind: kindInflight, client: id, id: packetID})
}

// Incoming implements ordinary.Journal.
func (h *Keeper) Incoming(account, id string, packetID uint16) {
	h.markOf(account, mark{kind: kindIncoming, client: id, id: packetID})
}

// Retained implements ordinary.Journal.
func (h *Keeper) Retained(account, topicName string) {
	h.mark(account, mark{kind: kindRetained, name: topicName})
}

// maxBehind bounds what the marks of an account take of the memory, in bytes, before it may add
// nothing more: a client can come up with names faster than any disk takes them.
const maxBehind = 64 << 20

// Behind implements ordinary.Journal.
func (h *Keeper) Behind(account string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.marks.accounts[account]
	return a != nil && a.bytes > maxBehind
}

// markOf marks something of a client whose identifier can be a part of a key.
func (h *Keeper) markOf(account string, m mark) {
	if strings.IndexByte(m.client, 0) < 0 {
		h.mark(account, m)
	}
}
