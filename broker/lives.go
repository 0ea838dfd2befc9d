package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// lives is the store of a node: the Outbox of its present life. Between two lives there
// is none.
type lives struct {
	life atomic.Pointer[life]
	mu   sync.Mutex
	lost error // why there is no life
}

func (n *lives) begin(l *life) { n.life.Store(l) }

// end forgets a life before its Outbox is closed.
func (n *lives) end(l *life) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = l.out.Ready()
	n.life.CompareAndSwap(l, nil)
}

func (n *lives) now() (*store.Outbox, error) {
	if l := n.life.Load(); l != nil {
		return l.out, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost != nil {
		return nil, afterLife(n.lost)
	}
	return nil, fmt.Errorf("%w: this node has left its database", delivery.ErrUnavailable)
}

// afterLife is the error of a life that is over; another follows. It does not wrap why, which
// may be delivery.ErrStopped: that would say that the node itself stops.
func afterLife(why error) error {
	return fmt.Errorf("%w: this node joins again: %v", delivery.ErrUnavailable, why) //nolint:errorlint // see above
}

func ask[T any](n *lives, fn func(*store.Outbox) (T, error)) (v T, err error) {
	out, err := n.now()
	if err != nil {
		return v, err
	}
	if v, err = fn(out); errors.Is(err, delivery.ErrStopped) {
		err = afterLife(err)
	}
	return v, err
}

func (n *lives) do(fn func(*store.Outbox) error) error {
	_, err := ask(n, func(o *store.Outbox) (struct{}, error) { return struct{}{}, fn(o) })
	return err
}

// Notification implements delivery.Reader.
func (n *lives) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	return ask(n, func(o *store.Outbox) (*delivery.Notification, error) { return o.Notification(seq) })
}

// InMemory implements delivery.Outbox.
func (n *lives) InMemory(seq delivery.Seq) *delivery.Notification {
	out, err := n.now()
	if err != nil {
		return nil
	}
	return out.InMemory(seq)
}

// Data implements delivery.Reader.
func (n *lives) Data(seq delivery.Seq) (json.RawMessage, error) {
	return ask(n, func(o *store.Outbox) (json.RawMessage, error) { return o.Data(seq) })
}

// Lookup implements delivery.Reader.
func (n *lives) Lookup(id string) (delivery.Seq, error) {
	return ask(n, func(o *store.Outbox) (delivery.Seq, error) { return o.Lookup(id) })
}

// Timeline implements delivery.Reader.
func (n *lives) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	return ask(n, func(o *store.Outbox) ([]delivery.Event, error) { return o.Timeline(seq) })
}

// Deliveries implements delivery.Reader.
func (n *lives) Deliveries(seq delivery.Seq) ([]delivery.DeliveryState, error) {
	return ask(n, func(o *store.Outbox) ([]delivery.DeliveryState, error) { return o.Deliveries(seq) })
}

// EventsEnd implements delivery.Reader.
func (n *lives) EventsEnd() (delivery.Place, error) {
	return ask(n, func(o *store.Outbox) (delivery.Place, error) { return o.EventsEnd() })
}

// EventsSince implements delivery.Reader.
func (n *lives) EventsSince(t time.Time) (delivery.Place, error) {
	return ask(n, func(o *store.Outbox) (delivery.Place, error) { return o.EventsSince(t) })
}

// Device implements delivery.Reader.
func (n *lives) Device(id string) (*delivery.Device, error) {
	return ask(n, func(o *store.Outbox) (*delivery.Device, error) { return o.Device(id) })
}

// AccountDevices implements delivery.Reader.
func (n *lives) AccountDevices(account string) ([]delivery.Device, error) {
	return ask(n, func(o *store.Outbox) ([]delivery.Device, error) { return o.AccountDevices(account) })
}

// TokenOwner implements delivery.Reader.
func (n *lives) TokenOwner(server, token string) (string, error) {
	return ask(n, func(o *store.Outbox) (string, error) { return o.TokenOwner(server, token) })
}

// LastSeq implements delivery.Reader.
func (n *lives) LastSeq(of delivery.Shard) (uint64, error) {
	return ask(n, func(o *store.Outbox) (uint64, error) { return o.LastSeq(of) })
}

// Totals implements delivery.Reader.
func (n *lives) Totals() (delivery.Totals, error) {
	return ask(n, func(o *store.Outbox) (delivery.Totals, error) { return o.Totals() })
}

// EventsFrom implements delivery.Reader.
func (n *lives) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) error {
	return n.do(func(o *store.Outbox) error { return o.EventsFrom(after, fn) })
}

// List implements delivery.Reader.
func (n *lives) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	return n.do(func(o *store.Outbox) error { return o.List(account, before, fn) })
}

// Devices implements delivery.Reader.
func (n *lives) Devices(after string, fn func(*delivery.Device) bool) error {
	return n.do(func(o *store.Outbox) error { return o.Devices(after, fn) })
}

// Unfinished implements delivery.Reader.
func (n *lives) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	return n.do(func(o *store.Outbox) error { return o.Unfinished(of, fn) })
}

// Dismissals implements delivery.Reader.
func (n *lives) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	return n.do(func(o *store.Outbox) error { return o.Dismissals(of, fn) })
}

// ScanState implements store.State.
func (n *lives) ScanState(prefix string, fn func(key string, value []byte) error) error {
	return n.do(func(o *store.Outbox) error { return o.ScanState(prefix, fn) })
}

// ApplyState implements store.State.
func (n *lives) ApplyState(changes []store.StateChange) error {
	return n.do(func(o *store.Outbox) error { return o.ApplyState(changes) })
}

// Commit implements delivery.Outbox. Nobody commits through it: each Core has a View.
func (n *lives) Commit(b *delivery.Batch, done func(error)) {
	out, err := n.now()
	if err == nil {
		out.Commit(b, done)
	} else if done != nil {
		done(err)
	}
}

// OnGroupDone implements delivery.Outbox. See Commit.
func (n *lives) OnGroupDone(func()) {}

// HasState is store.Outbox.HasState.
func (n *lives) HasState() bool { return true }

// Ready is store.Outbox.Ready, and the lease.
func (n *lives) Ready() error {
	out, err := n.now()
	if err != nil {
		return err
	}
	if err := out.Ready(); errors.Is(err, delivery.ErrStopped) {
		return afterLife(err)
	} else if err != nil {
		return err
	}
	if l := n.life.Load(); l != nil {
		return l.Trusted()
	}
	return nil
}

// Stats is store.Outbox.Stats.
func (n *lives) Stats() store.Stats {
	s, _ := ask(n, func(o *store.Outbox) (store.Stats, error) { return o.Stats(), nil }) // zero between two lives
	return s
}

// Checkpoint is store.Outbox.Checkpoint.
func (n *lives) Checkpoint() (dir string, remove func() error, err error) {
	err = n.do(func(o *store.Outbox) error {
		dir, remove, err = o.Checkpoint()
		return err
	})
	return dir, remove, err
}

// Close has nothing to do: each life closes its own Outbox.
func (n *lives) Close() error { return nil }
