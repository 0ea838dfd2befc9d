package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

// disk is a store that outlives the engines on it and does to each Apply what a
// test says.
type disk struct {
	store *memory.Engine
	free  uint64

	mu     sync.Mutex
	apply  func(b *delivery.Batch, write func() error) error // nil: write
	refuse error                                             // of opening for writing
	away   bool                                              // of opening at all
	opened int
}

func newDisk() *disk { return &disk{store: memory.New(), free: math.MaxUint64} }

func (d *disk) on(apply func(b *delivery.Batch, write func() error) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apply = apply
}

func (d *disk) openable(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = err
}

func (d *disk) open(readOnly bool) (store.Engine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil && !readOnly {
		return nil, d.refuse
	}
	if d.away {
		return nil, errors.New("nobody answers")
	}
	d.opened++
	return &engine{Engine: d.store, disk: d, abandoned: make(chan struct{})}, nil
}

type engine struct {
	*memory.Engine
	disk      *disk
	once      sync.Once
	abandoned chan struct{}
}

func (e *engine) Apply(b *delivery.Batch) error {
	e.disk.mu.Lock()
	apply := e.disk.apply
	e.disk.mu.Unlock()
	write := func() error { return e.disk.store.Apply(b) }
	if apply == nil {
		return write()
	}
	return apply(b, write)
}

func (e *engine) Abandon() { e.once.Do(func() { close(e.abandoned) }) }

func (d *disk) options() store.Options { return store.Options{Open: d.open} }

// told collects outcomes.
type told struct {
	mu  sync.Mutex
	got map[string]error
}

func (t *told) as(name string) func(error) {
	return func(err error) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.got == nil {
			t.got = map[string]error{}
		}
		if _, twice := t.got[name]; twice {
			panic(name + " was told twice")
		}
		t.got[name] = err
	}
}

func (t *told) want(tb testing.TB, name string, want error) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch err, is := t.got[name]; {
	case !is:
		tb.Errorf("%s was told nothing", name)
	case want == nil && err != nil, !errors.Is(err, want):
		tb.Errorf("%s was told %v, want %v", name, err, want)
	}
}

func (t *told) nothing(tb testing.TB, name string) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err, is := t.got[name]; is {
		tb.Errorf("%s was told %v already", name, err)
	}
}

func there(tb testing.TB, r delivery.Reader, seq delivery.Seq, want bool) {
	tb.Helper()
	if _, err := r.Notification(seq); errors.Is(err, delivery.ErrNotFound) == want {
		tb.Errorf("notification %d: there should be %v, and the error is %v", seq, want, err)
	}
}

func bubble(t *testing.T, change func(*store.Options), test func(t *testing.T, d *disk, o *store.Outbox)) {
	testtool.Bubble(t, func(t *testing.T) {
		d := newDisk()
		opts := d.options()
		if change != nil {
			change(&opts)
		}
		o, err := store.New(opts)
		if err != nil {
			t.Fatal(err)
		}
		test(t, d, o)
		if err := o.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

var errDisk = errors.New("bad sector")

func TestPlainFailureRefusesAndCarries(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := commit(o, accept(1)); err != nil {
			t.Fatal(err)
		}
		d.on(func(*delivery.Batch, func() error) error { return errDisk })
		var got told
		o.Commit(accept(2), got.as("accept"))
		o.Commit(finish(1), got.as("finish"))
		synctest.Wait()
		got.want(t, "accept", delivery.ErrUnavailable)
		got.nothing(t, "finish")
		if err := o.Ready(); !errors.Is(err, delivery.ErrUnavailable) || !errors.Is(err, errDisk) {
			t.Errorf("Ready says %v", err)
		}
		o.Commit(accept(3), got.as("accept while failing"))
		time.Sleep(time.Minute)
		got.want(t, "accept while failing", delivery.ErrUnavailable)
		got.nothing(t, "finish")
		d.on(nil)
		time.Sleep(10 * time.Second)
		got.want(t, "finish", nil)
		if err := o.Ready(); err != nil {
			t.Errorf("Ready says %v", err)
		}
		if err := commit(o, accept(4)); err != nil {
			t.Error(err)
		}
		there(t, o, 2, false)
		there(t, o, 3, false)
	})
}

// TestNothingButRefusals: it recovers even when nothing is left to be carried.
func TestNothingButRefusals(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		d.on(func(*delivery.Batch, func() error) error { return errDisk })
		if err := commit(o, accept(1)); !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		d.on(nil)
		time.Sleep(10 * time.Second)
		if err := commit(o, accept(2)); err != nil {
			t.Error(err)
		}
	})
}

// TestRefusalsAreLoggedOnce: a store that refuses acceptances for a while and takes all else
// says so once, and once that it accepts again.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	bubble(t, func(opts *store.Options) { opts.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := commit(o, accept(1)); err != nil {
			t.Fatal(err)
		}
		d.on(func(b *delivery.Batch, write func() error) error {
			if len(b.Accept) > 0 {
				return errDisk
			}
			return write()
		})
		for range 10 {
			if err := commit(o, accept(2)); !errors.Is(err, delivery.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			time.Sleep(10 * time.Second)
			if err := commit(o, finish(1)); err != nil {
				t.Error(err)
			}
		}
		d.on(nil)
		if err := commit(o, accept(2)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if refused, again := strings.Count(log.String(), "are refused until"), strings.Count(log.String(), "accepted again"); refused != 1 || again != 1 {
			t.Errorf("%d times refused, %d times accepted again:\n%s", refused, again, log.String())
		}
	})
}

// TestBrokenEngine: a commit in flight when the engine broke is confirmed if it
// took effect, and refused if not.
func TestBrokenEngine(t *testing.T) {
	for _, effect := range []bool{true, false} {
		t.Run(fmt.Sprintf("effect=%v", effect), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
				if err := commit(o, accept(1)); err != nil {
					t.Fatal(err)
				}
				d.on(func(b *delivery.Batch, write func() error) error {
					d.on(nil)
					if effect {
						if err := write(); err != nil {
							return err
						}
					}
					return fmt.Errorf("%w: %w", store.ErrBroken, errDisk)
				})
				var got told
				o.Commit(accept(2), got.as("accept"))
				o.Commit(finish(1), got.as("finish"))
				synctest.Wait()
				time.Sleep(time.Second)
				want := delivery.ErrUnavailable
				if effect {
					want = nil
				}
				got.want(t, "accept", want)
				got.want(t, "finish", nil)
				there(t, o, 2, effect)
				if s := o.Stats(); s.Reopened != 1 || d.opened != 2 {
					t.Errorf("opened %d times, stats %+v", d.opened, s)
				}
				if totals, err := o.Totals(); err != nil || totals.Finished != 1 {
					t.Errorf("totals %+v (error %v)", totals, err)
				}
			})
		})
	}
}

// TestLostUnsynced: what an engine loses that was told but not synced is applied
// again, in order.
func TestLostUnsynced(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := errors.Join(commit(o, accept(1)), commit(o, accept(2))); err != nil {
			t.Fatal(err)
		}
		d.on(func(b *delivery.Batch, write func() error) error { return nil }) // it only looks so
		update := &delivery.Batch{Update: []delivery.Record{{Seq: 2, Device: "phone", State: delivery.StateWaiting}}}
		pushed := &delivery.Batch{Update: []delivery.Record{{Seq: 2, Device: "phone", State: delivery.StatePushed}}}
		if err := errors.Join(commit(o, update), commit(o, pushed), commit(o, finish(1))); err != nil {
			t.Fatal(err)
		}
		d.on(func(b *delivery.Batch, write func() error) error {
			d.on(nil)
			return store.ErrBroken
		})
		if err := commit(o, finish(99)); err != nil {
			t.Fatal(err)
		}
		var left []delivery.Record
		if err := o.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool { left = append(left, *r); return true }); err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 || left[0].Seq != 2 || left[0].State != delivery.StatePushed {
			t.Errorf("left are %+v", left)
		}
	})
}

// TestNotifiedAfterTheReplay: the caller of a write that took effect in an engine that broke uses
// its batch again once it is notified. The engine that is opened next has it by then.
func TestNotifiedAfterTheReplay(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := errors.Join(commit(o, accept(1)), commit(o, finish(99))); err != nil {
			t.Fatal(err)
		}
		b := accept(2)
		replayed := 0
		d.on(func(_ *delivery.Batch, write func() error) error {
			d.on(func(b *delivery.Batch, write func() error) error {
				time.Sleep(time.Millisecond) // whoever is notified already goes on
				replayed += len(b.Accept)
				return write()
			})
			return errors.Join(write(), store.ErrBroken)
		})
		done := make(chan error, 1)
		o.Commit(b, func(err error) {
			*b = delivery.Batch{}
			done <- err
		})
		if err := <-done; err != nil || replayed != 1 {
			t.Errorf("error %v; the next engine got %d acceptances, want 1", err, replayed)
		}
		there(t, o, 2, true)
	})
}

// TestHang: a write that does not return turns Ready off and is abandoned. Waiting
// commits are refused. Callers of in-flight commits are notified when the outcome is known.
func TestHang(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := commit(o, accept(1)); err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		d.on(func(b *delivery.Batch, write func() error) error {
			<-release
			return store.ErrBroken
		})
		d.openable(errDisk)
		var got told
		o.Commit(accept(2), got.as("in flight"))
		synctest.Wait()
		o.Commit(accept(3), got.as("queued"))
		o.Commit(finish(1), got.as("carried"))
		time.Sleep(4 * time.Second)
		got.nothing(t, "queued")
		time.Sleep(2 * time.Second)
		got.want(t, "queued", delivery.ErrUnavailable)
		got.nothing(t, "carried")
		got.nothing(t, "in flight")
		if err := o.Ready(); !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("Ready says %v", err)
		}
		if err := commit(o, accept(4)); !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("accept while hanging: %v", err)
		}
		there(t, o, 1, true) // reads go on
		time.Sleep(20 * time.Second)
		close(release) // as Abandon has it do
		d.on(nil)
		time.Sleep(time.Second)
		// Open for reading is enough to know.
		got.want(t, "in flight", delivery.ErrUnavailable)
		there(t, o, 1, true)
		got.nothing(t, "carried")
		d.openable(nil)
		time.Sleep(10 * time.Second)
		got.want(t, "carried", nil)
		if err := errors.Join(o.Ready(), commit(o, accept(5))); err != nil {
			t.Error(err)
		}
		for _, seq := range []delivery.Seq{2, 3, 4} {
			there(t, o, seq, false)
		}
	})
}

func fence() *delivery.Batch { return &delivery.Batch{} }

// TestFenceWhileHanging: an empty batch is answered within the commit timeout,
// whether it shares the write that hangs, waits behind it, or comes later; and what
// it waited for is carried all the same.
func TestFenceWhileHanging(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		first, release := make(chan struct{}), make(chan struct{})
		d.on(func(b *delivery.Batch, write func() error) error {
			d.on(func(*delivery.Batch, func() error) error {
				<-release
				return store.ErrBroken
			})
			<-first
			return write()
		})
		var got told
		o.Commit(finish(1), got.as("before"))
		synctest.Wait()
		o.Commit(finish(2), got.as("carried"))
		o.Commit(fence(), got.as("in flight"))
		close(first) // these two share a write
		synctest.Wait()
		o.Commit(fence(), got.as("queued"))
		synctest.Wait()
		got.want(t, "before", nil)
		got.nothing(t, "in flight")
		got.nothing(t, "queued")
		time.Sleep(5*time.Second + time.Millisecond)
		got.want(t, "in flight", delivery.ErrUnavailable)
		got.want(t, "queued", delivery.ErrUnavailable)

		d.openable(errDisk)
		close(release) // as Abandon has it do
		for i := range 3 {
			later := fmt.Sprint("later ", i)
			o.Commit(fence(), got.as(later))
			synctest.Wait()
			got.want(t, later, delivery.ErrUnavailable)
			time.Sleep(20 * time.Second)
		}
		got.nothing(t, "carried")

		d.on(nil)
		d.openable(nil)
		time.Sleep(10 * time.Second)
		got.want(t, "carried", nil)
		if err := commit(o, fence()); err != nil {
			t.Errorf("a fence of a store that works: %v", err)
		}
		if s := o.Stats(); s.Refused != 0 {
			t.Errorf("%d fences are counted as acceptances", s.Refused)
		}
	})
}

// TestFenceWhileWritesFail: the same where the engine says so at once, broken or
// not.
func TestFenceWhileWritesFail(t *testing.T) {
	for _, failure := range []error{errDisk, store.ErrBroken} {
		t.Run(failure.Error(), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
				d.on(func(*delivery.Batch, func() error) error { return failure })
				d.openable(errDisk)
				var got told
				o.Commit(finish(1), got.as("carried"))
				o.Commit(fence(), got.as("behind it"))
				synctest.Wait()
				got.want(t, "behind it", delivery.ErrUnavailable)
				got.nothing(t, "carried")
				d.on(nil)
				d.openable(nil)
				if time.Sleep(10 * time.Second); commit(o, fence()) != nil {
					t.Error("refused, and the store works")
				}
				got.want(t, "carried", nil)
			})
		})
	}
}

// TestSlow: a write that is late, but returns, counts.
func TestSlow(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		d.on(func(b *delivery.Batch, write func() error) error {
			time.Sleep(10 * time.Second)
			return write()
		})
		var got told
		o.Commit(accept(1), got.as("in flight"))
		time.Sleep(6 * time.Second)
		if o.Ready() == nil {
			t.Error("ready, and a write is overdue")
		}
		d.on(nil)
		time.Sleep(5 * time.Second)
		got.want(t, "in flight", nil)
		if err := errors.Join(o.Ready(), commit(o, accept(2))); err != nil {
			t.Error(err)
		}
		if s := o.Stats(); s.Reopened != 0 {
			t.Errorf("reopened: %+v", s)
		}
	})
}

func TestCloseWhileFailing(t *testing.T) {
	bubble(t, nil, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := commit(o, accept(1)); err != nil {
			t.Fatal(err)
		}
		d.openable(errDisk)
		d.on(func(*delivery.Batch, func() error) error { return store.ErrBroken })
		var got told
		for i := range delivery.Seq(3) {
			o.Commit(finish(i+1), got.as(fmt.Sprint("finish ", i)))
		}
		synctest.Wait()
		o.Commit(finish(1), got.as("queued"))
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		for i := range 3 {
			got.want(t, fmt.Sprint("finish ", i), delivery.ErrStopped)
		}
		got.want(t, "queued", delivery.ErrStopped)
	})
}

func TestLowSpace(t *testing.T) {
	var mu sync.Mutex
	free := uint64(1 << 30)
	set := func(n uint64) {
		mu.Lock()
		defer mu.Unlock()
		free = n
	}
	bubble(t, func(opts *store.Options) {
		opts.FreeBytes = func() (uint64, error) {
			mu.Lock()
			defer mu.Unlock()
			return free, nil
		}
	}, func(t *testing.T, d *disk, o *store.Outbox) {
		if err := commit(o, accept(1)); err != nil {
			t.Fatal(err)
		}
		set(10 << 20)
		time.Sleep(2 * time.Second)
		if err := commit(o, accept(2)); !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("accept on a full disk: %v", err)
		}
		if err := errors.Join(commit(o, finish(1)), commit(o, fence())); err != nil {
			t.Errorf("what was begun cannot be ended: %v", err)
		}
		if o.Ready() == nil || o.Stats().FreeBytes != 10<<20 {
			t.Errorf("Ready is nil, or stats wrong: %+v", o.Stats())
		}
		set(1 << 30)
		time.Sleep(2 * time.Second)
		if err := errors.Join(o.Ready(), commit(o, accept(3))); err != nil {
			t.Error(err)
		}
		there(t, o, 2, false)
	})
}

// TestLowSpaceIsSeenWhileWriting: many large notifications do not outrun the guard.
func TestLowSpaceIsSeenWhileWriting(t *testing.T) {
	var mu sync.Mutex
	free := int64(100 << 20)
	bubble(t, func(opts *store.Options) {
		opts.GuardInterval = time.Hour
		opts.FreeBytes = func() (uint64, error) {
			mu.Lock()
			defer mu.Unlock()
			return uint64(max(free, 0)), nil
		}
	}, func(t *testing.T, d *disk, o *store.Outbox) {
		d.on(func(b *delivery.Batch, write func() error) error {
			mu.Lock()
			defer mu.Unlock()
			for i := range b.Accept {
				free -= int64(len(b.Accept[i].Data))
			}
			return write()
		})
		var err error
		for seq := delivery.Seq(1); err == nil && seq < 1000; seq++ {
			b := accept(seq)
			b.Accept[0].Data = make([]byte, 256<<10)
			err = commit(o, b)
		}
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(err, delivery.ErrUnavailable) || free < 48<<20 {
			t.Errorf("with %d MiB left: %v", free>>20, err)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	bubble(t, func(opts *store.Options) { opts.MaxQueuedBytes = 10_000 }, func(t *testing.T, d *disk, o *store.Outbox) {
		release := make(chan struct{})
		d.on(func(b *delivery.Batch, write func() error) error { <-release; return write() })
		var mu sync.Mutex
		refused, accepted := 0, 0
		for seq := range delivery.Seq(1000) {
			o.Commit(accept(seq+1), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, delivery.ErrUnavailable) {
					refused++
				} else if err == nil {
					accepted++
				}
			})
		}
		close(release)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if refused == 0 || accepted == 0 || refused+accepted != 1000 {
			t.Errorf("%d refused, %d accepted", refused, accepted)
		}
	})
}

func TestHousekeeping(t *testing.T) {
	bubble(t, func(opts *store.Options) {
		opts.Now = func() time.Time { return start.Add(time.Since(began())) }
	}, func(t *testing.T, d *disk, o *store.Outbox) {
		synctest.Wait()
		if s := o.Stats(); s.AuditedAt.IsZero() || s.Unaccounted != 0 {
			t.Errorf("not audited at the start: %+v", s)
		}
		if err := errors.Join(commit(o, accept(1)), commit(o, accept(2)), commit(o, finish(1))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(71 * time.Hour)
		if s := o.Stats(); s.Pruned != 0 || s.Unfinished != 1 || s.Totals.Accepted != 2 {
			t.Errorf("after 71 hours: %+v", s)
		}
		time.Sleep(3 * time.Hour)
		if s := o.Stats(); s.Pruned != 1 || s.Unaccounted != 0 || s.Unfinished != 1 {
			t.Errorf("after 74 hours: %+v", s)
		}
		there(t, o, 1, false)
		there(t, o, 2, true)
	})
}

// began is when a bubble's clock starts.
func began() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

// lossy forgets a delivery.
type lossy struct{ *memory.Engine }

func (e lossy) Totals() (delivery.Totals, error) {
	t, err := e.Engine.Totals()
	t.Accepted++
	return t, err
}

func TestAuditFindsALoss(t *testing.T) {
	o := newOutbox(t, store.Options{Open: func(bool) (store.Engine, error) { return lossy{memory.New()}, nil }})
	if err := errors.Join(commit(o, accept(1)), o.Housekeep()); err != nil {
		t.Fatal(err)
	}
	if s := o.Stats(); s.Unaccounted != 1 {
		t.Errorf("unaccounted is %d", s.Unaccounted)
	}
}

func TestCommitsShareWritesAndKeepTheirOrder(t *testing.T) {
	storetest.RunCommits(t, func(t *testing.T) *store.Outbox {
		o, err := store.New(store.Options{Open: memory.Open})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}, (*store.Outbox).Close)
}
