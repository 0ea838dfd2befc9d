package delivery_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// TestWhoAsksAFailingStoreIsTold: while the store fails, who asks or wants a change is told so and
// does not wait for its end, a device's read loop least of all. The changes are
// written later.
func TestWhoAsksAFailingStoreIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.known("phone", "")
		ch := w.up("phone", acking)
		acked := w.accept(delivery.Request{})
		w.wantState(acked, delivery.StateAcked)
		ch.presence.Offline("gone")
		open := w.accept(delivery.Request{})
		w.wantState(open, delivery.StateWaiting)

		w.store.fail(true)
		ctx, cancel := context.WithTimeout(w.Context(), time.Hour) // in a bubble
		defer cancel()
		for what, call := range map[string]func() error{
			"Get":          func() error { _, err := w.core.Get(ctx, acked.ID); return err },
			"List":         func() error { _, _, err := w.core.List(ctx, delivery.Filter{Limit: 10}); return err },
			"Cancel":       func() error { return w.core.Cancel(ctx, open.ID) },
			"PutDevice":    func() error { return w.core.PutDevice(ctx, "b", "tablet", nil) },
			"ForgetDevice": func() error { return w.core.ForgetDevice(ctx, "a", "phone") },
			"AckByID":      func() error { return w.core.AckByID(acked.ID, "phone", "a", delivery.AckDisplayed) },
		} {
			// Something that the store is asked to write, and cannot.
			if err := w.core.SetRegistration("watch", "c", delivery.Registration{Server: delivery.ServerAPNs, Token: what}); err != nil {
				w.Fatal(err)
			}
			synctest.Wait()
			begun := time.Now()
			if err := call(); !errors.Is(err, delivery.ErrUnavailable) {
				w.Errorf("%s: %v", what, err)
			}
			if took := time.Since(begun); took > slack() {
				w.Errorf("%s took %v of the store's failing", what, took)
			}
		}

		w.store.fail(false)
		time.Sleep(10 * time.Second)
		w.wantState(open, delivery.StateCancelled)
		w.wantTimeline(acked, "accepted, published, received")
		if account, err := w.core.AccountOf("tablet"); err != nil || account != "b" {
			w.Errorf("the tablet is of account %q, %v", account, err)
		}
		if _, err := w.core.AccountOf("phone"); !errors.Is(err, delivery.ErrNotFound) {
			w.Errorf("the phone is still known: %v", err)
		}
	})
}

// TestStopWhileTheStoreFails: a stop waits for a store that fails for as long as it
// may, and says so where that was not enough.
func TestStopWhileTheStoreFails(t *testing.T) {
	inWorld(t, func(w *world) {
		const patience = 5 * time.Second
		for _, recovers := range []time.Duration{time.Second, time.Minute} {
			w.store.fail(true)
			id := "phone-" + recovers.String()
			if err := w.core.SetRegistration(id, "a", delivery.Registration{Server: delivery.ServerAPNs, Token: id}); err != nil {
				w.Fatal(err)
			}
			time.AfterFunc(recovers, func() { w.store.fail(false) })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := w.core.Stop(ctx)
			cancel()
			if inTime := recovers < patience; inTime && err != nil || !inTime && !errors.Is(err, delivery.ErrUnavailable) {
				w.Errorf("the store works again after %v: %v", recovers, err)
			}
			if _, err := w.store.Device(id); recovers < patience && err != nil {
				w.Errorf("the store works again after %v, and has not the latest: %v", recovers, err)
			}
			time.Sleep(2 * time.Minute)
			w.start(options())
		}
	})
}

// TestAckBehindABusyStore: a store that works, and has much to write, does not hold
// a device's read loop up for as long as that takes.
func TestAckBehindABusyStore(t *testing.T) {
	inWorld(t, func(w *world) {
		w.up("phone", acking)
		n := w.accept(delivery.Request{})
		w.wantState(n, delivery.StateAcked)
		w.stop()
		busy := &busy{Outbox: w.store}
		w.core = newCore(options(), busy, nil, slog.New(slog.DiscardHandler))
		if err := w.core.Start(); err != nil {
			w.Fatal(err)
		}
		busy.on.Store(true)
		begun := time.Now()
		if err := w.core.AckByID(n.ID, "phone", "a", delivery.AckDisplayed); !errors.Is(err, delivery.ErrUnavailable) {
			w.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != 5*time.Second {
			w.Errorf("took %v", took)
		}
		busy.on.Store(false)
	})
}

// busy answers no fence while it is on.
type busy struct {
	delivery.Outbox
	on atomic.Bool
}

func (b *busy) Commit(batch *delivery.Batch, done func(error)) {
	if !b.on.Load() || !batch.Empty() {
		b.Outbox.Commit(batch, done)
	}
}
