package delivery_test

import (
	"context"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestWall: a Core whose successor has the same Wall keeps the TTL, however wrong the clocks
// of their machines are. The copies' own expiry is by the clock of the machine.
func TestWall(t *testing.T) {
	inWorld(t, func(w *world) {
		opts := options()
		opts.Wall = func() time.Time { return time.Now().Add(-time.Hour).Round(0) }
		w.restart(opts)
		w.known("phone", "")
		ttl := 30 * time.Minute
		n := w.accept(delivery.Request{TTL: &ttl})
		if ago := time.Since(n.AcceptedAt); ago != time.Hour {
			t.Errorf("accepted %s ago, want an hour", ago)
		}
		time.Sleep(20 * time.Minute)
		w.restart(opts)
		phone := w.up("phone", acking)
		phone.wantIDs(false, n.ID)
		if left := time.Until(phone.published()[0].ExpiresAt); left != 10*time.Minute {
			t.Errorf("the copy says that %s are left, want 10 min", left)
		}
		v, err := w.core.Get(context.Background(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range v.Timeline {
			if e.Time.Before(n.AcceptedAt) || e.Time.After(n.AcceptedAt.Add(20*time.Minute+time.Second)) {
				t.Errorf("%s at %s, accepted at %s", e.Kind, e.Time, n.AcceptedAt)
			}
		}
	})
}
