package hooks_test

import (
	"encoding/json"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestNothingOvertakesWhatTheStoreHolds: a device comes back while the store is
// reopened. What must be read for it still comes before the messages at hand,
// and once; so does a message. The acks of its own publishes wait for neither.
func TestNothingOvertakesWhatTheStoreHolds(t *testing.T) {
	s := newSite(t)
	must(t, s.core.Register("phone", "anna"))
	first := s.notify(delivery.Request{Account: "anna", Data: json.RawMessage(`1`)})

	s.store.unreadable.Store(true)
	dev := s.connect(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	subscribe := func() {
		if _, err := dev.Subscribe(1, 1, topicOf("phone", "notifications"), topicOf("phone", "messages")); err != nil {
			t.Fatal(err)
		}
	}
	subscribe()
	second := s.notify(delivery.Request{Account: "anna"})
	must(t, dev.Unsubscribe(2, topicOf("phone", "notifications")))
	subscribe() // everything is sent again, on the same connection
	s.triedToRead(2)
	must(t, dev.Publish(3, 1, "other", nil))
	if pk := next(t, dev); pk.FixedHeader.Type != packets.Puback {
		t.Fatalf("got %+v, want the PUBACK", pk)
	}

	s.store.unreadable.Store(false)
	var acks []uint16
	for _, want := range []string{first.ID, second.ID} {
		pk := next(t, dev)
		if p := pseudo(t, pk); p.ID != want {
			t.Fatalf("got %s, want %s", p.ID, want)
		}
		acks = append(acks, pk.PacketID)
	}

	s.store.unreadable.Store(true)
	for _, id := range acks {
		must(t, dev.Puback(id))
	}
	s.triedToRead(2)
	third := s.notify(delivery.Request{Account: "anna"})
	s.triedToRead(2)
	s.store.unreadable.Store(false)
	for _, want := range [][2]string{{"messages", first.ID}, {"notifications", third.ID}} {
		pk := next(t, dev)
		if p := pseudo(t, pk); pk.TopicName != topicOf("phone", want[0]) || p.ID != want[1] {
			t.Fatalf("got %s on %s, want %s on %s", p.ID, pk.TopicName, want[1], want[0])
		}
	}
}
