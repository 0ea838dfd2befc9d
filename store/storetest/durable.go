package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// RunDurable tests that a store is still there after its engine was closed or
// abandoned. store makes a new, empty store and returns what opens it, as often
// as it is called, one engine at a time.
func RunDurable(t *testing.T, place func(t *testing.T) (open func() store.Engine), traits ...Trait) {
	t.Run("CloseAndOpen", func(t *testing.T) { testReopen(t, place(t), func(e store.Engine) {}) })
	t.Run("AbandonAndOpen", func(t *testing.T) { testReopen(t, place(t), func(e store.Engine) { e.Abandon() }) })
	t.Run("OpenBesideAnAbandonedEngine", func(t *testing.T) { testOpenBeside(t, place(t)) })
	t.Run("EventsAfterReopening", func(t *testing.T) { testEventsAfterReopening(t, place(t)) })
	t.Run("ModelWithReopening", func(t *testing.T) {
		var open func() store.Engine
		runModel(t, func(t *testing.T) store.Engine {
			open = place(t)
			return open()
		}, func(e store.Engine) store.Engine {
			if err := e.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			return open()
		}, traits)
	})
}

func testReopen(t *testing.T, open func() store.Engine, before func(store.Engine)) {
	e := open()
	want := fill(t, e, 0)
	for round := range 3 {
		before(e)
		if err := e.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		e = open()
		if got := show(look(t, e)); got != want {
			t.Fatalf("round %d: was\n%s\nand is\n%s", round, want, got)
		}
		want = fill(t, e, round+1)
	}
	if err := e.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// fill changes the store in every way, synced at the end, and returns a dump of
// its content.
func fill(t *testing.T, e store.Engine, round int) string {
	t.Helper()
	first := delivery.Seq(round*100 + 1)
	for i := range delivery.Seq(20) {
		id := fmt.Sprintf("f%d", first+i)
		if round == 0 && int(i) < len(modelIDs) {
			id = modelIDs[i]
		}
		n := notification(first+i, id, modelAccounts[int(i)%len(modelAccounts)], modelDevices...)
		apply(t, e, accept(n), finish(at(1), n.Seq, modelDevices[:i%5]...))
	}
	apply(t, e,
		&delivery.Batch{PutDevices: []delivery.Device{
			{ID: modelDevices[round%4], Account: modelAccounts[round%3], Registrations: claim(modelTokens[0]), SeenAt: at(3)},
			{ID: "d", Account: "a"},
		}},
		&delivery.Batch{
			Update: []delivery.Record{{Seq: first + 5, Device: "e", State: delivery.StateWaiting, Deadline: at(9)}},
			Events: []delivery.Event{{Seq: first + 5, Number: uint64(first) + 50, Time: at(2), Kind: delivery.EventWaiting}},
		},
	)
	if _, err := e.Prune(at(5), round); err != nil {
		t.Fatalf("prune: %v", err)
	}
	apply(t, e, &delivery.Batch{Sync: true, RemoveDevices: []delivery.DeviceKey{{ID: "none"}}})
	return show(look(t, e))
}

// testOpenBeside: an engine that was abandoned but not closed changes nothing,
// whatever it is asked to do, while another one writes.
func testOpenBeside(t *testing.T, open func() store.Engine) {
	old := open()
	apply(t, old, accept(notification(1, "i1", "a", "d")))
	old.Abandon()
	e := open()
	apply(t, e, accept(notification(2, "i2", "a", "d")))
	for i := range delivery.Seq(100) {
		if err := old.Apply(accept(notification(100+i, fmt.Sprintf("late-%d", i), "a", "d"))); !errors.Is(err, store.ErrBroken) {
			t.Errorf("apply to an abandoned engine: got error %v, want one that wraps ErrBroken", err)
		}
	}
	if _, err := old.Prune(at(1000), 10); err == nil {
		t.Error("pruned by an abandoned engine")
	}
	if err := old.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	apply(t, e, accept(notification(3, "i3", "a", "d")))
	if err := e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	e = open()
	equal(t, "list", list(t, e, "", 0), []string{"i3", "i2", "i1"})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 3})
	if err := e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
