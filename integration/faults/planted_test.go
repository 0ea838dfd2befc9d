package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/wire"
)

const phone = "phone"

// killedLife is one life of the program that ended by kill -9 long after the story.
var killedLife = []Life{{End: time.Now().Add(24 * time.Hour), Killed: true}}

func push(id, apnsID string) apnssim.Received {
	return apnssim.Received{Token: "aa", APNsID: apnsID, Status: 200, Payload: fmt.Appendf(nil, `{"heartline":{"id":%q}}`, id)}
}

// story is a run in which all went well: three notifications to one device, acked
// over the channel, the second after a push.
func story(t *testing.T) (Store, *Evidence) {
	t.Helper()
	kept, err := memory.Open(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	now := time.Now()
	c := &Connection{Device: phone, Number: 1, ReceiveMaximum: 2}
	e := &Evidence{Connections: []*Connection{c}, Devices: map[string]string{"aa": phone}}
	b := &delivery.Batch{PutDevices: []delivery.Device{{ID: phone, Account: "a", SeenAt: now}}}
	for i := range 3 {
		seq, id := delivery.Seq(i+1), fmt.Sprintf("n%d", i+1)
		b.Accept = append(b.Accept, delivery.Acceptance{Notification: &delivery.Notification{
			Seq: seq, ID: id, Account: "a", Ack: delivery.AckReceived, AcceptedAt: now, ExpiresAt: now.Add(time.Hour), Devices: []string{phone},
		}})
		kinds := []delivery.EventKind{delivery.EventPublished, delivery.EventReceived}
		if i == 1 {
			kinds = []delivery.EventKind{delivery.EventPushRequested, delivery.EventPushed, delivery.EventPublished, delivery.EventReceived}
			e.Pushes = append(e.Pushes, push(id, "x"))
		}
		for j, k := range kinds {
			b.Events = append(b.Events, delivery.Event{Seq: seq, Number: uint64(100*i + j + 10), Time: now, Kind: k, Device: phone})
		}
		b.Finish = append(b.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: phone}, At: now})
		e.Acceptances = append(e.Acceptances, Acceptance{ID: id, Account: "a", Link: "b/1", Place: i + 1})
		c.acking(c.got(Copy{ID: id, PacketID: uint16(i + 1)}))
	}
	if err := kept.Apply(b); err != nil {
		t.Fatal(err)
	}
	return kept, e
}

// TestCheckerCatches: each doctored ledger is found out, in its column and no other.
func TestCheckerCatches(t *testing.T) {
	type counts struct{ unaccounted, duplicates, disorder, pushes, other int }
	for _, tt := range []struct {
		name   string
		doctor func(e *Evidence, c *Connection)
		want   counts
	}{
		{"nothing is planted", func(*Evidence, *Connection) {}, counts{}},
		{"a loss: accepted, not in the store", func(e *Evidence, _ *Connection) {
			e.Acceptances = append(e.Acceptances, Acceptance{ID: "n4", Account: "a", Link: "b/1", Place: 4})
		}, counts{unaccounted: 1}},
		{"a loss: said to be acked, never received", func(_ *Evidence, c *Connection) {
			c.copies = c.copies[:2]
		}, counts{unaccounted: 1}},
		{"a loss: received, never acknowledged, said to be acked", func(_ *Evidence, c *Connection) {
			c.copies[1].Acked = false
		}, counts{unaccounted: 1}},
		{"a push that Apple does not know of", func(e *Evidence, _ *Connection) { e.Pushes = nil }, counts{unaccounted: 1}},
		{"a duplicate that is not flagged", func(e *Evidence, c *Connection) {
			e.Lives = killedLife // which excuses the count, not the flag
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true, At: time.Now()})
		}, counts{duplicates: 1}},
		{"a duplicate that no event tells of", func(_ *Evidence, c *Connection) {
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true, Redelivery: true})
		}, counts{duplicates: 1}},
		{"two copies whose events a kill lost", func(e *Evidence, c *Connection) {
			e.Lives = killedLife
			for id := range uint16(2) {
				c.got(Copy{ID: "n2", PacketID: 9 + id, Acked: true, Redelivery: true, At: time.Now()})
			}
			c.most = 2
		}, counts{}},
		{"a copy without an event, before events that the kill did not lose", func(e *Evidence, c *Connection) {
			e.Lives = killedLife
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true, Redelivery: true, At: time.Now().Add(-time.Hour)})
		}, counts{duplicates: 1}},
		{"a copy whose event a kill lost, on a connection noted in the next life", func(e *Evidence, c *Connection) {
			now := time.Now()
			e.Lives = []Life{
				{Start: now.Add(-time.Hour), End: now.Add(time.Second), Killed: true},
				{Start: now.Add(2 * time.Second), End: now.Add(time.Hour), Killed: false},
			}
			c.Dialled, c.Up = now.Add(-time.Minute), now.Add(3*time.Second)
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true, Redelivery: true, At: now.Add(time.Second)})
		}, counts{}},
		{"two that changed places", func(_ *Evidence, c *Connection) {
			c.copies[0], c.copies[1] = c.copies[1], c.copies[0]
		}, counts{disorder: 1}},
		{"accepted in another order than asked for", func(e *Evidence, _ *Connection) {
			e.Acceptances[0].Place, e.Acceptances[1].Place = 2, 1
			e.Acceptances[0], e.Acceptances[1] = e.Acceptances[1], e.Acceptances[0]
		}, counts{disorder: 1}},
		{"a second push", func(e *Evidence, _ *Connection) {
			e.Pushes = append(e.Pushes, push("n2", "y"))
		}, counts{pushes: 1}},
		{"a second push whose answer was lost", func(e *Evidence, _ *Connection) {
			p := push("n2", "y")
			p.Status, p.Action = 0, apnssim.ActionDrop
			e.Pushes = append(e.Pushes, p)
		}, counts{pushes: 1}},
		{"the same push again", func(e *Evidence, _ *Connection) {
			e.Pushes = append(e.Pushes, push("n2", "x"))
		}, counts{}},
		{"more packets than the Receive Maximum", func(_ *Evidence, c *Connection) { c.most = 3 }, counts{other: 1}},
		{"a packet identifier in use", func(_ *Evidence, c *Connection) {
			c.open[3] = 2
			c.copies = c.copies[:2]
			c.acking(c.got(Copy{ID: "n3", PacketID: 3}))
		}, counts{other: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept, e := story(t)
			tt.doctor(e, e.Connections[0])
			r, err := Check(kept, *e)
			if err != nil {
				t.Fatal(err)
			}
			if got := (counts{r.Unaccounted, r.Duplicates, r.Disorder, r.Pushes, r.Other}); got != tt.want {
				t.Errorf("found %+v, want %+v: %q", got, tt.want, r.Problems)
			}
		})
	}
}

// TestCheckerCatchesStores: a store that has forgotten the ends of its timelines, one
// that counts wrong, and one that has everything twice.
func TestCheckerCatchesStores(t *testing.T) {
	for name, spoil := range map[string]func(*spoilt){
		"forgets": func(s *spoilt) { s.forgets = true },
		"counts":  func(s *spoilt) { s.finished = 1 },
		"doubles": func(s *spoilt) { s.doubles, s.finished = true, 3 }, // and counts them, too
	} {
		t.Run(name, func(t *testing.T) {
			kept, e := story(t)
			s := &spoilt{Store: kept}
			spoil(s)
			r, err := Check(s, *e)
			if err != nil {
				t.Fatal(err)
			}
			if r.Unaccounted == 0 {
				t.Error("it was not noticed")
			}
		})
	}
}

type spoilt struct {
	Store
	forgets, doubles bool
	finished         uint64 // more than there are
}

func (s *spoilt) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	events, err := s.Store.Timeline(seq)
	if s.forgets {
		events = events[:len(events)-1]
	}
	return events, err
}

func (s *spoilt) Totals() (delivery.Totals, error) {
	t, err := s.Store.Totals()
	return delivery.Totals{Accepted: t.Accepted + s.finished, Finished: t.Finished + s.finished}, err
}

func (s *spoilt) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	if s.doubles {
		if err := s.Store.List(account, before, fn); err != nil {
			return err
		}
	}
	return s.Store.List(account, before, fn)
}

// ends is a run of another kind that went well: on one device, a notification that
// expired, one that a newer one superseded, one that was cancelled, two with
// messages that came after the acks with the app in the foreground, and one that
// was asked for twice. Each doctor may spoil the store's part of it or the ledgers.
func ends(doctor func(*ending)) (*delivery.Batch, *Evidence) {
	now := time.Now().Round(0)
	at := func(s float64) time.Time { return now.Add(time.Duration(s * float64(time.Second))) }
	x := &ending{
		c: &Connection{Device: phone, Number: 1, Dialled: at(0), Up: at(0)}, later: &Connection{Device: phone, Number: 2, Dialled: at(90), Up: at(90)},
		b: &delivery.Batch{PutDevices: []delivery.Device{{ID: phone, Account: "a", SeenAt: now}}}, at: at,
	}
	x.e = &Evidence{Connections: []*Connection{x.c, x.later}}
	x.c.reports = []Report{{Foreground: true, At: at(1), Confirmed: at(1.1)}}
	for i, n := range []struct {
		id, key string
		message bool
		events  []delivery.EventKind
	}{
		{id: "expires", events: []delivery.EventKind{delivery.EventPublished, delivery.EventExpired}},
		{id: "old", key: "k", events: []delivery.EventKind{delivery.EventPublished, delivery.EventSuperseded}},
		{id: "new", key: "k", events: []delivery.EventKind{delivery.EventPublished, delivery.EventReceived}},
		{id: "goes", events: []delivery.EventKind{delivery.EventPublished, delivery.EventCancelled}},
		{id: "first", message: true, events: []delivery.EventKind{delivery.EventPublished, delivery.EventReceived, delivery.EventMessageSent, delivery.EventMessageReceived}},
		{id: "second", message: true, events: []delivery.EventKind{delivery.EventPublished, delivery.EventReceived, delivery.EventMessageSent, delivery.EventMessageReceived}},
		{id: "twice", events: []delivery.EventKind{delivery.EventPublished, delivery.EventReceived}},
	} {
		s := float64(10*i + 2) // 10 s each
		seq := delivery.Seq(i + 1)
		x.b.Accept = append(x.b.Accept, delivery.Acceptance{Notification: &delivery.Notification{
			Seq: seq, ID: n.id, Account: "a", Ack: delivery.AckReceived, CollapseKey: n.key, HasMessage: n.message, Devices: []string{phone},
			AcceptedAt: at(s), ExpiresAt: at(s + 1.5),
		}})
		a := Acceptance{ID: n.id, Account: "a", Link: "b/1", Place: i + 1, Status: 202, AcceptedAt: wire.FormatTime(at(s))}
		x.e.Acceptances = append(x.e.Acceptances, a)
		if n.id == "twice" {
			a.Link, a.Again, a.Status = "c/1", true, 200
			x.e.Acceptances = append(x.e.Acceptances, a)
		}
		for j, k := range n.events {
			x.b.Events = append(x.b.Events, delivery.Event{Seq: seq, Number: uint64(100 + 10*i + j), Time: at(s + 1 + float64(j)), Kind: k, Device: phone})
			got := Copy{ID: n.id, PacketID: uint16(10*i + j + 1), At: at(s + 1.5 + float64(j))}
			got.Message, got.Acked, got.AckedAt = k == delivery.EventMessageSent, n.events[1] == delivery.EventReceived, got.At
			if k == delivery.EventPublished || got.Message {
				x.c.copies = append(x.c.copies, got)
			}
		}
		x.b.Finish = append(x.b.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: phone}, At: at(s + 5)})
	}
	x.e.Cancels = []Cancel{{ID: "goes", Answered: at(36)}}
	doctor(x)
	return x.b, x.e
}

// ending is what a doctor of ends may spoil.
type ending struct {
	b        *delivery.Batch
	e        *Evidence
	c, later *Connection
	at       func(float64) time.Time
}

// event finds one of the store's.
func (x *ending) event(id string, k delivery.EventKind) *delivery.Event {
	for _, a := range x.b.Accept {
		for i := range x.b.Events {
			if ev := &x.b.Events[i]; a.Notification.ID == id && ev.Seq == a.Notification.Seq && ev.Kind == k {
				return ev
			}
		}
	}
	return nil
}

// add appends an event to the timeline of one.
func (x *ending) add(id string, k delivery.EventKind) {
	ev := *x.event(id, delivery.EventPublished)
	ev.Number, ev.Kind, ev.Time = ev.Number+9, k, ev.Time.Add(5*time.Second)
	x.b.Events = append(x.b.Events, ev)
}

// open takes the end of one out of the store.
func (x *ending) open(id string) {
	seq := x.event(id, delivery.EventPublished).Seq
	x.b.Finish = slices.DeleteFunc(x.b.Finish, func(f delivery.Finish) bool { return f.Seq == seq })
}

// copy finds one of the device's.
func (x *ending) copy(id string, message bool) *Copy {
	for i := range x.c.copies {
		if c := &x.c.copies[i]; c.ID == id && c.Message == message {
			return c
		}
	}
	return nil
}

// again is a copy on the device's other connection, which it opened after the end.
func (x *ending) again(id string, message bool) {
	c := *x.copy(id, message)
	c.Redelivery, c.At = true, x.at(91)
	x.later.copies = append(x.later.copies, c)
}

// TestCheckerCatchesEnds: likewise, for deliveries that end in other ways than an ack.
func TestCheckerCatchesEnds(t *testing.T) {
	type counts struct{ unaccounted, duplicates, disorder, pushes, other int }
	for _, tt := range []struct {
		name   string
		doctor func(*ending)
		want   counts
	}{
		{"nothing is planted", func(*ending) {}, counts{}},
		{"expired too early", func(x *ending) { x.event("expires", delivery.EventExpired).Time = x.at(3.2) }, counts{unaccounted: 1}},
		{"published after it expired", func(x *ending) { x.add("expires", delivery.EventRedelivered) }, counts{unaccounted: 1}},
		{"delivered after it expired", func(x *ending) {
			x.e.Lives = killedLife // which excuses that no event tells of it
			x.again("expires", false)
		}, counts{unaccounted: 1}},
		{"superseded by nothing", func(x *ending) { x.b.Accept[2].Notification.CollapseKey = "" }, counts{unaccounted: 1}},
		{"superseded by an older one", func(x *ending) {
			x.event("old", delivery.EventSuperseded).Kind = delivery.EventReceived
			x.copy("old", false).Acked = true
			x.event("new", delivery.EventReceived).Kind = delivery.EventSuperseded
		}, counts{unaccounted: 1}},
		{"not superseded: still open beside the newer", func(x *ending) {
			ev := x.event("old", delivery.EventSuperseded)
			ev.Kind, ev.Number = delivery.EventReceived, 129
			x.copy("old", false).Acked = true
		}, counts{unaccounted: 1}},
		{"published after it was superseded", func(x *ending) { x.add("old", delivery.EventRedelivered) }, counts{unaccounted: 1}},
		{"delivered after it was superseded", func(x *ending) {
			x.e.Lives = killedLife
			x.again("old", false)
		}, counts{unaccounted: 1}},
		{"cancelled by nobody", func(x *ending) { x.e.Cancels = nil }, counts{unaccounted: 1}},
		{"cancelled, and acked all the same", func(x *ending) {
			ev := x.event("goes", delivery.EventCancelled)
			ev.Kind, ev.Time = delivery.EventReceived, x.at(37)
			x.copy("goes", false).Acked = true
		}, counts{unaccounted: 1}},
		{"delivered after it was cancelled", func(x *ending) {
			x.e.Lives = killedLife
			x.again("goes", false)
		}, counts{unaccounted: 1}},
		{"a message that says received, and was not acknowledged", func(x *ending) { x.copy("first", true).Acked = false }, counts{unaccounted: 1}},
		{"a message that was dropped", func(x *ending) { x.event("first", delivery.EventMessageReceived).Kind = delivery.EventWaiting }, counts{unaccounted: 1}},
		{"a message of a notification without one", func(x *ending) {
			x.c.copies = append(x.c.copies, Copy{ID: "new", Message: true, PacketID: 200, At: x.at(99)})
			x.e.Lives = killedLife
		}, counts{unaccounted: 1}},
		{"a message twice on a connection", func(x *ending) {
			x.e.Lives = killedLife
			again := *x.copy("first", true)
			again.At = x.at(99)
			x.c.copies = append(x.c.copies, again)
		}, counts{duplicates: 1}},
		{"a message again that no event tells of", func(x *ending) { x.again("first", true) }, counts{duplicates: 1}},
		{"messages that changed places", func(x *ending) {
			x.event("first", delivery.EventMessageSent).Number = 158
			c := *x.copy("first", true)
			x.c.copies = slices.DeleteFunc(x.c.copies, func(y Copy) bool { return y.ID == "first" && y.Message })
			x.c.copies = append(x.c.copies, c)
		}, counts{disorder: 1}},
		{"a message whose ack came late", func(x *ending) {
			for _, k := range []delivery.EventKind{delivery.EventReceived, delivery.EventMessageSent, delivery.EventMessageReceived} {
				x.event("first", k).Number += 60
			}
			c := *x.copy("first", true)
			x.c.copies = slices.DeleteFunc(x.c.copies, func(y Copy) bool { return y.ID == "first" && y.Message })
			x.c.copies = append(x.c.copies, c)
		}, counts{}},
		{"a message before the ack", func(x *ending) { x.copy("first", true).At = x.at(43) }, counts{disorder: 1}},
		{"a message to an app in the background", func(x *ending) {
			x.c.reports = append(x.c.reports, Report{At: x.at(50), Confirmed: x.at(50.5)})
		}, counts{disorder: 1}},
		{"a message before the app was in the foreground again", func(x *ending) {
			x.c.reports = append(x.c.reports, Report{At: x.at(30), Confirmed: x.at(30.5)}, Report{Foreground: true, At: x.at(49)})
		}, counts{disorder: 1}},
		{"a message that was sent after it expired", func(x *ending) {
			x.event("first", delivery.EventMessageReceived).Kind = delivery.EventExpired
			x.add("first", delivery.EventMessageSent)
		}, counts{unaccounted: 1}},
		{"a message that is left", func(x *ending) {
			x.open("first")
			x.b.Update = append(x.b.Update, delivery.Record{Seq: 5, Device: phone, State: delivery.StateAcked, Message: delivery.MessageSent})
		}, counts{unaccounted: 1}},
		{"left on its way", func(x *ending) {
			x.open("twice")
			x.event("twice", delivery.EventReceived).Kind = delivery.EventWaiting
		}, counts{unaccounted: 1}},
		{"acked, and listed as pending", func(x *ending) { x.open("new") }, counts{unaccounted: 1}},
		{"two pushes by the timeline", func(x *ending) {
			x.e.Devices, x.e.Pushes = map[string]string{"aa": phone}, []apnssim.Received{push("twice", "x")}
			x.add("twice", delivery.EventPushed)
			x.add("twice", delivery.EventPushed)
			x.b.Events[len(x.b.Events)-1].Number--
		}, counts{pushes: 1}},
		{"something that no device can read", func(x *ending) { x.c.unasked = []string{"got nonsense"} }, counts{other: 1}},
		{"an answer with another time than the store's", func(x *ending) { x.e.Acceptances[0].AcceptedAt = wire.FormatTime(x.at(99)) }, counts{unaccounted: 1}},
		{"an ID accepted twice", func(x *ending) { x.e.Acceptances[7].Status = 202 }, counts{unaccounted: 1}},
		{"a repeated ID with another first answer", func(x *ending) { x.e.Acceptances[7].AcceptedAt = wire.FormatTime(x.at(99)) }, counts{unaccounted: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept, err := memory.Open(false)
			if err != nil {
				t.Fatal(err)
			}
			defer kept.Close()
			b, e := ends(tt.doctor)
			if err := kept.Apply(b); err != nil {
				t.Fatal(err)
			}
			r, err := Check(kept, *e)
			if err != nil {
				t.Fatal(err)
			}
			if got := (counts{r.Unaccounted, r.Duplicates, r.Disorder, r.Pushes, r.Other}); got != tt.want {
				t.Errorf("found %+v, want %+v: %q", got, tt.want, r.Problems)
			}
			if tt.name == "nothing is planted" && (r.Expired != 1 || r.Superseded != 1 || r.Cancelled != 1 || r.Messages != 2 || r.Acked != 4) {
				t.Errorf("counted %+v", r)
			}
		})
	}
}

// TestLedgerOfStandIns: of requests without an apns-id it is found out which are one push.
func TestLedgerOfStandIns(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(1000+second), 0) }
	killed := []Life{{Start: at(0), End: at(5), Killed: true}, {Start: at(6), End: at(100)}}
	stopped := []Life{{Start: at(0), End: at(5)}, {Start: at(6), End: at(100)}}
	request := func(second int, token string, ok, unanswered bool) taken {
		return taken{at: at(second), token: token, id: "n1", ok: ok, unanswered: unanswered}
	}
	for _, tt := range []struct {
		name     string
		requests []taken
		lives    []Life
		pushes   int
	}{
		{"taken once after a refusal", []taken{request(1, "t", false, false), request(2, "t", true, false)}, stopped, 1},
		{"taken twice", []taken{request(1, "t", true, false), request(2, "t", true, false)}, stopped, 2},
		{"taken twice, at two registrations", []taken{request(1, "t", true, false), request(2, "u", true, false)}, stopped, 2},
		{"taken twice, the first answer was lost", []taken{request(1, "t", true, true), request(2, "t", true, false)}, stopped, 1},
		{"taken twice, with a kill between", []taken{request(1, "t", true, false), request(7, "t", true, false)}, killed, 1},
		{"taken twice, with a stop between", []taken{request(1, "t", true, false), request(7, "t", true, false)}, stopped, 2},
		{"taken twice after the kill", []taken{request(7, "t", true, false), request(8, "t", true, false)}, killed, 2},
	} {
		ids := map[string]bool{}
		for _, r := range ledger(tt.requests, map[string]string{"t": phone, "u": phone}, tt.lives) {
			if r.Status == 200 || r.Action == apnssim.ActionDrop {
				ids[r.APNsID] = true
			}
		}
		if len(ids) != tt.pushes {
			t.Errorf("%s: %d pushes, want %d", tt.name, len(ids), tt.pushes)
		}
	}
}
