package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/delivery/outbox/memory"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

const phone = "phone"

// story is a run in which all went well: three notifications to one device, acked
// over the channel, the second after a push.
func story(t *testing.T) (Store, *Evidence) {
	t.Helper()
	store, err := memory.Open(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
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
			e.Pushes = append(e.Pushes, apnssim.Received{Token: "aa", CollapseID: id, APNsID: "x", Status: 200})
		}
		for j, k := range kinds {
			b.Events = append(b.Events, delivery.Event{Seq: seq, Number: uint64(100*i + j + 10), Time: now, Kind: k, Device: phone})
		}
		b.Finish = append(b.Finish, delivery.Finish{Key: delivery.Key{Seq: seq, Device: phone}, At: now})
		e.Acceptances = append(e.Acceptances, Acceptance{ID: id, Account: "a", Link: "b/1", Place: i + 1})
		c.acking(c.got(Copy{ID: id, PacketID: uint16(i + 1)}))
	}
	if err := store.Apply(b); err != nil {
		t.Fatal(err)
	}
	return store, e
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
			e.Kills = 1 // which excuses the count, not the flag
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true})
		}, counts{duplicates: 1}},
		{"a duplicate that no event tells of", func(_ *Evidence, c *Connection) {
			c.got(Copy{ID: "n2", PacketID: 9, Acked: true, Redelivery: true})
		}, counts{duplicates: 1}},
		{"two that changed places", func(_ *Evidence, c *Connection) {
			c.copies[0], c.copies[1] = c.copies[1], c.copies[0]
		}, counts{disorder: 1}},
		{"accepted in another order than asked for", func(e *Evidence, _ *Connection) {
			e.Acceptances[0].Place, e.Acceptances[1].Place = 2, 1
			e.Acceptances[0], e.Acceptances[1] = e.Acceptances[1], e.Acceptances[0]
		}, counts{disorder: 1}},
		{"a second push", func(e *Evidence, _ *Connection) {
			e.Pushes = append(e.Pushes, apnssim.Received{Token: "aa", CollapseID: "n2", APNsID: "y", Status: 200})
		}, counts{pushes: 1}},
		{"a second push whose answer was lost", func(e *Evidence, _ *Connection) {
			e.Pushes = append(e.Pushes, apnssim.Received{Token: "aa", CollapseID: "n2", APNsID: "y", Action: apnssim.ActionDrop})
		}, counts{pushes: 1}},
		{"the same push again", func(e *Evidence, _ *Connection) {
			e.Pushes = append(e.Pushes, apnssim.Received{Token: "aa", CollapseID: "n2", APNsID: "x", Status: 200})
		}, counts{}},
		{"more packets than the Receive Maximum", func(_ *Evidence, c *Connection) { c.most = 3 }, counts{other: 1}},
		{"a packet identifier in use", func(_ *Evidence, c *Connection) {
			c.open[3] = 2
			c.copies = c.copies[:2]
			c.acking(c.got(Copy{ID: "n3", PacketID: 3}))
		}, counts{other: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store, e := story(t)
			tt.doctor(e, e.Connections[0])
			r, err := Check(store, *e)
			if err != nil {
				t.Fatal(err)
			}
			if got := (counts{r.Unaccounted, r.Duplicates, r.Disorder, r.Pushes, r.Other}); got != tt.want {
				t.Errorf("found %+v, want %+v: %q", got, tt.want, r.Problems)
			}
		})
	}
}

// TestCheckerCatchesAnUnlistedDelivery: a store that has forgotten a Record.
func TestCheckerCatchesAnUnlistedDelivery(t *testing.T) {
	store, e := story(t)
	r, err := Check(forgetful{store}, *e)
	if err != nil {
		t.Fatal(err)
	}
	if r.Unaccounted == 0 {
		t.Error("deliveries that are neither final nor listed were not noticed")
	}
}

// forgetful is a store whose timelines have lost their ends.
type forgetful struct{ Store }

func (f forgetful) Timeline(seq delivery.Seq) ([]delivery.Event, error) {
	events, err := f.Store.Timeline(seq)
	return events[:len(events)-1], err
}
