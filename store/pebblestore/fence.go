package pebblestore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence is the file system that Pebble sees. Once it is up, Pebble is cut off from
// the disk: whatever it changes from then on goes into the void and succeeds, and
// reads go on.
//
// That is how Pebble is given up, for it knows no other way. A commit that waits
// for a flush on a full disk waits for ever, and so does Close behind it; told
// that all is well, both return, and no memory and no goroutine stays behind.
//
// It is also how a failed write is taken. What Pebble does about one that it cannot
// try again ranges from ending the process through its logger to a panic that no
// recover can stop (a log that cannot be closed when it is full: a mutex is
// unlocked twice). So it is not told: the fence goes up at the first such failure,
// in that very call, and Store remembers that nothing since has been stored.
type fence struct {
	vfs.FS
	up    atomic.Bool
	down  chan struct{} // closed when the fence goes up
	calls sync.RWMutex  // held for reading by each change under way
	// discardOldLogs: above 0, the fence creates a new log where Pebble wants to reuse one.
	discardOldLogs atomic.Int32
	// aside begins the names of a checkpoint's files: they are not the store's, so that
	// neither the fence nor a failed change of theirs concerns it.
	aside string
	// failed is called for each failed change. true: Pebble cannot cope with it.
	failed func(name string, err error) (fatal bool)
}

func newFence(inner vfs.FS, aside string, failed func(name string, err error) bool) *fence {
	return &fence{FS: inner, down: make(chan struct{}), aside: aside, failed: failed}
}

func (f *fence) isAside(name string) bool { return strings.HasPrefix(name, f.aside) }

func (f *fence) raise() {
	if f.up.CompareAndSwap(false, true) {
		close(f.down)
	}
}

// wait returns when no change of Pebble is in the kernel any more. The fence is up:
// the directory can then be reopened while the rest of the old Pebble still runs.
func (f *fence) wait() {
	// A change looks at up with calls held: with the lock in hand there is none
	// under way, and none can begin.
	f.calls.Lock()
	defer f.calls.Unlock()
}

// change runs do, unless the fence is up or goes up over it; done is false then.
func (f *fence) change(name string, do func() error) (done bool, err error) {
	if f.isAside(name) {
		return true, do()
	}
	f.calls.RLock()
	if f.up.Load() {
		f.calls.RUnlock()
		return false, nil
	}
	err = do()
	f.calls.RUnlock()
	if err != nil && f.failed(name, err) {
		f.raise()
		return false, nil
	}
	return true, err
}

func (f *fence) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.Create(name, category) })
}

func (f *fence) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if f.discardOldLogs.Load() > 0 {
		return f.open(newname, func() (vfs.File, error) {
			if err := f.FS.Remove(oldname); err != nil {
				return nil, err
			}
			return f.FS.Create(newname, category)
		})
	}
	return f.open(newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, category) })
}

func (f *fence) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, category, opts...) })
}

func (f *fence) open(name string, open func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	done, err := f.change(name, func() (err error) {
		file, err = open()
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !done:
		return voidFile{name: f.PathBase(name)}, nil
	}
	base := f.PathBase(name)
	return &fencedFile{
		File: file, fence: f, name: name,
		unnamed: strings.HasPrefix(base, "MANIFEST"), table: strings.HasSuffix(base, ".sst"),
	}, nil
}

// OpenDir's file is synced, which is a change.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: file, fence: f, name: name}, nil
}

func (f *fence) only(name string, do func() error) error {
	_, err := f.change(name, do)
	return err
}

func (f *fence) Link(oldname, newname string) error {
	return f.only(newname, func() error { return f.FS.Link(oldname, newname) })
}

func (f *fence) Rename(oldname, newname string) error {
	return f.only(newname, func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fence) MkdirAll(dir string, perm os.FileMode) error {
	return f.only(dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

// Pebble copes with a file that it cannot remove: the next Open does.
func (f *fence) Remove(name string) error {
	return f.remove(name, func() error { return f.FS.Remove(name) })
}

func (f *fence) RemoveAll(name string) error {
	return f.remove(name, func() error { return f.FS.RemoveAll(name) })
}

func (f *fence) remove(name string, do func() error) error {
	if f.isAside(name) {
		return do()
	}
	f.calls.RLock()
	defer f.calls.RUnlock()
	if f.up.Load() {
		return nil
	}
	return do()
}

// Lock does nothing: the store holds the lock of the directory above, over the
// lives of more than one Pebble.
func (f *fence) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (f *fence) Unwrap() vfs.FS { return f.FS }

type fencedFile struct {
	vfs.File
	fence *fence
	name  string
	// unnamed: its name may not be on the disk yet. Pebble points to a MANIFEST
	// that it has synced, but whose name it has not: after a loss of power the
	// pointer could be there and the file not.
	unnamed bool
	// table: it is written by a flush or a compaction, for which nobody waits.
	table bool
}

func (f *fencedFile) Write(p []byte) (n int, err error) {
	done, err := f.fence.change(f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	if f.table {
		// A compaction would keep its core until the runtime takes it away, after 10 ms:
		// on one core a notification meets that several times on its way. Now all that
		// is ready runs between two blocks.
		runtime.Gosched()
	}
	if !done {
		return len(p), nil
	}
	return n, err
}

func (f *fencedFile) WriteAt(p []byte, off int64) (n int, err error) {
	done, err := f.fence.change(f.name, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	if !done {
		return len(p), nil
	}
	return n, err
}

func (f *fencedFile) Preallocate(offset, length int64) error {
	return f.fence.only(f.name, func() error { return f.File.Preallocate(offset, length) })
}

func (f *fencedFile) Sync() error { return f.fence.only(f.name, f.sync) }

func (f *fencedFile) sync() error {
	if err := f.File.Sync(); err != nil || !f.unnamed {
		return err
	}
	d, err := f.fence.FS.OpenDir(f.fence.PathDir(f.name))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	f.unnamed = false
	return nil
}

func (f *fencedFile) SyncData() error { return f.fence.only(f.name, f.File.SyncData) }

func (f *fencedFile) SyncTo(length int64) (full bool, err error) {
	done, err := f.fence.change(f.name, func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full || !done, err
}

// voidFile takes everything and keeps nothing.
type voidFile struct{ name string }

func (voidFile) Close() error                           { return nil }
func (voidFile) Read([]byte) (int, error)               { return 0, io.EOF }
func (voidFile) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (voidFile) Write(p []byte) (int, error)            { return len(p), nil }
func (voidFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (voidFile) Preallocate(int64, int64) error         { return nil }
func (voidFile) Sync() error                            { return nil }
func (voidFile) SyncData() error                        { return nil }
func (voidFile) SyncTo(int64) (bool, error)             { return true, nil }
func (voidFile) Prefetch(int64, int64) error            { return nil }
func (voidFile) Fd() uintptr                            { return vfs.InvalidFd }
func (f voidFile) Stat() (vfs.FileInfo, error)          { return voidInfo(f), nil }

type voidInfo struct{ name string }

func (i voidInfo) Name() string         { return i.name }
func (voidInfo) Size() int64            { return 0 }
func (voidInfo) Mode() fs.FileMode      { return 0o600 }
func (voidInfo) ModTime() time.Time     { return time.Time{} }
func (voidInfo) IsDir() bool            { return false }
func (voidInfo) Sys() any               { return nil }
func (voidInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
