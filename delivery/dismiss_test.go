package delivery_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

func dismissing(i *delivery.OnlineInfo, _ *channel) { i.Dismissals = true }

// dismissed are the IDs of the dismissals that came down a channel.
func (ch *channel) dismissed() (ids []string) {
	for _, p := range ch.published() {
		if p.Dismissal {
			ids = append(ids, p.DismissedID)
		}
	}
	return ids
}

// TestDismiss: over the channel, durable, to every device that may show it, in
// order with the notifications, until its PUBACK.
func TestDismiss(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("never", "")
		phone := w.up("phone", acking)
		n := w.accept(delivery.Request{ID: "n"})
		synctest.Wait()
		phone.presence.Offline("gone")
		for range 2 {
			if err := w.core.Dismiss(context.Background(), "n"); err != nil {
				t.Fatal(err)
			}
		}
		later := w.accept(delivery.Request{ID: "later"})
		w.core.Crash()
		w.store.powerCut(0)
		w.start(options())
		if got := w.up("never", acking, dismissing).dismissed(); len(got) != 0 {
			t.Errorf("a device that never had it got %v", got)
		}
		phone = w.up("phone", dismissing)
		var order []string
		for _, p := range phone.published() {
			order = append(order, fmt.Sprint(p.Dismissal, p.DismissedID))
		}
		if !slices.Equal(order, []string{"truen", "false"}) {
			t.Errorf("came in the order %v", order)
		}
		phone.presence.Offline("gone") // without a PUBACK: again
		phone = w.up("phone", acking, dismissing)
		if got := phone.dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("again: %v", got)
		}
		phone.presence.Offline("gone")
		if got := w.up("phone", acking, dismissing).dismissed(); len(got) != 0 {
			t.Errorf("after its PUBACK: %v", got)
		}
		w.wantTimeline(n, "accepted, waiting, published, received, published, received, dismissal_sent, dismissal_sent, dismissed")
		w.wantState(later, delivery.StateAcked)
		totals, err := w.store.Totals()
		if err != nil || totals.Accepted != 4 {
			t.Errorf("totals %+v, %v", totals, err)
		}
	})
}

// TestDismissDuringTheAck: a device that acknowledges a dismissal while the same one is
// asked for again gets no second one.
func TestDismissDuringTheAck(t *testing.T) {
	inWorld(t, func(w *world) {
		phone := w.up("phone", dismissing)
		w.accept(delivery.Request{ID: "n"})
		w.accept(delivery.Request{ID: "other"})
		phone.ack(0)
		dismiss := func() {
			if err := w.core.Dismiss(context.Background(), "n"); err != nil {
				t.Error(err)
			}
		}
		dismiss()
		release := w.store.hold()
		phone.ack(1) // something to flush
		var again sync.WaitGroup
		again.Go(dismiss)
		settle() // it waits for its Flush
		phone.ack(2)
		release()
		again.Wait()
		if got := phone.dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("dismissed %v, want n once", got)
		}
	})
}

// TestCancelTakesItAway: from the devices that have had it.
func TestCancelTakesItAway(t *testing.T) {
	inWorld(t, func(w *world) {
		phone := w.up("phone", dismissing)
		n := w.accept(delivery.Request{ID: "n"})
		synctest.Wait()
		if err := w.core.Cancel(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		if got := phone.dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("dismissed %v", got)
		}
		w.wantState(n, delivery.StateCancelled)
	})
}

// TestReadIsTakenAway: from the others, over the channel or by one background push.
func TestReadIsTakenAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "tt")
		phone := w.up("phone", acking, dismissing)
		watch := w.up("watch", acking, dismissing)
		n := w.accept(delivery.Request{ID: "n"})
		synctest.Wait()
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushRetry, RetryAfter: time.Second, Detail: "503"}, accepted}
		for range 2 {
			if err := w.core.AckByID("n", "phone", "a", delivery.AckRead); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		if got := watch.dismissed(); !slices.Equal(got, []string{"n"}) {
			t.Errorf("watch: %v", got)
		}
		if got := phone.dismissed(); len(got) != 0 {
			t.Errorf("phone: %v", got)
		}
		var pushes []bool
		for _, p := range w.apple.asked {
			pushes = append(pushes, p.Dismiss != nil)
		}
		if !slices.Equal(pushes, []bool{false, true, true}) {
			t.Errorf("pushes %v: want the notification's, and the dismissal's after one failure", pushes)
		}
		w.wantState(n, delivery.StateAcked)
		// What nobody asks for is kept for the history, and no longer.
		time.Sleep(74 * time.Hour)
		synctest.Wait()
		w.flush()
		left := 0
		if err := w.store.Dismissals(delivery.Shard{}, func(*delivery.Dismissal) bool { left++; return true }); err != nil || left != 0 {
			t.Errorf("%d dismissals are left, %v", left, err)
		}
	})
}

// dismissals are the background pushes that Apple was asked for.
func (a *apple) dismissals() (asked []delivery.Push) {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.asked {
		if p.Dismiss != nil {
			asked = append(asked, p)
		}
	}
	return asked
}

// TestOneDismissalPush: one is accepted at most, and a crash neither loses nor repeats
// it. A device that is lost with a dismissal under way gets one, too.
func TestOneDismissalPush(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "tt")
		phone := w.up("phone", dismissing)
		if err := w.core.SetRegistration("phone", "a", delivery.Registration{Server: delivery.ServerAPNs, Token: "pp", App: "app"}); err != nil {
			t.Fatal(err)
		}
		w.accept(delivery.Request{ID: "n", CollapseKey: "door"})
		synctest.Wait()
		phone.ack(0)
		w.apple.hold = true
		if err := w.core.Dismiss(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		got := w.apple.dismissals()
		if len(got) != 1 || got[0].Device != "tablet" || got[0].Dismiss.ID != "n" || got[0].Dismiss.CollapseKey != "door" || got[0].Seq == got[0].Dismiss.Seq {
			t.Fatalf("asked for %+v", got)
		}
		w.core.Crash() // before Apple's answer
		w.apple.held, w.apple.hold = nil, false
		w.store.powerCut(0)
		w.start(options())
		if n := len(w.apple.dismissals()); n != 1 {
			t.Errorf("%d pushes before the devices had the time to come back", n)
		}
		w.up("phone", dismissing)
		time.Sleep(4 * time.Second)
		if got := w.apple.dismissals(); len(got) != 2 || got[1].Device != "tablet" {
			t.Errorf("after the restart: %+v", got)
		}
		synctest.Wait()
		w.core.Crash() // before the phone's PUBACK
		w.store.powerCut(0)
		w.start(options())
		phone = w.up("phone", dismissing)
		phone.published()
		time.Sleep(time.Minute)
		if n := len(w.apple.dismissals()); n != 2 {
			t.Errorf("%d pushes, want none after the accepted one", n)
		}
		phone.presence.Offline("keepalive timeout")
		if got := w.apple.dismissals(); len(got) != 3 || got[2].Device != "phone" {
			t.Errorf("after the loss of the channel: %+v", got)
		}
	})
}

// TestDismissalPushEndsRegistration: a 410 in answer to a dismissal is proof, as one to
// a notification is.
func TestDismissalPushEndsRegistration(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("tablet", "tt")
		w.accept(delivery.Request{ID: "n"})
		synctest.Wait()
		w.apple.script = []delivery.PushResult{{Outcome: delivery.PushTokenGone, Detail: "410 Unregistered"}}
		if err := w.core.Dismiss(context.Background(), "n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d, err := w.core.Device("a", "tablet")
		if err != nil || len(d.Registrations) != 1 || d.Registrations[0].Ended == nil {
			t.Errorf("registrations %+v, %v", d.Registrations, err)
		}
	})
}

// TestDismissalsOfAFullDevice: a device that takes none keeps the newest, and the log says so once.
func TestDismissalsOfAFullDevice(t *testing.T) {
	opts := options()
	opts.MaxOutstanding = 2
	inWorldWith(t, opts, func(w *world) {
		w.stop()
		var log strings.Builder
		w.core = newCore(opts, w.store, w.apple, slog.New(slog.NewTextHandler(&log, nil)))
		if err := w.core.Start(); err != nil {
			t.Fatal(err)
		}
		phone := w.up("phone", acking)
		dismiss := func(ids ...string) {
			for _, id := range ids {
				w.accept(delivery.Request{ID: id})
				synctest.Wait()
				if err := w.core.Dismiss(context.Background(), id); err != nil {
					t.Fatal(err)
				}
			}
		}
		logged := func() int { return strings.Count(log.String(), "dismissals dropped") }
		dismiss("n1", "n2")
		if logged() != 0 {
			t.Errorf("there was room: %s", log.String())
		}
		dismiss("n3", "n4")
		if logged() != 1 || !strings.Contains(log.String(), "device=phone account=a notification=n1 limit=2") {
			t.Errorf("log: %s", log.String())
		}
		phone.presence.SetSubscribed(false, true)
		if got := phone.dismissed(); !slices.Equal(got, []string{"n3", "n4"}) {
			t.Errorf("got the dismissals of %v", got)
		}
		phone.presence.SetSubscribed(false, false)
		dismiss("n5", "n6", "n7")
		if logged() != 2 {
			t.Errorf("log: %s", log.String())
		}
	})
}
