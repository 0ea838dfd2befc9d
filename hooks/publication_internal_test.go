package hooks

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestPublicationIsWhatMochiWrites: packet by packet, byte for byte.
func TestPublicationIsWhatMochiWrites(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 300<<10) // a Remaining Length of three bytes
	for _, p := range []publication{
		{topicName: "heartline/devices/phone/notifications", responseTopic: "heartline/devices/phone/acks", id: "n-1", expiry: 86399, packetID: 0x8001, payload: []byte("{}")},
		{topicName: "heartline/devices/phone/notifications", responseTopic: "heartline/devices/phone/acks", id: "n-1", expiry: 1, packetID: 0xFFFF, dup: true, subscriptions: []int{1, 268_435_455}, payload: []byte("{}")},
		{topicName: "heartline/devices/phone/messages", id: "n-2", expiry: 60, packetID: 0x8000, payload: long},
	} {
		for _, version := range []byte{4, 5} {
			pk := packets.Packet{
				FixedHeader:     packets.FixedHeader{Type: packets.Publish, Qos: 1, Dup: p.dup},
				ProtocolVersion: version, TopicName: p.topicName, PacketID: p.packetID, Payload: p.payload,
				Mods: packets.Mods{AllowResponseInfo: true},
				Properties: packets.Properties{
					ContentType: "application/json", PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: p.expiry,
					User: []packets.UserProperty{{Key: "heartline-id", Val: p.id}}, SubscriptionIdentifier: p.subscriptions,
				},
			}
			if p.responseTopic != "" {
				pk.Properties.ResponseTopic, pk.Properties.CorrelationData = p.responseTopic, []byte(p.id)
			}
			var want bytes.Buffer
			if err := pk.PublishEncode(&want); err != nil {
				t.Fatal(err)
			}
			if got := p.append(nil, version); !reflect.DeepEqual(got, want.Bytes()) {
				t.Errorf("version %d, %s:\n%q\n%q", version, p.topicName, clip(string(got)), clip(want.String()))
			}
		}
	}
}

// BenchmarkPublication is a notification on its way into bytes.
func BenchmarkPublication(b *testing.B) {
	n := &delivery.Notification{ID: "0195e0b0-0000-7000-8000-000000000000", Account: "anna", Title: "Anna", Body: "Dinner at eight?", AcceptedAt: time.Now()}
	var p publication
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		p.topicName, p.responseTopic, p.id = "heartline/devices/phone/notifications", "heartline/devices/phone/acks", n.ID
		p.payload = wire.AppendPseudo(p.payload[:0], n, false, false)
		buf = p.append(buf[:0], 5)
	}
}

// TestContentThatCameAlong is sent without a look at the store, and not kept if it has to wait.
func TestContentThatCameAlong(t *testing.T) {
	c := &conn{hook: &Hook{}} // without a Core to ask
	pub := delivery.Publication{
		Ref: delivery.Ref{Seq: 1, Attempt: 1}, Content: &delivery.Notification{Seq: 1, ID: "n-1", Title: "Anna", AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)},
	}
	var p publication
	if err := c.prepare(&p, pub, false); err != nil || p.id != "n-1" || !bytes.Contains(p.payload, []byte(`"Anna"`)) {
		t.Errorf("got %q with the ID %q and the error %v", p.payload, p.id, err)
	}
	if p.expiry != 3600 {
		t.Errorf("it expires after %d s, want an hour", p.expiry)
	}
	pub.ExpiresAt = time.Now().Add(time.Minute) // the wall clock was set back since it was accepted
	if err := c.prepare(&p, pub, false); err != nil || p.expiry != 60 {
		t.Errorf("it expires after %d s, want a minute; error %v", p.expiry, err)
	}
	pub.Content.TTLZero = true
	if err := c.prepare(&p, pub, false); err != nil || p.expiry != 1 {
		t.Errorf("with a TTL of 0 it expires after %d s, want a second; error %v", p.expiry, err)
	}
	if held := c.postpone(nil, &item{pub: pub}); held[0].pub.Content != nil {
		t.Error("the content of a publication that waits is kept")
	}
}
