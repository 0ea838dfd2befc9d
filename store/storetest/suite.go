package storetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// start is when the suite's notifications are accepted: any day, with
// nanoseconds that a store must not lose.
var start = time.Date(2026, 11, 3, 9, 30, 0, 123456789, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// notification makes one with every field set.
func notification(seq delivery.Seq, id, account string, devices ...string) *delivery.Notification {
	badge := 3
	return &delivery.Notification{
		Seq: seq, ID: id, Account: account, Title: "Tür offen", Body: "seit 5 min", Badge: &badge,
		Sound: "default", Category: "DOOR", CollapseKey: "door-" + id, Ack: delivery.AckDisplayed,
		Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: at(0), ExpiresAt: at(24 * time.Hour),
		Devices: devices,
	}
}

func acceptance(n *delivery.Notification) delivery.Acceptance {
	return delivery.Acceptance{Notification: n}
}

func accept(ns ...*delivery.Notification) *delivery.Batch {
	b := &delivery.Batch{Sync: true}
	for _, n := range ns {
		b.Accept = append(b.Accept, acceptance(n))
	}
	return b
}

func finish(at time.Time, seq delivery.Seq, devices ...string) *delivery.Batch {
	b := &delivery.Batch{}
	for _, d := range devices {
		b.Finish = append(b.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: d}, At: at})
	}
	return b
}

func apply(t testing.TB, e store.Engine, bs ...*delivery.Batch) {
	t.Helper()
	for _, b := range bs {
		if err := e.Apply(b); err != nil {
			t.Fatalf("apply: %v", err)
		}
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
}

func show(v any) string {
	if b, err := json.Marshal(v); err == nil {
		return string(b)
	}
	return fmt.Sprintf("%+v", v)
}

func missing(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("%s: got error %v, want one that wraps ErrNotFound", what, err)
	}
}

func must[T any](t testing.TB, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func records(t testing.TB, e delivery.Reader) []delivery.Record {
	t.Helper()
	out := []delivery.Record{}
	if err := e.Unfinished(delivery.Shard{}, func(r *delivery.Record) bool { out = append(out, *r); return true }); err != nil {
		t.Fatalf("unfinished: %v", err)
	}
	return out
}

func list(t testing.TB, e delivery.Reader, account string, before delivery.Seq) []string {
	t.Helper()
	ids := []string{}
	if err := e.List(account, before, func(n *delivery.Notification) bool { ids = append(ids, n.ID); return true }); err != nil {
		t.Fatalf("list: %v", err)
	}
	return ids
}

func totals(t testing.TB, e delivery.Reader) delivery.Totals {
	t.Helper()
	return must[delivery.Totals](t, "totals")(e.Totals())
}

// Trait is how an engine may differ from one that a single process has for itself.
type Trait int

// UniqueIDs: several processes share the store. An ID belongs to one notification, and
// an acceptance with an ID of another is refused (store.Taken). Elsewhere the later
// takes the ID over.
const UniqueIDs Trait = 1

// Run tests the engines that open makes, each of them new and empty. Run closes
// them.
func Run(t *testing.T, open func(t *testing.T) store.Engine, traits ...Trait) {
	of := cases
	if slices.Contains(traits, UniqueIDs) {
		of = slices.DeleteFunc(slices.Clone(cases), func(c testCase) bool { return c.takesOver })
		of = append(of, testCase{name: "TakenIDs", run: testTakenIDs})
	}
	for _, c := range of {
		t.Run(c.name, func(t *testing.T) {
			e := open(t)
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.run(t, e)
		})
	}
	t.Run("Model", func(t *testing.T) { runModel(t, open, nil, traits) })
}

type testCase struct {
	name      string
	run       func(*testing.T, store.Engine)
	takesOver bool // an ID, see UniqueIDs
}

var cases = []testCase{
	{name: "Empty", run: testEmpty},
	{name: "Accept", run: testAccept},
	{name: "AcceptTwiceChangesNothing", run: testAcceptTwice},
	{name: "AcceptWithoutDevices", run: testAcceptWithoutDevices},
	{name: "Data", run: testData},
	{name: "Update", run: testUpdate},
	{name: "UpdateAfterFinishChangesNothing", run: testUpdateAfterFinish},
	{name: "FinishTwiceCountsOnce", run: testFinishTwice},
	{name: "AllKindsInOneBatch", run: testAllKinds},
	{name: "Events", run: testEvents},
	{name: "EventsOfManyInOneBatch", run: testEventsOfMany},
	{name: "List", run: testList},
	{name: "UnfinishedByDeviceAndSeq", run: testUnfinishedOrder},
	{name: "Shards", run: testShards},
	{name: "CallbackMayRead", run: testCallbackMayRead},
	{name: "Registry", run: testRegistry},
	{name: "TokenMoves", run: testTokenMoves},
	{name: "TokenMovesWithinOneBatch", run: testTokenMovesInBatch},
	{name: "Assign", run: testAssign},
	{name: "Erase", run: testErase},
	{name: "Dismissals", run: testDismissals},
	{name: "LastSeq", run: testLastSeq},
	{name: "Prune", run: testPrune},
	{name: "PruneSeveralDevices", run: testPruneSeveralDevices},
	{name: "PruneLimit", run: testPruneLimit},
	{name: "PruneKeepsAnIDThatWasTakenOver", run: testPruneID, takesOver: true},
	{name: "IDsThatTellTheSeq", run: testIDsThatTellTheSeq, takesOver: true},
	{name: "NamesWithOddBytes", run: testOddNames},
	{name: "ManyDevices", run: testManyDevices},
	{name: "BatchIsNotKept", run: testBatchNotKept},
	{name: "Abandon", run: testAbandon},
	{name: "EventsFrom", run: testEventsFrom},
	{name: "EventsSince", run: testEventsSince},
	{name: "EventsAreForgotten", run: testEventsAreForgotten},
	{name: "EventsWhileApplying", run: testEventsWhileApplying},
	{name: "Deliveries", run: testDeliveries},
	{name: "Registrations", run: testRegistrations},
	{name: "Content", run: testContent},
}

func testEmpty(t *testing.T, e store.Engine) {
	_, err := e.Notification(1)
	missing(t, "Notification", err)
	_, err = e.Data(1)
	missing(t, "Data", err)
	_, err = e.Lookup("a")
	missing(t, "Lookup", err)
	_, err = e.Timeline(1)
	missing(t, "Timeline", err)
	_, err = e.Device("a")
	missing(t, "Device", err)
	_, err = e.TokenOwner(delivery.ServerAPNs, "00")
	missing(t, "TokenOwner", err)
	equal(t, "list", list(t, e, "", 0), []string{})
	equal(t, "list of an account", list(t, e, "ann", 0), []string{})
	equal(t, "devices of an account", len(must[[]delivery.Device](t, "account devices")(e.AccountDevices("ann"))), 0)
	equal(t, "unfinished", records(t, e), []delivery.Record{})
	equal(t, "totals", totals(t, e), delivery.Totals{})
	equal(t, "last", must[uint64](t, "last seq")(e.LastSeq(delivery.Shard{})), uint64(0))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(0), 10)), 0)
	apply(t, e, &delivery.Batch{Sync: true})
}

func pending(n *delivery.Notification, device string) delivery.Record {
	return delivery.NewRecord(n, device)
}

func testAccept(t *testing.T, e store.Engine) {
	full := notification(10, "n-1", "ann", "phone", "watch")
	bare := &delivery.Notification{Seq: 11, ID: "n-2", Account: "bob", Devices: []string{"bob-1"}, AcceptedAt: at(1), ExpiresAt: at(2)}
	zero := 0
	zeroBadge := notification(12, "n-3", "bob", "bob-1")
	zeroBadge.Badge = &zero
	apply(t, e, accept(full, bare, zeroBadge))
	for _, n := range []*delivery.Notification{full, bare, zeroBadge} {
		equal(t, "notification "+n.ID, must[*delivery.Notification](t, "notification")(e.Notification(n.Seq)), n)
		equal(t, "lookup "+n.ID, must[delivery.Seq](t, "lookup")(e.Lookup(n.ID)), n.Seq)
		equal(t, "timeline "+n.ID, len(must[[]delivery.Event](t, "timeline")(e.Timeline(n.Seq))), 0)
		_, err := e.Data(n.Seq)
		missing(t, "data "+n.ID, err)
	}
	equal(t, "unfinished", records(t, e), []delivery.Record{
		pending(bare, "bob-1"), pending(zeroBadge, "bob-1"), pending(full, "phone"), pending(full, "watch"),
	})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 4})
}

func testAcceptTwice(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone", "watch")
	other := notification(20, "n-2", "ann", "phone")
	b := accept(n)
	apply(t, e, b, b)
	equal(t, "unfinished", len(records(t, e)), 2)
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 2})
	// Neither does it bring back a finished delivery.
	apply(t, e, finish(at(1), 10, "phone"), accept(other), b)
	equal(t, "unfinished", records(t, e), []delivery.Record{pending(other, "phone"), pending(n, "watch")})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 3, Finished: 1})
	equal(t, "list", list(t, e, "ann", 0), []string{"n-2", "n-1"})
}

func testAcceptWithoutDevices(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann")
	apply(t, e, accept(n))
	equal(t, "id", must[*delivery.Notification](t, "notification")(e.Notification(10)).ID, "n-1")
	equal(t, "totals", totals(t, e), delivery.Totals{})
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(1), 10)), 1)
	_, err := e.Notification(10)
	missing(t, "notification", err)
}

func testData(t *testing.T, e store.Engine) {
	b := &delivery.Batch{Sync: true}
	var want []json.RawMessage
	for i, size := range []int{2, 1000, 256 << 10} {
		n := notification(delivery.Seq(i+1), fmt.Sprintf("n-%d", i), "ann", "phone")
		n.HasMessage = true
		data := json.RawMessage(`"` + strings.Repeat("x", size-2) + `"`)
		want = append(want, data)
		b.Accept = append(b.Accept, delivery.Acceptance{Notification: n, Data: data})
	}
	apply(t, e, b)
	for i, w := range want {
		if got := must[json.RawMessage](t, "data")(e.Data(delivery.Seq(i + 1))); !bytes.Equal(got, w) {
			t.Errorf("data of %d bytes came back as %d others", len(w), len(got))
		}
	}
	for _, r := range records(t, e) {
		equal(t, "message", r.Message, delivery.MessageHeld)
	}
}

func testUpdate(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone", "watch")
	full := delivery.Record{
		Seq: 10, Device: "phone", State: delivery.StatePushed, Attempts: 7, PushAttempts: 3, PushAccepted: true,
		PushRefused: delivery.RefusedRegistration, Received: true, Ack: delivery.AckDisplayed, Fallback: true, Message: delivery.MessageSent,
		CollapseKey: "other", Deadline: at(3 * time.Second), ExpiresAt: at(24 * time.Hour),
	}
	bare := delivery.Record{Seq: 10, Device: "watch", State: delivery.StateWaiting}
	unknown := delivery.Record{Seq: 99, Device: "phone", State: delivery.StateWaiting}
	b := &delivery.Batch{Update: []delivery.Record{bare, full, unknown}}
	apply(t, e, accept(n), b, b)
	equal(t, "unfinished", records(t, e), []delivery.Record{full, bare})
	// The last of several counts.
	full.State, bare.State = delivery.StateWaiting, delivery.StatePushing
	apply(t, e, &delivery.Batch{Update: []delivery.Record{{Seq: 10, Device: "phone", State: delivery.StatePending}, bare, full}})
	equal(t, "unfinished", records(t, e), []delivery.Record{full, bare})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 2})
}

func testUpdateAfterFinish(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone")
	apply(t, e, accept(n), finish(at(1), 10, "phone"))
	apply(t, e, &delivery.Batch{Update: []delivery.Record{pending(n, "phone")}})
	equal(t, "unfinished", records(t, e), []delivery.Record{})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 1, Finished: 1})
}

func testFinishTwice(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone", "watch")
	b := finish(at(1), 10, "phone", "phone")
	apply(t, e, accept(n), b, b, finish(at(1), 99, "phone"))
	equal(t, "unfinished", records(t, e), []delivery.Record{pending(n, "watch")})
	equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 2, Finished: 1})
}

// testAllKinds has every kind in one batch, for the same delivery too: they apply
// in the order of the fields.
func testAllKinds(t *testing.T, e store.Engine) {
	old := notification(5, "old", "ann", "phone")
	n := notification(10, "new", "ann", "phone", "watch")
	n.HasMessage = true
	event := delivery.Event{Seq: 10, Number: 12, Time: at(1), Kind: delivery.EventPublished, Device: "phone", Attempt: 1}
	update := pending(n, "phone")
	update.State, update.Attempts = delivery.StatePublished, 1
	phone := delivery.Device{ID: "phone", Account: "ann", Registrations: push("00ff"), SeenAt: at(0)}
	b := &delivery.Batch{
		Accept: []delivery.Acceptance{{Notification: n, Data: json.RawMessage(`{"a":1}`)}},
		Update: []delivery.Record{update, pending(n, "watch")},
		Events: []delivery.Event{event},
		Finish: []delivery.Finish{
			{Key: delivery.Key{Seq: 5, Device: "phone"}, At: at(1)},
			{Key: delivery.Key{Seq: 10, Device: "watch"}, At: at(1)},
		},
		PutDevices:    claiming(phone),
		RemoveDevices: []delivery.DeviceKey{{ID: "gone", Account: "ann"}},
		Sync:          true,
	}
	apply(t, e, accept(old))
	for range 2 { // once is as good as twice
		apply(t, e, b)
		equal(t, "unfinished", records(t, e), []delivery.Record{update})
		equal(t, "totals", totals(t, e), delivery.Totals{Accepted: 3, Finished: 2})
		equal(t, "timeline", must[[]delivery.Event](t, "timeline")(e.Timeline(10)), []delivery.Event{event})
		equal(t, "devices", must[[]delivery.Device](t, "devices")(e.AccountDevices("ann")), []delivery.Device{phone})
		equal(t, "owner", must[string](t, "owner")(e.TokenOwner(delivery.ServerAPNs, "00ff")), "phone")
		equal(t, "last", must[uint64](t, "last")(e.LastSeq(delivery.Shard{})), uint64(12))
	}
}

func testEvents(t *testing.T, e store.Engine) {
	apply(t, e, accept(notification(10, "n-1", "ann", "phone"), notification(11, "n-2", "ann", "phone")))
	event := func(seq delivery.Seq, number uint64) delivery.Event {
		return delivery.Event{
			Seq: seq, Number: number, Time: at(time.Duration(number)), Kind: delivery.EventPushFailed,
			Device: "phone", Attempt: int(number % 5), Detail: fmt.Sprintf("detail %d", number),
		}
	}
	bare := delivery.Event{Seq: 10, Number: 900}
	first := &delivery.Batch{Events: []delivery.Event{event(10, 22), event(10, 21), event(11, 24), event(10, 23)}}
	second := &delivery.Batch{Events: []delivery.Event{event(10, 30), bare, event(11, 31)}}
	// A batch that is applied again in other company, as a group may be.
	both := &delivery.Batch{Events: append(slices.Clone(first.Events), second.Events...)}
	apply(t, e, first, second, both, first)
	equal(t, "timeline", must[[]delivery.Event](t, "timeline")(e.Timeline(10)),
		[]delivery.Event{event(10, 21), event(10, 22), event(10, 23), event(10, 30), bare})
	equal(t, "timeline", must[[]delivery.Event](t, "timeline")(e.Timeline(11)),
		[]delivery.Event{event(11, 24), event(11, 31)})
	apply(t, e, &delivery.Batch{Events: []delivery.Event{event(77, 1000)}})
	_, err := e.Timeline(77)
	missing(t, "timeline of none", err)
}

func testEventsOfMany(t *testing.T, e store.Engine) {
	const n = 300
	b := &delivery.Batch{}
	number := uint64(10_000)
	for round := range 3 {
		for i := range n {
			if round == 0 {
				b.Accept = append(b.Accept, acceptance(notification(delivery.Seq(i+1), fmt.Sprintf("n-%d", i), "ann", "phone")))
			}
			number++
			b.Events = append(b.Events, delivery.Event{Seq: delivery.Seq(i + 1), Number: number, Time: at(0), Kind: delivery.EventPublished})
		}
	}
	apply(t, e, b)
	for i := range n {
		var got []uint64
		for _, ev := range must[[]delivery.Event](t, "timeline")(e.Timeline(delivery.Seq(i + 1))) {
			got = append(got, ev.Number)
		}
		equal(t, fmt.Sprintf("numbers of %d", i), got, []uint64{10_001 + uint64(i), 10_001 + n + uint64(i), 10_001 + 2*n + uint64(i)})
	}
}

func testList(t *testing.T, e store.Engine) {
	b := &delivery.Batch{}
	// Accounts of which one is the beginning of another must not mix.
	for i, account := range []string{"a", "ab", "a", "b", "ab", "a", "a b"} {
		n := notification(delivery.Seq(i+1), fmt.Sprintf("n%d", i+1), account, account+"-phone")
		n.HasMessage = true
		b.Accept = append(b.Accept, delivery.Acceptance{Notification: n, Data: json.RawMessage(`1`)})
	}
	apply(t, e, b)
	equal(t, "all", list(t, e, "", 0), []string{"n7", "n6", "n5", "n4", "n3", "n2", "n1"})
	equal(t, "all before 4", list(t, e, "", 4), []string{"n3", "n2", "n1"})
	equal(t, "a", list(t, e, "a", 0), []string{"n6", "n3", "n1"})
	equal(t, "a before 6", list(t, e, "a", 6), []string{"n3", "n1"})
	equal(t, "a before 1", list(t, e, "a", 1), []string{})
	equal(t, "ab", list(t, e, "ab", 0), []string{"n5", "n2"})
	var some []*delivery.Notification
	err := e.List("", 0, func(n *delivery.Notification) bool {
		some = append(some, n)
		return len(some) < 2
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "first two", some, []*delivery.Notification{b.Accept[6].Notification, b.Accept[5].Notification})
}

func testUnfinishedOrder(t *testing.T, e store.Engine) {
	apply(t, e, accept(
		notification(3, "n3", "ann", "d10", "d1"),
		notification(1, "n1", "ann", "d1", "d2"),
		notification(1<<40, "n4", "ann", "d1", "d"),
	))
	var got []delivery.Key
	for _, r := range records(t, e) {
		got = append(got, delivery.Key{Seq: r.Seq, Device: r.Device})
	}
	equal(t, "order", got, []delivery.Key{
		{Seq: 1 << 40, Device: "d"}, {Seq: 1, Device: "d1"}, {Seq: 3, Device: "d1"}, {Seq: 1 << 40, Device: "d1"}, {Seq: 3, Device: "d10"}, {Seq: 1, Device: "d2"},
	})
	n := 0
	if err := e.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("told to stop after 2, it called %d times (error %v)", n, err)
	}
}

func testShards(t *testing.T, e store.Engine) {
	const of = 1024
	apply(t, e, accept(
		notification(5*of+7, "n1", "ann", "d1", "d2"),
		notification(6*of+8, "n2", "ben", "d3"),
		notification(7*of+7, "n3", "ann", "d1"),
	), &delivery.Batch{PutDismissals: []delivery.Dismissal{
		{Seq: 8*of + 8, Device: "d3", Of: 6*of + 8, ID: "n2", At: at(1)},
		{Seq: 9*of + 7, Device: "d2", Of: 5*of + 7, ID: "n1", At: at(1)},
	}})
	for _, c := range []struct {
		shard      delivery.Shard
		records    []delivery.Seq
		dismissals []delivery.Seq
		last       uint64
	}{
		{delivery.Shard{}, []delivery.Seq{5*of + 7, 7*of + 7, 5*of + 7, 6*of + 8}, []delivery.Seq{9*of + 7, 8*of + 8}, 9*of + 7},
		{delivery.Shard{Index: 7, Of: of}, []delivery.Seq{5*of + 7, 7*of + 7, 5*of + 7}, []delivery.Seq{9*of + 7}, 9*of + 7},
		{delivery.Shard{Index: 8, Of: of}, []delivery.Seq{6*of + 8}, []delivery.Seq{8*of + 8}, 8*of + 8},
		{delivery.Shard{Index: 9, Of: of}, nil, nil, 0},
	} {
		var records, dismissals []delivery.Seq
		if err := errors.Join(
			e.Unfinished(c.shard, func(r *delivery.Record) bool { records = append(records, r.Seq); return true }),
			e.Dismissals(c.shard, func(d *delivery.Dismissal) bool { dismissals = append(dismissals, d.Seq); return true }),
		); err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("records of %v", c.shard), records, c.records)
		equal(t, fmt.Sprintf("dismissals of %v", c.shard), dismissals, c.dismissals)
		if last := must[uint64](t, "last")(e.LastSeq(c.shard)); last < c.last {
			t.Errorf("last of %v: %d, want no less than %d", c.shard, last, c.last)
		}
	}
}

func testCallbackMayRead(t *testing.T, e store.Engine) {
	apply(t, e, accept(notification(1, "n1", "ann", "phone")), &delivery.Batch{PutDevices: []delivery.Device{{ID: "phone", Account: "ann"}}})
	inside := func() bool {
		_, err1 := e.Notification(1)
		_, err2 := e.Device("phone")
		if err := errors.Join(err1, err2, e.Apply(&delivery.Batch{Update: []delivery.Record{{Seq: 1, Device: "phone", State: delivery.StateWaiting}}})); err != nil {
			t.Error(err)
		}
		return true
	}
	if err := errors.Join(
		e.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { return inside() }),
		e.List("", 0, func(*delivery.Notification) bool { return inside() }),
		e.List("ann", 0, func(*delivery.Notification) bool { return inside() }),
		e.Devices("", func(*delivery.Device) bool { return inside() }),
	); err != nil {
		t.Error(err)
	}
}

func testLastSeq(t *testing.T, e store.Engine) {
	last := func() uint64 { return must[uint64](t, "last")(e.LastSeq(delivery.Shard{})) }
	apply(t, e, accept(notification(500, "n1", "ann", "phone")))
	equal(t, "last", last(), uint64(500))
	apply(t, e, accept(notification(400, "n2", "ann", "phone")))
	equal(t, "last", last(), uint64(500))
	apply(t, e, &delivery.Batch{Events: []delivery.Event{{Seq: 400, Number: 700}, {Seq: 400, Number: 600}}})
	equal(t, "last", last(), uint64(700))
	apply(t, e, finish(at(0), 400, "phone"), finish(at(0), 500, "phone"))
	equal(t, "pruned", must[int](t, "prune")(e.Prune(at(1), 10)), 2)
	equal(t, "last, after all is pruned", last(), uint64(700))
}

// testBatchNotKept: the group committer reuses its slices.
func testBatchNotKept(t *testing.T, e store.Engine) {
	b := accept(notification(1, "n1", "ann", "phone"))
	b.Events = []delivery.Event{{Seq: 1, Number: 2, Kind: delivery.EventPublished, Time: at(0)}}
	b.PutDevices = []delivery.Device{{ID: "phone", Account: "ann"}}
	apply(t, e, b)
	clear(b.Accept)
	clear(b.Events)
	clear(b.PutDevices)
	equal(t, "id", must[*delivery.Notification](t, "notification")(e.Notification(1)).ID, "n1")
	equal(t, "number", must[[]delivery.Event](t, "timeline")(e.Timeline(1))[0].Number, uint64(2))
	equal(t, "device", must[*delivery.Device](t, "device")(e.Device("phone")).ID, "phone")
}

func testAbandon(t *testing.T, e store.Engine) {
	apply(t, e, accept(notification(1, "n1", "ann", "phone")))
	e.Abandon()
	e.Abandon()
	if err := e.Apply(accept(notification(2, "n2", "ann", "phone"))); !errors.Is(err, store.ErrBroken) {
		t.Errorf("apply to an abandoned engine: got error %v, want one that wraps ErrBroken", err)
	}
	equal(t, "id", must[*delivery.Notification](t, "notification")(e.Notification(1)).ID, "n1")
	_, err := e.Notification(2)
	missing(t, "notification that came too late", err)
}

// Picture shows everything that can be read from an engine, to compare two moments.
func Picture(t testing.TB, e store.Engine) string {
	return show(look(t, e)) + show(eventsFrom(t, e, delivery.Position{}))
}
