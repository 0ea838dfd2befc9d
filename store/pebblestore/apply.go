package pebblestore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Apply implements store.Engine.
func (s *Store) Apply(b *delivery.Batch) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken(); err != nil {
		return err
	}
	defer func() {
		// Pebble panics where its log has failed. It is of no use after that.
		if r := recover(); r != nil {
			s.markBroken(fmt.Errorf("apply: %v", r))
			err = s.broken()
		}
	}()
	a := application{Store: s, counters: s.counters}
	if len(b.PutDevices) > 0 || len(b.RemoveDevices) > 0 {
		// The registry's changes build on each other, within a batch too.
		a.batch = s.db.NewIndexedBatch()
	} else {
		a.batch = s.db.NewBatch()
	}
	defer func() { err = errors.Join(err, a.batch.Close()) }()
	s.live.age()
	if err := a.apply(b); err != nil {
		s.live = liveness{} // it has learnt what is not so
		return fmt.Errorf("apply to store %s: %w", s.dir, err)
	}
	if err := a.batch.Commit(&pebble.WriteOptions{Sync: b.Sync}); err != nil {
		s.markBroken(err)
	}
	// Pebble reports a commit that failed to its logger and then returns nil.
	if err := s.broken(); err != nil {
		return err
	}
	s.counters = a.counters
	s.writes.Store(a.counters.Writes)
	return nil
}

// application is one Apply on its way.
type application struct {
	*Store
	batch    *pebble.Batch
	counters codec.Counters
}

func (a *application) apply(b *delivery.Batch) error {
	for i := range b.Accept {
		if err := a.accept(&b.Accept[i]); err != nil {
			return fmt.Errorf("accept notification %s: %w", b.Accept[i].Notification.ID, err)
		}
	}
	for _, k := range b.Assign {
		if err := a.assign(k); err != nil {
			return fmt.Errorf("assign notification %d to device %s: %w", k.Seq, k.Device, err)
		}
	}
	for i := range b.Update {
		if err := a.update(&b.Update[i]); err != nil {
			return fmt.Errorf("update delivery %d to %s: %w", b.Update[i].Seq, b.Update[i].Device, err)
		}
	}
	if err := a.appendEvents(b.Events); err != nil {
		return err
	}
	for i := range b.Finish {
		if err := a.finish(&b.Finish[i]); err != nil {
			return fmt.Errorf("finish delivery %d to %s: %w", b.Finish[i].Seq, b.Finish[i].Device, err)
		}
	}
	for i := range b.PutDevices {
		if err := a.putDevice(&b.PutDevices[i]); err != nil {
			return fmt.Errorf("put device %s: %w", b.PutDevices[i].ID, err)
		}
	}
	for _, id := range b.RemoveDevices {
		if err := a.removeDevice(id); err != nil {
			return fmt.Errorf("remove device %s: %w", id, err)
		}
	}
	for _, seq := range b.Erase {
		if err := a.erase(seq); err != nil {
			return fmt.Errorf("erase notification %d: %w", seq, err)
		}
	}
	a.counters.Writes++
	a.value = codec.AppendCounters(a.value[:0], a.counters)
	return a.batch.Set(keyCounters, a.value, nil)
}

// has reports whether key is in the store, as it was before this batch.
func (s *Store) has(key []byte) (bool, error) {
	_, c, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, c.Close()
}

// lifeOf tells whether a delivery has a Record, in the store or in this batch. Whether
// it is alone is not read.
func (a *application) lifeOf(k delivery.Key) (life, error) {
	if of, known := a.live.get(k); known {
		return of, nil
	}
	a.key = keyRecord(a.key[:0], k)
	live, err := a.has(a.key)
	of := life{live: live}
	if err == nil {
		a.live.set(k, of)
	}
	return of, err
}

func (a *application) accept(acc *delivery.Acceptance) error {
	n := acc.Notification
	a.key = keyContent(a.key[:0], n.Seq)
	if uint64(n.Seq) <= a.counters.Last { // above it there can be none
		if there, err := a.has(a.key); there || err != nil {
			return err
		}
	}
	a.counters.Last = max(a.counters.Last, uint64(n.Seq))
	a.value = codec.AppendNotification(a.value[:0], n)
	if err := a.batch.Set(a.key, a.value, nil); err != nil {
		return err
	}
	if acc.Data != nil {
		a.key = keyData(a.key[:0], n.Seq)
		if err := a.batch.Set(a.key, acc.Data, nil); err != nil {
			return err
		}
	}
	if !tellsSeq(n) {
		a.key = keyID(a.key[:0], n.ID)
		a.value = appendSeq(a.value[:0], n.Seq)
		if err := a.batch.Set(a.key, a.value, nil); err != nil {
			return err
		}
	}
	a.key = keyAccount(a.key[:0], n.Account, n.Seq)
	if err := a.batch.Set(a.key, nil, nil); err != nil {
		return err
	}
	if len(n.Devices) == 0 { // finished from the start, or it would never be pruned
		a.key = keyFinished(a.key[:0], sortableTime(n.AcceptedAt), n.Seq, "")
		return a.batch.Set(a.key, nil, nil)
	}
	for _, device := range n.Devices {
		k := delivery.Key{Seq: n.Seq, Device: device}
		if of, _ := a.live.get(k); of.live {
			continue // named twice: one delivery
		}
		a.live.set(k, life{live: true, alone: len(n.Devices) == 1})
		r := delivery.NewRecord(n, device)
		if err := a.setRecord(k, &r); err != nil {
			return err
		}
		a.counters.Accepted++
	}
	return nil
}

// tellsSeq reports whether the ID of n leads to it without an entry in the index.
func tellsSeq(n *delivery.Notification) bool {
	seq, ok := delivery.SeqOf(n.ID)
	return ok && seq == n.Seq
}

func (a *application) setRecord(k delivery.Key, r *delivery.Record) error {
	a.key = keyRecord(a.key[:0], k)
	a.value = codec.AppendRecord(a.value[:0], r)
	return a.batch.Set(a.key, a.value, nil)
}

func (a *application) update(r *delivery.Record) error {
	k := delivery.Key{Seq: r.Seq, Device: r.Device}
	of, err := a.lifeOf(k)
	if !of.live || err != nil {
		return err
	}
	return a.setRecord(k, r)
}

// appendEvents writes one value for all events of a notification in this batch.
func (a *application) appendEvents(events []delivery.Event) error {
	order := a.order[:0]
	for i := range events {
		order = append(order, &events[i])
	}
	slices.SortFunc(order, func(x, y *delivery.Event) int {
		return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Number, y.Number))
	})
	a.order = order
	defer clear(order) // the events are the caller's
	for len(order) > 0 {
		seq, first := order[0].Seq, order[0].Number
		a.value = a.value[:0]
		n := 0
		for ; n < len(order) && order[n].Seq == seq; n++ {
			a.value, a.scratch = codec.AppendEvent(a.value, a.scratch, order[n])
		}
		a.counters.Last = max(a.counters.Last, order[n-1].Number)
		order = order[n:]
		if seq <= a.counters.Pruned {
			// It may be gone; an event of its own would then never go.
			a.key = keyContent(a.key[:0], seq)
			if there, err := a.has(a.key); err != nil {
				return fmt.Errorf("append events of notification %d: %w", seq, err)
			} else if !there {
				continue
			}
		}
		a.key = keyEvents(a.key[:0], seq, first)
		if err := a.batch.Set(a.key, a.value, nil); err != nil {
			return fmt.Errorf("append events of notification %d: %w", seq, err)
		}
	}
	return nil
}

func (a *application) finish(f *delivery.Finish) error {
	of, err := a.lifeOf(f.Key)
	if !of.live || err != nil {
		return err
	}
	a.live.set(f.Key, life{})
	a.key = keyRecord(a.key[:0], f.Key)
	if err := a.batch.Delete(a.key, nil); err != nil {
		return err
	}
	if !of.alone {
		a.key = keyFinish(a.key[:0], f.Seq, f.Device)
		a.value = binary.BigEndian.AppendUint64(a.value[:0], sortableTime(f.At))
		if err := a.batch.Set(a.key, a.value, nil); err != nil {
			return err
		}
	}
	a.key = keyFinished(a.key[:0], sortableTime(f.At), f.Seq, f.Device)
	if err := a.batch.Set(a.key, nil, nil); err != nil {
		return err
	}
	a.counters.Finished++
	return nil
}

// read returns a copy of a value as this batch has left it; nil: none. The batch
// must be indexed.
func (a *application) read(key []byte) ([]byte, error) {
	v, c, err := a.batch.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(v)+1), v...) // never nil
	return out, c.Close()
}

// entry returns a registry entry as this batch has left it; nil: none.
func (a *application) entry(id string) (*delivery.Device, error) {
	v, err := a.read(keyDevice(id))
	if v == nil || err != nil {
		return nil, err
	}
	d := new(delivery.Device)
	return d, codec.DecodeDevice(d, id, v)
}

func (a *application) setEntry(d *delivery.Device) error {
	a.value = codec.AppendDevice(a.value[:0], d)
	return a.batch.Set(keyDevice(d.ID), a.value, nil)
}

func (a *application) putDevice(d *delivery.Device) error {
	old, err := a.entry(d.ID)
	if err != nil {
		return err
	}
	if old != nil {
		if err := a.unlink(old); err != nil {
			return err
		}
	}
	for _, p := range d.Registrations {
		if p.Token == "" {
			continue
		}
		holder, err := a.read(keyToken(p.Server, p.Token))
		if err != nil {
			return err
		}
		if holder != nil && string(holder) != d.ID {
			other, err := a.entry(string(holder))
			if err != nil {
				return err
			}
			if other != nil && other.RemoveRegistrations(func(x *delivery.Registration) bool { return x.Server == p.Server && x.Token == p.Token }) {
				if err := a.setEntry(other); err != nil {
					return err
				}
			}
		}
		if err := a.batch.Set(keyToken(p.Server, p.Token), []byte(d.ID), nil); err != nil {
			return err
		}
	}
	if err := a.batch.Set(keyOfAccount(nil, d.Account, d.ID), nil, nil); err != nil {
		return err
	}
	return a.setEntry(d)
}

// unlink removes a registry entry from the indexes.
func (a *application) unlink(d *delivery.Device) error {
	for _, p := range d.Registrations {
		key := keyToken(p.Server, p.Token)
		holder, err := a.read(key)
		if err != nil {
			return err
		}
		if bytes.Equal(holder, []byte(d.ID)) {
			if err := a.batch.Delete(key, nil); err != nil {
				return err
			}
		}
	}
	return a.batch.Delete(keyOfAccount(nil, d.Account, d.ID), nil)
}

func (a *application) removeDevice(id string) error {
	d, err := a.entry(id)
	if d == nil || err != nil {
		return err
	}
	if err := a.unlink(d); err != nil {
		return err
	}
	return a.batch.Delete(keyDevice(id), nil)
}
