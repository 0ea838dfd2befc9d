package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// read runs fn with the present engine, which stays open for so long.
func (o *Outbox) read(fn func(Engine) error) error {
	h := o.engine.Load()
	if h == nil || !h.acquire() {
		select {
		case <-o.stop:
			return fmt.Errorf("outbox closed: %w", delivery.ErrStopped)
		default:
			return fmt.Errorf("%w: the store is being reopened", delivery.ErrUnavailable)
		}
	}
	defer h.release()
	return fn(h.engine)
}

func get[T any](o *Outbox, fn func(Engine) (T, error)) (v T, err error) {
	err = o.read(func(e Engine) error {
		v, err = fn(e)
		return err
	})
	return v, err
}

// Notification implements delivery.Reader.
func (o *Outbox) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	if n := o.InMemory(seq); n != nil {
		return n, nil
	}
	return get(o, func(e Engine) (*delivery.Notification, error) { return e.Notification(seq) })
}

// Recent returns the notifications that were accepted last, as far as they are cached, the
// oldest first. Nobody may change them.
func (o *Outbox) Recent() []*delivery.Notification { return o.recent.all() }

// InMemory implements delivery.Outbox.
func (o *Outbox) InMemory(seq delivery.Seq) *delivery.Notification {
	if n := o.recent.get(seq); n != nil && !o.stopping() {
		return n
	}
	return nil
}

// Data implements delivery.Reader.
func (o *Outbox) Data(seq delivery.Seq) (json.RawMessage, error) {
	return get(o, func(e Engine) (json.RawMessage, error) { return e.Data(seq) })
}

// Lookup implements delivery.Reader.
func (o *Outbox) Lookup(id string) (delivery.Seq, error) {
	return get(o, func(e Engine) (delivery.Seq, error) { return e.Lookup(id) })
}

// Timeline implements delivery.Reader.
func (o *Outbox) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	return get(o, func(e Engine) ([]delivery.Event, error) { return e.Timeline(seq) })
}

// Deliveries implements delivery.Reader.
func (o *Outbox) Deliveries(seq delivery.Seq) ([]delivery.DeliveryState, error) {
	return get(o, func(e Engine) ([]delivery.DeliveryState, error) { return e.Deliveries(seq) })
}

// EventsFrom implements delivery.Reader.
func (o *Outbox) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) error {
	return o.read(func(e Engine) error { return e.EventsFrom(after, fn) })
}

// EventsEnd implements delivery.Reader.
func (o *Outbox) EventsEnd() (delivery.Place, error) {
	return get(o, func(e Engine) (delivery.Place, error) { return e.EventsEnd() })
}

// EventsSince implements delivery.Reader.
func (o *Outbox) EventsSince(t time.Time) (delivery.Place, error) {
	return get(o, func(e Engine) (delivery.Place, error) { return e.EventsSince(t) })
}

// List implements delivery.Reader.
func (o *Outbox) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	return o.read(func(e Engine) error { return e.List(account, before, fn) })
}

// Device implements delivery.Reader.
func (o *Outbox) Device(id string) (*delivery.Device, error) {
	return get(o, func(e Engine) (*delivery.Device, error) { return e.Device(id) })
}

// AccountDevices implements delivery.Reader.
func (o *Outbox) AccountDevices(account string) ([]delivery.Device, error) {
	return get(o, func(e Engine) ([]delivery.Device, error) { return e.AccountDevices(account) })
}

// Devices implements delivery.Reader.
func (o *Outbox) Devices(after string, fn func(*delivery.Device) bool) error {
	return o.read(func(e Engine) error { return e.Devices(after, fn) })
}

// TokenOwner implements delivery.Reader.
func (o *Outbox) TokenOwner(server, token string) (string, error) {
	return get(o, func(e Engine) (string, error) { return e.TokenOwner(server, token) })
}

// Unfinished implements delivery.Reader. fn must copy the parts of a Record that it keeps.
func (o *Outbox) Unfinished(of delivery.Shard, fn func(*delivery.Record) bool) error {
	return o.read(func(e Engine) error { return e.Unfinished(of, fn) })
}

// Dismissals implements delivery.Reader. fn must copy the Dismissal.
func (o *Outbox) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	return o.read(func(e Engine) error { return e.Dismissals(of, fn) })
}

// LastSeq implements delivery.Reader.
func (o *Outbox) LastSeq(of delivery.Shard) (uint64, error) {
	return get(o, func(e Engine) (uint64, error) { return e.LastSeq(of) })
}

// Totals implements delivery.Reader.
func (o *Outbox) Totals() (delivery.Totals, error) {
	return get(o, func(e Engine) (delivery.Totals, error) { return e.Totals() })
}

// Backlog reads what the Cores of some partitions take up (Core.StartFrom). Where the engine is
// no Gatherer each Core reads its own.
func (o *Outbox) Backlog(parts []uint16) (delivery.Backlog, error) {
	return get(o, func(e Engine) (delivery.Backlog, error) {
		if g, ok := e.(Gatherer); ok {
			return g.Backlog(parts)
		}
		return delivery.FromStore(o), nil
	})
}
