package hooks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// dismissing is device with a subscription to its dismissals, too.
func (s *site) dismissing(version byte, o rawmqtt.Connect) *rawmqtt.Client {
	s.Helper()
	c := s.connect(version, o)
	if codes, err := c.Subscribe(1, 1, topicOf(o.ID, "notifications"), topicOf(o.ID, "dismissals")); err != nil || codes[0] != 1 || codes[1] != 1 {
		s.Fatalf("subscribe %s: %v %v", o.ID, codes, err)
	}
	return c
}

func wantDismissal(t *testing.T, pk packets.Packet, device, id string) {
	t.Helper()
	var d wire.Dismissal
	if pk.FixedHeader.Type == packets.Publish && pk.TopicName == topicOf(device, "dismissals") {
		must(t, json.Unmarshal(pk.Payload, &d))
	}
	if d.ID != id || pk.FixedHeader.Qos != 1 || pk.PacketID < 0x8000 {
		t.Fatalf("got %+v, want the dismissal of %s", pk, id)
	}
}

// TestReadIsDismissedElsewhere: `read` on the acks topic of one device takes the
// notification off the other's screen, in order with the notifications.
func TestReadIsDismissedElsewhere(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			s := newSite(t)
			phone := s.dismissing(version, rawmqtt.Connect{ID: "phone", Username: "anna"})
			watch := s.dismissing(version, rawmqtt.Connect{ID: "watch", Username: "anna"})
			events := s.subscribe()
			n := s.notify(delivery.Request{Account: "anna"})
			for _, c := range []*rawmqtt.Client{phone, watch} {
				must(t, c.Puback(next(t, c).PacketID))
				s.until(events, delivery.EventReceived)
			}
			must(t, phone.Publish(7, 1, topicOf("phone", "acks"), fmt.Appendf(nil, `{"id":%q,"status":"read"}`, n.ID)))
			if pk := next(t, phone); pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 {
				t.Fatalf("got %+v, want the PUBACK of read", pk)
			}
			later := s.notify(delivery.Request{Account: "anna"})
			pk := next(t, watch)
			wantDismissal(t, pk, "watch", n.ID)
			if version == 5 && (pk.Properties.ContentType != "application/json" || pk.Properties.MessageExpiryInterval != 0) {
				t.Errorf("properties %+v", pk.Properties)
			}
			if p := pseudo(t, next(t, watch)); p.ID != later.ID {
				t.Errorf("after the dismissal comes %+v", p)
			}
			if p := pseudo(t, next(t, phone)); p.ID != later.ID {
				t.Errorf("the device that has read gets %+v", p)
			}
			must(t, watch.Puback(pk.PacketID))
			if e := s.until(events, delivery.EventDismissed); e.Device != "watch" {
				t.Errorf("dismissed on %s", e.Device)
			}
		})
	}
}

// TestDismissalComesAgain: without a PUBACK it comes again, with DUP in the resumed
// session, and to a device that subscribes to its dismissals later.
func TestDismissalComesAgain(t *testing.T) {
	s := newSite(t)
	o := rawmqtt.Connect{ID: "phone", Username: "anna", SessionExpiry: 3600}
	c := s.device(5, o)
	events := s.subscribe()
	n := s.notify(delivery.Request{Account: "anna"})
	must(t, c.Puback(next(t, c).PacketID))
	s.until(events, delivery.EventReceived)
	must(t, s.core.Dismiss(context.Background(), n.ID))
	must(t, c.Ping())
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pingresp {
		t.Fatalf("got %+v without a subscription to the dismissals", pk)
	}
	must(t, c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 2,
		Properties: packets.Properties{SubscriptionIdentifier: []int{9}},
		Filters:    packets.Subscriptions{{Filter: topicOf("phone", "dismissals"), Qos: 1, Identifier: 9}},
	}))
	next(t, c) // SUBACK
	pk := next(t, c)
	wantDismissal(t, pk, "phone", n.ID)
	if ids := pk.Properties.SubscriptionIdentifier; len(ids) != 1 || ids[0] != 9 {
		t.Errorf("Subscription Identifiers %v, want 9", ids)
	}
	again := s.connect(5, o)
	pk = next(t, again)
	wantDismissal(t, pk, "phone", n.ID)
	if !pk.FixedHeader.Dup {
		t.Error("the copy in the resumed session has no DUP [MQTT-3.3.1-1]")
	}
	must(t, again.Puback(pk.PacketID))
	s.until(events, delivery.EventDismissed)
	must(t, s.core.Dismiss(context.Background(), n.ID)) // it has taken it away
	must(t, again.Ping())
	if pk := next(t, again); pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("got %+v after its PUBACK", pk)
	}
}
