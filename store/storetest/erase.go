package storetest

import (
	"encoding/json"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

func testAssign(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "")
	apply(t, e, accept(n))
	held := pending(n, "")
	equal(t, "held", records(t, e), []delivery.Record{held})
	phone := delivery.Key{Seq: 10, Device: "phone"}
	b := &delivery.Batch{Assign: []delivery.Key{phone, {Seq: 11, Device: "phone"}}}
	for range 2 {
		apply(t, e, b)
		equal(t, "assigned", records(t, e), []delivery.Record{pending(n, "phone")})
		equal(t, "devices", must[*delivery.Notification](t, "notification")(e.Notification(10)).Devices, []string{"phone"})
		equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 1})
	}
	apply(t, e, &delivery.Batch{Finish: []delivery.Finish{{Key: phone, At: at(1), State: delivery.StateAcked}}})
	apply(t, e, b)
	equal(t, "over", len(records(t, e)), 0)
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 1, Finished: 1})
}

func testErase(t *testing.T, e store.Engine) {
	n, other := notification(10, "n-1", "ann", "phone", "watch"), notification(11, "n-2", "ann", "phone")
	n.HasMessage = true
	apply(t, e,
		&delivery.Batch{Accept: []delivery.Acceptance{{Notification: n, Data: json.RawMessage(`{"a":1}`)}, acceptance(other)}},
		&delivery.Batch{
			Events: []delivery.Event{{Seq: 10, Number: 20, Time: at(1), Kind: delivery.EventPublished, Device: "phone"}},
			Finish: []delivery.Finish{{Key: delivery.Key{Seq: 10, Device: "watch"}, At: at(1), State: delivery.StateAcked}},
		},
	)
	b := &delivery.Batch{Erase: []delivery.Seq{10, 12}}
	for range 2 {
		apply(t, e, b)
		_, err := e.Notification(10)
		missing(t, "erased notification", err)
		_, err = e.Data(10)
		missing(t, "erased data", err)
		_, err = e.Lookup("n-1")
		missing(t, "erased ID", err)
		_, err = e.Timeline(10)
		missing(t, "erased timeline", err)
		equal(t, "list", list(t, e, "ann", 0), []string{"n-2"})
		equal(t, "records", records(t, e), []delivery.Record{pending(other, "phone")})
		equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 3, Finished: 2})
		// A late change for it has no effect.
		apply(t, e, &delivery.Batch{
			Update: []delivery.Record{pending(n, "phone")},
			Events: []delivery.Event{{Seq: 10, Number: 21, Time: at(2), Kind: delivery.EventExpired, Device: "phone"}},
			Finish: []delivery.Finish{{Key: delivery.Key{Seq: 10, Device: "phone"}, At: at(2)}},
		})
	}
	if _, err := e.Prune(at(3), 10); err != nil {
		t.Error(err)
	}
	equal(t, "list", list(t, e, "", 0), []string{"n-2"})
}

func testDismissals(t *testing.T, e store.Engine) {
	one := delivery.Dismissal{Seq: 30, Device: "phone", Of: 10, ID: "n-1", CollapseKey: "door", BadgeAuto: true, At: at(1)}
	two := delivery.Dismissal{Seq: 31, Device: "phone", Of: 11, ID: "n-2", At: at(2)}
	other := delivery.Dismissal{Seq: 20, Device: "watch", Of: 10, ID: "n-1", Pushed: true, At: at(1)}
	all := func() (out []delivery.Dismissal) {
		t.Helper()
		if err := e.Dismissals(delivery.Shard{}, func(d *delivery.Dismissal) bool { out = append(out, *d); return true }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	b := &delivery.Batch{PutDismissals: []delivery.Dismissal{other, two, one}}
	apply(t, e, b, b)
	equal(t, "dismissals", all(), []delivery.Dismissal{one, two, other})
	equal(t, "last", must[uint64](t, "last")(e.LastSeq(delivery.Shard{})), uint64(31))
	equal(t, "totals", totals(t, e), delivery.Totals{})
	one.Pushed = true
	b = &delivery.Batch{
		PutDismissals:    []delivery.Dismissal{one},
		RemoveDismissals: []delivery.Key{{Seq: 20, Device: "watch"}, {Seq: 99, Device: "watch"}},
	}
	apply(t, e, b, b)
	equal(t, "dismissals", all(), []delivery.Dismissal{one, two})
}
