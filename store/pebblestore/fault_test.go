package pebblestore_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/smalldisk"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// ledger is what the callers of an outbox were told.
type ledger struct {
	last     atomic.Uint64
	mu       sync.Mutex
	accepted map[delivery.Seq]bool
	refused  map[delivery.Seq]bool
	unknown  map[delivery.Seq]bool // told ErrStopped
	finished map[delivery.Seq]bool // carried to the end
}

func newLedger() *ledger {
	return &ledger{
		accepted: map[delivery.Seq]bool{}, refused: map[delivery.Seq]bool{},
		unknown: map[delivery.Seq]bool{}, finished: map[delivery.Seq]bool{},
	}
}

// accept has one more notification accepted, or not.
func (l *ledger) accept(o *store.Outbox, size int) error {
	seq := delivery.Seq(l.last.Add(1))
	b := accept(seq)
	data := make([]byte, size) // does not compress: it is to fill the disk
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(data[i:], rand.Uint64())
	}
	b.Accept[0].Data = data
	err := commit(o, b)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.accepted[seq] = true
	case errors.Is(err, delivery.ErrUnavailable):
		l.refused[seq] = true
	case errors.Is(err, delivery.ErrStopped):
		l.unknown[seq] = true
	default:
		return fmt.Errorf("accept %d: unexpected %w", seq, err)
	}
	return err
}

// finish ends a delivery that was accepted; that is never refused.
func (l *ledger) finish(o *store.Outbox, done *sync.WaitGroup) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := range l.accepted {
		if l.finished[seq] {
			continue
		}
		l.finished[seq] = true
		done.Add(1)
		b := &delivery.Batch{
			Events: []delivery.Event{{Seq: seq, Number: l.last.Add(1), Time: start, Kind: delivery.EventReceived}},
			Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "phone"}, At: start}},
		}
		o.Commit(b, func(err error) {
			defer done.Done()
			if err != nil {
				l.mu.Lock()
				delete(l.finished, seq)
				l.mu.Unlock()
			}
		})
		return
	}
}

// check compares the ledger with the store.
func (l *ledger) check(t *testing.T, s delivery.Reader) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	live := map[delivery.Seq]bool{}
	if err := s.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool { live[r.Seq] = true; return true }); err != nil {
		t.Fatal(err)
	}
	for seq := range l.accepted {
		if _, err := s.Notification(seq); err != nil {
			t.Errorf("accepted and lost: %v", err)
		}
		if live[seq] == l.finished[seq] {
			t.Errorf("notification %d: unfinished in the store is %v, finished by its caller is %v", seq, live[seq], l.finished[seq])
		}
		if events, err := s.Timeline(seq); err != nil || (len(events) == 1) != l.finished[seq] {
			t.Errorf("notification %d: finished is %v, and it has %d events (error %v)", seq, l.finished[seq], len(events), err)
		}
	}
	for seq := range l.refused {
		if _, err := s.Notification(seq); !errors.Is(err, delivery.ErrNotFound) {
			t.Errorf("refused, and notification %d is in the store (error %v)", seq, err)
		}
		if live[seq] {
			t.Errorf("refused, and notification %d has a record", seq)
		}
	}
	totals, err := s.Totals()
	if err != nil || totals.Accepted-totals.Finished != uint64(len(live)) {
		t.Errorf("totals %+v (error %v) and %d unfinished", totals, err, len(live))
	}
	t.Logf("%d accepted, %d refused, %d unknown, %d finished", len(l.accepted), len(l.refused), len(l.unknown), len(l.finished))
}

func commit(o *store.Outbox, b *delivery.Batch) error {
	done := make(chan error, 1)
	o.Commit(b, func(err error) { done <- err })
	return <-done
}

func quickOptions(t *testing.T, open func(readOnly bool) (store.Engine, error)) store.Options {
	return store.Options{
		Open: open, CommitTimeout: 100 * time.Millisecond, AbandonAfter: 200 * time.Millisecond,
		RetryInitial: time.Millisecond, RetryMax: 20 * time.Millisecond, GuardInterval: 10 * time.Millisecond,
		Now:    func() time.Time { return start },
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// faulty is a file system that fails on command.
type faulty struct {
	vfs.FS
	fault atomic.Pointer[func(errorfs.Op) error]
}

func newFaulty(inner vfs.FS) *faulty {
	f := &faulty{}
	f.FS = errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fault := f.fault.Load(); fault != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return (*fault)(op)
		}
		return nil
	}))
	return f
}

// ReuseForWrite repeats the work of the layer below errorfs, which would hand the file
// on without faults: a store whose logs are all reused would then never fail.
func (f *faulty) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if fault := f.fault.Load(); fault != nil {
		if err := (*fault)(errorfs.Op{Kind: errorfs.OpReuseForWrite, Path: oldname}); err != nil {
			return nil, err
		}
	}
	if err := f.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return f.OpenReadWrite(newname, category)
}

func (f *faulty) on(fault func(errorfs.Op) error) { f.fault.Store(&fault) }
func (f *faulty) off()                            { f.fault.Store(nil) }

func failing(err error, kinds ...errorfs.OpKind) func(suffix string) func(errorfs.Op) error {
	return func(part string) func(errorfs.Op) error {
		return func(op errorfs.Op) error {
			for _, k := range kinds {
				if op.Kind == k && strings.Contains(op.Path, part) {
					return &os.PathError{Op: "test", Path: op.Path, Err: err}
				}
			}
			return nil
		}
	}
}

// TestFaults has the disk fail under load in many ways, and mend again: nothing
// that was accepted is lost, nothing that was refused is there, all that was
// carried takes effect, and it goes on without being opened by hand.
func TestFaults(t *testing.T) { both(t, testFaults) }

func testFaults(t *testing.T, journal bool) {
	write := func(err error) func(string) func(errorfs.Op) error {
		return failing(err, errorfs.OpFileWrite, errorfs.OpFileWriteAt)
	}
	sync := func(err error) func(string) func(errorfs.Op) error {
		return failing(err, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo)
	}
	cases := []struct {
		name  string
		fault func(errorfs.Op) error
	}{
		{"no room for the log", write(syscall.ENOSPC)(".log")},
		{"no room at all", failing(syscall.ENOSPC, errorfs.OpFileWrite, errorfs.OpCreate, errorfs.OpReuseForWrite)("")},
		{"no room for tables", failing(syscall.ENOSPC, errorfs.OpFileWrite, errorfs.OpCreate)(".sst")},
		{"no room for the manifest", write(syscall.ENOSPC)("MANIFEST")},
		{"log cannot be synced", sync(syscall.EIO)(".log")},
		{"nothing can be synced", sync(syscall.EIO)("")},
		{"tables cannot be synced", sync(syscall.EIO)(".sst")},
		{"manifest cannot be synced", sync(syscall.EIO)("MANIFEST")},
		{"logs cannot be made", failing(syscall.EIO, errorfs.OpCreate, errorfs.OpReuseForWrite)(".log")},
		{"watermark cannot be written", write(syscall.EIO)("WATERMARK")},
		{"read-only", func(op errorfs.Op) error { return &os.PathError{Op: "test", Path: op.Path, Err: syscall.EROFS} }},
		{"at random", func(op errorfs.Op) error {
			if rand.IntN(20) == 0 {
				return &os.PathError{Op: "test", Path: op.Path, Err: syscall.EIO}
			}
			return nil
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fs := newFaulty(vfs.NewMem())
			play(t, journal, fs, func() { fs.on(c.fault) }, fs.off)
		})
	}
}

// TestStuckDisk has a call not come back from the operating system for a while.
func TestStuckDisk(t *testing.T) { both(t, testStuckDisk) }

func testStuckDisk(t *testing.T, journal bool) {
	for _, part := range []string{".log", ".sst", "MANIFEST"} {
		t.Run(part, func(t *testing.T) {
			fs := newFaulty(vfs.NewMem())
			release := make(chan struct{})
			play(t, journal, fs, func() {
				fs.on(func(op errorfs.Op) error {
					if strings.Contains(op.Path, part) && op.Kind != errorfs.OpRemove {
						<-release
					}
					return nil
				})
			}, func() {
				fs.off()
				close(release)
			})
		})
	}
}

// play runs callers on an outbox in fs, begins a fault, waits until it shows, ends
// it, waits until notifications are accepted again, and compares.
func play(t *testing.T, journal bool, fs vfs.FS, begin, end func()) {
	so := pebblestore.Options{Journal: journal, FS: fs, MemTableBytes: 256 << 10, CacheBytes: 1 << 20}
	box, err := store.New(quickOptions(t, func(readOnly bool) (store.Engine, error) {
		o := so
		o.ReadOnly = readOnly
		return pebblestore.Open("data", o)
	}))
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	var callers, carried sync.WaitGroup
	stop := make(chan struct{})
	const n = 4
	refused := make(chan struct{}, 1)
	good := make(chan struct{}, 1)
	for range n {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				signal := good
				if err := l.accept(box, 4<<10); errors.Is(err, delivery.ErrUnavailable) {
					signal = refused
					time.Sleep(time.Millisecond) // a caller that was refused does not come back at once
				} else if err != nil {
					t.Error(err)
					return
				}
				select {
				case signal <- struct{}{}:
				default:
				}
				l.finish(box, &carried)
			}
		})
	}
	for range 20 {
		<-good
	}
	drain(refused) // a write that was slow on a busy machine
	begin()
	// All callers may be in flight, and wait to be told until the disk works: one
	// more each time.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-refused:
			waiting = false
		case <-tick.C:
			callers.Go(func() {
				if l.accept(box, 4<<10) != nil {
					select {
					case refused <- struct{}{}:
					default:
					}
				}
			})
		}
	}
	end()
	drain(good)
	for range 20 {
		<-good
	}
	close(stop)
	callers.Wait()
	carried.Wait()
	l.check(t, box)
	if err := box.Housekeep(); err != nil {
		t.Error(err)
	}
	if s := box.Stats(); s.Unaccounted != 0 || s.Refused == 0 {
		t.Errorf("stats: %+v", s)
	}
	if err := box.Close(); err != nil {
		t.Error(err)
	}
	s, err := pebblestore.Open("data", so)
	if err != nil {
		t.Fatal(err)
	}
	l.check(t, s)
	closeStore(t, s)
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// tmpfs returns a folder on a small file system, or leaves the test out.
func tmpfs(t *testing.T, size int) (dir string) {
	t.Helper()
	dir, free, err := smalldisk.New(size)
	if err != nil {
		testtool.LeaveOut(t, "a small file system cannot be made: "+err.Error(), "root on Linux 5.2 or newer")
	}
	t.Cleanup(free)
	return dir
}

// TestBrokenBelowTheGuard has a write fail while there is room, but less than the
// guard wants: begun deliveries still end, without more room.
func TestBrokenBelowTheGuard(t *testing.T) { both(t, testBrokenBelowTheGuard) }

func testBrokenBelowTheGuard(t *testing.T, journal bool) {
	fs := newFaulty(vfs.NewMem())
	so := pebblestore.Options{Journal: journal, FS: fs}
	oo := quickOptions(t, func(readOnly bool) (store.Engine, error) {
		o := so
		o.ReadOnly = readOnly
		return pebblestore.Open("data", o)
	})
	oo.CommitTimeout = time.Minute
	oo.MinFreeBytes = 50
	var free atomic.Uint64
	free.Store(100)
	oo.FreeBytes = func() (uint64, error) { return free.Load(), nil }
	box, err := store.New(oo)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	if err := l.accept(box, 1<<10); err != nil {
		t.Fatal(err)
	}
	free.Store(10)
	var failed atomic.Bool
	broken := failing(syscall.EIO, errorfs.OpFileWrite, errorfs.OpFileWriteAt)(".log")
	fs.on(func(op errorfs.Op) error {
		err := broken(op)
		if err != nil && failed.Swap(true) {
			return nil // only the first
		}
		return err
	})
	var carried sync.WaitGroup
	l.finish(box, &carried)
	carried.Add(1)
	box.Commit(&delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "nobody's"}}, Sync: true}, func(error) { carried.Done() })
	ended := make(chan struct{})
	go func() { carried.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Error("what was begun waits for room that it does not need")
		free.Store(100)
		<-ended
	}
	if s := box.Stats(); s.Reopened != 1 {
		t.Errorf("opened anew %d times, want once", s.Reopened)
	}
	if err := l.accept(box, 1<<10); !errors.Is(err, delivery.ErrUnavailable) {
		t.Errorf("accepted below the guard (error %v)", err)
	}
	free.Store(100)
	for l.accept(box, 1<<10) != nil {
		time.Sleep(time.Millisecond)
	}
	l.check(t, box)
	if err := box.Close(); err != nil {
		t.Error(err)
	}
}

// TestFullDisk fills a real file system, once with the guard and once, since
// others may fill it too, without.
func TestFullDisk(t *testing.T) { both(t, testFullDisk) }

func testFullDisk(t *testing.T, journal bool) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%v", guarded), func(t *testing.T) {
			root := tmpfs(t, 48<<20)
			ballast := filepath.Join(root, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 24<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(root, "data")
			so := pebblestore.Options{Journal: journal, MemTableBytes: 1 << 20}
			oo := quickOptions(t, func(readOnly bool) (store.Engine, error) {
				o := so
				o.ReadOnly = readOnly
				return pebblestore.Open(dir, o)
			})
			oo.FreeBytes = func() (uint64, error) { return pebblestore.FreeBytes(root) }
			oo.MinFreeBytes = 1
			if guarded {
				oo.MinFreeBytes = 8 << 20
				oo.CommitTimeout = time.Minute // a busy machine is no full disk
			}
			box, err := store.New(oo)
			if err != nil {
				t.Fatal(err)
			}
			l := newLedger()
			// Between a refusal and the look at Ready Pebble can have removed a file.
			for err = nil; err == nil || box.Ready() == nil; {
				if err = l.accept(box, 64<<10); err != nil && !errors.Is(err, delivery.ErrUnavailable) {
					t.Fatal(err)
				}
			}
			t.Logf("refused with: %v", err)
			var carried sync.WaitGroup
			for range 20 {
				l.finish(box, &carried)
			}
			if guarded { // there is room left for what was begun
				carried.Wait()
				if s := box.Stats(); s.Failed > 0 || s.Reopened > 0 {
					t.Errorf("the guard came too late: %+v", s)
				}
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			carried.Wait() // without a restart
			for l.accept(box, 1<<10) != nil {
				time.Sleep(time.Millisecond)
			}
			l.check(t, box)
			if err := box.Close(); err != nil {
				t.Error(err)
			}
			s := open(t, dir, so)
			l.check(t, s)
			closeStore(t, s)
		})
	}
}
