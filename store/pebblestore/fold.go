package pebblestore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// waiting are frames that are not in Pebble, merged.
type waiting struct {
	batch   delivery.Batch
	changes []store.StateChange
	parts   []part // the frames
	bytes   int
	// accepted are the notifications of the batch; named are others that its changes name. Each
	// leads to the highest number of its events in the batch.
	accepted, named map[delivery.Seq]uint64
}

// take puts a frame behind those that wait.
func (s *Store) take(number uint64, b *delivery.Batch, changes []store.StateChange, size int) error {
	if readsStore(b, changes) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.foldLocked(); err != nil {
			return err
		}
		return s.commitFrame(number, b, changes, nil)
	}
	s.waitMu.Lock()
	fits := s.waiting.admits(b)
	s.waitMu.Unlock()
	if !fits {
		if err := s.foldNow(); err != nil {
			return err
		}
	}
	s.waitMu.Lock()
	w := &s.waiting
	w.add(number, b, changes, size)
	s.unfolded.Store(true)
	n, bytes := max(len(w.batch.Accept), len(w.batch.Events)/4), w.bytes
	s.waitMu.Unlock()
	switch {
	case n >= 2*foldCount || bytes >= foldBytes:
		return s.foldNow()
	case n >= foldCount:
		signal(s.kick)
	}
	return nil
}

func (w *waiting) add(number uint64, b *delivery.Batch, changes []store.StateChange, size int) {
	if w.accepted == nil {
		w.accepted, w.named = map[delivery.Seq]uint64{}, map[delivery.Seq]uint64{}
	}
	for _, a := range b.Accept {
		w.accepted[a.Notification.Seq] = 0
		a.Data = bytes.Clone(a.Data)
		w.batch.Accept = append(w.batch.Accept, a)
	}
	for i := range b.Update {
		w.name(b.Update[i].Seq, 0)
	}
	for i := range b.Events {
		w.name(b.Events[i].Seq, b.Events[i].Number)
	}
	for i := range b.Finish {
		w.name(b.Finish[i].Seq, 0)
	}
	rest := *b
	rest.Accept = nil
	w.batch.Merge(&rest)
	for _, c := range changes {
		c.Value = bytes.Clone(c.Value)
		w.changes = append(w.changes, c)
	}
	w.parts = append(w.parts, part{number: number, accepts: len(w.batch.Accept), events: len(w.batch.Events)})
	w.bytes += size
}

func (w *waiting) name(seq delivery.Seq, number uint64) {
	in := w.named
	highest, ok := w.accepted[seq]
	if ok {
		in = w.accepted
	} else {
		highest, ok = w.named[seq]
	}
	if !ok || number > highest {
		in[seq] = number
	}
}

// readsStore reports whether the changes read entries that must be in Pebble then.
func readsStore(b *delivery.Batch, changes []store.StateChange) bool {
	return len(b.Assign) > 0 || len(b.Erase) > 0 || len(b.PutDevices) > 0 || len(b.RemoveDevices) > 0 ||
		slices.ContainsFunc(changes, func(c store.StateChange) bool { return c.Prefix })
}

// admits reports whether b's changes, merged behind those that wait, come out as if they
// were applied after them. See also store's group.
func (w *waiting) admits(b *delivery.Batch) bool {
	for i := range b.Accept {
		seq := b.Accept[i].Notification.Seq
		if _, ok := w.accepted[seq]; ok {
			return false
		}
		if _, ok := w.named[seq]; ok {
			return false
		}
	}
	for i := range b.Events { // one that waits already may be in another value
		e := &b.Events[i]
		if e.Number <= max(w.accepted[e.Seq], w.named[e.Seq]) {
			return false
		}
	}
	return len(b.PutDismissals) == 0 || len(w.batch.RemoveDismissals) == 0
}

// foldLocked puts all frames that wait into Pebble. mu is held. Frames that come meanwhile wait
// for the next fold: a finish finds the Record of its delivery in Pebble then. It works in a
// broken store too: reads go on. After a fold that failed they do not.
func (s *Store) foldLocked() error {
	if !s.unfolded.Load() {
		return nil
	}
	if s.lost != nil {
		return s.lost
	}
	s.waitMu.Lock()
	w := s.waiting
	s.waiting, s.spare = s.spare, waiting{}
	s.waitMu.Unlock()
	var err error
	if len(w.parts) > 0 {
		err = s.commitFrame(w.parts[len(w.parts)-1].number, &w.batch, w.changes, &w)
	}
	w.empty()
	s.spare = w
	s.waitMu.Lock()
	defer s.waitMu.Unlock()
	if err == nil && len(s.waiting.parts) == 0 {
		s.unfolded.Store(false)
	}
	return err
}

// empty keeps the slices and maps, unless they are large, and nothing that they held.
func (w *waiting) empty() {
	if max(len(w.batch.Accept), len(w.batch.Events), len(w.changes)) > 4*foldCount {
		*w = waiting{}
		return
	}
	b := &w.batch
	clear(b.Accept)
	clear(b.Update)
	clear(b.Events)
	clear(b.Finish)
	clear(b.PutDismissals)
	clear(b.RemoveDismissals)
	clear(w.changes)
	clear(w.parts)
	clear(w.accepted)
	clear(w.named)
	*w = waiting{
		batch: delivery.Batch{
			Accept: b.Accept[:0], Update: b.Update[:0], Events: b.Events[:0], Finish: b.Finish[:0],
			PutDismissals: b.PutDismissals[:0], RemoveDismissals: b.RemoveDismissals[:0],
		},
		changes: w.changes[:0], parts: w.parts[:0], accepted: w.accepted, named: w.named,
	}
}

func (s *Store) foldNow() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.foldLocked()
}

// commitFrame makes one Pebble batch, of all frames in w or, without w, of one that reads
// entries that it changes. mu is held. If it fails, no later batch may reach the disk: a replay
// would begin behind that.
func (s *Store) commitFrame(number uint64, b *delivery.Batch, changes []store.StateChange, w *waiting) (err error) {
	defer func() {
		if r := recover(); r != nil { // as in Apply
			err = fmt.Errorf("fold: %v", r)
		}
		if err != nil {
			s.lost = err
			s.markBroken(err)
			s.fence.raise()
		}
	}()
	a := application{Store: s, counters: s.counters, frame: number, changes: changes}
	if w == nil {
		a.batch = s.db.NewIndexedBatch()
		a.parts = []part{{number: number, accepts: len(b.Accept), events: len(b.Events)}}
		return errors.Join(s.run(&a, b), a.batch.Close())
	}
	a.batch, a.parts, a.accepted, a.late = s.tables.newBatch(s.db), w.parts, w.accepted, &s.late
	s.late.empty()
	return s.run(&a, b)
}

func (s *Store) run(a *application, b *delivery.Batch) error {
	s.live.age()
	if err := a.apply(b); err != nil {
		s.live = liveness{}
		return fmt.Errorf("fold frame %d into store %s: %w", a.frame, s.dir, err)
	}
	if err := s.commitFold(a.batch); err != nil {
		return fmt.Errorf("fold frame %d into store %s: %w", a.frame, s.dir, err)
	}
	s.counters = a.counters
	for i := range b.Events {
		s.numbers.add(b.Events[i].Number)
	}
	if a.removes {
		s.noteErased()
	}
	return nil
}

// fold runs until the store is closed.
func (s *Store) fold() {
	t := time.NewTicker(foldEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		case <-t.C:
		}
		_, err := s.folded()
		if err == nil {
			err = s.freeSegments(s.stop)
		}
		if err != nil && !errors.Is(err, errTables) {
			s.markBroken(err)
		}
	}
}

// lateRecords are written when their batch is whole, if their deliveries are not finished then.
type lateRecords struct {
	at      map[delivery.Key]int // in records
	records []lateRecord
}

type lateRecord struct {
	key    delivery.Key
	record delivery.Record
	fresh  bool // the delivery was accepted in the batch: Pebble has no Record
	over   bool // it was finished in the batch
}

func (l *lateRecords) empty() {
	if l.at == nil || cap(l.records) > 4*foldCount {
		*l = lateRecords{at: map[delivery.Key]int{}}
	}
	clear(l.at)
	clear(l.records)
	l.records = l.records[:0]
}

// setLate keeps a Record until the end of the batch. false: it has to be written now.
func (a *application) setLate(k delivery.Key, r *delivery.Record, fresh bool) bool {
	l := a.late
	if l == nil {
		return false
	}
	if at, ok := l.at[k]; ok {
		l.records[at].record = *r
		return true
	}
	l.at[k] = len(l.records)
	l.records = append(l.records, lateRecord{key: k, record: *r, fresh: fresh})
	return true
}

// neverStored reports whether the Record of a delivery that is finished is in no batch.
func (a *application) neverStored(k delivery.Key) bool {
	if a.late == nil {
		return false
	}
	at, ok := a.late.at[k]
	if !ok {
		return false
	}
	r := &a.late.records[at]
	r.over = true
	return r.fresh
}

func (a *application) setRecords() error {
	if a.late == nil {
		return nil
	}
	for i := range a.late.records {
		r := &a.late.records[i]
		if r.over {
			continue
		}
		if err := a.setRecord(r.key, &r.record); err != nil {
			return err
		}
	}
	return nil
}
