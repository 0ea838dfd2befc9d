package hooks_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

const toAnna = "heartline/accounts/anna/notifications"

func TestIngress(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		phone := s.device(version, rawmqtt.Connect{ID: "phone", Username: "anna"})
		backend := s.connect(version, rawmqtt.Connect{ID: "backend"})
		for i := range uint16(200) { // all waiting for the disk at once
			must(t, backend.Publish(i+1, 1, toAnna, []byte(fmt.Sprintf(`{"title":"t","id":"%d"}`, i))))
		}
		for i := range uint16(200) { // [MQTT-4.6.0-2] in the order of the publishes
			if pk := next(t, backend); pk.FixedHeader.Type != packets.Puback || pk.PacketID != i+1 || pk.ReasonCode != 0 {
				t.Fatalf("version %d: answer %d is %+v", version, i, pk)
			}
		}
		for i := range 200 {
			pk := next(t, phone)
			if got := pseudo(t, pk).ID; got != fmt.Sprint(i) {
				t.Fatalf("version %d: number %d is %s", version, i, got)
			}
			must(t, phone.Puback(pk.PacketID))
		}
	}
}

func TestIngressAtQoS2(t *testing.T) {
	s := newSite(t)
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	backend := s.connect(5, rawmqtt.Connect{ID: "backend"})
	for range 2 { // the second is the same publish again
		must(t, backend.Publish(9, 2, toAnna, []byte(`{"title":"t"}`)))
		if pk := next(t, backend); pk.FixedHeader.Type != packets.Pubrec {
			t.Fatalf("got %+v, want a PUBREC", pk)
		}
	}
	must(t, backend.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 9}))
	if pk := next(t, backend); pk.FixedHeader.Type != packets.Pubcomp || pk.ReasonCode != 0 {
		t.Fatalf("got %+v, want a PUBCOMP", pk)
	}
	must(t, phone.Puback(next(t, phone).PacketID))
	must(t, phone.Ping())
	if pk := next(t, phone); pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("accepted twice: %+v", pk)
	}
}

// TestRefusedIngress publishes what would be refused again. An MQTT 5 backend gets a
// reason code and a reason; a 3.1.1 backend an acknowledgement, so that the message
// does not come again for ever, and the reason on its refusals topic.
func TestRefusedIngress(t *testing.T) {
	for name, c := range map[string]struct {
		topic, payload string
		code           packets.Code
		reason         string
	}{
		"unknown account": {"heartline/accounts/nobody/notifications", `{"title":"t"}`, packets.ErrTopicNameInvalid, "account nobody has no device"},
		"broken JSON":     {toAnna, `{"title":`, packets.ErrPayloadFormatInvalid, "JSON"},
		"unknown field":   {toAnna, `{"titel":"t"}`, packets.ErrPayloadFormatInvalid, "titel: is not a member"},
		"bad TTL":         {toAnna, `{"title":"t","ttl":"5"}`, packets.ErrPayloadFormatInvalid, "ttl: must be a duration"},
		"oversize":        {toAnna, `{"body":"` + strings.Repeat("x", 3000) + `"}`, packets.ErrPayloadFormatInvalid, "at most 2048 bytes"},
		"nothing":         {toAnna, `{}`, packets.ErrPayloadFormatInvalid, "title, body or data must be given"},
		"two values":      {toAnna, `{"title":"t"}{}`, packets.ErrPayloadFormatInvalid, "more than one value"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
			backend := s.connect(5, rawmqtt.Connect{ID: "backend"})
			must(t, backend.Publish(1, 1, c.topic, []byte(c.payload)))
			if pk := next(t, backend); pk.ReasonCode != c.code.Code || !strings.Contains(pk.Properties.ReasonString, c.reason) {
				t.Errorf("PUBACK 0x%02x %q, want 0x%02x %q", pk.ReasonCode, pk.Properties.ReasonString, c.code.Code, c.reason)
			}
			must(t, backend.Ping()) // it goes on
			next(t, backend)

			old := s.connect(4, rawmqtt.Connect{ID: "old"})
			refusals := "heartline/clients/old/refusals"
			_, err := old.Subscribe(1, 0, refusals)
			must(t, err)
			must(t, old.Publish(1, 1, c.topic, []byte(c.payload)))
			var told wire.Refusal
			for range 2 {
				switch pk := next(t, old); pk.FixedHeader.Type {
				case packets.Puback:
				case packets.Publish:
					if pk.TopicName != refusals || pk.FixedHeader.Qos != 0 {
						t.Errorf("PUBLISH %+v", pk)
					}
					must(t, json.Unmarshal(pk.Payload, &told))
				default:
					t.Errorf("got %+v", pk)
				}
			}
			if told.Topic != c.topic || told.Status/100 != 4 || told.Code == "" || !strings.Contains(told.Detail, c.reason) || strings.Contains(told.Detail, "\n") {
				t.Errorf("told %+v", told)
			}
			must(t, old.Publish(2, 1, toAnna, []byte(`{"title":"behind it"}`))) // gets out
			if pk := next(t, old); pk.FixedHeader.Type != packets.Puback || pk.PacketID != 2 {
				t.Errorf("got %+v, want PUBACK 2", pk)
			}
		})
	}
}

// What a device may not publish: refused with a reason in MQTT 5; in MQTT 3.1.1
// acknowledged and counted, as tearing its channel down would cost more.
func TestRefusedFromADevice(t *testing.T) {
	for name, c := range map[string]struct {
		topic, payload string
		code           packets.Code
	}{
		"another device's acks":  {topicOf("other", "acks"), `{"id":"1","status":"displayed"}`, packets.ErrNotAuthorized},
		"an unknown ID":          {topicOf("phone", "acks"), `{"id":"1","status":"displayed"}`, packets.ErrNotAuthorized},
		"an unknown status":      {topicOf("phone", "acks"), `{"id":"1","status":"seen"}`, packets.ErrPayloadFormatInvalid},
		"an unknown app state":   {topicOf("phone", "state"), `{"app":"asleep"}`, packets.ErrPayloadFormatInvalid},
		"a token without apns":   {topicOf("phone", "push-token"), `{}`, packets.ErrPayloadFormatInvalid},
		"its own notifications":  {topicOf("phone", "notifications"), `{}`, packets.ErrNotAuthorized},
		"a topic that is no one": {"heartline/devices/phone/other", `{}`, packets.ErrTopicNameInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			for _, version := range []byte{4, 5} {
				s := newSite(t)
				phone := s.device(version, rawmqtt.Connect{ID: "phone", Username: "anna"})
				must(t, phone.Publish(1, 1, c.topic, []byte(c.payload)))
				code := c.code.Code
				if version == 4 {
					code = 0
				}
				if pk := next(t, phone); pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != code {
					t.Errorf("version %d: got %+v, want PUBACK 0x%02x", version, pk, code)
				}
				if n := s.hook.Counters.Refused.Load(); n != 1 {
					t.Errorf("version %d: %d refusals counted, want 1", version, n)
				}
			}
		})
	}
}

// TestRefusedAckNamesTheNotification: a device that acknowledges many hears which ack was
// refused, and why.
func TestRefusedAckNamesTheNotification(t *testing.T) {
	for _, payload := range []string{`{"id":"7","status":"displayed"}`, `{"id":"7","status":"seen"}`} {
		s := newSite(t)
		phone := s.device(4, rawmqtt.Connect{ID: "phone", Username: "anna"})
		_, err := phone.Subscribe(2, 0, "heartline/clients/phone/refusals")
		must(t, err)
		must(t, phone.Publish(1, 1, topicOf("phone", "acks"), []byte(payload)))
		var told wire.Refusal
		for told.Topic == "" {
			if pk := next(t, phone); pk.FixedHeader.Type == packets.Publish {
				must(t, json.Unmarshal(pk.Payload, &told))
			}
		}
		if told.ID != "7" || told.Detail == "" || told.Code == "" || strings.Count(told.Detail, "notification") > 2 {
			t.Errorf("%s: told %+v", payload, told)
		}
	}
}

func TestNothingBelowThePrefixIsFannedOut(t *testing.T) {
	s := newSite(t)
	watcher := s.connect(5, rawmqtt.Connect{ID: "watcher"})
	if _, err := watcher.Subscribe(1, 1, "#"); err != nil {
		t.Fatal(err)
	}
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	must(t, phone.Publish(1, 1, topicOf("phone", "state"), []byte(`{"app":"foreground"}`)))
	must(t, phone.Publish(2, 1, topicOf("phone", "push-token"), []byte(`{"apns":{"token":"AB"}}`)))
	s.notify(delivery.Request{Account: "anna"})
	must(t, phone.Publish(3, 0, "ordinary", nil))
	for {
		pk := next(t, watcher)
		if strings.HasPrefix(pk.TopicName, "$SYS") {
			continue
		}
		if pk.TopicName != "ordinary" {
			t.Errorf("%s was fanned out", pk.TopicName)
		}
		break
	}
	d, err := s.core.Device("anna", "phone")
	must(t, err)
	if d.App != delivery.AppForeground || len(d.Registrations) != 1 || d.Registrations[0].Token != "ab" {
		t.Errorf("device %+v", d)
	}
}

func TestMessageTopic(t *testing.T) {
	s := newSite(t)
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	if _, err := phone.Subscribe(2, 1, topicOf("phone", "messages")); err != nil {
		t.Fatal(err)
	}
	events := s.subscribe()
	data := `{"x":"` + strings.Repeat("y", 200<<10) + `"}`
	n := s.notify(delivery.Request{Account: "anna", Data: []byte(data)})
	pk := next(t, phone)
	if p := pseudo(t, pk); !p.HasMessage || len(pk.Payload) > 1000 {
		t.Errorf("pseudo-notification %+v of %d bytes", p, len(pk.Payload))
	}
	must(t, phone.Puback(pk.PacketID))
	pk = next(t, phone)
	if pk.TopicName != topicOf("phone", "messages") || !strings.Contains(string(pk.Payload), data) || !strings.Contains(string(pk.Payload), n.ID) {
		t.Errorf("message on %s of %d bytes", pk.TopicName, len(pk.Payload))
	}
	must(t, phone.Puback(pk.PacketID))
	s.until(events, delivery.EventMessageReceived)
}
