package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// positioned is an event as EventsFrom shows it.
type positioned struct {
	At      delivery.Position
	Account string
	Event   delivery.Event
}

type tb interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

func eventsFrom(t tb, r delivery.Reader, after delivery.Position) (out []positioned) {
	t.Helper()
	err := r.EventsFrom(after, func(at delivery.Position, account string, e delivery.Event) bool {
		out = append(out, positioned{at, account, e})
		return true
	})
	if err != nil {
		t.Fatalf("events from %v: %v", after, err)
	}
	for i, p := range out {
		if i > 0 && !out[i-1].At.Less(p.At) {
			t.Errorf("event %d is at %v, behind one at %v", i, p.At, out[i-1].At)
		}
		if !after.Less(p.At) {
			t.Errorf("read from %v, got an event at %v", after, p.At)
		}
	}
	return out
}

func acceptedEvent(n *delivery.Notification) delivery.Event {
	return delivery.Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: delivery.EventAccepted}
}

func testEventsFrom(t *testing.T, e store.Engine) {
	a, b := notification(10, "n-1", "ann", "phone"), notification(11, "n-2", "bob", "tab")
	ev := func(seq delivery.Seq, number uint64) delivery.Event {
		return delivery.Event{Seq: seq, Number: number, Time: at(time.Duration(number)), Kind: delivery.EventPublished, Device: "phone", Attempt: 1}
	}
	end := func() delivery.Position { return must[delivery.Place](t, "end")(e.EventsEnd()).Of(0) }
	equal(t, "events of an empty store", len(eventsFrom(t, e, delivery.Position{})), 0)
	empty := end()
	apply(t, e, &delivery.Batch{Accept: accept(a, b).Accept, Events: []delivery.Event{ev(11, 14), ev(10, 13), ev(10, 15)}})
	middle := end()
	again := &delivery.Batch{Accept: accept(a).Accept, Events: []delivery.Event{ev(10, 13), ev(10, 16), ev(11, 20), ev(77, 21)}}
	apply(t, e, &delivery.Batch{}, again, again, finish(at(1), 11, "tab"))
	all := eventsFrom(t, e, delivery.Position{})
	var got []delivery.Event
	var accounts []string
	for _, p := range all {
		got, accounts = append(got, p.Event), append(accounts, p.Account)
	}
	// In the order of the commits, and by Number in each. Nothing twice.
	equal(t, "events", got, []delivery.Event{acceptedEvent(a), acceptedEvent(b), ev(10, 13), ev(11, 14), ev(10, 15), ev(10, 16), ev(11, 20)})
	equal(t, "accounts", accounts, []string{"ann", "bob", "ann", "bob", "ann", "ann", "bob"})
	equal(t, "from before the first", eventsFrom(t, e, empty), all)
	equal(t, "from the end of the first commit", eventsFrom(t, e, middle), all[5:])
	equal(t, "from the end", len(eventsFrom(t, e, end())), 0)
	for i, p := range all { // also from within a commit
		equal(t, fmt.Sprintf("behind event %d", i), len(eventsFrom(t, e, p.At)), len(all)-i-1)
	}
	n := 0
	if err := e.EventsFrom(delivery.Position{}, func(delivery.Position, string, delivery.Event) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("told to stop after 3, it called %d times (error %v)", n, err)
	}
	for _, foreign := range []delivery.Position{{Commit: 1 << 62}, {Partition: 1}} {
		missing(t, "position of another store", e.EventsFrom(foreign, func(delivery.Position, string, delivery.Event) bool { return true }))
	}
	// Pruned and erased events are not shown; the positions of the others stay.
	if _, err := e.Prune(at(2), 10); err != nil {
		t.Error(err)
	}
	equal(t, "after a prune", eventsFrom(t, e, delivery.Position{}), slices.DeleteFunc(slices.Clone(all), func(p positioned) bool { return p.Event.Seq == 11 }))
	apply(t, e, &delivery.Batch{Erase: []delivery.Seq{10}})
	equal(t, "after all are gone", len(eventsFrom(t, e, delivery.Position{})), 0)
	apply(t, e, accept(notification(30, "n-3", "ann", "phone")))
	equal(t, "what comes next", len(eventsFrom(t, e, all[len(all)-1].At)), 1)
}

// testEventsSince: a time is found among commits with events, without, and forgotten ones.
func testEventsSince(t *testing.T, e store.Engine) {
	since := func(d time.Duration) (numbers []uint64) {
		t.Helper()
		from := must[delivery.Place](t, "since")(e.EventsSince(at(d)))
		if end := must[delivery.Place](t, "end")(e.EventsEnd()); !from.Within(end) || !end.Covers(from) || len(from) != len(end) {
			t.Errorf("since %v begins at %v, and the end is %v", d, from, end)
		}
		for _, p := range eventsFrom(t, e, from.Of(0)) {
			numbers = append(numbers, p.Event.Number)
		}
		return numbers
	}
	equal(t, "of an empty store", len(since(0)), 0)
	apply(t, e, accept(notification(10, "n-1", "ann", "phone"))) // at 0
	const commits = 40
	for i := 1; i <= commits; i++ {
		for range i % 3 {
			apply(t, e, &delivery.Batch{}) // has a number, and no event
		}
		apply(t, e, &delivery.Batch{Events: []delivery.Event{
			{Seq: 10, Number: uint64(1000 + 10*i), Time: at(time.Duration(i)*time.Second - time.Millisecond), Kind: delivery.EventPublished},
			{Seq: 10, Number: uint64(1001 + 10*i), Time: at(time.Duration(i) * time.Second), Kind: delivery.EventWaiting},
		}})
	}
	check := func(oldest int) {
		t.Helper()
		for i := oldest; i <= commits; i++ {
			for _, earlier := range []time.Duration{0, time.Millisecond, time.Second - 1} { // to the whole commit
				got := since(time.Duration(i)*time.Second - earlier)
				if len(got) != 2*(commits-i+1) || got[0] != uint64(1000+10*i) {
					t.Errorf("since %d s less %v: %d events, the first %v", i, earlier, len(got), append(got, 0)[0])
				}
			}
		}
		equal(t, "since a time to come", len(since(time.Hour)), 0)
		equal(t, "since the last one, and a nanosecond", len(since(commits*time.Second+1)), 0)
	}
	check(1)
	equal(t, "since long ago", len(since(-time.Hour)), 1+2*commits)
	equal(t, "since the acceptance", len(since(0)), 1+2*commits)
	if _, err := e.Prune(at(20*time.Second), 10); err != nil { // the events before
		t.Fatal(err)
	}
	check(20)
	equal(t, "since one that is forgotten", len(since(3*time.Second)), 2*(commits-19))
}

// testEventsAreForgotten: those of commits from before the time of Prune.
func testEventsAreForgotten(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone")
	apply(t, e, accept(n))
	const commits = 1500
	for i := range commits {
		apply(t, e, &delivery.Batch{Events: []delivery.Event{{Seq: 10, Number: uint64(100 + i), Time: at(time.Duration(i + 1)), Kind: delivery.EventPublished}}})
	}
	all := eventsFrom(t, e, delivery.Position{})
	equal(t, "events", len(all), commits+1)
	for _, before := range []int{0, 1, 700, 1400, commits + 1} {
		if _, err := e.Prune(at(time.Duration(before)), 10); err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("events from %d on", before), len(eventsFrom(t, e, delivery.Position{})), commits+1-before)
	}
	equal(t, "timeline", len(must[[]delivery.Event](t, "timeline")(e.Timeline(10))), commits)
}

// testEventsWhileApplying: a reader that continues from its last position gets every
// event once, while callers apply and a housekeeper prunes.
func testEventsWhileApplying(t *testing.T, e store.Engine) {
	const callers, each = 4, 200
	var next, applying sync.Mutex
	number := uint64(1000)
	var wg sync.WaitGroup
	var want sync.Map
	for range callers {
		wg.Go(func() {
			for range each {
				next.Lock()
				number += 2
				seq := delivery.Seq(number)
				next.Unlock() // applied in another order than numbered
				n := notification(seq, fmt.Sprint("n-", seq), "ann", "phone")
				want.Store(uint64(seq), true)
				want.Store(uint64(seq)+1, true)
				b := accept(n)
				b.Sync = false
				b.Events = []delivery.Event{{Seq: seq, Number: uint64(seq) + 1, Time: at(2), Kind: delivery.EventPublished}}
				applying.Lock()
				err := e.Apply(b)
				applying.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := map[uint64]bool{}
	at0 := delivery.Position{}
	read := func() {
		for _, p := range eventsFrom(t, e, at0) {
			if at0 = p.At; seen[p.Event.Number] {
				t.Errorf("event %d came twice", p.Event.Number)
			}
			seen[p.Event.Number] = true
		}
		if _, err := e.Prune(at(0), 10); err != nil {
			t.Error(err)
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		read()
	}
	read()
	want.Range(func(n, _ any) bool {
		if !seen[n.(uint64)] {
			t.Errorf("event %d never came", n)
		}
		return true
	})
	equal(t, "events", len(seen), 2*callers*each)
}

func testDeliveries(t *testing.T, e store.Engine) {
	one, two := notification(10, "n-1", "ann", "phone"), notification(11, "n-2", "ann", "phone", "watch")
	r := pending(two, "watch")
	r.State, r.Attempts, r.PushAccepted = delivery.StatePushed, 2, true
	final := func(seq delivery.Seq, device string, s delivery.State, attempts int, pushed bool) delivery.Finish {
		return delivery.Finish{Key: delivery.Key{Seq: seq, Device: device}, At: at(5), State: s, Attempts: attempts, Pushed: pushed}
	}
	b := &delivery.Batch{
		Update: []delivery.Record{r},
		Finish: []delivery.Finish{final(10, "phone", delivery.StateAcked, 300, false), final(11, "phone", delivery.StateExpired, 0, true)},
	}
	apply(t, e, accept(one, two))
	deliveries := func(seq delivery.Seq) []delivery.DeliveryState {
		return must[[]delivery.DeliveryState](t, "deliveries")(e.Deliveries(seq))
	}
	equal(t, "pending", deliveries(11), []delivery.DeliveryState{{Device: "phone", State: delivery.StatePending}, {Device: "watch", State: delivery.StatePending}})
	for range 2 {
		apply(t, e, b)
		equal(t, "of one device", deliveries(10), []delivery.DeliveryState{{Device: "phone", State: delivery.StateAcked, Attempts: 300}})
		equal(t, "of two", deliveries(11), []delivery.DeliveryState{
			{Device: "phone", State: delivery.StateExpired, Pushed: true}, {Device: "watch", State: delivery.StatePushed, Attempts: 2, Pushed: true},
		})
	}
	// A delivery has one end.
	apply(t, e, &delivery.Batch{Finish: []delivery.Finish{final(10, "phone", delivery.StateCancelled, 1, true)}})
	equal(t, "ended twice", deliveries(10)[0].State, delivery.StateAcked)
	_, err := e.Deliveries(12)
	missing(t, "deliveries of none", err)
	equal(t, "of no device", len(func() []delivery.DeliveryState {
		apply(t, e, accept(notification(13, "n-3", "ann")))
		return deliveries(13)
	}()), 0)
	if _, err := e.Prune(at(6), 10); err != nil {
		t.Error(err)
	}
	_, err = e.Deliveries(10)
	missing(t, "deliveries of a pruned notification", err)
}

// testRegistrations: a device has several, each with a token of its own.
func testRegistrations(t *testing.T, e store.Engine) {
	alert, voip := push("aa")[0], push("bb")[0]
	voip.Kind = "voip"
	voip.Suspended = &delivery.Suspension{Since: at(1), Reason: "BadDeviceToken", Config: "f", NextProbe: at(2)}
	web := delivery.Registration{
		Server: delivery.ServerWebPush, App: "BNc", Kind: "widgets", Token: "https://push.example.com/send/1",
		P256dh: []byte{4, 5}, Auth: []byte{6}, RegisteredAt: at(3),
	}
	ended := delivery.Registration{Server: delivery.ServerFCM, App: "p", Kind: "location", Form: delivery.FormFID, RegisteredAt: at(3), Ended: &delivery.Ending{At: at(4), Reason: "UNREGISTERED"}}
	phone := delivery.Device{
		ID: "phone", Account: "ann", SeenAt: at(5), Via: delivery.ViaXMPP, Address: "ann@example.com/x", Foreground: true, Unread: delivery.Unread{{Seq: 7, ID: 8}},
		Registrations: []delivery.Registration{alert, voip, web, ended},
	}
	other := phone.Clone()
	other.ID, other.Registrations = "other", []delivery.Registration{ended} // an ended one has no token to be held
	apply(t, e, &delivery.Batch{PutDevices: claiming(phone, other)})
	equal(t, "phone", must[*delivery.Device](t, "device")(e.Device("phone")), &phone)
	equal(t, "other", must[*delivery.Device](t, "device")(e.Device("other")), &other)
	owner := func(r delivery.Registration) string {
		return must[string](t, "owner")(e.TokenOwner(r.Server, r.Token))
	}
	// One token moves, to another account and kind; the rest stays.
	taken := voip
	taken.Kind, taken.Suspended, taken.Claims = delivery.KindAlert, nil, true
	apply(t, e, &delivery.Batch{PutDevices: []delivery.Device{{ID: "tab", Account: "bob", Registrations: []delivery.Registration{taken}}}})
	phone.Registrations = []delivery.Registration{alert, web, ended}
	equal(t, "phone", must[*delivery.Device](t, "device")(e.Device("phone")), &phone)
	equal(t, "owners", []string{owner(alert), owner(voip), owner(web)}, []string{"phone", "tab", "phone"})
	// The last claim counts.
	back := phone.Clone()
	back.Registrations = append(back.Registrations, voip)
	apply(t, e, &delivery.Batch{PutDevices: claiming(back)})
	equal(t, "tab", must[*delivery.Device](t, "device")(e.Device("tab")), &delivery.Device{ID: "tab", Account: "bob"})
	equal(t, "owner", owner(voip), "phone")
	apply(t, e, &delivery.Batch{RemoveDevices: []delivery.DeviceKey{{ID: "phone", Account: phone.Account}}})
	for _, r := range []delivery.Registration{alert, voip, web} {
		_, err := e.TokenOwner(r.Server, r.Token)
		missing(t, "token of a removed device", err)
	}
}

// testContent: every field of a notification is stored.
func testContent(t *testing.T, e store.Engine) {
	n := notification(10, "n-1", "ann", "phone")
	window := time.Duration(0)
	n.Subtitle, n.Thread, n.Link, n.Image, n.Level = "s", "t", "app://x", "https://example.com/i.png", delivery.LevelCritical
	n.Localized = &delivery.Localized{TitleKey: "T", TitleArgs: []string{"", "1"}, BodyKey: "B"}
	n.Extra, n.BadgeAuto, n.AckWindow, n.TTLZero, n.Kind, n.PushType = []byte(`{"a":1}`), true, &window, true, "voip", "voip"
	n.Overlay = &delivery.Overlay{APNs: []byte(`{"x":1}`), WebPush: []byte(`{}`)}
	n.Mark, n.Narrowed, n.Held, n.AckGiven, n.TTLGiven = &delivery.RequestMark{Client: "c", PacketID: 7, Payload: 8}, true, true, true, true
	apply(t, e, accept(n))
	equal(t, "notification", must[*delivery.Notification](t, "notification")(e.Notification(10)), n)
	r := pending(n, "phone")
	equal(t, "record", records(t, e), []delivery.Record{r})
	long := time.Hour
	r.AckWindow, r.Dismissed, r.Read, r.PushRefused = &long, true, true, delivery.RefusedApp
	apply(t, e, &delivery.Batch{Update: []delivery.Record{r}})
	equal(t, "record", records(t, e), []delivery.Record{r})
}

// testEventsAfterReopening: positions do not change. Later events come behind all that
// a reader may have seen, also where an unsynced commit is lost.
func testEventsAfterReopening(t *testing.T, open func() store.Engine) {
	e := open()
	apply(t, e, accept(notification(10, "n-1", "ann", "phone")))
	number := uint64(100)
	var all []positioned
	for round := range 4 {
		end := must[delivery.Place](t, "end")(e.EventsEnd()).Of(0)
		if all = eventsFrom(t, e, delivery.Position{}); len(all) != 1+3*round {
			t.Errorf("round %d: %d events", round, len(all))
		}
		for i := range 3 {
			number++
			apply(t, e, &delivery.Batch{Sync: i == 2, Events: []delivery.Event{{Seq: 10, Number: number, Time: at(1), Kind: delivery.EventPublished}}})
		}
		if round%2 == 0 {
			e.Abandon()
		}
		if err := errors.Join(e.Close()); err != nil {
			t.Fatalf("close: %v", err)
		}
		e = open()
		equal(t, "as before", eventsFrom(t, e, delivery.Position{})[:len(all)], all)
		equal(t, "behind the end", len(eventsFrom(t, e, end)), 3)
		// Again, as an outbox does with unsynced batches.
		apply(t, e, &delivery.Batch{Events: []delivery.Event{{Seq: 10, Number: number, Time: at(1), Kind: delivery.EventPublished}}})
	}
	if err := e.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}
