package ordinary

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestExpiredMakeRoom: messages that have expired take no place in the session of a client
// that is away, or that does not read. Messages that the client may have already stay.
func TestExpiredMakeRoom(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{true, false} {
		h, c := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 4}}})
		most := 4
		s, link := join(h, "c", keptFor(100))
		subscribeTo(t, h, s, link, "#", 1)
		publish := func(topicName string, after int64) {
			t.Helper()
			m := &Message{TopicName: topicName, QoS: 1, Payload: []byte("x")}
			if after > 0 {
				m.Expiry = c.now.Unix() + after
			}
			if _, err := h.Publish(m); err != nil {
				t.Fatal(err)
			}
		}
		publish("sent", 10)
		filled(s, link)
		if away {
			h.Disconnect(s, link, Bye{Kept: true, Expiry: 100})
		} else {
			most *= readerFactor
		}
		publish("lasting", 0)
		for range most - 2 {
			publish("brief", 10)
		}
		publish("over", 0)
		if n := h.Stats().Dropped; n != 1 {
			t.Errorf("away %v: %d dropped, want the one over the budget", away, n)
		}
		c.now = c.now.Add(10 * time.Second)
		publish("new", 0)
		if n := h.Stats().Dropped; n != 1 {
			t.Errorf("away %v: %d dropped, though messages before have expired", away, n)
		}
		if away {
			s, link = join(h, "c", keptFor(100), func(a *Arrival) { a.Clean = false })
		}
		got := filled(s, link)
		for topicName, want := range map[string]bool{"sent": away, "lasting": true, "brief": false, "new": true} {
			if strings.Contains(got, topicName) != want {
				t.Errorf("away %v: %s came: %v", away, topicName, !want)
			}
		}
	}
}

// TestIdentifiersAfterImport: the messages to a client that comes back after a restart do
// not get the packet identifiers that it had first.
func TestIdentifiersAfterImport(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	first := 0
	const sessions = 20
	for i := range sessions {
		id := fmt.Sprint(i)
		h.Import(State{
			Header:        Header{ID: id, Account: id, Version: 5, Expiry: 100, Gone: h.opts.Now().Unix()},
			Subscriptions: map[string]Subscription{id: {QoS: 1}},
		})
		publishTo(t, h, id, 1)
		st, _ := h.Export(id)
		if len(st.Outgoing) != 1 {
			t.Fatalf("%+v", st)
		}
		if st.Outgoing[0].PacketID == firstOrdinaryID {
			first++
		}
	}
	if first == sessions {
		t.Error("each session begins with the first identifier again")
	}
}

// TestOrderAfterTheClockIsSetBack: messages queued after a start follow those that a store has
// kept, also where the clock was ahead when those were queued. A store sorts by Order.
func TestOrderAfterTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	const id = "c"
	h, c := hubAt(Options{})
	kept := uint64(c.now.Add(24 * time.Hour).UnixNano())
	h.Import(State{
		Header:        Header{ID: id, Account: id, Version: 5, Expiry: 1000, Gone: c.now.Unix()},
		Subscriptions: map[string]Subscription{"t/#": {QoS: 1}},
		Outgoing:      []Outgoing{{PacketID: 7, Order: kept, QoS: 1, Message: &Message{TopicName: "t/before", QoS: 1}}},
	})
	publishTo(t, h, "t/after", 1)
	st, ok := h.Export(id)
	if !ok || len(st.Outgoing) != 2 || st.Outgoing[0].Message.TopicName != "t/before" {
		t.Errorf("exported %v, %+v", ok, st.Outgoing)
	}
}
