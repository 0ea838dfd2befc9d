package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Options say how a store is opened. The zero value is right for a program.
type Options struct {
	// ReadOnly opens a store for reading: nothing in the directory changes.
	ReadOnly bool
	// Journal makes a store of format 3, or upgrades one to it: a journal takes the place
	// of Pebble's log. A store that is opened for reading is left as it is.
	Journal bool
	// CacheBytes is kept of uncompressed blocks (default 16 MiB).
	CacheBytes int64
	// MemTableBytes is how much is collected in memory, as well as in the log, before it
	// becomes a table (default 32 MiB); at most four times that is held.
	MemTableBytes uint64
	// VerifyBytes of tables are read and their checksums verified when the store
	// is opened (default 1 GiB, about a second; negative: none). A damaged block
	// beyond it is an error when it is read.
	VerifyBytes int64
	// Logger gets what the store says of itself; default: nothing.
	Logger *slog.Logger
	// FS replaces the operating system's files, in tests.
	FS vfs.FS
}

func (o Options) withDefaults() Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = 16 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	if o.VerifyBytes == 0 {
		o.VerifyBytes = 1 << 30
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

// Store is an store.Engine on Pebble. See store.Engine for its methods.
type Store struct {
	dir       string
	opts      Options
	fence     *fence
	db        *pebble.DB
	dbDir     string       // where it is
	unlock    func() error // of the directory; safe to call more than once
	failed    atomic.Pointer[error]
	opening   atomic.Bool
	newestLog atomic.Pointer[string]
	writes    atomic.Uint64 // counters.Writes, as committed

	mu       sync.Mutex     // held by what changes the store
	counters codec.Counters // as committed
	live     liveness
	key      []byte
	value    []byte
	scratch  []byte
	order    []*delivery.Event
	refs     []codec.Ref
	reserved uint64   // commit numbers up to here are reserved on the disk
	stored   uint64   // the format, as the database has it
	opened   uint64   // counters.Last when the store was opened
	numbers  numbers  // of the events stored since
	pruned   []byte   // no key of the index of finished deliveries is before it
	pruning  *pruning // under way; nil: none
	erased   erasure

	pruneMu sync.Mutex // held by Prune
	trimmed uint64     // Prune's own: commits up to here are gone

	checkpointing atomic.Bool // a checkpoint is there

	folding // of a store with a journal

	noticed atomic.Int64 // when background last logged, nanoseconds
}

var _ store.Engine = (*Store)(nil)

// format is what this version of Heartline reads and writes. A store of oldFormat is
// upgraded when it is opened.
const (
	format        = 2
	oldFormat     = 1
	formatJournal = 3 // the database in it has format 2
)

// Open opens the store in dir, or makes one if dir is empty or not there. A
// directory that is in use, not writable, not Heartline's, of a newer format or
// damaged is refused with an error that names it and says what to do; nothing in
// it is changed.
func Open(dir string, o Options) (_ *Store, err error) {
	s := &Store{dir: dir, opts: o.withDefaults(), pruned: []byte{prefixFinished}}
	s.kick, s.moved, s.stop, s.failure = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	none := noLog
	s.newestLog.Store(&none)
	if err := s.prepare(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.unlock())
		}
	}()
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// memTables is how many tables are held in memory before writes wait.
const memTables = 4

// pebbleOptions are for a store of many small values on a machine that has
// other things to do with its memory.
func (s *Store) pebbleOptions(f *fence) *pebble.Options {
	o := &pebble.Options{
		FS:        f,
		Logger:    logger{log: s.opts.Logger, fatal: s.markBroken},
		CacheSize: s.opts.CacheBytes,
		// Fixed, not FormatNewest: a new Pebble must not make the directory
		// unreadable to the Heartline before it. This one marks how far the log
		// was synced, by which a damaged log is told from a torn end.
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		MemTableSize:                s.opts.MemTableBytes,
		MemTableStopWritesThreshold: memTables,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       1000, // a stall would hold up accepts; compaction catches up
		MaxOpenFiles:                1000,
		LBaseMaxBytes:               256 << 20,
		WALBytesPerSync:             0,
		BytesPerSync:                512 << 10,
		// Its entries name the first and last keys of tables, and so devices and
		// accounts: a compaction of all begins a new one.
		MaxManifestFileSize:        256 << 10,
		DisableWAL:                 s.opts.Journal,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		// For reading: see overlay, which would have all tables in memory.
		DisableAutomaticCompactions: s.opts.ReadOnly,
	}
	o.Experimental.L0CompactionConcurrency = 10
	// Each table holds keys of one kind. The keys of most kinds come nearly in their order, so
	// that a new table of such keys overlaps few others, and a compaction only moves it.
	o.Experimental.SpanPolicyFunc = func(start []byte) (pebble.SpanPolicy, []byte, error) {
		return pebble.SpanPolicy{}, successor(start[:1]), nil
	}
	if s.opts.Journal { // the journal bounds what is not in tables; a fold never waits
		o.MemTableStopWritesThreshold = 1 << 20
		o.L0StopWritesThreshold = 1 << 20
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.EventListener = &pebble.EventListener{
		BackgroundError: s.background,
		// The default ends the process. The read that met it has the error.
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.opts.Logger.Error("damaged table", "file", i.Path, "error", i.Details)
		},
		WALCreated: func(i pebble.WALCreateInfo) {
			if i.Err != nil || s.opts.Journal { // it stays empty
				return
			}
			name := s.opts.FS.PathBase(i.Path)
			s.newestLog.Store(&name)
			if !s.opening.Load() {
				_ = s.writeWatermark() // it has broken the store
			}
		},
	}
	return o
}

// background logs operations that are tried again, at most once in 10 s: on a full disk Pebble
// reports every attempt.
func (s *Store) background(err error) {
	now := time.Now().UnixNano()
	last := s.noticed.Load()
	if now-last < int64(10*time.Second) || !s.noticed.CompareAndSwap(last, now) {
		return
	}
	s.opts.Logger.Warn("tables not written, retrying", "dir", s.dir, "error", err)
}

// markBroken marks the store as unable to go on. The first reason is kept.
func (s *Store) markBroken(err error) {
	if s.failed.CompareAndSwap(nil, &err) {
		s.opts.Logger.Error("store failed, reopening it", "dir", s.dir, "error", err)
	}
}

// broken returns why the store cannot go on, nil if it can.
func (s *Store) broken() error {
	if err := s.failed.Load(); err != nil {
		return fmt.Errorf("store %s: %w: %w", s.dir, store.ErrBroken, *err)
	}
	return nil
}

var errAbandoned = errors.New("given up, since a write did not return")

// Abandon implements store.Engine.
func (s *Store) Abandon() {
	err := errAbandoned
	s.failed.CompareAndSwap(nil, &err) // before the fence: what Pebble then calls success is none
	s.fence.raise()
	s.fence.wait()
	if err := s.unlock(); err != nil {
		s.opts.Logger.Warn("abandoned store not unlocked", "dir", s.dir, "error", err)
	}
}

// Close implements store.Engine. Batches that were applied unsynced are on the disk when
// it returns without error.
func (s *Store) Close() (err error) {
	// Pebble panics where a broken log will not close; the store is broken then
	// and reports that.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("close store %s: %v", s.dir, r)
		}
		if uerr := s.unlock(); err == nil && uerr != nil {
			err = fmt.Errorf("unlock store %s: %w", s.dir, uerr)
		}
	}()
	jerr := s.closeJournal()
	if s.failed.Load() != nil {
		s.fence.raise()
		_ = s.db.Close() // in the void: there is nothing to report
		if jerr != nil {
			return fmt.Errorf("close store %s: %w", s.dir, jerr)
		}
		return nil
	}
	if err := errors.Join(jerr, s.db.Close()); err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	if s.opts.ReadOnly {
		return nil
	}
	return s.writeWatermark() // its last log is synced now
}

// FreeBytes returns how much room the file system of dir, which must be there,
// has for this process.
func FreeBytes(dir string) (uint64, error) {
	u, err := vfs.Default.GetDiskUsage(dir)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return u.AvailBytes, nil
}
