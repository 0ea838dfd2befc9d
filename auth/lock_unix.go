//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// lockWait is how long an edit waits for others, lockRetry how long between two attempts.
const (
	lockWait  = 10 * time.Second
	lockRetry = 10 * time.Millisecond
)

// lockDir waits until no other process edits a file of dir, and keeps others waiting until
// unlock. It locks the directory, because an edit replaces the file. A file system
// without locks is edited without one, as on systems without flock. unlock makes the
// names in the directory durable.
func lockDir(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) { // it may be written all the same
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); ; {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return func() error { return errors.Join(syncDir(f), f.Close()) }, nil // Close ends the lock
		case time.Since(begun) >= lockWait:
			_ = f.Close()
			return nil, fmt.Errorf("another command edits a file of %s", dir)
		default:
			time.Sleep(lockRetry)
		}
	}
}

// syncDir makes a rename durable. Some file systems cannot sync a directory.
func syncDir(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// keepOwner gives f the owner and group of the file that it is about to replace.
func keepOwner(f *os.File, old fs.FileInfo) error {
	was, ok := old.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if ok && is.Uid == was.Uid && is.Gid == was.Gid {
		return nil
	}
	if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
		who := "as that user"
		if ok && is.Uid == was.Uid {
			who = fmt.Sprintf("as a member of group %d", was.Gid)
		}
		return fmt.Errorf("%s must keep its owner (uid %d, gid %d), who may be the only one to read it: edit it %s or as root: %w", old.Name(), was.Uid, was.Gid, who, err)
	}
	return nil
}
