package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"
)

// ingests reports whether a fold is large enough for tables of its own. A smaller one goes
// through Pebble's memory, where it shares a table with others.
func (s *Store) ingests(b *pebble.Batch) bool {
	return uint64(b.Len()) >= s.opts.MemTableBytes/8 && !s.noTables && !s.opts.ReadOnly && !s.failing.Load() && s.broken() == nil
}

// ordered are the prefixes whose new keys are nearly always behind the keys that are there:
// they hold the number of a notification or a commit, or a time.
var ordered = [256]bool{
	prefixContent: true, prefixData: true, prefixEvents: true, prefixFinal: true, prefixCommit: true, prefixFinished: true,
}

// tables writes the keys of a large fold into tables that Pebble ingests, at once. A key then
// never is in Pebble's memory, and no flush and hardly any compaction writes it again:
// each prefix has a table of its own, and where the prefix is ordered, the keys behind all
// earlier ones do not share a table with others. Such a table overlaps no other, so
// that Pebble takes it into its last level.
//
// All of an ingestion takes effect at once, as a batch does. It is not on the disk before the
// frames that Pebble still has in memory: each of their batches has the counters, as the ingestion
// has, and Pebble flushes first where an ingested table overlaps its memory. The few batches without
// counters are of housekeeping, which a crash may take back.
type tables struct {
	options sstable.WriterOptions
	batch   *pebble.Batch // of the last fold, to use its memory again
	byFirst [256][]change // by the first byte of the key
	highest [256][]byte   // key of an ordered prefix that was ingested
}

// change of a key in a batch, whose memory it uses.
type change struct {
	key, value []byte
	remove     bool
}

// batchBytes are kept of a batch, between folds.
const batchBytes = 16 << 20

func (t *tables) newBatch(db *pebble.DB) *pebble.Batch {
	if t.batch == nil {
		t.batch = db.NewBatch(pebble.WithMaxRetainedSizeBytes(batchBytes))
	} else {
		t.batch.Reset()
	}
	return t.batch
}

// commitFold commits the batch of a fold.
func (s *Store) commitFold(b *pebble.Batch) error {
	if s.ingests(b) {
		err := s.ingest(b)
		if err == nil {
			return nil
		}
		s.background(err) // Pebble's memory takes the batch, and Pebble tries to write it
	}
	return b.Commit(pebble.NoSync)
}

var errNotIngested = errors.New("batch has more than puts and removals")

func (s *Store) ingest(b *pebble.Batch) (err error) {
	t := &s.tables
	defer t.empty()
	if err := t.collect(b); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("ingest: %w", err), clearTables(s.fence, s.path(dirTables)))
		}
	}()
	var paths []string
	var writing errgroup.Group
	writing.SetLimit(4) // they wait for the disk more than they work
	for first := range t.byFirst {
		for _, part := range t.parts(first) {
			path := s.path(dirTables, fmt.Sprintf("%06d.sst", len(paths)+1))
			writing.Go(func() error { return writeTable(s.fence, path, t.options, part) })
			paths = append(paths, path)
		}
	}
	if err := writing.Wait(); err != nil {
		return err
	}
	if err := s.db.Ingest(context.Background(), paths); err != nil {
		return err
	}
	t.ingested()
	return s.broken()
}

// prepareTables makes the folder for the tables of folds, or empties it. Where that fails, Pebble's memory takes
// all folds.
func (s *Store) prepareTables() {
	dir := s.path(dirTables)
	s.noTables = s.opts.FS.MkdirAll(dir, 0o700) != nil
	if s.noTables {
		return
	}
	if err := clearTables(s.opts.FS, dir); err != nil { // of a process that died
		s.notRemoved(dirTables, err)
	}
}

// scrubTables takes what an ingestion has left off the disk.
func (s *Store) scrubTables() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noTables {
		return nil
	}
	return clearTables(s.fence, s.path(dirTables))
}

// clearTables removes all files of a folder.
func clearTables(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		err = errors.Join(err, fs.Remove(fs.PathJoin(dir, name)))
	}
	return err
}

func (t *tables) empty() {
	for i, changes := range t.byFirst {
		clear(changes)
		t.byFirst[i] = changes[:0]
		if cap(changes) > 8*foldCount {
			t.byFirst[i] = nil
		}
	}
}

// collect takes the changes of a batch, by their keys. Of the changes of one key the last counts.
func (t *tables) collect(b *pebble.Batch) error {
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		switch {
		case err != nil:
			return err
		case !ok:
			for i := range t.byFirst {
				t.byFirst[i] = lastOfEach(t.byFirst[i])
			}
			return nil
		case kind != pebble.InternalKeyKindSet && kind != pebble.InternalKeyKindDelete:
			return errNotIngested
		}
		t.byFirst[key[0]] = append(t.byFirst[key[0]], change{key, value, kind == pebble.InternalKeyKindDelete})
	}
}

func lastOfEach(changes []change) []change {
	byKey := func(x, y change) int { return bytes.Compare(x.key, y.key) }
	if !slices.IsSortedFunc(changes, byKey) {
		slices.SortStableFunc(changes, byKey)
	}
	n := 0
	for i, c := range changes {
		if i+1 < len(changes) && bytes.Equal(c.key, changes[i+1].key) {
			continue
		}
		changes[n] = c
		n++
	}
	clear(changes[n:])
	return changes[:n]
}

// parts are the changes that have a table of their own.
func (t *tables) parts(first int) [][]change {
	changes := t.byFirst[first]
	at := 0
	if high := t.highest[first]; ordered[first] && high != nil {
		at, _ = slices.BinarySearchFunc(changes, high, func(c change, high []byte) int {
			if bytes.Compare(c.key, high) <= 0 {
				return -1
			}
			return 1
		})
	}
	return slices.DeleteFunc([][]change{changes[:at], changes[at:]}, func(part []change) bool { return len(part) == 0 })
}

// ingested notes how far the ordered prefixes have come.
func (t *tables) ingested() {
	for first, changes := range t.byFirst {
		if n := len(changes); ordered[first] && n > 0 && bytes.Compare(changes[n-1].key, t.highest[first]) > 0 {
			t.highest[first] = bytes.Clone(changes[n-1].key)
		}
	}
}

// writeTable writes changes, which are in the order of their keys, and syncs them.
func writeTable(fs vfs.FS, path string, o sstable.WriterOptions, changes []change) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), o)
	for i := range changes {
		c := &changes[i]
		if c.remove {
			err = w.Delete(c.key)
		} else {
			err = w.Set(c.key, c.value)
		}
		if err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return w.Close()
}
