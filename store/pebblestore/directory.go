package pebblestore

import (
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

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The first line of FORMAT. The rest of the file is for people.
const formatLine = "heartline outbox, format "

func (s *Store) path(elem ...string) string {
	return s.opts.FS.PathJoin(append([]string{s.dir}, elem...)...)
}

// prepare makes the directory if need be, and locks it.
func (s *Store) prepare() error {
	vf := s.opts.FS
	s.unlock = func() error { return nil }
	info, err := vf.Stat(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.opts.ReadOnly:
		return s.refuse("is not there", "name the directory of a store")
	case errors.Is(err, fs.ErrNotExist):
		if err := s.makeDir(); err != nil {
			return s.refuse(fmt.Sprintf("cannot be made (%v)", cause(err)), "make it, or name one that can be")
		}
	case errors.Is(err, syscall.ENOTDIR):
		return s.refuse("a part of the path is a file", "name a directory")
	case err != nil:
		return s.refuse(fmt.Sprintf("cannot be looked at (%v)", cause(err)), "check its permissions")
	case !info.IsDir():
		return s.refuse("is a file", "name a directory")
	}
	if _, err := vf.Stat(s.path(fileLock)); errors.Is(err, fs.ErrNotExist) {
		// A directory that is somebody else's is refused before anything is put
		// into it, the lock included.
		if _, err := s.identify(); err != nil {
			return err
		}
	}
	if err := s.refuseLinks(); err != nil {
		return err
	}
	lock, err := vf.Lock(s.path(fileLock))
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && s.lockable(),
		err != nil && strings.Contains(err.Error(), "held by current process"):
		return s.refuse("is in use by another Heartline", "stop that one, or name another directory")
	case errors.Is(err, syscall.EROFS) && s.opts.ReadOnly:
		return nil // nobody can write here: there is nothing to be locked against
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return s.refuse(fmt.Sprintf("is not writable (%v)", cause(err)), "give this user the right to write there, or name another directory")
	case err != nil:
		return s.refuse(fmt.Sprintf("cannot be locked (%v)", cause(err)), "check the file system")
	}
	s.unlock = sync.OnceValue(lock.Close)
	s.closeToOthers()
	return nil
}

// makeDir makes the directory so that a loss of power cannot take it away again
// with all that was synced in it.
func (s *Store) makeDir() error {
	vf := s.opts.FS
	unsynced := []string{}
	for d := s.dir; ; {
		parent := vf.PathDir(d)
		if parent == d {
			break
		}
		unsynced = append(unsynced, parent)
		if _, err := vf.Stat(parent); err == nil {
			break
		}
		d = parent
	}
	if err := vf.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	for _, d := range unsynced {
		f, err := vf.OpenDir(d)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// refuseLinks refuses LOCK and WATERMARK as symbolic links: through one, a user who can
// write into the directory would have us overwrite a file elsewhere.
func (s *Store) refuseLinks() error {
	for _, name := range []string{fileLock, fileWatermark} {
		if info, err := os.Lstat(s.path(name)); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return s.refuse(fmt.Sprintf("file %s is a symbolic link", name), "remove it, and find out who put it there")
		}
	}
	return nil
}

// closeToOthers takes the rights of other users from a directory that was made by hand:
// everything in it is private.
func (s *Store) closeToOthers() {
	info, err := os.Stat(s.dir)
	if err != nil || s.opts.ReadOnly || info.Mode().Perm()&0o007 == 0 {
		return // a file system of a test, or nothing to do
	}
	if err := os.Chmod(s.dir, info.Mode().Perm()&^0o007); err != nil {
		s.opts.Logger.Warn("data directory is open to other users", "path", s.dir, "mode", info.Mode().Perm(), "error", err)
	}
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

// identify reads FORMAT. 0: there is nothing here.
func (s *Store) identify() (is int, err error) {
	names, err := s.opts.FS.List(s.dir)
	if err != nil {
		return 0, s.refuse(fmt.Sprintf("cannot be listed (%v)", cause(err)), "check its permissions")
	}
	has := map[string]bool{}
	foreign := ""
	for _, n := range names {
		switch n = filepath.Base(n); n {
		case fileFormat, fileFormat + ".new", fileLock, fileWatermark, dirDB, dirNew, dirCheckpoint, dirJournal, dirTables, "lost+found":
			has[n] = true
		default:
			foreign = n
		}
	}
	text, err := s.readFile(fileFormat)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !has[dirDB] && !has[dirJournal] && foreign == "":
		return 0, nil
	case errors.Is(err, fs.ErrNotExist) && !has[dirDB] && !has[dirJournal]:
		return 0, s.refuse(fmt.Sprintf("holds other files (%s) and no store", foreign), todoForeign)
	case errors.Is(err, fs.ErrNotExist):
		return 0, s.refuse("file "+fileFormat+" is missing", todoDamaged)
	case err != nil:
		return 0, s.refuse(fmt.Sprintf("file %s cannot be read (%v)", fileFormat, cause(err)), "check its permissions")
	}
	line, _, _ := strings.Cut(text, "\n")
	number, ok := strings.CutPrefix(line, formatLine)
	v, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil:
		return 0, s.refuse(fmt.Sprintf("file %s is damaged or not Heartline's (it begins %.40q)", fileFormat, line), todoDamaged)
	case v == formatJournal && !s.opts.Journal && !s.opts.ReadOnly:
		return 0, s.refuse(fmt.Sprintf("has format %d, which only store.engine journal reads and writes", v), "set store.engine: journal")
	case v != format && v != oldFormat && v != formatJournal:
		return 0, s.refuse(fmt.Sprintf("has format %d, this Heartline reads format %d", v, format), "use the version of Heartline that wrote it, or a newer one")
	case v == oldFormat && s.opts.ReadOnly:
		return 0, s.oldFormat()
	case !has[dirDB] && has[dirNew]:
		// The crash came between the two renames of create.
		if err := s.opts.FS.Rename(s.path(dirNew), s.path(dirDB)); err != nil {
			return 0, s.refuse(fmt.Sprintf("folder %s cannot be renamed (%v)", dirNew, cause(err)), "check its permissions")
		}
	case !has[dirDB]:
		return 0, s.refuse("folder "+dirDB+" is missing", todoDamaged)
	}
	return v, nil
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
	if err := s.openDB(s.path(dirNew), openCreate); err != nil {
		return fail("make the store", err)
	}
	if err := s.writeWatermark(); err != nil {
		return fail("write "+fileWatermark, errors.Join(err, s.db.Close()))
	}
	b := s.db.NewBatch()
	err := errors.Join(b.Set(keyFormat, binary.BigEndian.AppendUint64(nil, format), nil), s.commitDurably(b), b.Close())
	if err = errors.Join(err, s.broken(), s.db.Close()); err != nil {
		return fail("make the store", err)
	}
	if err := s.nameFormat(); err != nil {
		return err
	}
	if err := vf.Rename(s.path(dirNew), s.path(dirDB)); err != nil {
		return fail("put the store in its place", err)
	}
	return s.syncDir(fail)
}

// nameFormat writes FORMAT so that a crash leaves the old one or the new one.
func (s *Store) nameFormat() error {
	fail := func(act string, err error) error {
		return fmt.Errorf("data directory %s: %s: %w", s.dir, act, err)
	}
	if err := s.writeFile(s.path(fileFormat+".new"), s.formatText()); err != nil {
		return fail("write "+fileFormat, err)
	}
	// All names must be on the disk before the one that makes a store of them.
	if err := s.syncDir(fail); err != nil {
		return err
	}
	if err := s.opts.FS.Rename(s.path(fileFormat+".new"), s.path(fileFormat)); err != nil {
		return fail("write "+fileFormat, err)
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

func (s *Store) formatText() string {
	number := format
	if s.opts.Journal {
		number = formatJournal
	}
	return fmt.Sprintf("%s%d\nMade and locked by Heartline. Everything in this directory belongs together: back it up, move it and restore it as a whole.\n", formatLine, number)
}

func (s *Store) writeFile(path, text string) error {
	f, err := s.opts.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Sync(), f.Close())
}
