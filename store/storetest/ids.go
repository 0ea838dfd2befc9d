package storetest

import (
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// testIDsThatTellTheSeq: those that the server makes, and those of backends that look
// the same.
func testIDsThatTellTheSeq(t *testing.T, e store.Engine) {
	const first, second, third, never = 1_700_000_000_000_000_001, 1_700_000_000_000_000_002, 1_700_000_000_000_000_003, 1_700_000_000_000_000_004
	lookup := func(id string) delivery.Seq {
		t.Helper()
		return must[delivery.Seq](t, "lookup")(e.Lookup(id))
	}
	id, other := delivery.NewID(first), delivery.NewID(first)
	apply(t, e, accept(notification(first, id, "ann", "a")))
	equal(t, "lookup", lookup(id), delivery.Seq(first))
	for _, absent := range []string{other, delivery.NewID(never)} {
		_, err := e.Lookup(absent)
		missing(t, "lookup of "+absent, err)
	}
	apply(t, e, accept(notification(second, other, "ann", "a"), notification(third, id, "ann", "a")))
	equal(t, "lookup", lookup(other), delivery.Seq(second))
	equal(t, "lookup of what was taken over", lookup(id), delivery.Seq(third))
	apply(t, e, finish(at(1), first, "a"))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 1)
	equal(t, "lookup", lookup(id), delivery.Seq(third))
	apply(t, e, finish(at(1), second, "a"), finish(at(1), third, "a"))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 2)
	for _, gone := range []string{id, other} {
		_, err := e.Lookup(gone)
		missing(t, "lookup of "+gone, err)
	}
}

// testTakenIDs: the error names the IDs of other notifications, and nothing of the batch
// takes effect.
func testTakenIDs(t *testing.T, e store.Engine) {
	const first, second = 1_700_000_000_000_000_001, 1_700_000_000_000_000_002
	refused := func(b *delivery.Batch, want ...string) {
		t.Helper()
		before := show(look(t, e))
		var taken *store.Taken
		if err := e.Apply(b); !errors.As(err, &taken) {
			t.Fatalf("apply: got error %v, want IDs taken", err)
		}
		equal(t, "taken", taken.IDs, want)
		equal(t, "the store after it", show(look(t, e)), before)
	}
	ours := delivery.NewID(first)
	apply(t, e, accept(notification(first, ours, "ann", "a")), accept(notification(1, "i1", "ann", "a")))
	for _, b := range []*delivery.Batch{
		accept(notification(2, "i2", "ben", "b"), notification(3, "i1", "ben", "b")),
		{
			Accept: accept(notification(3, "i1", "ben", "b"), notification(2, "i2", "ben", "b")).Accept,
			Events: []delivery.Event{{Seq: 1, Number: 9, Time: at(1), Kind: delivery.EventPublished}},
			Finish: finish(at(1), 1, "a").Finish, PutDevices: []delivery.Device{{ID: "b", Account: "ben"}}, Sync: true,
		},
	} {
		refused(b, "i1")
	}
	refused(accept(notification(second, ours, "ben", "b")), ours) // of the server's own kind
	apply(t, e, accept(notification(2, "i2", "ben", "b")), accept(notification(1, "i1", "ann", "a")))
	equal(t, "lookup", must[delivery.Seq](t, "lookup")(e.Lookup("i1")), delivery.Seq(1))
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 3})
	// It is free again once its notification is gone.
	apply(t, e, finish(at(1), 1, "a"), &delivery.Batch{Erase: []delivery.Seq{2}})
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 1)
	apply(t, e, accept(notification(4, "i1", "ben", "b"), notification(5, "i2", "ben", "b")))
	equal(t, "lookup", must[delivery.Seq](t, "lookup")(e.Lookup("i1")), delivery.Seq(4))
}
