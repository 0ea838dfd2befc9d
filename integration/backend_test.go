package integration

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestAnswersInOrder: a publish that is refused at once does not overtake one that
// waits for the disk [MQTT-4.6.0-2].
func TestAnswersInOrder(t *testing.T) {
	s := serve(t)
	s.register("alice", "phone", "")
	c, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Connect(rawmqtt.Connect{ID: "backend", Username: "shop", Keepalive: 60, Clean: true}); err != nil {
		t.Fatal(err)
	}
	const n = 300
	for i := range n {
		payload := []byte(fmt.Sprintf(`{"title":"number %d"}`, i))
		switch i % 3 {
		case 1:
			payload = []byte(`{"title":`)
		case 2:
			payload = []byte(`{"title":"the same","id":"again"}`)
		}
		if err := c.Publish(uint16(i+1), 1, "heartline/accounts/alice/notifications", payload); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		pk, err := c.Read(patience)
		if err != nil || pk.FixedHeader.Type != packets.Puback || int(pk.PacketID) != i+1 {
			t.Fatalf("got a packet of type %d with identifier %d, %v; want the PUBACK of %d", pk.FixedHeader.Type, pk.PacketID, err, i+1)
		}
		if refused := pk.ReasonCode >= 0x80; refused != (i%3 == 1) {
			t.Errorf("PUBACK %d: reason code 0x%02x %s", i+1, pk.ReasonCode, pk.Properties.ReasonString)
		}
	}
	s.stop()
}
