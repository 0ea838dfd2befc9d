package store_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// TestCloseAtOnce: Close from several goroutines, while callers commit and read. Each
// Close returns when all has stopped, and each caller is notified once.
func TestCloseAtOnce(t *testing.T) {
	o, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		t.Fatal(err)
	}
	var committed, told atomic.Int64
	var callers, closers sync.WaitGroup
	begun := make(chan struct{}, 8)
	for c := range 8 {
		callers.Go(func() {
			for i := range 300 {
				if i == 100 {
					begun <- struct{}{}
				}
				committed.Add(1)
				seq := delivery.Seq(c*1000 + i + 1)
				o.Commit(accept(seq), func(err error) {
					told.Add(1)
					if err != nil && !errors.Is(err, delivery.ErrStopped) {
						t.Error(err)
					}
				})
				if _, err := o.Notification(seq); err != nil && !errors.Is(err, delivery.ErrStopped) && !errors.Is(err, delivery.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	for range 8 {
		<-begun
	}
	for range 3 {
		closers.Go(func() {
			if err := o.Close(); err != nil {
				t.Error(err)
			}
			if _, err := o.LastSeq(delivery.Shard{}); !errors.Is(err, delivery.ErrStopped) {
				t.Errorf("read after Close: %v", err)
			}
		})
	}
	closers.Wait()
	callers.Wait()
	if err := o.Close(); err != nil { // those after Close come from goroutines of their own
		t.Error(err)
	}
	if told.Load() != committed.Load() {
		t.Errorf("%d of %d commits were answered when Close returned", told.Load(), committed.Load())
	}
}

// TestCloseWaitsForLateCommits: a further Close waits for the done functions of the
// commits that came after the first.
func TestCloseWaitsForLateCommits(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		o, err := store.New(store.Options{Open: memory.Open})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		o.Commit(accept(1), func(error) { <-release })
		var closed atomic.Bool
		go func() {
			if err := o.Close(); err != nil {
				t.Error(err)
			}
			closed.Store(true)
		}()
		synctest.Wait()
		if closed.Load() {
			t.Error("Close returned while a done function ran")
		}
		close(release)
		synctest.Wait()
		if !closed.Load() {
			t.Error("Close goes on after the done function")
		}
	})
}

// counting counts reads of content.
type counting struct {
	store.Engine
	reads atomic.Int64
}

func (c *counting) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	c.reads.Add(1)
	return c.Engine.Notification(seq)
}

// TestRecentNotifications: the latest are read from memory, within bounds, and not
// when they have changed or gone.
func TestRecentNotifications(t *testing.T) {
	e := &counting{Engine: memory.New()}
	o := newOutbox(t, store.Options{Open: func(bool) (store.Engine, error) { return e, nil }, CacheBytes: 10 << 10, History: time.Hour,
		Now: func() time.Time { return start.Add(2 * time.Hour) }})
	commitAll := func(bs ...*delivery.Batch) {
		t.Helper()
		for _, b := range bs {
			if err := commit(o, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	reads := func(seq delivery.Seq) int64 {
		before := e.reads.Load()
		n, err := o.Notification(seq)
		if err != nil || n.Seq != seq {
			t.Fatalf("notification %d: got %v (error %v)", seq, n, err)
		}
		return e.reads.Load() - before
	}
	for seq := range delivery.Seq(100) {
		commitAll(accept(seq + 1))
	}
	if first, again := reads(100), reads(100); first != 0 || again != 0 || reads(1) != 1 {
		t.Error("the latest was read from the engine, or the first was not")
	}
	held := accept(101)
	held.Accept[0].Notification.Devices = []string{""}
	commitAll(held, &delivery.Batch{Assign: []delivery.Key{{Seq: 101, Device: "watch"}}})
	if n, err := o.Notification(101); err != nil || n.Devices[0] != "watch" {
		t.Errorf("after Assign: %v (error %v)", n, err)
	}
	commitAll(&delivery.Batch{Erase: []delivery.Seq{100}})
	if _, err := o.Notification(100); !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("erased, and read with error %v", err)
	}
	commitAll(finish(99))
	if err := o.Housekeep(); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Notification(99); !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("pruned, and read with error %v", err)
	}
}

// TestWallClockIsSet: after a jump of the wall clock no history is removed by it for an hour.
func TestWallClockIsSet(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		var step atomic.Int64
		o, err := store.New(store.Options{
			Open: memory.Open, History: 72 * time.Hour, AuditInterval: 1000 * time.Hour,
			Now: func() time.Time { return time.Now().Add(time.Duration(step.Load())) },
		})
		if err != nil {
			t.Fatal(err)
		}
		finished := finish(1)
		finished.Finish[0].At = time.Now()
		if err := errors.Join(commit(o, accept(1)), commit(o, finished)); err != nil {
			t.Fatal(err)
		}
		there := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if _, err := o.Lookup("n-1"); (err == nil) != want {
				t.Errorf("%s: %v, want it there: %v", when, err, want)
			}
		}
		time.Sleep(10*time.Minute + time.Second)
		there("before", true)
		step.Store(int64(100 * time.Hour))
		time.Sleep(time.Minute)
		there("set forward", true)
		time.Sleep(50 * time.Minute)
		step.Store(0)
		time.Sleep(time.Minute)
		there("set back", true)
		time.Sleep(72 * time.Hour)
		there("when its time has come", false)
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestPruningWaitsForReaders: what somebody still has to read stays, and what finished
// within the history before it.
func TestPruningWaitsForReaders(t *testing.T) {
	var passed, oldest atomic.Int64 // since the start; the housekeeper reads the time, too
	after := func(n *atomic.Int64) time.Time { return start.Add(time.Duration(n.Load())) }
	o := newOutbox(t, store.Options{
		Open: memory.Open, History: time.Hour, Now: func() time.Time { return after(&passed) },
		Unread: func() (time.Time, bool) { return after(&oldest), true },
	})
	if err := errors.Join(commit(o, accept(1)), commit(o, finish(1))); err != nil {
		t.Fatal(err)
	}
	there := func(want bool) {
		t.Helper()
		if err := o.Housekeep(); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Notification(1); (err == nil) != want {
			t.Errorf("at %v, unread from %v: %v, want it there: %v", after(&passed), after(&oldest), err, want)
		}
	}
	passed.Store(int64(30 * time.Hour))
	there(true)
	oldest.Store(int64(time.Hour))
	there(true) // it may have later events
	oldest.Store(int64(time.Hour + 1))
	there(false)
}
