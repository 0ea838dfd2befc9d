package store_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 3, 9, 30, 0, 0, time.UTC)

func notification(seq delivery.Seq) *delivery.Notification {
	return &delivery.Notification{
		Seq: seq, ID: fmt.Sprintf("n-%d", seq), Account: "ann", Title: "t", Ack: delivery.AckReceived,
		AcceptedAt: start, ExpiresAt: start.Add(time.Hour), Devices: []string{"phone"},
	}
}

func accept(seq delivery.Seq) *delivery.Batch {
	return &delivery.Batch{Accept: []delivery.Acceptance{{Notification: notification(seq)}}, Sync: true}
}

func finish(seq delivery.Seq) *delivery.Batch {
	return &delivery.Batch{Finish: []delivery.Finish{{Key: delivery.Key{Seq: seq, Device: "phone"}, At: start}}}
}

func newOutbox(t *testing.T, o store.Options) *store.Outbox {
	t.Helper()
	box, err := store.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return box
}

// commit waits for the outcome.
func commit(o *store.Outbox, b *delivery.Batch) error {
	done := make(chan error, 1)
	o.Commit(b, func(err error) { done <- err })
	return <-done
}

func TestManyCallers(t *testing.T) {
	o := newOutbox(t, store.Options{Open: memory.Open})
	const callers, each = 32, 50
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				seq := delivery.Seq(c*each + i + 1)
				if err := commit(o, accept(seq)); err != nil {
					t.Error(err)
				}
				if _, err := o.Notification(seq); err != nil {
					t.Errorf("not seen after its commit: %v", err)
				}
				if err := commit(o, finish(seq)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := o.Totals()
	if want := (delivery.Totals{Accepted: callers * each, Finished: callers * each}); err != nil || got != want {
		t.Errorf("totals are %+v (error %v), want %+v", got, err, want)
	}
	if s := o.Stats(); s.Commits != 2*callers*each || s.Writes == 0 || s.Writes > s.Commits {
		t.Errorf("stats are %+v", s)
	}
}

func TestDoneInOrderOfCommits(t *testing.T) {
	o := newOutbox(t, store.Options{Open: memory.Open, MaxGroup: 7})
	const n = 1000
	var got []int
	all := make(chan struct{})
	for i := range n {
		b := accept(delivery.Seq(i + 1))
		if i%3 == 0 {
			b = finish(delivery.Seq(i))
		}
		o.Commit(b, func(err error) {
			if err != nil {
				t.Error(err)
			}
			if got = append(got, i); len(got) == n {
				close(all)
			}
		})
	}
	<-all
	for i, v := range got {
		if v != i {
			t.Fatalf("done of commit %d came at place %d", v, i)
		}
	}
}

func TestClose(t *testing.T) {
	o, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	done := make(chan error, n)
	for i := range n {
		o.Commit(accept(delivery.Seq(i+1)), func(err error) { done <- err })
	}
	if err := errors.Join(o.Close(), o.Close()); err != nil {
		t.Fatal(err)
	}
	for range n { // all have been told by now: the channel is full
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("queued before Close, and %v", err)
			}
		default:
			t.Fatal("Close returned before all were told")
		}
	}
	if err := commit(o, accept(n+1)); !errors.Is(err, delivery.ErrStopped) {
		t.Errorf("commit after Close: %v", err)
	}
	if _, err := o.Notification(1); !errors.Is(err, delivery.ErrStopped) {
		t.Errorf("read after Close: %v", err)
	}
	if err := o.Ready(); !errors.Is(err, delivery.ErrStopped) {
		t.Errorf("Ready after Close: %v", err)
	}
}

// breaking is an engine that breaks when it is told to.
type breaking struct {
	store.Engine
	broken *atomic.Bool
}

func (e breaking) Apply(b *delivery.Batch) error {
	if e.broken.Load() {
		return fmt.Errorf("told so: %w", store.ErrBroken)
	}
	return e.Engine.Apply(b)
}

// TestReadsOnAFullDisk has an engine break when there is no room to reopen it: reads
// go on undisturbed, and the outbox retries when there is more room, even if it is
// less than the guard wants.
func TestReadsOnAFullDisk(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		var free atomic.Uint64
		var broken, full atomic.Bool
		var opened atomic.Int32
		free.Store(100)
		o := newOutbox(t, store.Options{
			Open: func(readOnly bool) (store.Engine, error) {
				if readOnly {
					return memory.New(), nil
				}
				opened.Add(1)
				if full.Load() {
					return nil, fmt.Errorf("open: %w", syscall.ENOSPC)
				}
				broken.Store(false)
				return breaking{memory.New(), &broken}, nil
			},
			FreeBytes:    func() (uint64, error) { return free.Load(), nil },
			MinFreeBytes: 50,
		})
		free.Store(10)
		full.Store(true)
		broken.Store(true)
		ended := make(chan error, 1)
		o.Commit(finish(1), func(err error) { ended <- err })
		for range 60 {
			time.Sleep(time.Second)
			if _, err := o.LastSeq(delivery.Shard{}); err != nil {
				t.Errorf("read: %v", err)
			}
		}
		if n := opened.Load(); n != 2 {
			t.Errorf("opened %d times for writing, want once, and once anew", n)
		}
		full.Store(false)
		free.Store(20)
		if err := <-ended; err != nil {
			t.Errorf("what was begun: %v", err)
		}
		if err := o.Ready(); err == nil {
			t.Error("ready below the guard")
		}
	})
}

// TestGathering: a commit that nobody waits for shares a write with commits that come
// a little later. It goes at once with an acceptance, or with a commit that waits for it.
func TestGathering(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		o := newOutbox(t, store.Options{Open: memory.Open, Gathering: time.Second, GuardInterval: time.Hour})
		writes := func(want uint64, when string) {
			t.Helper()
			synctest.Wait()
			if got := o.Stats().Writes; got != want {
				t.Fatalf("%s: %d writes, want %d", when, got, want)
			}
		}
		o.Commit(finish(1), nil)
		writes(1, "the first")
		o.Commit(finish(2), nil)
		o.Commit(finish(3), nil)
		writes(1, "too early")
		time.Sleep(time.Second)
		writes(2, "a second after the first")
		o.Commit(finish(4), nil)
		writes(2, "too early again")
		o.Commit(accept(5), nil)
		writes(3, "with an acceptance")
		o.Commit(finish(5), nil)
		o.Commit(&delivery.Batch{}, nil)
		writes(4, "with a fence")
		time.Sleep(time.Hour)
		writes(4, "later")
	})
}
