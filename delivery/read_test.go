package delivery_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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

// TestReadWhileAnotherComes: a device that comes online while another's `read` waits for the store
// does not keep the notification on its screen.
func TestReadWhileAnotherComes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "")
		w.up("phone")
		w.accept(delivery.Request{ID: "n"})
		settle()
		release := w.store.hold()
		read := make(chan error, 1)
		go func() { read <- w.core.AckByID("n", "phone", "a", delivery.AckRead) }()
		settle() // it waits for its Flush
		tablet := w.up("tablet", acking, dismissing)
		settle()
		release()
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		settle()
		shown, dismissed := 0, len(tablet.dismissed())
		for _, p := range tablet.published() {
			if !p.Dismissal {
				shown++
			}
		}
		if shown != dismissed {
			t.Errorf("the tablet got the notification %d times, and %d dismissals", shown, dismissed)
		}
	})
}

// TestCrashDuringRead: a crash comes when the other deliveries are cancelled, and nothing is
// dismissed yet. The device repeats its `read`.
func TestCrashDuringRead(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("watch", "")
		tablet := w.up("tablet", acking)
		w.up("phone", acking)
		w.accept(delivery.Request{ID: "n"})
		settle()
		tablet.presence.Offline("gone")
		w.store.engine.slow.Store(int64(time.Minute))
		read := make(chan error, 1)
		go func() { read <- w.core.AckByID("n", "phone", "a", delivery.AckRead) }()
		settle() // it reads the deliveries, to find out who may show the notification
		w.core.Crash()
		w.store.engine.slow.Store(0)
		if err := <-read; err == nil {
			t.Error("answered in spite of the crash")
		}
		w.store.powerCut(1000)
		w.start(options())
		w.up("watch", acking).wantIDs(false)
		if err := w.core.AckByID("n", "phone", "a", delivery.AckRead); err != nil {
			t.Fatal(err)
		}
		if got := w.up("tablet", dismissing).dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("the tablet's dismissals: %v", got)
		}
	})
}

// TestReadIsOnTheDisk when it is answered: the device does not repeat it.
func TestReadIsOnTheDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("tablet", acking)
		w.up("phone", acking)
		w.accept(delivery.Request{ID: "n"})
		settle()
		w.store.engine.slow.Store(int64(2 * time.Second))
		read := make(chan error, 1)
		go func() { read <- w.core.AckByID("n", "phone", "a", delivery.AckRead) }()
		settle() // it reads the deliveries
		release := w.store.hold()
		w.store.engine.slow.Store(0)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if len(read) > 0 {
			t.Error("answered before it is on the disk")
		}
		release()
		if err := <-read; err != nil {
			t.Fatal(err)
		}
	})
}
