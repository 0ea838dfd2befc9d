package pebblestore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// overlay is a file system whose changes stay in memory. A store is opened in it for
// reading where its journal has frames that are not in tables.
type overlay struct {
	vfs.FS // below
	mem    *vfs.MemFS
}

func newOverlay(below vfs.FS) *overlay { return &overlay{FS: below, mem: vfs.NewMem()} }

// above makes the folder of name in memory.
func (o *overlay) above(name string) *vfs.MemFS {
	_ = o.mem.MkdirAll(o.mem.PathDir(name), 0o700) // MemFS: it cannot fail
	return o.mem
}

func (o *overlay) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return o.above(name).Create(name, c)
}

func (o *overlay) Link(oldname, newname string) error {
	return errors.Join(o.copyUp(oldname), o.above(newname).Link(oldname, newname))
}

func (o *overlay) copyUp(name string) error {
	if _, err := o.mem.Stat(name); err == nil {
		return nil
	}
	from, err := o.FS.Open(name)
	if err != nil {
		return err
	}
	to, err := o.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return errors.Join(err, from.Close())
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close(), from.Close())
}

func (o *overlay) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if f, err := o.mem.Open(name, opts...); err == nil {
		return f, nil
	}
	return o.FS.Open(name, opts...)
}

func (o *overlay) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := o.copyUp(name); err != nil {
		return nil, err
	}
	return o.mem.OpenReadWrite(name, c, opts...)
}

func (o *overlay) OpenDir(name string) (vfs.File, error) {
	if err := o.mem.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	return o.mem.OpenDir(name)
}

// Remove leaves the file below.
func (o *overlay) Remove(name string) error {
	if err := o.mem.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (o *overlay) RemoveAll(name string) error { return o.mem.RemoveAll(name) }

func (o *overlay) Rename(oldname, newname string) error {
	return errors.Join(o.copyUp(oldname), o.above(newname).Rename(oldname, newname))
}

func (o *overlay) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return o.Create(newname, c)
}

func (o *overlay) MkdirAll(dir string, perm os.FileMode) error { return o.mem.MkdirAll(dir, perm) }

func (o *overlay) List(dir string) ([]string, error) {
	names, err := o.FS.List(dir)
	if err != nil {
		return nil, err
	}
	above, err := o.mem.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names = append(names, above...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (o *overlay) Stat(name string) (vfs.FileInfo, error) {
	if info, err := o.mem.Stat(name); err == nil {
		return info, nil
	}
	return o.FS.Stat(name)
}

func (o *overlay) Unwrap() vfs.FS { return nil }
