package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
)

// Once fenced off, the outbox refuses everything, and reopens nothing.
func TestFenced(t *testing.T) {
	for _, when := range []string{"at a write", "at reopening"} {
		t.Run(when, func(t *testing.T) {
			testtool.Bubble(t, func(t *testing.T) {
				d := newDisk()
				o, err := store.New(d.options())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = o.Close() }()
				var got told
				o.Commit(accept(1), got.as("before"))
				synctest.Wait()
				fenced := fmt.Errorf("life 7: %w", store.ErrFenced)
				if when == "at a write" {
					d.on(func(*delivery.Batch, func() error) error { return fenced })
				} else {
					d.openable(fenced)
					d.on(func(*delivery.Batch, func() error) error { return store.ErrBroken })
				}
				o.Commit(accept(2), got.as("accept"))
				o.Commit(&delivery.Batch{Events: []delivery.Event{{Seq: 1, Number: 3}}}, got.as("event"))
				<-o.Fenced()
				synctest.Wait()
				o.Commit(&delivery.Batch{}, got.as("fence"))
				o.Commit(accept(4), got.as("later"))
				synctest.Wait()
				got.want(t, "before", nil)
				for _, name := range []string{"event", "fence", "later"} {
					got.want(t, name, store.ErrFenced)
					got.want(t, name, delivery.ErrStopped)
				}
				got.want(t, "accept", store.ErrFenced)
				if err := o.Ready(); !errors.Is(err, store.ErrFenced) {
					t.Error("ready:", err)
				}
				if d.opened != 1 {
					t.Error("opened", d.opened, "times")
				}
			})
		})
	}
}

// An acceptance whose ID another process has given away is refused alone.
func TestTakenID(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		d := newDisk()
		o, err := store.New(d.options())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = o.Close() }()
		taken := accept(5).Accept[0].Notification.ID
		hold := make(chan struct{})
		d.on(func(b *delivery.Batch, write func() error) error {
			<-hold
			for _, a := range b.Accept {
				if a.Notification.ID == taken {
					return &store.Taken{IDs: []string{taken}}
				}
			}
			return write()
		})
		var got told
		for _, n := range []delivery.Seq{3, 4, 5, 6} { // all behind the first share a write
			o.Commit(accept(n), got.as(fmt.Sprint(n)))
		}
		close(hold)
		synctest.Wait()
		for _, n := range []string{"3", "4", "6"} {
			got.want(t, n, nil)
		}
		got.want(t, "5", delivery.ErrConflict)
		if err := o.Ready(); err != nil {
			t.Error("ready:", err)
		}
	})
}

// Each View's function runs after the writes that hold its commits, and after no other.
func TestViewGroupDone(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		d := newDisk()
		o, err := store.New(d.options())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = o.Close() }()
		var calls [3]atomic.Int32
		var views []*store.View
		for i := range calls {
			v := o.View()
			v.OnGroupDone(func() { calls[i].Add(1) })
			views = append(views, v)
		}
		count := func() (n []int32) {
			for i := range calls {
				n = append(n, calls[i].Load())
			}
			return n
		}
		hold := make(chan struct{})
		d.on(func(_ *delivery.Batch, write func() error) error { <-hold; return write() })
		views[0].Commit(accept(1), nil)
		synctest.Wait()
		views[1].Commit(accept(2), nil)
		views[0].Commit(accept(3), nil)
		views[1].Commit(accept(4), nil)
		close(hold)
		synctest.Wait()
		if n := count(); !slices.Equal(n, []int32{2, 1, 0}) {
			t.Error("called", n, "times")
		}
	})
}

// While the store is away, an acceptance in flight is answered: its outcome is unknown.
// Its commit is done when it is known. One that nothing has been written of is refused at
// once.
func TestInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		hangs   bool // until it is abandoned
		written bool
		err     error
		doubt   time.Duration
	}{
		"written":           {written: true, err: store.ErrBroken, doubt: time.Second},
		"not written":       {err: store.ErrBroken, doubt: time.Second},
		"hanging":           {hangs: true, err: store.ErrBroken, doubt: time.Second},
		"hanging, written":  {hangs: true, written: true, doubt: time.Second},
		"unsent":            {err: errors.Join(store.ErrUnsent, store.ErrBroken), doubt: time.Second},
		"not to be doubted": {written: true, err: store.ErrBroken},
	} {
		t.Run(name, func(t *testing.T) {
			testtool.Bubble(t, func(t *testing.T) {
				d := newDisk()
				opts := d.options()
				opts.Doubt = c.doubt
				o, err := store.New(opts)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = o.Close() }()
				d.on(func(_ *delivery.Batch, write func() error) error {
					if c.hangs {
						time.Sleep(10 * time.Second)
					}
					if c.written {
						if err := write(); err != nil {
							t.Error(err)
						}
					}
					return c.err
				})
				d.mu.Lock()
				d.away = true
				d.mu.Unlock()
				var got told
				var doubted atomic.Int32
				b := accept(1)
				b.InDoubt = func() { doubted.Add(1) }
				o.Commit(b, got.as("accept"))
				time.Sleep(6 * time.Second)
				unsent := errors.Is(c.err, store.ErrUnsent)
				want := int32(1)
				if unsent {
					got.want(t, "accept", delivery.ErrUnavailable)
				} else {
					got.nothing(t, "accept")
				}
				if unsent || c.doubt == 0 {
					want = 0
				}
				if n := doubted.Load(); n != want {
					t.Errorf("doubted %d times, want %d", n, want)
				}
				d.on(nil)
				d.mu.Lock()
				d.away = false
				d.mu.Unlock()
				time.Sleep(20 * time.Second)
				if c.written {
					got.want(t, "accept", nil)
				} else {
					got.want(t, "accept", delivery.ErrUnavailable)
				}
				there(t, o, 1, c.written)
				if n := doubted.Load(); n != want {
					t.Errorf("doubted %d times in the end, want %d", n, want)
				}
			})
		})
	}
}
