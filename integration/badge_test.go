package integration

import (
	"encoding/json"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestBadgeAuto: the server counts, in every copy, across a kill -9.
func TestBadgeAuto(t *testing.T) {
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "tablet", deviceToken(1))
	events := s.events("?account=alice")
	phone := s.dismissing("phone")
	badge := func(c *rawmqtt.Client) (int, packets.Packet) {
		t.Helper()
		pk := next(t, c)
		var p wire.Pseudo
		if err := json.Unmarshal(pk.Payload, &p); err != nil || p.Badge == nil {
			t.Fatalf("got %+v (%s), want a badge", pk, pk.Payload)
		}
		if err := c.Puback(pk.PacketID); err != nil {
			t.Fatal(err)
		}
		return *p.Badge, pk
	}
	for i, id := range []string{"one", "two"} {
		s.notify(`{"id":"` + id + `","account":"alice","title":"Hello","badge":"auto"}`)
		if got, _ := badge(phone); got != i+1 {
			t.Errorf("%s: badge %d, want %d", id, got, i+1)
		}
		events.until("pushed", id)
	}
	var pushed []int
	for _, r := range sim.ReceivedFor(deviceToken(1)) {
		var body struct {
			APS struct {
				Badge int `json:"badge"`
			} `json:"aps"`
		}
		if err := json.Unmarshal(r.Payload, &body); err != nil {
			t.Fatal(err)
		}
		pushed = append(pushed, body.APS.Badge)
	}
	if len(pushed) != 2 || pushed[0] != 1 || pushed[1] != 2 {
		t.Errorf("Apple got the badges %v, want 1 and 2", pushed)
	}
	s.kill()
	s.start()
	phone = s.dismissing("phone")
	tablet := s.dismissing("tablet")
	for range 2 { // what the push has brought comes over the channel, too
		if got, _ := badge(tablet); got != 2 {
			t.Errorf("on the tablet: badge %d, want 2", got)
		}
	}
	if err := tablet.Publish(7, 1, "heartline/devices/tablet/acks", []byte(`{"id":"one","status":"read"}`)); err != nil {
		t.Fatal(err)
	}
	pk := next(t, phone)
	for pk.TopicName == "heartline/devices/phone/notifications" { // an ack that the kill has lost: again
		if err := phone.Puback(pk.PacketID); err != nil {
			t.Fatal(err)
		}
		pk = next(t, phone)
	}
	if got := string(pk.Payload); got != `{"id":"one","badge":1}` {
		t.Errorf("the dismissal is %s", got)
	}
	s.notify(`{"id":"three","account":"alice","title":"Hello","badge":"auto"}`)
	if got, _ := badge(phone); got != 2 {
		t.Errorf("three: badge %d, want 2", got)
	}
}
