package pebblestore

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/store"
)

var _ store.Checkpointer = (*Store)(nil)

// CheckpointBytes implements store.Checkpointer: the logs and the MANIFEST are copied.
func (s *Store) CheckpointBytes() uint64 {
	if s.log != nil { // its frames become tables
		_, _, held := s.log.Full()
		return uint64(held) + 1<<20
	}
	return s.db.Metrics().WAL.PhysicalSize + 1<<20
}

// Checkpoint implements store.Checkpointer. The tables are hard links, so that it costs
// a copy of the logs. It does not hold up Apply.
func (s *Store) Checkpoint() (dir string, remove func() error, err error) {
	if s.opts.ReadOnly {
		return "", nil, fmt.Errorf("checkpoint of store %s: %w", s.dir, pebble.ErrReadOnly)
	}
	if !s.checkpointing.CompareAndSwap(false, true) {
		return "", nil, store.ErrCheckpointExists
	}
	dir = s.path(dirCheckpoint)
	remove = func() error {
		defer s.checkpointing.Store(false)
		return s.opts.FS.RemoveAll(dir)
	}
	if err := s.checkpoint(dir); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("the server's disk is full: %w", err)
		}
		return "", nil, errors.Join(fmt.Errorf("checkpoint of store %s: %w", s.dir, oneLine{err}), remove())
	}
	return dir, remove, nil
}

func (s *Store) checkpoint(dir string) (err error) {
	// As in Apply: Pebble panics where its log has failed.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	vf := s.opts.FS
	if err := vf.RemoveAll(dir); err != nil {
		return err
	}
	mark := watermark{writes: s.writes.Load()} // at least these are in it
	if s.opts.Journal {
		if err := s.flush(s.nextFailure()); err != nil {
			return err
		}
	}
	db := vf.PathJoin(dir, dirDB)
	if err := s.db.Checkpoint(db, pebble.WithFlushedWAL()); err != nil {
		return err
	}
	if err := s.broken(); err != nil { // the fence has let nothing through
		return err
	}
	if mark.manifest, mark.size, err = s.newestManifest(db); err != nil {
		return err
	}
	if mark.log = noLog; !s.opts.Journal {
		if mark.log, err = s.newestLogIn(db); err != nil {
			return err
		}
	}
	if err := s.writeFile(vf.PathJoin(dir, fileWatermark), mark.String()); err != nil {
		return err
	}
	return s.writeFile(vf.PathJoin(dir, fileFormat), s.formatText())
}

func (s *Store) newestLogIn(dir string) (newest string, err error) {
	names, err := s.opts.FS.List(dir)
	if err != nil {
		return "", err
	}
	var number uint64
	for _, name := range names {
		if n, ok := walNumber(name); ok && (newest == "" || n >= number) {
			newest, number = name, n
		}
	}
	if newest == "" {
		return "", errors.New("it holds no log")
	}
	return newest, nil
}
