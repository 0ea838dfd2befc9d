package pebblestore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

var start = time.Date(2026, 11, 3, 9, 30, 0, 0, time.UTC)

func accept(seqs ...delivery.Seq) *delivery.Batch {
	b := &delivery.Batch{Sync: true}
	for _, seq := range seqs {
		b.Accept = append(b.Accept, delivery.Acceptance{
			Notification: &delivery.Notification{
				Seq: seq, ID: fmt.Sprintf("n-%d", seq), Account: "ann", Title: "Door", HasMessage: true,
				AcceptedAt: start, ExpiresAt: start.Add(time.Hour), Devices: []string{"phone"},
			},
			Data: json.RawMessage(fmt.Sprintf(`{"seq":%d}`, seq)),
		})
	}
	return b
}

func apply(t *testing.T, s *pebblestore.Store, bs ...*delivery.Batch) {
	t.Helper()
	for _, b := range bs {
		if err := s.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
}

func closeStore(t *testing.T, s *pebblestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// filled makes a store with tables, a log with content, and 300 notifications.
func filled(t *testing.T, journal bool) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	for round := range 3 { // opening writes what is in the log to a table
		s := open(t, dir, pebblestore.Options{Journal: journal})
		for i := range 100 {
			apply(t, s, accept(delivery.Seq(round*100+i+1)))
		}
		closeStore(t, s)
	}
	return dir
}

func glob(t testing.TB, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s (error %v)", pattern, dir, err)
	}
	return names
}

func edit(t *testing.T, name string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.RemoveAll(n); err != nil {
			t.Fatal(err)
		}
	}
}

func newest(names []string) string { return slices.Max(names) }

func TestDamagedDirectoryIsRefused(t *testing.T) { both(t, testDamagedDirectoryIsRefused) }

func testDamagedDirectoryIsRefused(t *testing.T, journal bool) {
	logs := "db/*.log"
	if journal {
		logs = "journal/j*.log"
	}
	cases := []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   []string // parts of the error
	}{
		{"newest log missing", func(t *testing.T, dir string) { remove(t, newest(glob(t, dir, logs))) }, []string{".log is missing", "backup"}},
		{"all logs missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, logs)...) }, []string{".log is missing"}},
		{"table missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/*.sst")[0]) }, []string{"00", "damaged", "backup"}},
		{"tables missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/*.sst")...) }, []string{"damaged"}},
		{"manifest missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/MANIFEST*")...) }, []string{"MANIFEST", "damaged"}},
		{"manifest marker missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/marker.manifest*")...) }, []string{"damaged"}},
		{"format marker missing", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/marker.format*")...) }, []string{"damaged"}},
		{"manifest empty", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, "db/MANIFEST*")), func(b []byte) []byte { return nil })
		}, []string{"MANIFEST", "damaged"}},
		{"manifest truncated", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, "db/MANIFEST*")), func(b []byte) []byte { return b[:len(b)/2] })
		}, []string{"damaged"}},
		{"manifest flipped", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, "db/MANIFEST*")), func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b })
		}, []string{"damaged"}},
		{"end of manifest missing", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, "db/MANIFEST*")), func(b []byte) []byte { return b[:len(b)-5] })
		}, []string{"damaged"}},
		{"end of log missing", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, logs)), func(b []byte) []byte { return b[:len(b)-300] })
		}, []string{".log", "damaged"}},
		{"log flipped", func(t *testing.T, dir string) {
			edit(t, newest(glob(t, dir, logs)), func(b []byte) []byte { b[len(b)/4] ^= 0x10; return b })
		}, []string{".log", "damaged"}},
		{"FORMAT missing", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "FORMAT")) }, []string{"FORMAT is missing"}},
		{"FORMAT empty", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "FORMAT"), func([]byte) []byte { return nil })
		}, []string{"FORMAT is damaged"}},
		{"FORMAT newer", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "FORMAT"), func(b []byte) []byte { return regexp.MustCompile("format [23]").ReplaceAll(b, []byte("format 9")) })
		}, []string{"has format 9", "newer"}},
		{"WATERMARK missing", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "WATERMARK")) }, []string{"WATERMARK"}},
		{"WATERMARK flipped", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "WATERMARK"), func(b []byte) []byte { b[30] ^= 1; return b })
		}, []string{"WATERMARK is damaged"}},
		{"db missing", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "db")) }, []string{"folder db is missing"}},
		{"db empty", func(t *testing.T, dir string) { remove(t, glob(t, dir, "db/*")...) }, []string{"backup"}},
	}
	whole := filled(t, journal)
	for _, c := range cases {
		if journal && (c.name == "end of log missing" || c.name == "log flipped") {
			continue // nothing in it is needed after Close; see TestDamagedJournal
		}
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			before := contents(t, dir)
			s, err := pebblestore.Open(dir, pebblestore.Options{Journal: journal})
			if err == nil {
				n := readable(s)
				closeStore(t, s)
				t.Fatalf("opened, with %d of 300 notifications", n)
			}
			oneLine(t, err, append(c.want, dir)...)
			// An operator who repairs it must find the original files.
			for name, size := range before {
				if after, there := contents(t, dir)[name]; !there || after < size {
					t.Errorf("%s had %d bytes, and now %d (there: %v)", name, size, after, there)
				}
			}
		})
	}
}

// TestFlippedTableIsRefused flips a bit everywhere in a table in turn: no place
// of it may be let through.
func TestFlippedTableIsRefused(t *testing.T) { both(t, testFlippedTableIsRefused) }

func testFlippedTableIsRefused(t *testing.T, journal bool) {
	dir := filled(t, journal)
	table := glob(t, dir, "db/*.sst")[0]
	whole, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(whole); i += max(1, len(whole)/70) {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x04
		if err := os.WriteFile(table, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := pebblestore.Open(dir, pebblestore.Options{Journal: journal, ReadOnly: true})
		if err == nil {
			// Only where the bit means nothing: a table ends in some padding.
			if n := readable(s); n != 300 {
				t.Errorf("byte %d of %d let through, with %d notifications of 300", i, len(whole), n)
			}
			closeStore(t, s)
			continue
		}
		oneLine(t, err, filepath.Base(table), "damaged")
	}
}

// readable counts the notifications that can be read, with their data.
func readable(s *pebblestore.Store) (n int) {
	for seq := range delivery.Seq(300) {
		_, err1 := s.Notification(seq + 1)
		_, err2 := s.Data(seq + 1)
		if err1 == nil && err2 == nil {
			n++
		}
	}
	return n
}

func oneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	text := err.Error()
	if strings.Contains(text, "\n") {
		t.Errorf("the error is not one line: %q", text)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("the error does not say %q: %s", p, text)
		}
	}
}

// contents returns the sizes of what must not get lost.
func contents(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if ext := filepath.Ext(path); ext == ".sst" || ext == ".log" || strings.Contains(path, "MANIFEST") || filepath.Base(path) == "FORMAT" {
			sizes[path] = info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	refused := func(t *testing.T, dir string, parts ...string) {
		t.Helper()
		s, err := pebblestore.Open(dir, pebblestore.Options{})
		if err == nil {
			closeStore(t, s)
			t.Fatal("opened")
		}
		oneLine(t, err, append(parts, dir)...)
	}
	t.Run("other files", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, "letter.txt", "empty directory")
	})
	t.Run("file", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, name, "is a file")
		refused(t, filepath.Join(name, "below"), "is a file")
	})
	t.Run("in use by this process", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir, pebblestore.Options{})
		defer closeStore(t, s)
		refused(t, dir, "in use by another Heartline")
	})
	t.Run("read-only open of none", func(t *testing.T) {
		_, err := pebblestore.Open(filepath.Join(t.TempDir(), "none"), pebblestore.Options{ReadOnly: true})
		oneLine(t, err, "is not there")
		_, err = pebblestore.Open(t.TempDir(), pebblestore.Options{ReadOnly: true})
		oneLine(t, err, "holds no store")
	})
}

// TestHelper is no test: other tests run it as a process of its own.
func TestHelper(t *testing.T) {
	dir := os.Getenv("HEARTLINE_TEST_DIR")
	switch what := os.Getenv("HEARTLINE_TEST_HELPER"); what {
	case "open", "open journal":
		s, err := pebblestore.Open(dir, pebblestore.Options{Journal: what == "open journal"})
		if err != nil {
			fmt.Println("error:", err)
			return
		}
		fmt.Println("opened")
		closeStore(t, s)
	case "accept":
		acceptUnderLoad(t, dir, false)
	case "accept journal":
		acceptUnderLoad(t, dir, true)
	default:
		t.Skip("other tests run this one, in a process that they kill")
	}
}

func helper(t *testing.T, what, dir string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v=false")
	c.Env = append(os.Environ(), "HEARTLINE_TEST_HELPER="+what, "HEARTLINE_TEST_DIR="+dir)
	c.Stderr = os.Stderr
	return c
}

func TestDirectoryInUseByAnotherProcess(t *testing.T) { both(t, testDirectoryInUseByAnotherProcess) }

func testDirectoryInUseByAnotherProcess(t *testing.T, journal bool) {
	dir := t.TempDir()
	s := open(t, dir, pebblestore.Options{Journal: journal})
	what := map[bool]string{false: "open", true: "open journal"}[journal]
	out, err := helper(t, what, dir).Output()
	if err != nil || !strings.Contains(string(out), "in use by another Heartline") {
		t.Errorf("the other process said %q (error %v)", out, err)
	}
	closeStore(t, s)
	out, err = helper(t, what, dir).Output()
	if err != nil || !strings.Contains(string(out), "opened") {
		t.Errorf("after Close the other process said %q (error %v)", out, err)
	}
}

// TestCrashWhileMaking: an unfinished store is created again; a store that lacks only
// its last step is finished.
func TestCrashWhileMaking(t *testing.T) { both(t, testCrashWhileMaking) }

func testCrashWhileMaking(t *testing.T, journal bool) {
	dir := t.TempDir()
	closeStore(t, open(t, dir, pebblestore.Options{Journal: journal}))
	if err := os.Rename(filepath.Join(dir, "db"), filepath.Join(dir, "db.new")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, pebblestore.Options{Journal: journal})
	apply(t, s, accept(1))
	closeStore(t, s)

	dir = t.TempDir()
	closeStore(t, open(t, dir, pebblestore.Options{Journal: journal}))
	if err := os.Rename(filepath.Join(dir, "db"), filepath.Join(dir, "db.new")); err != nil {
		t.Fatal(err)
	}
	remove(t, filepath.Join(dir, "FORMAT"), filepath.Join(dir, "journal")) // that is begun later
	edit(t, newest(glob(t, dir, "db.new/MANIFEST*")), func(b []byte) []byte { return b[:3] })
	s = open(t, dir, pebblestore.Options{Journal: journal})
	apply(t, s, accept(1))
	closeStore(t, s)
}

func TestReadOnlyChangesNothing(t *testing.T) { both(t, testReadOnlyChangesNothing) }

func testReadOnlyChangesNothing(t *testing.T, journal bool) {
	dir := filled(t, journal)
	before := contents(t, dir)
	s := open(t, dir, pebblestore.Options{Journal: journal, ReadOnly: true})
	for seq := range delivery.Seq(300) {
		if _, err := s.Data(seq + 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply(accept(1000)); err == nil {
		t.Error("applied")
	}
	closeStore(t, s)
	if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("files were %v, and now %v", before, after)
	}
}

// TestForeignDirectoryIsLeftAsItWas: refused, and not even locked.
func TestForeignDirectoryIsLeftAsItWas(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pebblestore.Open(dir, pebblestore.Options{})
	oneLine(t, err, "holds other files (notes.txt)")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
}

// TestNotWritable: root may write everywhere, so it is tried as nobody.
func TestNotWritable(t *testing.T) { both(t, testNotWritable) }

func testNotWritable(t *testing.T, journal bool) {
	dir, err := os.MkdirTemp("", "heartline-") //nolint:usetesting // t.TempDir lies where no other user may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir) })
	self, err := os.ReadFile(os.Args[0]) // where it is, nobody may not look
	if err != nil {
		t.Fatal(err)
	}
	program, shut := filepath.Join(dir, "program"), filepath.Join(dir, "shut")
	if err := errors.Join(os.WriteFile(program, self, 0o755), os.Mkdir(shut, 0o555), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{shut, filepath.Join(shut, "below")} {
		c := helper(t, "open", path)
		if os.Getuid() == 0 {
			c.Dir = "/"
			c.Path = program
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := c.Output()
		if err != nil {
			testtool.LeaveOut(t, "the test cannot be run as nobody: "+err.Error(), "a directory for programs that others may enter")
		}
		if !strings.Contains(string(out), "error: data directory "+path) || !strings.Contains(string(out), "permission denied") {
			t.Errorf("it said %q", out)
		}
	}
	// A file system that is mounted read-only.
	fs := newFaulty(vfs.NewMem())
	fs.on(failing(syscall.EROFS, errorfs.OpLock)(""))
	_, err = pebblestore.Open("data", pebblestore.Options{Journal: journal, FS: fs})
	oneLine(t, err, "data directory data", "not writable", "read-only file system")
}
