package hooks

import (
	"errors"
	"net"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// stand-in for a will's payload of no bytes.
const emptyWill = "\x00"

// readConnect has mochi take what MQTT allows and its check refuses: a will with
// an empty payload, and an empty password.
func readConnect(pk *packets.Packet) {
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		pk.Connect.WillPayload = []byte(emptyWill)
		pk.Ignore = true // without a meaning on a CONNECT: OnConnect takes the payload back
	}
	if pk.Connect.PasswordFlag && len(pk.Connect.Password) == 0 {
		pk.Connect.PasswordFlag = false
	}
}

// read changes a packet into one that mochi answers as MQTT has it.
func (c *conn) read(pk *packets.Packet) {
	c.stillThere()
	c.inbound(pk)
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.TopicName != "" && !mqtt.IsValidFilter(pk.TopicName, true) {
			// $SYS and $share: mochi drops it without an answer, and the client's
			// window is one less for ever. OnPublish refuses this one.
			pk.TopicName = c.hook.topics.prefix + "/$"
		}
	case packets.Pubrec:
		if pk.ReasonCode >= packets.ErrUnspecifiedError.Code && inFlightType(c.client, pk.PacketID) == 0 {
			// It ends an exchange that is over; a PUBREL, which mochi answers, is
			// for a PUBREC without an error [MQTT-4.3.3-4].
			pk.FixedHeader.Type, pk.PacketID = packets.Puback, 0
		}
	}
}

// OnPacketEncode has the last word on what mochi writes. Packets are large and mochi
// hands them on by value, several to a stack: here they go by pointer, so that the
// stack of an idle connection stays below 16 KiB.
func (h *Hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	h.encode(cl, &pk)
	return pk
}

func (h *Hook) encode(cl *mqtt.Client, pk *packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		c := h.conn(cl)
		switch {
		case c == nil:
		case c.leftOut(pk):
			hold(pk)
		case pk.ProtocolVersion == 5:
			c.ordinary(pk)
		}
		return
	case packets.Connack:
		if cl.Properties.ProtocolVersion == 5 && pk.ReasonCode == packets.CodeSuccess.Code {
			announce(&pk.Properties, h.server.Options.Capabilities)
		}
		return
	case packets.Suback, packets.Unsuback:
		pk.Properties.User = nil // they were the client's
		if c := h.conn(cl); c != nil {
			if reason := c.refusedSub.Swap(nil); reason != nil {
				pk.Properties.ReasonString = *reason
			}
		}
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		pk.Properties.User = nil
		if pk.FixedHeader.Type == packets.Pubrec {
			if pk.ReasonCode == packets.ErrPacketIdentifierInUse.Code {
				pk.ReasonCode = packets.CodeSuccess.Code // a repeated PUBLISH is no mistake [MQTT-4.3.3-10]
			}
			if pk.Connect.Keepalive != 0 { // sent again; see outbound
				pk.PacketID = pk.Connect.Keepalive
				return
			}
		}
		if pk.ReasonCode < packets.ErrUnspecifiedError.Code {
			pk.Properties.ReasonString = ""
		}
	default:
		return
	}
	if c := h.conn(cl); c != nil {
		if pk.FixedHeader.Type == packets.Pubrel && c.leftOut(pk) {
			hold(pk)
			return
		}
		c.outbound(pk)
	}
}

// ordinary is the last that is done to an ordinary message for an MQTT 5 client.
func (c *conn) ordinary(pk *packets.Packet) {
	switch {
	case pk.FixedHeader.Qos == 0:
	case tooLarge(c.client, pk): // mochi does not write it, and would try so at each connection
		c.discard(pk.PacketID)
		c.flow.wrote()
		return
	case c.window != nil && !c.admit(pk):
		c.flow.wrote()
		hold(pk)
		return
	}
	c.aliases.shorten(c, pk)
}

// announce says in the CONNACK what the server can and mochi keeps to itself.
func announce(p *packets.Properties, c *mqtt.Capabilities) {
	p.MaximumPacketSize = c.MaximumPacketSize // §3.2.2.3.6; 0 is not encoded
	p.TopicAliasMaximum = c.TopicAliasMaximum // §3.2.2.3.8; without it a client may use none
	if c.RetainAvailable == 0 {
		p.RetainAvailableFlag, p.RetainAvailable = true, 0 // §3.2.2.3.5
	}
	if c.WildcardSubAvailable == 0 {
		p.WildcardSubAvailableFlag, p.WildcardSubAvailable = true, 0 // §3.2.2.3.11
	}
	if c.SubIDAvailable == 0 {
		p.SubIDAvailableFlag, p.SubIDAvailable = true, 0 // §3.2.2.3.12
	}
	if c.SharedSubAvailable == 0 {
		p.SharedSubAvailableFlag, p.SharedSubAvailable = true, 0 // §3.2.2.3.13
	}
}

var errPanic = errors.New("a fault of the server ended the connection")

// Lost forgets the client of a connection that ended without mochi's OnDisconnect:
// in a panic that a listener has recovered.
func (h *Hook) Lost(nc net.Conn) {
	nc = unwrapped(nc)
	h.conns.Range(func(key, _ any) bool {
		cl := key.(*mqtt.Client)
		if unwrapped(cl.Net.Conn) != nc {
			return true
		}
		cl.Stop(errPanic)
		h.OnDisconnect(cl, errPanic, false)
		return false
	})
}
