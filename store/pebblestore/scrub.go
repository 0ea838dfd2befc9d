package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/store"
)

var _ store.Scrubber = (*Store)(nil)

// erasure records removed data that has to leave the disk. The record is on the disk
// too: a scrub that a restart has prevented is made up for.
type erasure struct {
	since time.Time // the first that has not left; zero: none
	count uint64    // how many batches removed something
}

func (s *Store) loadErased() error {
	v, err := s.get(keyErased)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("time of an erasure: %w", err)
	case len(v) == 8:
		s.erased.since = time.Unix(0, int64(binary.BigEndian.Uint64(v)))
	}
	return nil
}

// markErased puts the time of the first erasure into the batch.
func (a *application) markErased() error {
	if !a.removes || !a.erased.since.IsZero() {
		return nil
	}
	return a.batch.Set(keyErased, binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())), nil)
}

// noteErased is called when a batch that removes something was committed.
func (s *Store) noteErased() {
	s.erased.count++
	if s.erased.since.IsZero() {
		s.erased.since = time.Now()
	}
}

// Scrub implements store.Scrubber. Pebble removes a value only when a compaction
// meets its tombstone, and renames old logs to be new ones, whose ends then still
// hold the old data. So Scrub compacts everything and creates new logs.
func (s *Store) Scrub(ctx context.Context, before time.Time) (bool, error) {
	if s.opts.ReadOnly {
		return false, fmt.Errorf("scrub store %s: %w", s.dir, pebble.ErrReadOnly)
	}
	s.mu.Lock()
	e := s.erased
	s.mu.Unlock()
	if e.since.IsZero() || e.since.After(before) {
		return false, nil
	}
	if err := s.scrub(ctx); err != nil {
		return false, fmt.Errorf("scrub store %s: %w", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.erased.count != e.count { // more has come meanwhile
		s.erased.since = time.Now()
		return true, s.db.Set(keyErased, binary.BigEndian.AppendUint64(nil, uint64(s.erased.since.UnixNano())), pebble.NoSync)
	}
	s.erased.since = time.Time{}
	return true, s.db.Delete(keyErased, pebble.NoSync)
}

// awaitRemoval waits until the tables that Pebble does not use any more are gone: it removes them in the
// background, and later where a read still uses them.
func (s *Store) awaitRemoval(ctx context.Context) error {
	names, err := s.fence.List(s.path(dirDB))
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for _, name := range names {
		if name = s.fence.PathBase(name); strings.HasSuffix(name, ".sst") {
			old[name] = true
		}
	}
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		levels, err := s.db.SSTables()
		if err != nil {
			return err
		}
		for _, tables := range levels {
			for _, table := range tables {
				delete(old, tableName(table))
			}
		}
		for name := range old {
			if _, err := s.fence.Stat(s.path(dirDB, name)); errors.Is(err, fs.ErrNotExist) {
				delete(old, name)
			} else if err != nil {
				return err
			}
		}
		if err := s.broken(); len(old) == 0 || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Store) scrub(ctx context.Context) error {
	if s.opts.Journal { // Compact would wait for tables that cannot be written
		if err := s.flush(s.nextFailure()); err != nil {
			return err
		}
	}
	// No log of before may come back under a new name.
	s.fence.discardOldLogs.Add(1)
	defer s.fence.discardOldLogs.Add(-1)
	if err := s.db.Compact(ctx, []byte{0}, []byte{0xff}, false); err != nil {
		return err
	}
	if err := s.awaitRemoval(ctx); err != nil {
		return err
	}
	if s.opts.Journal {
		return errors.Join(s.scrubTables(), s.scrubJournal())
	}
	// Each flush ends a log and takes one of those that wait to be reused.
	for range s.recyclable() + 2 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.db.Set(keyScrub, nil, pebble.Sync); err != nil {
			return err
		}
		if err := s.db.Flush(); err != nil {
			return err
		}
		if err := s.broken(); err != nil {
			return err
		}
	}
	return s.db.Delete(keyScrub, pebble.NoSync)
}

// recyclable is how many logs Pebble keeps at most to be reused.
func (s *Store) recyclable() int { return memTables + 1 }
