package delivery_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestRead: one device's `read` ends the deliveries to the others, and a push that
// waits for them.
func TestRead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "tt")
		w.known("watch", "")
		w.up("phone", acking)
		w.apple.hold = true
		n := w.accept(delivery.Request{})
		synctest.Wait()
		current := w.apple.held[0].push.Current
		if err := w.core.AckByID(n.ID, "watch", "b", delivery.AckRead); !errors.Is(err, delivery.ErrNotYours) {
			t.Errorf("another account's word: %v", err)
		}
		for range 2 {
			if err := w.core.AckByID(n.ID, "phone", "a", delivery.AckRead); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := current(); !errors.Is(err, delivery.ErrPushNotWanted) {
			t.Errorf("its push is still wanted: %v", err)
		}
		counts := map[string]int{}
		v, err := w.core.Get(context.Background(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range v.Timeline {
			counts[e.Kind.String()+" "+e.Device+" "+e.Detail]++
		}
		for _, want := range []string{"displayed phone ", "read phone ", "cancelled tablet read on phone", "cancelled watch read on phone"} {
			if counts[want] != 1 {
				t.Errorf("%d times %q in %v", counts[want], want, counts)
			}
		}
		if v.State != delivery.StateAcked {
			t.Errorf("state %v", v.State)
		}
	})
}
