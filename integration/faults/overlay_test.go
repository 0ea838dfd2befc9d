package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "github.com/heartline-mqtt/heartline"

// Build builds the program.
func Build(dir string, race bool) (string, error) {
	return build(filepath.Join(dir, "heartline"), race, nil, "-buildvcs=auto") // the table says which commit it is
}

func build(binary string, race bool, env []string, flags ...string) (string, error) {
	args := append([]string{"build", "-o", binary}, flags...)
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, module)...) // the arguments are of our own making; it ends by itself
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return binary, nil
}

// BuildFaulty builds the program from the same source with the ground beneath it
// replaced: Pebble's files, which can then be slow, be read-only, or be where the
// process dies; and, if clock says so, time.Now, whose wall clock can then be
// stepped (a step by the operator or by NTP moves the wall clock and not the
// monotonic one). Go's own -overlay and a copy of Pebble's module do it: a clock
// cannot be stepped for one process otherwise (Go reads it without a call that
// could be caught), no file system turns read-only under files that are open for
// writing and back again, and not every machine can slow a disk down. Nothing of it
// is in the program that users run.
//
// With another clock everything is compiled again, Go's own library included, which takes
// minutes; without it, Pebble and what imports it.
//
// The program is told over its standard input, see Program.Tell:
//
//	step SECONDS      the wall clock is that much ahead of the machine's
//	sync NANOSECONDS  every fsync takes that much longer
//	read-only 1       every change in the data directory fails with EROFS; 0: no more
//	kill before N     the process kills itself (SIGKILL) before the Nth fsync from now
//	kill after N      likewise, after it
func BuildFaulty(dir string, race, clock bool) (string, error) {
	goroot, err := output("go", "env", "GOROOT")
	if err != nil {
		return "", err
	}
	source, err := output("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cockroachdb/pebble/v2")
	if err != nil {
		return "", err
	}
	root, err := output("go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", err
	}
	// A copy: files of the module cache may not be overlaid.
	pebble := filepath.Join(dir, "pebble")
	if err := os.CopyFS(pebble, os.DirFS(source)); err != nil {
		return "", fmt.Errorf("copy Pebble: %w", err)
	}
	if err := os.WriteFile(filepath.Join(pebble, "vfs/zz_faults.go"), []byte(faultyFiles), 0o600); err != nil {
		return "", err
	}
	files := filepath.Join(pebble, "vfs/vfs.go")
	patched, err := replaced(files, "var Default FS = defaultFS{}\n", "var Default FS = faultyFS{}\n")
	if err == nil {
		err = os.WriteFile(files, patched, 0o600)
	}
	if err != nil {
		return "", err
	}
	o := overlay{dir: dir, replace: map[string]string{}}
	imports, step := "", ""
	var env []string
	if clock {
		if !race { // which needs it
			env = append(os.Environ(), "CGO_ENABLED=0") // its C would be compiled anew, too
		}
		o.add(filepath.Join(goroot, "src/time/zz_faults.go"), "package time\n\nimport \"sync/atomic\"\n\nvar FaultStep atomic.Int64 // seconds ahead\n")
		o.edit(filepath.Join(goroot, "src/time/time.go"), "sec, nsec, mono := runtimeNow()\n", "sec, nsec, mono := runtimeNow()\n\tsec += FaultStep.Load()\n")
		imports, step = `"time"`, `"step %d": time.FaultStep.Store,`
	}
	o.add(filepath.Join(root, "zz_faults.go"), fmt.Sprintf(faultyOrders, imports, step))
	file, err := o.write()
	if err != nil {
		return "", err
	}
	mod := filepath.Join(dir, "faulty.mod")
	gomod, err1 := os.ReadFile(filepath.Join(root, "go.mod"))
	gosum, err2 := os.ReadFile(filepath.Join(root, "go.sum"))
	gomod = fmt.Appendf(gomod, "\nreplace github.com/cockroachdb/pebble/v2 => %s\n", pebble)
	// the paths are of our own making
	if err := errors.Join(err1, err2, os.WriteFile(mod, gomod, 0o600), os.WriteFile(filepath.Join(dir, "faulty.sum"), gosum, 0o600)); err != nil {
		return "", err
	}
	return build(filepath.Join(dir, "heartline-faulty"), race, env, "-overlay", file, "-modfile", mod)
}

// faultyFiles are Pebble's, with faults: package vfs.
const faultyFiles = `package vfs

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

var FaultDelay, FaultBefore, FaultAfter, FaultReadOnly atomic.Int64

func writable(op, name string) error {
	if FaultReadOnly.Load() != 0 {
		return &os.PathError{Op: op, Path: name, Err: syscall.EROFS}
	}
	return nil
}

func changed(op, name string, do func() error) error {
	if err := writable(op, name); err != nil {
		return err
	}
	return do()
}

func synced(name string, sync func() error) error {
	if FaultBefore.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	if d := FaultDelay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	err := changed("sync", name, sync)
	if FaultAfter.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

type faultyFS struct{ defaultFS }

func opened(name string, f File, err error) (File, error) {
	if err != nil {
		return f, err
	}
	return &faultyFile{f, name}, nil
}

func (fs faultyFS) Create(name string, c DiskWriteCategory) (File, error) {
	if err := writable("create", name); err != nil {
		return nil, err
	}
	f, err := fs.defaultFS.Create(name, c)
	return opened(name, f, err)
}

func (fs faultyFS) OpenReadWrite(name string, c DiskWriteCategory, opts ...OpenOption) (File, error) {
	if err := writable("open", name); err != nil {
		return nil, err
	}
	f, err := fs.defaultFS.OpenReadWrite(name, c, opts...)
	return opened(name, f, err)
}

func (fs faultyFS) ReuseForWrite(oldname, newname string, c DiskWriteCategory) (File, error) {
	if err := writable("rename", newname); err != nil {
		return nil, err
	}
	f, err := fs.defaultFS.ReuseForWrite(oldname, newname, c)
	return opened(newname, f, err)
}

func (fs faultyFS) OpenDir(name string) (File, error) {
	f, err := fs.defaultFS.OpenDir(name)
	return opened(name, f, err)
}

func (fs faultyFS) Lock(name string) (io.Closer, error) {
	if err := writable("open", name); err != nil {
		return nil, err
	}
	return fs.defaultFS.Lock(name)
}

func (fs faultyFS) Link(oldname, newname string) error {
	return changed("link", newname, func() error { return fs.defaultFS.Link(oldname, newname) })
}

func (fs faultyFS) Rename(oldname, newname string) error {
	return changed("rename", newname, func() error { return fs.defaultFS.Rename(oldname, newname) })
}

func (fs faultyFS) MkdirAll(dir string, perm os.FileMode) error {
	return changed("mkdir", dir, func() error { return fs.defaultFS.MkdirAll(dir, perm) })
}

func (fs faultyFS) Remove(name string) error {
	return changed("remove", name, func() error { return fs.defaultFS.Remove(name) })
}

func (fs faultyFS) RemoveAll(name string) error {
	return changed("remove", name, func() error { return fs.defaultFS.RemoveAll(name) })
}

type faultyFile struct {
	File
	name string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := writable("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := writable("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultyFile) Preallocate(offset, length int64) error {
	return changed("fallocate", f.name, func() error { return f.File.Preallocate(offset, length) })
}

func (f *faultyFile) Sync() error     { return synced(f.name, f.File.Sync) }
func (f *faultyFile) SyncData() error { return synced(f.name, f.File.SyncData) }

func (f *faultyFile) SyncTo(length int64) (full bool, err error) {
	err = changed("sync", f.name, func() error {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
`

// faultyOrders takes orders from standard input: package main.
const faultyOrders = `package main

import (
	"bufio"
	"fmt"
	"os"
	%s

	"github.com/cockroachdb/pebble/v2/vfs"
)

func init() {
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			var n int64
			line := in.Text()
			for form, to := range map[string]func(int64){
				%s
				"sync %%d": vfs.FaultDelay.Store, "read-only %%d": vfs.FaultReadOnly.Store,
				"kill before %%d": vfs.FaultBefore.Store, "kill after %%d": vfs.FaultAfter.Store,
			} {
				if _, err := fmt.Sscanf(line, form, &n); err == nil {
					to(n)
					fmt.Println("did " + line)
				}
			}
		}
	}()
}
`

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output() // likewise
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// overlay is a file for go build -overlay on the way.
type overlay struct {
	dir     string
	replace map[string]string
	err     error
}

func (o *overlay) add(path, text string) {
	file := filepath.Join(o.dir, fmt.Sprintf("overlay-%d.go", len(o.replace)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil && o.err == nil {
		o.err = err
	}
	o.replace[path] = file
}

func (o *overlay) edit(path, old, with string) {
	b, err := replaced(path, old, with)
	if err != nil && o.err == nil {
		o.err = err
	}
	o.add(path, string(b))
}

// replaced reads a file with a text in it that has to be there once.
func replaced(path, old, with string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil && strings.Count(string(b), old) != 1 {
		err = fmt.Errorf("%s is not as it was: it does not have %q once", path, old)
	}
	return []byte(strings.Replace(string(b), old, with, 1)), err
}

func (o *overlay) write() (string, error) {
	b, err := json.Marshal(map[string]any{"Replace": o.replace})
	if err == nil {
		err = o.err
	}
	if err != nil {
		return "", fmt.Errorf("prepare the faulty program: %w", err)
	}
	file := filepath.Join(o.dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o600)
}
