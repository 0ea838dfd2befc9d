package pebblestore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

// TestDiskBecomesJournal: a directory of the disk engine, with a log that is not in
// tables, is upgraded in place, and the disk engine then says what to do.
func TestDiskBecomesJournal(t *testing.T) {
	dir := filled(t, false)
	s := open(t, dir, pebblestore.Options{})
	apply(t, s, accept(301), &delivery.Batch{
		Events: []delivery.Event{{Seq: 300, Number: 400, Time: start, Kind: delivery.EventReceived}},
		Finish: []delivery.Finish{{Key: delivery.Key{Seq: 300, Device: "phone"}, At: start}}, Sync: true,
	})
	want := storetest.Picture(t, s)
	s.Abandon()
	closeStore(t, s)
	for range 2 {
		s = open(t, dir, pebblestore.Options{Journal: true})
		if got := storetest.Picture(t, s); got != want {
			t.Errorf("was\n%.2000s\nand is\n%.2000s", want, got)
		}
		closeStore(t, s)
	}
	_, err := pebblestore.Open(dir, pebblestore.Options{})
	if err == nil {
		t.Fatal("opened without the journal")
	}
	oneLine(t, err, "has format 3", "set store.engine: journal", dir)
	s = open(t, dir, pebblestore.Options{ReadOnly: true}) // a check of a backup does not know
	if got := storetest.Picture(t, s); got != want {
		t.Error("a read without Options.Journal differs")
	}
	closeStore(t, s)
}

// unfolded makes a store with several segments whose frames are in no table.
func unfolded(t *testing.T) (dir, picture string) {
	t.Helper()
	fs := newFaulty(vfs.Default)
	dir = filepath.Join(t.TempDir(), "data")
	s := open(t, dir, pebblestore.Options{Journal: true})
	closeStore(t, s)
	s = open(t, dir, pebblestore.Options{Journal: true, MemTableBytes: 64 << 10, FS: fs})
	fs.on(failing(syscall.ENOSPC, errorfs.OpCreate)(".sst"))
	for i := range delivery.Seq(60) {
		b := accept(i + 1)
		b.Accept[0].Data = make([]byte, 6<<10)
		apply(t, s, b)
	}
	apply(t, s, &delivery.Batch{
		Finish: []delivery.Finish{{Key: delivery.Key{Seq: 1, Device: "phone"}, At: start}}, Erase: []delivery.Seq{2}, Sync: true,
	})
	picture = storetest.Picture(t, s)
	s.Abandon()
	closeStore(t, s)
	return dir, picture
}

// TestReadOnlyReplays: frames that are only in the journal are read, and nothing changes.
func TestReadOnlyReplays(t *testing.T) {
	dir, want := unfolded(t)
	before := contents(t, dir)
	for range 2 {
		s := open(t, dir, pebblestore.Options{ReadOnly: true})
		if got := storetest.Picture(t, s); got != want {
			t.Errorf("was\n%.2000s\nand is\n%.2000s", want, got)
		}
		if err := s.Apply(accept(1000)); err == nil {
			t.Error("a store that was opened for reading took a batch")
		}
		if n, err := s.Prune(start.Add(time.Hour), 100); !errors.Is(err, pebble.ErrReadOnly) {
			t.Errorf("a store that was opened for reading pruned %d (error %v)", n, err)
		}
		if did, err := s.Scrub(t.Context(), time.Now()); !errors.Is(err, pebble.ErrReadOnly) {
			t.Errorf("a store that was opened for reading scrubbed %v (error %v)", did, err)
		}
		if _, _, err := s.Checkpoint(); !errors.Is(err, pebble.ErrReadOnly) {
			t.Errorf("a store that was opened for reading made a checkpoint (error %v)", err)
		}
		closeStore(t, s)
	}
	if after := contents(t, dir); len(after) != len(before) {
		t.Errorf("files were %v and are %v", before, after)
	}
	s := open(t, dir, pebblestore.Options{Journal: true})
	if got := storetest.Picture(t, s); got != want {
		t.Error("opened for writing, it differs")
	}
	closeStore(t, s)
}

func TestDamagedJournal(t *testing.T) {
	whole, _ := unfolded(t)
	segments := glob(t, whole, "journal/j*.log")
	slices.Sort(segments)
	if len(segments) < 3 {
		t.Fatalf("%d segments, want 3", len(segments))
	}
	for _, c := range []struct {
		name    string
		segment int
		change  func([]byte) []byte // nil: remove it
		want    string
	}{
		{"first missing", 0, nil, " is missing"},
		{"middle missing", 1, nil, " is missing"},
		{"newest missing", len(segments) - 1, nil, " is missing"},
		{"middle flipped", 1, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, " is damaged"},
		{"middle cut off", 1, func(b []byte) []byte { return b[:len(b)/2] }, " is damaged"},
		{"newest flipped", len(segments) - 1, func(b []byte) []byte { b[100] ^= 1; return b }, " is damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join("journal", filepath.Base(segments[c.segment]))
			if c.change == nil {
				remove(t, filepath.Join(dir, name))
			} else {
				edit(t, filepath.Join(dir, name), c.change)
			}
			before := contents(t, dir)
			s, err := pebblestore.Open(dir, pebblestore.Options{Journal: true})
			if err == nil {
				closeStore(t, s)
				t.Fatal("opened")
			}
			oneLine(t, err, name+c.want, "backup")
			if after := contents(t, dir); len(after) != len(before) {
				t.Errorf("files were %v and are %v", before, after)
			}
		})
	}
	t.Run("folder missing", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		remove(t, filepath.Join(dir, "journal"))
		_, err := pebblestore.Open(dir, pebblestore.Options{Journal: true})
		if err == nil {
			t.Fatal("opened")
		}
		oneLine(t, err, "folder journal is missing")
	})
}

// TestStartsOnAFullDisk: starts that found no room for the journal leave segments that are not begun. Once
// there is room, the store opens with all that it had.
func TestStartsOnAFullDisk(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	so := pebblestore.Options{Journal: true, FS: fs}
	s := open(t, "data", so)
	apply(t, s, accept(1), accept(2))
	want := storetest.Picture(t, s)
	s.Abandon()
	closeStore(t, s)
	fs.on(failing(syscall.ENOSPC, errorfs.OpFileWriteAt)(".log"))
	for range 3 {
		if s, err := pebblestore.Open("data", so); err == nil {
			closeStore(t, s)
			t.Fatal("opened on a full disk")
		} else if !errors.Is(err, store.ErrBroken) {
			t.Errorf("error %v, want one that a next try may not have", err)
		}
	}
	fs.off()
	s = open(t, "data", so)
	if got := storetest.Picture(t, s); got != want {
		t.Errorf("was\n%.2000s\nand is\n%.2000s", want, got)
	}
	closeStore(t, s)
}

// TestFoldFails: after a fold that failed no later frame reaches a table, and nothing is read, until the
// store is reopened. Then all of it is there.
func TestFoldFails(t *testing.T) {
	reading, mended := make(chan struct{}, 1), make(chan struct{})
	var bad atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileReadAt || !strings.HasSuffix(op.Path, ".sst") || !bad.Load() {
			return nil
		}
		select {
		case reading <- struct{}{}:
		default:
		}
		<-mended
		return syscall.EIO
	}))
	s := open(t, "data", pebblestore.Options{Journal: true, FS: fs})
	apply(t, s, accept(1))
	closeStore(t, s)
	s = open(t, "data", pebblestore.Options{Journal: true, FS: fs, CacheBytes: 1})
	bad.Store(true)
	apply(t, s, &delivery.Batch{Finish: []delivery.Finish{{Key: delivery.Key{Seq: 1, Device: "phone"}, At: start}}, Sync: true})
	failed := make(chan error)
	go func() {
		_, err := s.Totals()
		failed <- err
	}()
	<-reading
	apply(t, s, accept(2))
	close(mended)
	if err := <-failed; err == nil {
		t.Error("read without a frame that was applied")
	}
	bad.Store(false) // not before: the read that came first may be Pebble's own
	if totals, err := s.Totals(); !errors.Is(err, store.ErrBroken) {
		t.Errorf("read %+v (error %v) without a frame that was applied", totals, err)
	}
	if _, remove, err := s.Checkpoint(); err == nil {
		t.Error("a backup without a frame that was applied")
		if err := remove(); err != nil {
			t.Error(err)
		}
	}
	s.Abandon()
	closeStore(t, s)
	s = open(t, "data", pebblestore.Options{Journal: true, FS: fs})
	if totals, err := s.Totals(); totals != (delivery.Totals{Accepted: 2, Finished: 1}) || err != nil {
		t.Errorf("totals %+v (error %v), want 2 accepted and 1 finished", totals, err)
	}
	closeStore(t, s)
}

// TestFinishWhileTablesFail: acceptances are refused once too much waits for tables, and
// deliveries still end, without a reopening.
func TestFinishWhileTablesFail(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	so := pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10}
	oo := quickOptions(t, opener("data", so))
	oo.CommitTimeout, oo.AbandonAfter = time.Minute, time.Hour
	box, err := store.New(oo)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	noTable, noFolder := failing(syscall.ENOSPC, errorfs.OpCreate, errorfs.OpFileWrite)(".sst"), failing(syscall.ENOSPC, errorfs.OpMkdirAll)("")
	fs.on(func(op errorfs.Op) error { return errors.Join(noTable(op), noFolder(op)) })
	for err == nil {
		err = l.accept(box, 4<<10)
	}
	if !errors.Is(err, delivery.ErrUnavailable) || !strings.Contains(err.Error(), "waits to be written to tables") {
		t.Errorf("refused with %v", err)
	}
	var carried sync.WaitGroup
	for range 20 {
		l.finish(box, &carried)
	}
	carried.Wait()
	if s := box.Stats(); s.Reopened != 0 {
		t.Errorf("reopened %d times", s.Reopened)
	}
	fs.off()
	for l.accept(box, 1<<10) != nil {
		time.Sleep(time.Millisecond) // a caller that was refused
	}
	l.check(t, box)
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	s := open(t, "data", so)
	l.check(t, s)
	closeStore(t, s)
}

// TestEndsWhileTablesFail: while tables cannot be written, a backup and a scrub fail, and Close returns.
// The next start has all that was applied.
func TestEndsWhileTablesFail(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	so := pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10}
	box, err := store.New(quickOptions(t, opener("data", so)))
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	for range 2 {
		for range 50 {
			if err := l.accept(box, 4<<10); err != nil {
				t.Fatal(err)
			}
		}
		fs.on(failing(syscall.ENOSPC, errorfs.OpCreate, errorfs.OpFileWrite)(".sst"))
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	fs.off()
	s := open(t, "data", so)
	l.check(t, s)
	apply(t, s, &delivery.Batch{Erase: []delivery.Seq{1}, Sync: true})
	fs.on(failing(syscall.ENOSPC, errorfs.OpCreate, errorfs.OpFileWrite)(".sst"))
	if _, _, err := s.Checkpoint(); !errors.Is(err, delivery.ErrUnavailable) {
		t.Errorf("a backup: error %v, want one that says to try again", err)
	}
	if _, err := s.Scrub(t.Context(), time.Now()); !errors.Is(err, delivery.ErrUnavailable) {
		t.Errorf("a scrub: error %v, want one that says to try again", err)
	}
	closeStore(t, s)
	fs.off()
	s = open(t, "data", so)
	if totals, err := s.Totals(); totals != (delivery.Totals{Accepted: 100, Finished: 1}) || err != nil {
		t.Errorf("totals %+v (error %v), want 100 accepted and 1 finished", totals, err)
	}
	closeStore(t, s)
}

// TestStateWhileTablesFail: MQTT state is refused once too much waits for tables, and taken again later.
// A removal is not refused.
func TestStateWhileTablesFail(t *testing.T) {
	fs := newFaulty(vfs.NewMem())
	s := open(t, "data", pebblestore.Options{Journal: true, FS: fs, MemTableBytes: 64 << 10})
	fs.on(failing(syscall.EIO, errorfs.OpCreate)(".sst"))
	put := func(key string) error {
		return s.ApplyState([]store.StateChange{{Key: key, Value: make([]byte, 8<<10)}})
	}
	n := 0
	var err error
	for ; err == nil && n < 200; n++ {
		err = put(fmt.Sprint(n))
	}
	if !errors.Is(err, delivery.ErrUnavailable) {
		t.Errorf("%d values of 8 KiB were put (error %v), with 4 segments of 128 KiB at most", n, err)
	}
	if err := s.ApplyState([]store.StateChange{{Key: "0", Remove: true}}); err != nil {
		t.Error(err)
	}
	fs.off()
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for put(fmt.Sprint("again", i)) != nil {
				time.Sleep(time.Millisecond) // a caller that was refused
			}
		})
	}
	callers.Wait()
	closeStore(t, s)
}
