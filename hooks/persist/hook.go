package persist

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/store"
)

// Options configure a Hook.
type Options struct {
	// Store is where everything is kept. Required.
	Store store.State
	// Gather is how long changes are gathered for one write (default 5 ms).
	Gather time.Duration
	// RetryInitial and RetryMax are the backoff after a write that failed
	// (default 500 ms, 30 s).
	RetryInitial, RetryMax time.Duration
	// StallAfter is how long one write may take before it is told of (default 10 s).
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

// Stats is what a Hook has done. All but Waiting and Stalled only grow.
type Stats struct {
	Waiting  int    // changes that are not written yet
	Stalled  bool   // a write has not come back within Options.StallAfter
	Written  uint64 // changes
	Writes   uint64 // batches of them
	Failed   uint64 // batches that the store did not take, each to be written again
	Restored uint64 // sessions, subscriptions and messages taken up at the start
	Damaged  uint64 // values that could not be read then
}

// Hook is a storage hook for one mochi server. Make it with New, add it to the
// server before its Serve, and after the hooks whose OnClientExpired and
// OnQosPublish it is to see the outcome of.
type Hook struct {
	mqtt.HookBase
	server *mqtt.Server
	opts   Options
	log    *slog.Logger

	started atomic.Bool // mochi has read the store: what it tells from now on is news
	written atomic.Uint64
	writes  atomic.Uint64
	failed  atomic.Uint64

	mu      sync.Mutex
	marks   map[mark]struct{}
	writing int       // marks that are being written
	stalled time.Time // since when a write has not come back, once that is too long

	wake chan struct{} // one slot: there are marks
	quit chan struct{}
	done chan struct{}
	stop sync.Once

	// sessions are those that are kept: client identifier → *kept. What mochi has
	// in a Client belongs to the goroutine that reads its connection.
	sessions sync.Map

	stored map[string]struct{} // in-flight keys that are in the store; the writer's own once started is set
	count  struct{ restored, damaged atomic.Uint64 }
}

// kept is a session that outlives its connection. It is not changed, but replaced.
type kept struct {
	client *mqtt.Client // nil: as restored
	session
}

// New returns a hook for server. Its writer runs from Init to Stop.
func New(server *mqtt.Server, o Options) *Hook {
	h := &Hook{
		server: server, opts: o.withDefaults(),
		marks: map[mark]struct{}{}, stored: map[string]struct{}{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	h.log = h.opts.Logger
	return h
}

// ID implements mqtt.Hook.
func (h *Hook) ID() string { return "heartline-persist" }

// Provides implements mqtt.Hook.
func (h *Hook) Provides(b byte) bool {
	return slices.Contains([]byte{
		mqtt.OnSessionEstablished, mqtt.OnDisconnect, mqtt.OnClientExpired, mqtt.OnPacketProcessed,
		mqtt.OnSubscribed, mqtt.OnUnsubscribed, mqtt.OnRetainMessage, mqtt.OnRetainedExpired,
		mqtt.OnQosPublish, mqtt.OnQosComplete, mqtt.OnQosDropped, mqtt.OnPublishDropped,
		mqtt.StoredClients, mqtt.StoredSubscriptions, mqtt.StoredInflightMessages, mqtt.StoredRetainedMessages,
	}, b)
}

// Init implements mqtt.Hook. mochi calls it when the hook is added.
func (h *Hook) Init(any) error {
	go h.write()
	return nil
}

// Stop writes what is left and ends the writer. mochi calls it at Close, when all
// clients are gone.
func (h *Hook) Stop() error {
	h.stop.Do(func() { close(h.quit) })
	t := time.NewTimer(h.opts.StopTimeout)
	defer t.Stop()
	select {
	case <-h.done:
	case <-t.C:
		h.log.Error("MQTT state: the store does not answer; the latest changes are not kept", "changes", h.Stats().Waiting)
	}
	return nil
}

// Stats returns the present figures.
func (h *Hook) Stats() Stats {
	h.mu.Lock()
	waiting, stalled := len(h.marks)+h.writing, !h.stalled.IsZero()
	h.mu.Unlock()
	return Stats{
		Waiting: waiting, Stalled: stalled, Written: h.written.Load(), Writes: h.writes.Load(), Failed: h.failed.Load(),
		Restored: h.count.restored.Load(), Damaged: h.count.damaged.Load(),
	}
}

// Ready returns an error while the store does not come back from a write: ordinary
// MQTT goes on in memory, and a restart would lose what has changed since.
func (h *Hook) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stalled.IsZero() {
		return nil
	}
	return fmt.Errorf("MQTT state: a write has not come back for %s; retained messages and sessions are not kept", time.Since(h.stalled).Round(time.Second))
}

// watch begins to wait for a write; end is called when it has come back. A store
// can hang for ever where its disk does, and nothing else would say so: nobody but
// the writer waits for it.
func (h *Hook) watch() (end func()) {
	began, over := time.Now(), false
	t := time.AfterFunc(h.opts.StallAfter, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if over {
			return
		}
		h.stalled = began
		h.log.Error("MQTT state: the store does not come back from a write; retained messages and sessions are not kept for now", "after", h.opts.StallAfter)
	})
	return func() {
		t.Stop()
		h.mu.Lock()
		defer h.mu.Unlock()
		over = true
		if !h.stalled.IsZero() {
			h.stalled = time.Time{}
			h.log.Info("MQTT state: the store is back from a write", "after", time.Since(began).Round(time.Millisecond))
		}
	}
}

func (h *Hook) mark(marks ...mark) {
	h.mu.Lock()
	for _, m := range marks {
		h.marks[m] = struct{}{}
	}
	h.mu.Unlock()
	h.signal()
}

func (h *Hook) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hook) markSession(id string) { h.mark(mark{kind: kindClient, client: id}) }

// markInflight marks one packet. It is called for every message of QoS 1 and 2:
// those of a session that is not kept cost nothing.
func (h *Hook) markInflight(cl *mqtt.Client, id uint16) {
	if _, ok := h.sessions.Load(cl.ID); ok {
		h.mark(mark{kind: kindInflight, client: cl.ID, id: id})
	}
}

func (h *Hook) markAllInflight(cl *mqtt.Client) {
	for _, pk := range cl.State.Inflight.GetAll(false) {
		h.mark(mark{kind: kindInflight, client: cl.ID, id: pk.PacketID})
	}
}

// OnSessionEstablished marks the session with all it has: a take-over has moved it
// from one client of mochi's to another, and what was looked at meanwhile may have
// been neither's.
func (h *Hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	if !outlives(cl) {
		h.sessions.Delete(cl.ID)
		h.markSession(cl.ID)
		return
	}
	h.sessions.Store(cl.ID, &kept{client: cl, session: sessionOf(cl, 0)})
	h.markSession(cl.ID)
	for filter := range cl.State.Subscriptions.GetAll() {
		h.mark(mark{kind: kindSubscription, client: cl.ID, name: filter})
	}
	h.markAllInflight(cl)
}

// of returns cl's session, nil when it is kept no more or has passed to another
// client of mochi's.
func (h *Hook) of(cl *mqtt.Client) *kept {
	v, ok := h.sessions.Load(cl.ID)
	if !ok {
		return nil
	}
	if k := v.(*kept); k.client == cl || k.client == nil {
		return k
	}
	return nil
}

// OnDisconnect is called for every restored session at the start, too.
func (h *Hook) OnDisconnect(cl *mqtt.Client, _ error, expire bool) {
	k := h.of(cl)
	if k == nil || !h.started.Load() {
		return
	}
	if expire { // a DISCONNECT may have said so
		h.sessions.CompareAndDelete(cl.ID, k)
	} else {
		h.sessions.CompareAndSwap(cl.ID, k, &kept{client: cl, session: sessionOf(cl, time.Now().Unix())})
	}
	h.markSession(cl.ID)
}

// OnClientExpired implements mqtt.Hook.
func (h *Hook) OnClientExpired(cl *mqtt.Client) {
	if k := h.of(cl); k != nil {
		h.sessions.CompareAndDelete(cl.ID, k)
		h.markSession(cl.ID)
	}
}

// OnSubscribed implements mqtt.Hook.
func (h *Hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, _ []byte) { h.subscriptions(cl, pk) }

// OnUnsubscribed implements mqtt.Hook.
func (h *Hook) OnUnsubscribed(cl *mqtt.Client, pk packets.Packet) { h.subscriptions(cl, pk) }

func (h *Hook) subscriptions(cl *mqtt.Client, pk packets.Packet) {
	if _, ok := h.sessions.Load(cl.ID); !ok {
		return
	}
	for i := range pk.Filters {
		if pk.Filters[i].Filter != "" { // mochi leaves some empty when it drops a session
			h.mark(mark{kind: kindSubscription, client: cl.ID, name: pk.Filters[i].Filter})
		}
	}
}

// OnRetainMessage implements mqtt.Hook.
func (h *Hook) OnRetainMessage(_ *mqtt.Client, pk packets.Packet, _ int64) {
	h.mark(mark{kind: kindRetained, name: pk.TopicName})
}

// OnRetainedExpired implements mqtt.Hook.
func (h *Hook) OnRetainedExpired(topicName string) {
	h.mark(mark{kind: kindRetained, name: topicName})
}

// OnQosPublish implements mqtt.Hook.
func (h *Hook) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	h.markInflight(cl, pk.PacketID)
}

// OnQosComplete implements mqtt.Hook.
func (h *Hook) OnQosComplete(cl *mqtt.Client, pk packets.Packet) { h.markInflight(cl, pk.PacketID) }

// OnQosDropped implements mqtt.Hook.
func (h *Hook) OnQosDropped(cl *mqtt.Client, pk packets.Packet) { h.markInflight(cl, pk.PacketID) }

// OnPublishDropped comes before mochi takes the packet back out of what is in
// flight, and with the publisher's identifier: the mark that OnQosPublish made is
// looked at later, and finds it gone or is followed by this one.
func (h *Hook) OnPublishDropped(cl *mqtt.Client, _ packets.Packet) {
	if _, ok := h.sessions.Load(cl.ID); ok {
		h.markAllInflight(cl)
	}
}

// OnPacketProcessed is the only word of a PUBREC, which makes a PUBREL of what is
// in flight.
func (h *Hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.FixedHeader.Qos > 0 {
			h.markInflight(cl, pk.PacketID) // it may have taken the place of another
		}
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		h.markInflight(cl, pk.PacketID)
	}
}
