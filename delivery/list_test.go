package delivery_test

import (
	"context"
	"fmt"
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
