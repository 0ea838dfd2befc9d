package delivery_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestListEndsAPageInTime: where a filter fits none of many notifications and reads are slow,
// pages are short and come soon; all of them together look at everything.
func TestListEndsAPageInTime(t *testing.T) {
	inWorld(t, func(w *world) {
		const many = 2500
		now := time.Now()
		b := &delivery.Batch{Sync: true}
		for i := range many {
			at := now.Add(time.Duration(i-many) * time.Second)
			b.Accept = append(b.Accept, delivery.Acceptance{Notification: &delivery.Notification{
				Seq: delivery.Seq(at.UnixNano()), ID: fmt.Sprint("n", i), Account: "a", AcceptedAt: at, ExpiresAt: now,
			}})
		}
		stored := make(chan error, 1)
		w.store.Commit(b, func(err error) { stored <- err })
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
		w.store.engine.slow.Store(int64(time.Millisecond))
		var took []time.Duration
		f := delivery.Filter{State: delivery.StateExpired, Limit: 50}
		for more := true; more; more = f.Before != 0 {
			begun := time.Now()
			page, next, err := w.core.List(context.Background(), f)
			if err != nil || len(page) != 0 {
				t.Fatalf("%d of the page, error %v", len(page), err)
			}
			took = append(took, time.Since(begun))
			f.Before = next
		}
		if got := fmt.Sprint(took); got != "[1s 1s 500ms]" {
			t.Errorf("pages took %s", got)
		}
		// A page that is found soon is whole.
		w.store.engine.slow.Store(int64(time.Second))
		if page, next, err := w.core.List(context.Background(), delivery.Filter{Limit: 50}); err != nil || len(page) != 50 || next == 0 {
			t.Errorf("%d of 50, next %d, error %v", len(page), next, err)
		}
	})
}

// TestListAfterAClockStep: the Seqs of notifications that are accepted after the clock was set
// back are ahead of the time.
func TestListAfterAClockStep(t *testing.T) {
	var ahead atomic.Int64
	opts := options()
	opts.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	inWorldWith(t, opts, func(w *world) {
		w.known("phone", "")
		accept := func(id string, step time.Duration) {
			ahead.Store(int64(step))
			w.accept(delivery.Request{ID: id, TTL: new(30 * 24 * time.Hour)})
			time.Sleep(time.Minute)
		}
		begun := time.Now()
		accept("before", 0)
		accept("stepped", 10*24*time.Hour)
		accept("after", 0)
		accept("last", 0)
		list := func(f delivery.Filter) (ids []string) {
			t.Helper()
			f.Limit = 1
			for more := true; more; more = f.Before != 0 {
				page, next, err := w.core.List(context.Background(), f)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range page {
					ids = append(ids, v.ID)
				}
				f.Before = next
			}
			return ids
		}
		minute := func(i int) time.Time { return begun.Add(time.Duration(i)*time.Minute + time.Second) }
		for want, f := range map[string]delivery.Filter{
			"[last after stepped before]": {Until: time.Now().Add(time.Second)},
			"[after stepped before]":      {Until: minute(2)},
			"[after stepped]":             {Since: minute(0), Until: minute(2), Account: "a"},
			"[last after]":                {Since: minute(1)},
			"[before]":                    {Until: minute(0)},
		} {
			if got := fmt.Sprint(list(f)); got != want {
				t.Errorf("since %v, until %v: %s, want %s", f.Since.Sub(begun), f.Until.Sub(begun), got, want)
			}
		}
	})
	// Nor does a short TTL lose its window at a restart.
	inWorldWith(t, opts, func(w *world) {
		ahead.Store(int64(10 * 24 * time.Hour))
		w.known("phone", "")
		n := w.accept(delivery.Request{CollapseKey: "k", TTL: new(3 * time.Second)})
		w.core.Crash()
		w.store.powerCut(0)
		w.start(options())
		w.known("phone", "token")
		w.up("phone")
		time.Sleep(2 * time.Second)
		w.wantTimeline(n, "accepted, published, ack_timeout, push_requested, pushed")
	})
}
