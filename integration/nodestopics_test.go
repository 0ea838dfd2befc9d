package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// plain is an ordinary MQTT 5 client of the test's own.
type plain struct {
	*rawmqtt.Client
	t       *testing.T
	present bool
}

func connectPlain(t *testing.T, s *server, c rawmqtt.Connect) *plain {
	t.Helper()
	client, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	c.Keepalive = 60
	ack, err := client.Connect(c)
	if err != nil || ack.ReasonCode != 0 {
		t.Fatalf("%s connects: %+v, error %v", c.ID, ack, err)
	}
	return &plain{client, t, ack.SessionPresent}
}

func (c *plain) subscribe(qos byte, filters ...string) {
	c.t.Helper()
	if codes, err := c.Subscribe(1, qos, filters...); err != nil || codes[0] != qos {
		c.t.Fatalf("subscribe: %v, error %v", codes, err)
	}
}

func (c *plain) publish(topicName, payload string, qos byte, retain bool) {
	c.t.Helper()
	err := c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Retain: retain}, PacketID: 7, TopicName: topicName, Payload: []byte(payload),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for qos > 0 {
		switch pk, err := c.Read(patience); {
		case err != nil:
			c.t.Fatal(err)
		case pk.FixedHeader.Type == packets.Pubrec:
			if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 7}); err != nil {
				c.t.Fatal(err)
			}
		case pk.FixedHeader.Type == packets.Puback || pk.FixedHeader.Type == packets.Pubcomp:
			if pk.ReasonCode >= 0x80 {
				c.t.Fatalf("publish to %s: 0x%02x", topicName, pk.ReasonCode)
			}
			return
		}
	}
}

// next returns the topic and the payload of the next message, acknowledged.
func (c *plain) next() string {
	c.t.Helper()
	for {
		pk, err := c.Read(patience)
		if err != nil {
			c.t.Fatal(err)
		}
		switch {
		case pk.FixedHeader.Type != packets.Publish:
			continue
		case pk.FixedHeader.Qos == 1:
			err = c.Puback(pk.PacketID)
		case pk.FixedHeader.Qos == 2:
			err = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: pk.PacketID})
		}
		if err != nil {
			c.t.Fatal(err)
		}
		return fmt.Sprintf("%s=%s", pk.TopicName, pk.Payload)
	}
}

// TestTopicsOfTwoNodes: ordinary messages reach subscribers at the other node once and in their
// order, retained ones are at both and survive either, and a client has one connection and one
// session, wherever it connects.
func TestTopicsOfTwoNodes(t *testing.T) {
	_, onPostgres := database(t)
	a, b := twoNodes(t, onPostgres)

	reader := connectPlain(t, b, rawmqtt.Connect{ID: "reader", Clean: true})
	reader.subscribe(2, "house/+/temperature", "house/#", "$share/team/house/#")
	other := connectPlain(t, b, rawmqtt.Connect{ID: "other", Clean: true})
	other.subscribe(2, "house/kitchen/temperature", "ready")
	writer := connectPlain(t, a, rawmqtt.Connect{ID: "writer", Clean: true})
	for heard := make(chan struct{}); heard != nil; { // the filters are known at the other node some time after the SUBACK
		writer.publish("ready", "?", 0, false)
		if pk, err := other.Read(50 * time.Millisecond); err == nil && pk.TopicName == "ready" {
			heard = nil
		}
	}
	for i := range 300 {
		writer.publish("house/kitchen/temperature", fmt.Sprint(i), byte(i%3), false)
	}
	for i := range 300 {
		want := fmt.Sprint("house/kitchen/temperature=", i)
		for copies := range 2 { // one of its own subscriptions, one of the group
			if got := reader.next(); got != want {
				t.Fatalf("the reader got %s, want %s for the time %d", got, want, copies+1)
			}
		}
		got := other.next()
		for strings.HasPrefix(got, "ready") {
			got = other.next()
		}
		if got != want {
			t.Fatalf("the other got %s, want %s", got, want)
		}
	}

	// Retained messages: set at one node and removed at the other.
	writer.publish("lamp", "on", 1, true)
	writer.publish("door", "open", 1, true)
	// A connection for each attempt: what the one before was sent does not come before its SUBACK.
	await(t, "the retained message at the other node", func() bool {
		late := connectPlain(t, b, rawmqtt.Connect{ID: "late", Clean: true})
		defer late.Close()
		late.subscribe(0, "lamp")
		pk, err := late.Read(100 * time.Millisecond)
		return err == nil && pk.FixedHeader.Type == packets.Publish && string(pk.Payload) == "on" && pk.FixedHeader.Retain
	})
	connectPlain(t, b, rawmqtt.Connect{ID: "remover", Clean: true}).publish("lamp", "", 1, true)
	a.kill()
	a.start()
	await(t, "both nodes", func() bool { return bothOwn(t, onPostgres) })
	await(t, "the retained message at a node that has started again", func() bool {
		again := connectPlain(t, a, rawmqtt.Connect{ID: "again", Clean: true})
		defer again.Close()
		again.subscribe(0, "lamp", "door")
		pk, err := again.Read(100 * time.Millisecond)
		if err == nil && pk.TopicName == "lamp" {
			t.Fatal("a removed message is back")
		}
		return err == nil && pk.TopicName == "door" && string(pk.Payload) == "open"
	})

	// A client that goes from node to node.
	roaming := rawmqtt.Connect{ID: "roaming", SessionExpiry: 3600, WillTopic: "wills", WillPayload: "gone"}
	again := connectPlain(t, a, rawmqtt.Connect{ID: "again", Clean: true})
	first := connectPlain(t, a, roaming)
	first.subscribe(1, "mail/#")
	for i := range 5 { // none is acknowledged
		again.publish(fmt.Sprint("mail/", i), "", 1, false)
	}
	second := connectPlain(t, b, roaming)
	if !second.present {
		t.Error("the session is not at the other node")
	}
	for i := range 5 {
		if got, want := second.next(), fmt.Sprintf("mail/%d=", i); got != want {
			t.Errorf("at the other node came %s, want %s", got, want)
		}
	}
	for {
		pk, err := first.Read(patience)
		if err != nil {
			t.Errorf("the former connection ended without a reason: %v", err)
			break
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			if pk.ReasonCode != packets.ErrSessionTakenOver.Code {
				t.Errorf("the former connection ended with 0x%02x", pk.ReasonCode)
			}
			break
		}
	}
	second.Close()
	await(t, "the session as it goes back", func() bool {
		again.publish("mail/late", "", 1, false) // it is lost if it comes while the session moves
		third := connectPlain(t, a, roaming)
		defer third.Close()
		for third.present {
			pk, err := third.Read(time.Second)
			if err != nil {
				return false
			}
			if pk.FixedHeader.Type == packets.Publish && third.Puback(pk.PacketID) == nil && pk.TopicName == "mail/late" {
				return true // before it those may come whose acks the connection that ended took along
			}
		}
		t.Fatal("the session is lost")
		return false
	})
	fresh := roaming
	fresh.Clean, fresh.SessionExpiry = true, 0
	if connectPlain(t, b, fresh).present || connectPlain(t, a, roaming).present {
		t.Error("a session has outlived a clean start at another node")
	}
	if _, figures := b.call(http.MethodGet, "/metrics", ""); !strings.Contains(string(figures), "\nheartline_cluster_messages_dropped_total 0\n") {
		t.Error("messages between the nodes were dropped, or nobody counts")
	}
	b.stop()
	a.stop()
}
