package pebblestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
	"github.com/heartline-mqtt/heartline/store/journal"
)

const (
	fileFormat    = "FORMAT"
	fileLock      = "LOCK"
	fileWatermark = "WATERMARK"
	dirDB         = "db"
	dirNew        = "db.new" // a store being made; removed and made again after a crash
	dirCheckpoint = "backup.new"
	dirJournal    = "journal"
	dirTables     = "fold.new" // of a fold, until Pebble has ingested them
)

// tableDelay is how long a table's ENOSPC is kept from Pebble.
const tableDelay = 500 * time.Millisecond

// refuse is an error of the directory with the way out.
func (s *Store) refuse(what, todo string) error {
	return fmt.Errorf("data directory %s: %s; %s", s.dir, what, todo)
}

const (
	todoDamaged = "restore the directory from a backup, or move it away to begin with an empty store"
	todoForeign = "name an empty directory, or one that Heartline has made"
)

// cause strips the path, which the message around it has already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// open finds out whose directory this is, makes a store in an empty one, and
// opens it. The directory is locked.
func (s *Store) open() error {
	wanted := s.opts.Journal
	is, err := s.identify()
	if err != nil {
		return err
	}
	fresh := is == 0
	// A read takes a store as it is. One with a journal that is not upgraded yet is
	// opened without it first.
	s.opts.Journal = is == formatJournal || is == 0 && wanted
	if fresh && s.opts.ReadOnly {
		return s.refuse("holds no store", "name the directory of a store")
	}
	if fresh {
		if err := s.create(); err != nil {
			return err
		}
	}
	// First without changing anything: opened for writing, Pebble deletes files that it
	// does not know. After damage, the missing data may be in those files.
	if err := s.openWhole(); err != nil || s.opts.ReadOnly {
		return err
	}
	if err := s.db.Close(); err != nil {
		return s.damaged(err)
	}
	if err := s.opts.FS.RemoveAll(s.path(dirCheckpoint)); err != nil { // of a process that died
		s.notRemoved(dirCheckpoint, err)
	}
	if s.opts.Journal = wanted; wanted {
		s.prepareTables()
	}
	if is == oldFormat || wanted && is == format { // from here on only a Heartline that can upgrade it opens it
		if err := s.nameFormat(); err != nil {
			return err
		}
	}
	if err := s.openDB(s.path(dirDB), openWrite); err != nil {
		return s.damaged(err)
	}
	err = s.load()
	if err == nil && s.stored != format {
		err = s.upgrade()
	}
	end := journal.End{}
	if err == nil && s.opts.Journal {
		end, err = s.replay()
	}
	if err == nil {
		err = s.leap()
	}
	switch {
	case err != nil:
	case s.opts.Journal:
		err = s.beginJournal(end.Segment)
	default:
		err = s.writeWatermark()
	}
	if err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// openWhole opens the store for reading, and refuses one that is not whole.
func (s *Store) openWhole() error {
	mark, err := s.readWatermark()
	if err != nil {
		return err
	}
	if err := s.openDB(s.path(dirDB), openRead); err != nil {
		return s.damaged(err)
	}
	err = s.verify()
	if err == nil {
		err = s.load()
	}
	writes := s.counters.Writes
	if err == nil && s.opts.Journal {
		var end journal.End
		end, err = s.findEnd()
		writes = max(writes, end.Last)
	}
	if err == nil && writes < mark.writes {
		logs := dirDB
		if s.opts.Journal {
			logs = dirJournal
		}
		err = s.refuse(fmt.Sprintf("file %s, or another log or MANIFEST in folder %s, is damaged (the store is at write %d, and was at %d)",
			filepath.Join(logs, mark.log), dirDB, writes, mark.writes), todoDamaged)
	}
	if err == nil && s.opts.ReadOnly && writes > s.counters.Writes {
		return s.openReplayed()
	}
	if err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// openReplayed opens a store for reading whose journal has frames that are not in tables.
// They are folded in memory.
func (s *Store) openReplayed() error {
	if err := s.db.Close(); err != nil {
		return s.damaged(err)
	}
	below := s.opts.FS
	s.opts.FS = newOverlay(below)
	if err := s.openDB(s.path(dirDB), openWrite); err != nil {
		return s.damaged(err)
	}
	if _, err := s.replay(); err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

func (s *Store) notRemoved(dir string, err error) {
	s.opts.Logger.Warn("unfinished files not removed", "path", s.path(dir), "error", err)
}

// leap goes on behind every commit number that was reserved: a reader may have seen
// one that a crash took away.
func (s *Store) leap() error {
	c := s.counters
	v, err := s.get(keyReserved)
	if err == nil && len(v) == 8 {
		c.Writes = max(c.Writes, binary.BigEndian.Uint64(v))
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return s.damaged(fmt.Errorf("reserved commit numbers: %w", err))
	}
	reserved := c.Writes + reserveStep
	if s.opts.Journal { // readers may have seen frames that were not synced
		c.Writes = reserved
	}
	b := s.db.NewBatch()
	err = errors.Join(
		b.Set(keyCounters, codec.AppendCounters(nil, c), nil),
		b.Set(keyReserved, binary.BigEndian.AppendUint64(nil, reserved), nil),
		s.commitDurably(b), s.broken(), b.Close())
	if err != nil {
		return s.damaged(err)
	}
	s.counters, s.reserved = c, reserved
	s.writes.Store(c.Writes)
	return nil
}

type openMode int

const (
	openRead openMode = iota
	openWrite
	openCreate
)

// openDB opens Pebble behind a fence of its own.
func (s *Store) openDB(dir string, mode openMode) (err error) {
	s.failed.Store(nil)
	s.dbDir = dir
	s.opening.Store(true)
	defer s.opening.Store(false)
	s.fence = newFence(s.opts.FS, s.path(dirCheckpoint), s.writeFailed)
	o := s.pebbleOptions(s.fence)
	o.ReadOnly = mode == openRead
	o.ErrorIfExists = mode == openCreate
	o.ErrorIfNotExists = mode != openCreate
	// Pebble panics on some damage, and on some full disks.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open: %v", r)
		}
		if err != nil {
			s.fence.raise()
		}
	}()
	o.EnsureDefaults()
	s.tables = tables{options: o.MakeWriterOptions(0, o.FormatMajorVersion.MaxTableFormat())}
	if s.db, err = pebble.Open(dir, o); err != nil {
		return err
	}
	if err := s.broken(); err != nil {
		_ = s.db.Close() // in the void
		return err
	}
	return nil
}

// writeFailed decides what a failed change of a file means. fatal: the store is
// broken, and Pebble is not told.
func (s *Store) writeFailed(name string, err error) (fatal bool) {
	if !s.opening.Load() && strings.HasSuffix(name, ".sst") {
		// Pebble tries a flush or a compaction again, but at once and for ever,
		// hundreds of times a second. While Open recovers a log it does so too,
		// and would never come back from it.
		s.tableFailed()
		if s.opts.FS.PathBase(s.opts.FS.PathDir(name)) == dirTables {
			return false // it is not tried again
		}
		t := time.NewTimer(tableDelay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.fence.down:
		}
		return false
	}
	s.markBroken(fmt.Errorf("write %s: %w", name, cause(err)))
	return true
}

// damaged says what to do about an error of opening Pebble.
func (s *Store) damaged(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("data directory %s: the disk is full; free some space: %w", s.dir, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return s.refuse(fmt.Sprintf("is not writable (%v)", err), "give this user the right to write there, or name another directory")
	case errors.Is(err, store.ErrBroken):
		return fmt.Errorf("data directory %s: cannot be written; check the disk: %w", s.dir, err)
	}
	return fmt.Errorf("data directory %s: damaged (%w); %s", s.dir, oneLine{err}, todoDamaged)
}

// oneLine is an error whose text is its first line: Pebble adds stacks.
type oneLine struct{ error }

func (o oneLine) Error() string {
	line, _, _ := strings.Cut(o.error.Error(), "\n")
	return line
}
func (o oneLine) Unwrap() error { return o.error }

func (s *Store) oldFormat() error {
	return s.refuse(fmt.Sprintf("has format %d, this Heartline reads format %d", oldFormat, format), "start Heartline on it once, which upgrades it")
}

// load reads what the store keeps in memory.
func (s *Store) load() error {
	v, err := s.get(keyFormat)
	if err != nil {
		return s.damaged(fmt.Errorf("format: %w", err))
	}
	if len(v) == 8 {
		s.stored = binary.BigEndian.Uint64(v)
	}
	switch {
	case s.stored != format && s.stored != oldFormat:
		return s.refuse(fmt.Sprintf("has format %x, this Heartline reads format %d", v, format), "use the version of Heartline that wrote it")
	case s.stored == oldFormat && s.opts.ReadOnly: // a crash in the middle of an upgrade
		return s.oldFormat()
	}
	if s.counters, err = s.readCounters(); err != nil {
		return s.damaged(fmt.Errorf("counters: %w", err))
	}
	s.writes.Store(s.counters.Writes)
	s.opened = s.counters.Last
	s.numbers.startAt(s.opened + 1)
	if err := s.loadErased(); err != nil {
		return s.damaged(err)
	}
	return nil
}

// verify reads the tables and compares their checksums, so that a damaged table is
// noticed here and not by a reader of its data.
func (s *Store) verify() error {
	if s.opts.VerifyBytes < 0 {
		return nil
	}
	levels, err := s.db.SSTables()
	if err != nil {
		return s.damaged(err)
	}
	budget := s.opts.VerifyBytes
	for _, tables := range levels {
		for _, t := range tables {
			if budget -= int64(t.Size); budget < 0 {
				return nil
			}
			name := tableName(t)
			if err := s.verifyTable(s.path(dirDB, name)); err != nil {
				return s.damaged(fmt.Errorf("file %s: %w", filepath.Join(dirDB, name), err))
			}
		}
	}
	return nil
}

// tableName is the file of a table.
func tableName(t pebble.SSTableInfo) string { return fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum)) }

func (s *Store) verifyTable(path string) (err error) {
	defer func() {
		if r := recover(); r != nil { // a footer that points outside the file, say
			err = fmt.Errorf("%v", r)
		}
	}()
	f, err := s.opts.FS.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	o := new(pebble.Options)
	o.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
	if err != nil {
		return err // NewReader has closed it
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// get returns a copy of a value.
func (s *Store) get(key []byte) ([]byte, error) {
	db, err := s.folded()
	if err != nil {
		return nil, err
	}
	return getFrom(db, key)
}
