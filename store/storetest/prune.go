package storetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

func testPrune(t *testing.T, e store.Engine) {
	for i, id := range []string{"early", "late", "open", "never"} {
		n := notification(delivery.Seq(i+1), id, "ann", "phone")
		n.HasMessage = true
		apply(t, e, &delivery.Batch{Accept: []delivery.Acceptance{{Notification: n, Data: json.RawMessage(`1`)}}})
		apply(t, e, &delivery.Batch{Events: []delivery.Event{{Seq: n.Seq, Number: 100 + uint64(i), Time: at(0), Kind: delivery.EventReceived}}})
	}
	apply(t, e, finish(at(time.Hour), 1, "phone"), finish(at(2*time.Hour), 2, "phone"))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(time.Hour), 10)), 0)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(time.Hour+1), 10)), 1)
	equal(t, "pruned again", must[int](t, "prune")(e.Prune(at(time.Hour+1), 10)), 0)
	_, err := e.Notification(1)
	missing(t, "notification", err)
	_, err = e.Data(1)
	missing(t, "data", err)
	_, err = e.Lookup("early")
	missing(t, "lookup", err)
	_, err = e.Timeline(1)
	missing(t, "timeline", err)
	equal(t, "list", list(t, e, "", 0), []string{"never", "open", "late"})
	equal(t, "list of ann", list(t, e, "ann", 0), []string{"never", "open", "late"})
	// An event that comes too late does not come back with the ID.
	apply(t, e, &delivery.Batch{Events: []delivery.Event{{Seq: 1, Number: 200, Time: at(0), Kind: delivery.EventDisplayed}}})
	_, err = e.Timeline(1)
	missing(t, "timeline", err)
	equal(t, "unfinished", len(records(t, e)), 2)
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 4, Finished: 2})
	equal(t, "the others", len(must[[]delivery.Event](t, "timeline")(e.Timeline(2))), 1)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(100*time.Hour), 10)), 1)
	equal(t, "unfinished", len(records(t, e)), 2)
}

// testPruneSeveralDevices: it counts from the last finish, in whatever order the
// devices finish and the times come.
func testPruneSeveralDevices(t *testing.T, e store.Engine) {
	apply(t, e, accept(notification(1, "n1", "ann", "a", "b", "c"), notification(2, "n2", "ann", "a", "b")))
	prune := func(before time.Duration, want int) {
		t.Helper()
		equal(t, fmt.Sprintf("pruned before %v", before), must[int](t, "prune")(e.Prune(at(before), 10)), want)
	}
	apply(t, e, finish(at(10), 1, "a"))
	prune(20, 0)
	apply(t, e, finish(at(30), 1, "c"))
	prune(40, 0)
	apply(t, e, finish(at(5), 1, "b")) // the clock was set back
	prune(20, 0)
	prune(30, 0)
	equal(t, "list", list(t, e, "", 0), []string{"n2", "n1"})
	prune(31, 1)
	equal(t, "list", list(t, e, "", 0), []string{"n2"})
	apply(t, e, finish(at(50), 2, "a", "b"))
	prune(50, 0)
	prune(51, 1)
	prune(1000, 0)
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 5, Finished: 5})
}

func testPruneLimit(t *testing.T, e store.Engine) {
	const n = 700
	b, f := &delivery.Batch{}, &delivery.Batch{}
	for i := range n {
		seq := delivery.Seq(i + 1)
		b.Accept = append(b.Accept, acceptance(notification(seq, fmt.Sprintf("n%d", i), "ann", "a", "b")))
		for _, d := range []string{"a", "b"} {
			f.Finish = append(f.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: d}, At: at(time.Duration(i))})
		}
	}
	apply(t, e, b, f)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(n), 1)), 1)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(n), 300)), 300)
	equal(t, "left", len(list(t, e, "", 0)), n-301)
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(n), n)), n-301)
	equal(t, "left", len(list(t, e, "", 0)), 0)
}

func testPruneID(t *testing.T, e store.Engine) {
	apply(t, e, accept(notification(1, "same", "ann", "a")), accept(notification(2, "same", "ann", "a")), finish(at(1), 1, "a"))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(2), 10)), 1)
	equal(t, "lookup", must[delivery.Seq](t, "lookup")(e.Lookup("same")), delivery.Seq(2))
}
