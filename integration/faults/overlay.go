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

// Build builds the program.
func Build(dir string, race bool) (string, error) {
	var flags []string
	if race {
		flags = append(flags, "-race")
	}
	return build(filepath.Join(dir, "heartline"), flags...)
}

func build(binary string, flags ...string) (string, error) {
	args := append([]string{"build", "-o", binary}, flags...)
	cmd := exec.Command("go", append(args, module)...) //nolint:gosec,noctx // the arguments are of our own making; it ends by itself
	if len(flags) > 1 {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // all is built anew: without its C
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return binary, nil
}

const module = "github.com/heartline-mqtt/heartline"

// BuildFaulty builds the program from the same source with two things beneath it
// replaced: time.Now, whose wall clock can then be stepped (a step by the operator
// or by NTP moves the wall clock and not the monotonic one), and the fsync of
// Pebble's files, which can then be slow, or be where the process dies. Go's own
// -overlay and a copy of Pebble's module do it: a clock cannot be stepped for one process otherwise (Go reads
// it without a call that could be caught), and not every machine can slow a disk
// down. Nothing of it is in the program that users run.
//
// The program is told over its standard input, see Program.Tell:
//
//	step SECONDS      the wall clock is that much ahead of the machine's
//	sync NANOSECONDS  every fsync takes that much longer
//	kill before N     the process kills itself (SIGKILL) before the Nth fsync from now
//	kill after N      likewise, after it
func BuildFaulty(dir string) (string, error) {
	goroot, err := output("go", "env", "GOROOT")
	if err != nil {
		return "", err
	}
	pebble, err := output("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cockroachdb/pebble/v2")
	if err != nil {
		return "", err
	}
	root, err := output("go", "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", err
	}
	o := overlay{dir: dir, replace: map[string]string{}}
	// A copy: what is in the module cache may not be overlaid.
	mine := filepath.Join(dir, "pebble")
	if err := os.CopyFS(mine, os.DirFS(pebble)); err != nil {
		return "", fmt.Errorf("copy Pebble: %w", err)
	}
	pebble = mine
	o.add(filepath.Join(goroot, "src/time/zz_faults.go"), `package time

import "sync/atomic"

// FaultStep is how far the wall clock is ahead, in seconds.
var FaultStep atomic.Int64
`)
	o.edit(filepath.Join(goroot, "src/time/time.go"), "sec, nsec, mono := runtimeNow()\n", "sec, nsec, mono := runtimeNow()\n\tsec += FaultStep.Load()\n")
	if err := os.WriteFile(filepath.Join(pebble, "vfs/zz_faults.go"), []byte(`package vfs

import (
	"sync/atomic"
	"syscall"
	"time"
)

var FaultDelay, FaultBefore, FaultAfter atomic.Int64

func faulty(sync func() error) error {
	if FaultBefore.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	if d := FaultDelay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	err := sync()
	if FaultAfter.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

func (f *linuxFile) Sync() error { return faulty(f.File.Sync) }
`), 0o600); err != nil {
		return "", err
	}
	patched, err := replaced(filepath.Join(pebble, "vfs/default_linux.go"), "return unix.Fdatasync(int(f.fd))\n", "return faulty(func() error { return unix.Fdatasync(int(f.fd)) })\n")
	if err == nil {
		err = os.WriteFile(filepath.Join(pebble, "vfs/default_linux.go"), patched, 0o600)
	}
	if err != nil {
		return "", err
	}
	o.add(filepath.Join(root, "zz_faults.go"), `package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func init() {
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			var n int64
			line := in.Text()
			for form, to := range map[string]func(int64){
				"step %d": time.FaultStep.Store, "sync %d": vfs.FaultDelay.Store,
				"kill before %d": vfs.FaultBefore.Store, "kill after %d": vfs.FaultAfter.Store,
			} {
				if _, err := fmt.Sscanf(line, form, &n); err == nil {
					to(n)
					fmt.Println("did " + line)
				}
			}
		}
	}()
}
`)
	file, err := o.write()
	if err != nil {
		return "", err
	}
	mod := filepath.Join(dir, "faulty.mod")
	gomod, err1 := os.ReadFile(filepath.Join(root, "go.mod"))
	gosum, err2 := os.ReadFile(filepath.Join(root, "go.sum"))
	gomod = fmt.Appendf(gomod, "\nreplace github.com/cockroachdb/pebble/v2 => %s\n", pebble)
	//nolint:gosec // the paths are of our own making
	if err := errors.Join(err1, err2, os.WriteFile(mod, gomod, 0o600), os.WriteFile(filepath.Join(dir, "faulty.sum"), gosum, 0o600)); err != nil {
		return "", err
	}
	return build(filepath.Join(dir, "heartline-faulty"), "-overlay", file, "-modfile", mod)
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output() //nolint:gosec,noctx // likewise
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
