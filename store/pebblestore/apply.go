package pebblestore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Apply implements store.Engine. It does not hold the mutex while the disk syncs, so that
// Prune can write meanwhile: readers can see an applied batch before it is synced in any
// case.
func (s *Store) Apply(b *delivery.Batch) (err error) {
	if s.opts.Journal {
		return s.applyJournal(b, nil, b.Sync)
	}
	defer func() {
		// Pebble panics where its log has failed. It is of no use after that.
		if r := recover(); r != nil {
			s.markBroken(fmt.Errorf("apply: %v", r))
			err = s.broken()
		}
	}()
	batch, sync, err := s.commit(b)
	if err != nil {
		return err
	}
	if sync {
		if err := batch.SyncWait(); err != nil {
			s.markBroken(err)
		}
	}
	err = batch.Close()
	// Pebble reports a commit that failed to its logger and then returns nil.
	return errors.Join(s.broken(), err)
}

// commit commits b; sync: the caller waits for the disk before it closes the batch.
func (s *Store) commit(b *delivery.Batch) (_ *pebble.Batch, sync bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken(); err != nil {
		return nil, false, err
	}
	a := application{Store: s, counters: s.counters, reserved: s.reserved, parts: []part{{refs: s.refs[:0], accepts: len(b.Accept), events: len(b.Events)}}}
	if len(b.PutDevices) > 0 || len(b.RemoveDevices) > 0 || len(b.Assign) > 0 || len(b.Erase) > 0 {
		// These build on what stands before them in the batch.
		a.batch = s.db.NewIndexedBatch()
	} else {
		a.batch = s.db.NewBatch()
	}
	s.live.age()
	if err := a.apply(b); err != nil {
		s.live = liveness{} // it has learnt what is not so
		return nil, false, errors.Join(fmt.Errorf("apply to store %s: %w", s.dir, err), a.batch.Close())
	}
	if sync = b.Sync || a.sync; sync {
		err = s.db.ApplyNoSyncWait(a.batch, pebble.Sync)
	} else {
		err = a.batch.Commit(pebble.NoSync)
	}
	if err != nil {
		s.markBroken(err)
	}
	if err := s.broken(); err != nil {
		return nil, false, err
	}
	s.counters, s.reserved = a.counters, a.reserved
	for i := range b.Events {
		s.numbers.add(b.Events[i].Number)
	}
	s.writes.Store(a.counters.Writes)
	if a.removes {
		s.noteErased()
	}
	return a.batch, sync, nil
}

// application is one Apply on its way.
type application struct {
	*Store
	batch    *pebble.Batch
	counters codec.Counters
	reserved uint64 // commit numbers up to here are on the disk, or will be with batch
	sync     bool   // batch has to be synced for its own sake
	parts    []part // the Applies that make the batch, in their order
	part     int    // the one at hand
	removes  bool   // batch removes what has to leave the disk: see Scrub

	// Of a store with a journal:
	accepted map[delivery.Seq]uint64 // of the batch; nil: read the store
	frame    uint64                  // the batch's last, and the number of its commit
	changes  []store.StateChange     // to ordinary MQTT's state
	late     *lateRecords            // nil: each is written where it changes
}

// part is one Apply: its events have a commit of their own.
type part struct {
	number          uint64      // of the commit; 0: the next
	accepts, events int         // where its own end in the batch
	refs            []codec.Ref // where the events are that it stores
	at              time.Time   // of the newest of them
}

func (a *application) apply(b *delivery.Batch) error {
	for i := range b.Accept {
		for i >= a.parts[a.part].accepts {
			a.part++
		}
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
	events := 0
	for i := range a.parts {
		a.part = i
		end := a.parts[i].events
		if err := a.appendEvents(b.Events[events:end]); err != nil {
			return err
		}
		events = end
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
	for _, k := range b.RemoveDevices {
		if err := a.removeDevice(k); err != nil {
			return fmt.Errorf("remove device %s: %w", k.ID, err)
		}
	}
	for i := range b.PutDismissals {
		d := &b.PutDismissals[i]
		a.counters.Last = max(a.counters.Last, uint64(d.Seq))
		a.value = codec.AppendDismissal(a.value[:0], d)
		if err := a.batch.Set(keyDismissal(nil, delivery.Key{Seq: d.Seq, Device: d.Device}), a.value, nil); err != nil {
			return fmt.Errorf("put dismissal %d of device %s: %w", d.Seq, d.Device, err)
		}
	}
	for _, k := range b.RemoveDismissals {
		if err := a.batch.Delete(keyDismissal(nil, k), nil); err != nil {
			return fmt.Errorf("remove dismissal %d of device %s: %w", k.Seq, k.Device, err)
		}
	}
	for _, seq := range b.Erase {
		if err := a.erase(seq); err != nil {
			return fmt.Errorf("erase notification %d: %w", seq, err)
		}
	}
	if err := a.markErased(); err != nil {
		return err
	}
	if err := a.setRecords(); err != nil {
		return err
	}
	if err := changeState(a.batch, a.changes); err != nil {
		return err
	}
	return a.number()
}

// reserveStep is how many commit numbers are reserved at a time.
const reserveStep = 1 << 20

// number gives the batch its commit number, under which its events are found. A
// number that a reader may have seen must not come again after a crash that took
// the commit away: it is reserved on the disk before it is used, and a store that is
// opened goes on behind all that are reserved.
func (a *application) number() error {
	if a.counters.Writes++; a.frame != 0 {
		a.counters.Writes = a.frame
	}
	a.value = codec.AppendCounters(a.value[:0], a.counters)
	if err := a.batch.Set(keyCounters, a.value, nil); err != nil {
		return err
	}
	if a.frame == 0 && a.counters.Writes+reserveStep/2 > a.reserved {
		a.reserved, a.sync = a.counters.Writes+reserveStep, true
		a.value = binary.BigEndian.AppendUint64(a.value[:0], a.reserved)
		if err := a.batch.Set(keyReserved, a.value, nil); err != nil {
			return err
		}
	}
	a.Store.refs = a.parts[0].refs
	for i := range a.parts {
		p := &a.parts[i]
		if len(p.refs) == 0 {
			continue
		}
		slices.SortFunc(p.refs, func(x, y codec.Ref) int {
			return cmp.Or(cmp.Compare(x.Seq, y.Seq), cmp.Compare(x.Number, y.Number))
		})
		a.key = keyCommit(a.key[:0], cmp.Or(p.number, a.counters.Writes))
		a.value, a.scratch = codec.AppendCommit(a.value[:0], a.scratch, p.at, p.refs)
		if err := a.batch.Set(a.key, a.value, nil); err != nil {
			return err
		}
	}
	return nil
}

// stores notes where events of the batch are, and their time.
func (a *application) stores(r codec.Ref, at time.Time) {
	p := &a.parts[a.part]
	p.refs = append(p.refs, r)
	if at.After(p.at) {
		p.at = at
	}
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
		if a.pruning != nil {
			a.pruning.ids[n.ID] = true
		}
	}
	a.stores(codec.Ref{Seq: n.Seq}, n.AcceptedAt)
	a.key = keyAccount(a.key[:0], n.Account, n.Seq)
	if err := a.batch.Set(a.key, nil, nil); err != nil {
		return err
	}
	if len(n.Devices) == 0 { // finished from the start, or it would never be pruned
		return a.setFinished(n.AcceptedAt, n.Seq, "")
	}
	for _, device := range n.Devices {
		k := delivery.Key{Seq: n.Seq, Device: device}
		if of, _ := a.live.get(k); of.live {
			continue // named twice: one delivery
		}
		a.live.set(k, life{live: true, alone: len(n.Devices) == 1})
		r := delivery.NewRecord(n, device)
		if a.setLate(k, &r, true) {
			a.counters.Accepted++
			continue
		}
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
	if !of.live || err != nil || a.setLate(k, r, false) {
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
		n := 1
		for n < len(order) && order[n].Seq == order[0].Seq {
			n++
		}
		if err := a.appendTimeline(order[:n]); err != nil {
			return fmt.Errorf("append events of notification %d: %w", order[0].Seq, err)
		}
		order = order[n:]
	}
	return nil
}

// appendTimeline appends the events of one notification, by Number.
func (a *application) appendTimeline(events []*delivery.Event) error {
	seq, first := events[0].Seq, events[0].Number
	a.counters.Last = max(a.counters.Last, events[len(events)-1].Number)
	if _, waits := a.accepted[seq]; seq <= a.counters.Pruned && !waits {
		// It may be gone; an event of its own would then never go.
		a.key = keyContent(a.key[:0], seq)
		if there, err := a.has(a.key); !there || err != nil {
			return err
		}
	}
	if a.pruning != nil {
		a.pruning.touch(seq)
	}
	a.key = keyEvents(a.key[:0], seq, first)
	known, err := a.known(events)
	if err != nil {
		return err
	}
	if known {
		if events, err = a.unknown(seq, events); len(events) == 0 || err != nil {
			return err
		}
		first = events[0].Number
	}
	a.value = a.value[:0]
	var latest time.Time
	for i, e := range events {
		if i > 0 && e.Number == events[i-1].Number {
			continue
		}
		a.value, a.scratch = codec.AppendEvent(a.value, a.scratch, e)
		if e.Time.After(latest) {
			latest = e.Time
		}
	}
	a.stores(codec.Ref{Seq: seq, Number: first}, latest)
	a.key = keyEvents(a.key[:0], seq, first)
	return a.batch.Set(a.key, a.value, nil)
}

// known reports whether one of the events, whose key is in a.key, may have been stored
// before: by an earlier engine on this store, whose batches the outbox applies again in
// other company, or by an earlier batch.
func (a *application) known(events []*delivery.Event) (bool, error) {
	first := events[0].Number
	switch {
	case first > a.Store.counters.Last:
		return false, nil
	case first <= a.opened:
		return true, nil
	case a.numbers.spans(first):
		return slices.ContainsFunc(events, func(e *delivery.Event) bool { return a.numbers.has(e.Number) }), nil
	}
	return a.has(a.key)
}

// unknown returns the events that the store does not have.
func (a *application) unknown(seq delivery.Seq, events []*delivery.Event) ([]*delivery.Event, error) {
	var stored []delivery.Event
	err := scanFrom(a.db, keySeqPrefix(prefixEvents, seq), func(_, value []byte) (_ bool, err error) {
		stored, err = codec.DecodeEvents(stored, seq, value)
		return true, err
	})
	return slices.DeleteFunc(events, func(e *delivery.Event) bool {
		return slices.ContainsFunc(stored, func(s delivery.Event) bool { return s.Number == e.Number })
	}), err
}

func (a *application) finish(f *delivery.Finish) error {
	of, err := a.lifeOf(f.Key)
	if !of.live || err != nil {
		return err
	}
	a.live.set(f.Key, life{})
	if !a.neverStored(f.Key) {
		a.key = keyRecord(a.key[:0], f.Key)
		if err := a.batch.Delete(a.key, nil); err != nil {
			return err
		}
	}
	final := *f
	if of.alone { // nobody else's: the index of finished deliveries has its time
		a.key = keyFinal(a.key[:0], f.Seq, "")
		final.At = time.Time{}
	} else {
		a.key = keyFinal(a.key[:0], f.Seq, f.Device)
	}
	a.value = codec.AppendFinish(a.value[:0], &final)
	if err := a.batch.Set(a.key, a.value, nil); err != nil {
		return err
	}
	a.counters.Finished++
	return a.setFinished(f.At, f.Seq, f.Device)
}

// setFinished puts a delivery into the index of those that Prune looks at.
func (a *application) setFinished(at time.Time, seq delivery.Seq, device string) error {
	a.key = keyFinished(a.key[:0], sortableTime(at), seq, device)
	if bytes.Compare(a.key, a.pruned) < 0 { // Prune has passed its place: the clock was set back
		a.pruned = bytes.Clone(a.key)
	}
	return a.batch.Set(a.key, nil, nil)
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
	written := d.Written(old)
	for _, p := range written.Registrations {
		if p.Token == "" {
			continue
		}
		holder, err := a.read(keyHolder(p.Server, p.Token))
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
		if err := a.batch.Set(keyHolder(p.Server, p.Token), []byte(d.ID), nil); err != nil {
			return err
		}
	}
	if err := a.batch.Set(keyOfAccount(nil, written.Account, written.ID), nil, nil); err != nil {
		return err
	}
	return a.setEntry(&written)
}

// unlink removes a registry entry from the indexes.
func (a *application) unlink(d *delivery.Device) error {
	for _, p := range d.Registrations {
		key := keyHolder(p.Server, p.Token)
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

func (a *application) removeDevice(k delivery.DeviceKey) error {
	d, err := a.entry(k.ID)
	if d == nil || err != nil || d.Account != k.Account {
		return err
	}
	a.removes = true
	if err := a.unlink(d); err != nil {
		return err
	}
	return a.batch.Delete(keyDevice(k.ID), nil)
}
