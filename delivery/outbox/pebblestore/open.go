package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	fileFormat    = "FORMAT"
	fileLock      = "LOCK"
	fileNewestWAL = "NEWEST-WAL"
	dirDB         = "db"
	dirNew        = "db.new" // a store being made; removed and made again after a crash
)

// The first line of FORMAT. What follows it is for people.
const formatLine = "heartline outbox, format "

// tableDelay is how long a table's ENOSPC is kept from Pebble.
const tableDelay = 500 * time.Millisecond

func (s *Store) path(elem ...string) string {
	return s.opts.FS.PathJoin(append([]string{s.dir}, elem...)...)
}

// refuse is an error of the directory with the way out.
func (s *Store) refuse(what, todo string) error {
	return fmt.Errorf("data directory %s: %s; %s", s.dir, what, todo)
}

const (
	todoDamaged = "restore the directory from a backup, or move it away to begin with an empty store"
	todoForeign = "name an empty directory, or one that Heartline has made"
)

// prepare makes the directory if need be, and locks it.
func (s *Store) prepare() error {
	vf := s.opts.FS
	s.unlock = func() error { return nil }
	info, err := vf.Stat(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.opts.ReadOnly:
		return s.refuse("is not there", "name the directory of a store")
	case errors.Is(err, fs.ErrNotExist):
		if err := vf.MkdirAll(s.dir, 0o700); err != nil {
			return s.refuse(fmt.Sprintf("cannot be made (%v)", cause(err)), "make it, or name one that can be")
		}
	case errors.Is(err, syscall.ENOTDIR):
		return s.refuse("a part of the path is a file", "name a directory")
	case err != nil:
		return s.refuse(fmt.Sprintf("cannot be looked at (%v)", cause(err)), "check its permissions")
	case !info.IsDir():
		return s.refuse("is a file", "name a directory")
	}
	lock, err := vf.Lock(s.path(fileLock))
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && s.lockable(),
		err != nil && strings.Contains(err.Error(), "held by current process"):
		return s.refuse("is in use by another Heartline", "stop that one, or name another directory")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return s.refuse(fmt.Sprintf("is not writable (%v)", cause(err)), "give this user the right to write there, or name another directory")
	case err != nil:
		return s.refuse(fmt.Sprintf("cannot be locked (%v)", cause(err)), "check the file system")
	}
	s.unlock = sync.OnceValue(lock.Close)
	return nil
}

// lockable tells the two meanings of EACCES apart: fcntl may answer it for a
// lock that is held, open does for a file that may not be written.
func (s *Store) lockable() bool {
	f, err := os.OpenFile(s.path(fileLock), os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// cause strips the path, which the message around it has already.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// open finds out whose directory this is, makes a store in an empty one, and
// opens it. The directory is locked.
func (s *Store) open() error {
	fresh, err := s.identify()
	if err != nil {
		return err
	}
	if fresh {
		if s.opts.ReadOnly {
			return s.refuse("holds no store", "name the directory of a store")
		}
		if err := s.create(); err != nil {
			return err
		}
	} else if err := s.checkNewestWAL(); err != nil {
		return err
	}
	if err := s.openDB(s.path(dirDB), false); err != nil {
		return s.damaged(err)
	}
	err = s.load()
	if err == nil {
		err = s.verify()
	}
	if err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// identify reads FORMAT. fresh: there is nothing here.
func (s *Store) identify() (fresh bool, err error) {
	names, err := s.opts.FS.List(s.dir)
	if err != nil {
		return false, s.refuse(fmt.Sprintf("cannot be listed (%v)", cause(err)), "check its permissions")
	}
	has := map[string]bool{}
	foreign := ""
	for _, n := range names {
		switch n = filepath.Base(n); n {
		case fileFormat, fileFormat + ".new", fileLock, fileNewestWAL, dirDB, dirNew, "lost+found":
			has[n] = true
		default:
			foreign = n
		}
	}
	text, err := s.readFile(fileFormat)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !has[dirDB] && foreign == "":
		return true, nil
	case errors.Is(err, fs.ErrNotExist) && !has[dirDB]:
		return false, s.refuse(fmt.Sprintf("holds other files (%s) and no store", foreign), todoForeign)
	case errors.Is(err, fs.ErrNotExist):
		return false, s.refuse("file "+fileFormat+" is missing", todoDamaged)
	case err != nil:
		return false, s.refuse(fmt.Sprintf("file %s cannot be read (%v)", fileFormat, cause(err)), "check its permissions")
	}
	line, _, _ := strings.Cut(text, "\n")
	number, ok := strings.CutPrefix(line, formatLine)
	v, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil:
		return false, s.refuse(fmt.Sprintf("file %s is damaged or not Heartline's (it begins %.40q)", fileFormat, line), todoDamaged)
	case v != format:
		return false, s.refuse(fmt.Sprintf("has format %d, this Heartline reads format %d", v, format), "use the version of Heartline that wrote it, or a newer one")
	case !has[dirDB] && has[dirNew]:
		// The crash came between the two renames of create.
		if err := s.opts.FS.Rename(s.path(dirNew), s.path(dirDB)); err != nil {
			return false, s.refuse(fmt.Sprintf("folder %s cannot be renamed (%v)", dirNew, cause(err)), "check its permissions")
		}
	case !has[dirDB]:
		return false, s.refuse("folder "+dirDB+" is missing", todoDamaged)
	}
	return false, nil
}

func (s *Store) readFile(name string) (string, error) {
	f, err := s.opts.FS.Open(s.path(name))
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return string(b), errors.Join(err, f.Close())
}

// create makes an empty store so that a crash at any point leaves either nothing
// that counts or a whole one: all is built aside, and FORMAT, without which it is
// no store, comes last but for the rename.
func (s *Store) create() error {
	vf := s.opts.FS
	fail := func(act string, err error) error {
		return fmt.Errorf("data directory %s: %s: %w", s.dir, act, err)
	}
	if err := vf.RemoveAll(s.path(dirNew)); err != nil {
		return fail("remove an unfinished store", err)
	}
	if err := s.openDB(s.path(dirNew), true); err != nil {
		return fail("make the store", err)
	}
	err := s.db.Set(keyFormat, binary.BigEndian.AppendUint64(nil, format), pebble.Sync)
	if err = errors.Join(err, s.broken(), s.db.Close()); err != nil {
		return fail("make the store", err)
	}
	if err := s.writeFile(fileFormat+".new", fmt.Sprintf("%s%d\nMade and locked by Heartline. Everything in this directory belongs together: back it up, move it and restore it as a whole.\n", formatLine, format)); err != nil {
		return fail("write "+fileFormat, err)
	}
	if err := vf.Rename(s.path(fileFormat+".new"), s.path(fileFormat)); err != nil {
		return fail("write "+fileFormat, err)
	}
	if err := s.syncDir(fail); err != nil {
		return err
	}
	if err := vf.Rename(s.path(dirNew), s.path(dirDB)); err != nil {
		return fail("put the store in its place", err)
	}
	return s.syncDir(fail)
}

func (s *Store) syncDir(fail func(string, error) error) error {
	d, err := s.opts.FS.OpenDir(s.dir)
	if err != nil {
		return fail("sync", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fail("sync", err)
	}
	return nil
}

func (s *Store) writeFile(name, text string) error {
	f, err := s.opts.FS.Create(s.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Sync(), f.Close())
}

// openDB opens Pebble behind a fence of its own.
func (s *Store) openDB(dir string, create bool) (err error) {
	s.failed.Store(nil)
	s.opening.Store(true)
	defer s.opening.Store(false)
	s.fence = newFence(s.opts.FS, s.writeFailed)
	o := s.pebbleOptions(s.fence)
	o.ErrorIfExists = create
	o.ErrorIfNotExists = !create
	// Pebble panics on some damage, and on some full disks.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("open: %v", r)
		}
		if err != nil {
			s.fence.raise()
		}
	}()
	if s.db, err = pebble.Open(dir, o); err != nil {
		return err
	}
	if err := s.broken(); err != nil {
		s.fence.raise()
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// writeFailed decides what a failed change of a file means.
func (s *Store) writeFailed(name string, err error) {
	switch {
	case s.opening.Load():
		// Pebble would try to flush what it recovered for ever, inside Open.
		s.break_(fmt.Errorf("write %s: %w", name, err))
		s.fence.raise()
	case strings.HasSuffix(name, ".sst"):
		// Pebble tries a flush or a compaction again, at once and for ever.
		t := time.NewTimer(tableDelay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.fence.down:
		}
	default:
		s.break_(fmt.Errorf("write %s: %w", name, err))
	}
}

// damaged says what to do about an error of opening Pebble.
func (s *Store) damaged(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("data directory %s: the disk is full; free some space: %w", s.dir, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return s.refuse(fmt.Sprintf("is not writable (%v)", err), "give this user the right to write there, or name another directory")
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

// load reads what the store keeps in memory.
func (s *Store) load() error {
	v, err := s.get(keyFormat)
	if err != nil {
		return s.damaged(fmt.Errorf("format: %w", err))
	}
	if len(v) != 8 || binary.BigEndian.Uint64(v) != format {
		return s.refuse(fmt.Sprintf("has format %x, this Heartline reads format %d", v, format), "use the version of Heartline that wrote it")
	}
	v, err = s.get(keyCounters)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil // nothing has ever been applied
	}
	if err == nil {
		s.counters, err = decodeCounters(v)
	}
	if err != nil {
		return s.damaged(fmt.Errorf("counters: %w", err))
	}
	return nil
}

// verify reads the tables and compares their checksums, so that a damaged one is
// noticed here and not by whoever asks for what was in it.
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
			name := fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum))
			if err := s.verifyTable(s.path(dirDB, name)); err != nil {
				return s.damaged(fmt.Errorf("file %s: %w", filepath.Join(dirDB, name), err))
			}
		}
	}
	return nil
}

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

// noteNewestWAL writes down which log is the newest. Pebble does not notice that
// a log is missing, and everything since the last flush would be gone without a
// word. The name is overwritten in place: that needs no room on a full disk.
func (s *Store) noteNewestWAL(path string) {
	name := s.opts.FS.PathBase(path)
	f, err := s.fence.OpenReadWrite(s.path(fileNewestWAL), vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%-30s\n", name), 0)
		err = errors.Join(err, f.SyncData(), f.Close())
	}
	if err != nil {
		s.break_(fmt.Errorf("write %s: %w", fileNewestWAL, err))
	}
}

// checkNewestWAL refuses a store whose newest log is missing.
func (s *Store) checkNewestWAL() error {
	text, err := s.readFile(fileNewestWAL)
	if err != nil {
		return s.refuse(fmt.Sprintf("file %s cannot be read (%v)", fileNewestWAL, cause(err)), todoDamaged)
	}
	want, ok := walNumber(strings.TrimSpace(text))
	if !ok {
		return s.refuse(fmt.Sprintf("file %s is damaged", fileNewestWAL), todoDamaged)
	}
	names, err := s.opts.FS.List(s.path(dirDB))
	if err != nil {
		return s.refuse(fmt.Sprintf("folder %s cannot be listed (%v)", dirDB, cause(err)), "check its permissions")
	}
	for _, n := range names {
		// A newer one is as good: the crash came before its name was written.
		if have, ok := walNumber(filepath.Base(n)); ok && have >= want {
			return nil
		}
	}
	return s.refuse(fmt.Sprintf("file %s is missing", filepath.Join(dirDB, strings.TrimSpace(text))), todoDamaged)
}

func walNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, ".log")
	if !ok {
		return 0, false
	}
	digits, _, _ = strings.Cut(digits, "-") // 000012-001.log is a part of 12
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

// get returns a copy of a value.
func (s *Store) get(key []byte) ([]byte, error) {
	v, c, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	v = bytes.Clone(v)
	return v, c.Close()
}
