package pebblestore

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
	"github.com/heartline-mqtt/heartline/store/journal"
)

const (
	// foldCount is how many accepted notifications are collected before they are folded.
	foldCount = 16 << 10
	// foldBytes of frames are collected at most.
	foldBytes = 16 << 20
	// foldEvery is how long a frame waits at most. With fewer folds there are fewer tables: Pebble does
	// not merge those that it has ingested into its last level.
	foldEvery = 30 * time.Second
	// spareSegments are kept, so that a disk that is full has room for what ends.
	spareSegments = 3
	// heldSegments of frames that are not in tables are the most.
	heldSegments = 4
)

// folding is the part of a Store that has a journal in place of Pebble's log.
//
// An Apply is a frame of the journal and then waits in memory, merged with others. A
// read, a full collection or half a minute fold it: they make one Pebble batch of all
// that waits. The delivery that was accepted and finished meanwhile never has a Record
// in Pebble. The batch holds the number of its last frame, as the number of the commit, so
// that a replay begins behind it: a frame takes effect once. A small fold only fills Pebble's
// memory, a large one becomes tables (see tables). A full segment is flushed, and then free.
type folding struct {
	log     *journal.Log
	logMu   sync.Mutex // held while a frame is written; taken before mu
	frame   uint64     // the last; logMu
	encoder journal.Encoder

	waitMu   sync.Mutex // taken after mu
	waiting  waiting
	spare    waiting     // emptied, for its slices and maps; mu
	late     lateRecords // of a fold, to use again; mu
	tables   tables      // mu
	noTables bool        // there is no place for them; set by Open
	unfolded atomic.Bool // a frame waits, or is being folded
	lost     error       // of a fold: its frames are only in the journal; mu

	freeMu  sync.Mutex    // held while segments are freed
	failing atomic.Bool   // tables cannot be written
	failMu  sync.Mutex    // nothing is locked under it
	failure chan struct{} // closed when a table could not be written; failMu
	moved   chan struct{} // has an element when segments were freed or failing was set
	kick    chan struct{} // has an element when the folder has work
	stop    chan struct{}
	stopped sync.WaitGroup
}

// errHeld refuses acceptances and MQTT state while tables cannot be written.
var errHeld = errors.New("too much waits to be written to tables: the disk is full or too slow")

// errTables ends a wait for tables that cannot be written.
var errTables = fmt.Errorf("%w: tables cannot be written", delivery.ErrUnavailable)

func (s *Store) segmentBytes() int64 { return 2 * int64(s.opts.MemTableBytes) }

// applyJournal is Apply and ApplyState.
func (s *Store) applyJournal(b *delivery.Batch, changes []store.StateChange, sync bool) error {
	if err := s.broken(); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		return fmt.Errorf("apply to store %s: %w", s.dir, pebble.ErrReadOnly)
	}
	if err := s.append(b, changes, &sync); err != nil {
		return err
	}
	if sync {
		if err := s.log.Sync(); err != nil {
			s.markBroken(err)
		}
	}
	return s.broken()
}

func (s *Store) append(b *delivery.Batch, changes []store.StateChange, sync *bool) error {
	if b.Empty() && len(changes) == 0 {
		return nil
	}
	puts := slices.ContainsFunc(changes, func(c store.StateChange) bool { return !c.Remove })
	if err := s.waitForRoom(puts || len(b.Accept) > 0); err != nil {
		return err
	}
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.frame++
	payload := s.encoder.Batch(b, changes)
	if err := s.log.Append(s.frame, payload); err != nil {
		s.markBroken(err)
	}
	if err := s.broken(); err != nil { // nothing was written once the fence was up
		return err
	}
	if s.frame%(reserveStep/2) == 0 { // a start leaps over frames that may not be on the disk
		*sync = true
	}
	if err := s.take(s.frame, b, changes, len(payload)); err != nil {
		return s.broken()
	}
	return nil
}

// waitForRoom waits while too many frames are not in tables. Where tables cannot be written it
// refuses batches that accept or put. Others go on.
func (s *Store) waitForRoom(puts bool) error {
	defer signal(s.moved) // another may wait, too
	for {
		_, full, held := s.log.Full()
		if full {
			signal(s.kick)
		}
		switch {
		case !puts || held <= heldSegments*s.segmentBytes():
			return nil
		case s.failing.Load():
			return fmt.Errorf("apply to store %s: %w", s.dir, errHeld)
		}
		select {
		case <-s.moved:
		case <-s.fence.down:
			return s.broken()
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tableFailed is called when a table could not be written. Pebble tries again.
func (s *Store) tableFailed() {
	if !s.opts.Journal {
		return
	}
	s.failing.Store(true)
	signal(s.moved)
	s.failMu.Lock()
	defer s.failMu.Unlock()
	close(s.failure)
	s.failure = make(chan struct{})
}

// nextFailure returns a channel that is closed when a table cannot be written from now on.
func (s *Store) nextFailure() <-chan struct{} {
	s.failMu.Lock()
	defer s.failMu.Unlock()
	return s.failure
}

// folded returns the database with all that was applied in it.
func (s *Store) folded() (*pebble.DB, error) {
	if s.unfolded.Load() && s.foldNow() != nil {
		return nil, s.broken()
	}
	return s.db, nil
}

func (s *Store) snapshot() (*pebble.Snapshot, error) {
	db, err := s.folded()
	if err != nil {
		return nil, err
	}
	return db.NewSnapshot(), nil
}

// freeSegments flushes the frames of full segments into tables, and frees the segments.
func (s *Store) freeSegments(giveUp <-chan struct{}) error {
	last, full, _ := s.log.Full()
	if !full || s.broken() != nil {
		return nil
	}
	if err := s.flush(giveUp); err != nil {
		return err
	}
	s.freeMu.Lock()
	defer s.freeMu.Unlock()
	s.failing.Store(false)
	defer signal(s.moved)
	return s.log.Free(last)
}

// flush has all frames in tables that are on the disk. It can wait until the disk has room or the
// store is abandoned. If giveUp is closed before that, the error is errTables.
func (s *Store) flush(giveUp <-chan struct{}) (err error) {
	defer func() {
		if r := recover(); r != nil { // as in Apply
			err = fmt.Errorf("flush: %v", r)
		}
	}()
	db, err := s.folded()
	if err != nil {
		return err
	}
	flushed, err := db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush store %s: %w", s.dir, err)
	}
	select {
	case <-flushed:
		return s.broken() // the fence has let nothing through
	case <-giveUp:
		return fmt.Errorf("flush store %s: %w", s.dir, errTables)
	}
}

// logRaw puts a batch of housekeeping into the journal, before it is committed. It takes place
// behind all that waits. logMu and mu are held.
func (s *Store) logRaw(b *pebble.Batch, counters codec.Counters) (codec.Counters, error) {
	s.frame++
	counters.Writes = s.frame
	if err := b.Set(keyCounters, codec.AppendCounters(nil, counters), nil); err != nil {
		return counters, err
	}
	if err := s.log.Append(s.frame, s.encoder.Raw(b.Repr())); err != nil {
		s.markBroken(err)
	}
	return counters, s.broken()
}

// takeRaw replays it.
func (s *Store) takeRaw(repr []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.foldLocked(); err != nil {
		return err
	}
	b := s.db.NewBatch()
	err := b.SetRepr(bytes.Clone(repr))
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return err
	}
	s.counters, err = countersOf(s.db)
	return err
}

// commitDurably commits a batch of Open, and syncs it.
func (s *Store) commitDurably(b *pebble.Batch) error {
	if !s.opts.Journal {
		return b.Commit(pebble.Sync)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	return s.flushAtOpen()
}

// flushAtOpen flushes while Open runs: a table that cannot be written breaks the store.
func (s *Store) flushAtOpen() error {
	s.opening.Store(true)
	defer s.opening.Store(false)
	return s.db.Flush()
}

// replay folds the frames that are not in tables.
func (s *Store) replay() (journal.End, error) {
	end, err := journal.Replay(s.opts.FS, s.path(dirJournal), s.counters.Writes, func(number uint64, payload []byte) error {
		if repr, raw := journal.DecodeRaw(payload); raw {
			return s.takeRaw(repr)
		}
		b, changes, err := journal.Decode(payload)
		if err != nil {
			return err
		}
		return s.take(number, b, changes, len(payload))
	})
	if err == nil {
		err = s.foldNow()
	}
	if err != nil {
		return end, s.journalDamaged(err)
	}
	s.opened = s.counters.Last
	s.numbers.startAt(s.opened + 1)
	return end, nil
}

// findEnd reads the journal, and changes nothing.
func (s *Store) findEnd() (journal.End, error) {
	end, err := journal.Replay(s.opts.FS, s.path(dirJournal), s.counters.Writes, func(uint64, []byte) error { return nil })
	if err != nil {
		return end, s.journalDamaged(err)
	}
	return end, nil
}

func (s *Store) journalDamaged(err error) error {
	if d, ok := errors.AsType[*journal.Damage](err); ok {
		what := fmt.Sprintf("file %s is %s", filepath.Join(dirJournal, d.Segment), d.What)
		if d.What == journal.Missing { // its frames may have been in a table that a damaged MANIFEST has lost
			what += fmt.Sprintf(", or folder %s is damaged", dirDB)
		}
		return s.refuse(what, todoDamaged)
	}
	return s.damaged(err)
}

// beginJournal begins a new segment. All frames before are in tables.
func (s *Store) beginJournal(after uint64) (err error) {
	s.frame = s.counters.Writes
	s.log, err = journal.Begin(journal.Options{
		FS: s.fence, Dir: s.path(dirJournal), SegmentBytes: s.segmentBytes(), Spares: spareSegments,
		Begun: func(name string, last uint64) error {
			s.newestLog.Store(&name)
			s.writes.Store(last)
			return s.writeWatermark()
		},
	}, after, s.frame)
	if err != nil {
		return err
	}
	if err := s.broken(); err != nil {
		return errors.Join(err, s.log.Close())
	}
	s.stopped.Go(s.fold)
	return nil
}

// closeJournal leaves nothing in the journal that is not in tables. While tables cannot be written, the
// next start replays the journal.
func (s *Store) closeJournal() error {
	if s.log == nil {
		return nil
	}
	close(s.stop)
	s.stopped.Wait()
	var err error
	if s.broken() == nil {
		err = s.flush(s.nextFailure())
		switch {
		case err == nil:
			s.writes.Store(s.frame)
		case errors.Is(err, errTables):
			if err = s.log.Sync(); err == nil {
				s.failed.CompareAndSwap(nil, &errTables) // before the fence, as in Abandon
				s.fence.raise()
			}
		}
	}
	return errors.Join(err, s.log.Close())
}

// scrubJournal takes old frames off the disk.
func (s *Store) scrubJournal() error {
	s.logMu.Lock()
	err := s.log.Roll()
	s.logMu.Unlock()
	if err != nil {
		s.markBroken(err)
		return s.broken()
	}
	if err := s.freeSegments(s.nextFailure()); err != nil {
		return err
	}
	if err := s.log.DropSpares(); err != nil {
		return err
	}
	return s.broken() // the fence has let nothing through
}
