package hooks

import (
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// ordinaryConn is a connection on a server that is not served.
func ordinaryConn() *conn {
	server := mqtt.New(nil)
	h := &Hook{server: server, topics: topics{"heartline"}}
	c := &conn{hook: h, client: server.NewClient(nil, "t", "phone", false)}
	c.client.Properties.ProtocolVersion = 5
	c.flow.moved = make(chan struct{}, 1)
	h.conns.Store(c.client, c)
	return c
}

func packet(kind byte, id uint16, qos byte) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: kind, Qos: qos}, PacketID: id, TopicName: "a"}
}

// received is what mochi makes of a packet from the client.
func received(c *conn, pk packets.Packet) packets.Packet {
	c.read(&pk)
	return pk
}

// TestPacketIDsApart: a packet of the client under an identifier that the server
// uses is given to mochi under another, and answered under its own; with QoS 2
// until PUBCOMP, over a reconnect, too.
func TestPacketIDsApart(t *testing.T) {
	c := ordinaryConn()
	c.client.State.Inflight.Set(packet(packets.Publish, 1, 1))
	for kind, answer := range map[byte]byte{packets.Publish: packets.Puback, packets.Subscribe: packets.Suback, packets.Unsubscribe: packets.Unsuback} {
		pk := received(c, packet(kind, 1, 1))
		if pk.PacketID == 1 {
			t.Errorf("type %d: mochi sees the identifier of what is in flight", kind)
		}
		if out := c.hook.OnPacketEncode(c.client, packet(answer, pk.PacketID, 0)); out.PacketID != 1 {
			t.Errorf("type %d: answered under %d", answer, out.PacketID)
		}
	}
	if len(c.ids.toServer) != 0 || len(c.ids.toClient) != 0 {
		t.Errorf("left behind: %v", c.ids.toServer)
	}

	alias := received(c, packet(packets.Publish, 1, 2)).PacketID
	c.client.State.Inflight.Set(packet(packets.Pubrec, alias, 0)) // as mochi does
	if out := c.hook.OnPacketEncode(c.client, packet(packets.Pubrec, alias, 0)); out.PacketID != 1 {
		t.Errorf("PUBREC under %d", out.PacketID)
	}
	next := ordinaryConn()
	next.client.State.Inflight = c.client.State.Inflight.Clone()
	next.resume(c.client)
	if got := received(next, packet(packets.Pubrel, 1, 1)).PacketID; got != alias {
		t.Errorf("PUBREL over the next connection is for %d, want %d", got, alias)
	}
	if out := next.hook.OnPacketEncode(next.client, packet(packets.Pubcomp, alias, 0)); out.PacketID != 1 {
		t.Errorf("PUBCOMP under %d", out.PacketID)
	}
	if got := received(next, packet(packets.Publish, 2, 1)).PacketID; got != 2 {
		t.Errorf("2 is free, and became %d", got)
	}
}

func TestQuirks(t *testing.T) {
	pk := packets.Packet{ProtocolVersion: 4, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), WillFlag: true, WillTopic: "w", UsernameFlag: true, Username: []byte("u"), PasswordFlag: true,
	}}
	if pk.ConnectValidate() == packets.CodeSuccess {
		t.Error("mochi takes an empty will and an empty password by now: the quirk can go")
	}
	if readConnect(&pk); pk.ConnectValidate() != packets.CodeSuccess || !pk.Ignore {
		t.Errorf("refused: %v", pk.ConnectValidate())
	}

	c := ordinaryConn()
	sys := packet(packets.Publish, 5, 1)
	sys.TopicName = "$SYS/x"
	if got := received(c, sys).TopicName; !mqtt.IsValidFilter(got, true) || !c.hook.topics.within(got) {
		t.Errorf("a publish to $SYS becomes %q", got)
	}
	rec := packet(packets.Pubrec, 9, 0)
	rec.ReasonCode = packets.ErrUnspecifiedError.Code
	if got := received(c, rec); got.FixedHeader.Type != packets.Puback || got.PacketID != 0 {
		t.Errorf("PUBREC with an error for nothing: %+v", got.FixedHeader)
	}
	ack := packet(packets.Suback, 3, 0)
	ack.Properties.User = []packets.UserProperty{{Key: "k", Val: "v"}}
	if got := c.hook.OnPacketEncode(c.client, ack); got.Properties.User != nil {
		t.Error("user properties are echoed")
	}
}

// TestFlowWaits: the publisher waits for the channel and goes on when it moves;
// a count that is wrong costs it a moment, once.
func TestFlowWaits(t *testing.T) {
	f := flow{moved: make(chan struct{}, 1)}
	for range 3 {
		f.admit(3)
	}
	admitted := make(chan struct{})
	go func() { f.admit(3); close(admitted) }()
	for f.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	f.wrote()
	<-admitted
	began := time.Now()
	f.admit(3)
	if took := time.Since(began); took < patience {
		t.Errorf("a full channel was waited for %v", took)
	}
	began = time.Now()
	f.admit(3)
	if took := time.Since(began); took >= patience {
		t.Errorf("the count was not put right: %v", took)
	}
}
