package hooks

import (
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// packetIDs keeps the client's packet identifiers apart from the server's. They
// are two spaces [MQTT-2.2.1-4], and mochi has one map for both: a publish of the
// client deletes what is in flight to it under the same identifier, and a
// SUBSCRIBE is refused (0x91). So where the client uses an identifier that is
// taken the other way, mochi is given another in its place.
type packetIDs struct {
	mu       sync.Mutex
	toServer map[uint16]uint16 // nil until there is a conflict
	toClient map[uint16]uint16
	last     uint16
}

// inbound gives mochi a packet of the client under an identifier that is free.
func (c *conn) inbound(pk *packets.Packet) {
	var unlessHeld byte // the kind of entry that this very flow may have left
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.FixedHeader.Qos == 0 {
			return
		}
		unlessHeld = packets.Pubrec
	case packets.Pubrel:
		unlessHeld = packets.Pubrec
	case packets.Subscribe, packets.Unsubscribe:
	default:
		return
	}
	c.rename(pk, unlessHeld)
}

// rename gives pk another identifier if its own is taken by anything but unlessHeld.
func (c *conn) rename(pk *packets.Packet, unlessHeld byte) {
	ids := &c.ids
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if alias, ok := ids.toServer[pk.PacketID]; ok {
		pk.PacketID = alias
		return
	}
	held, ok := c.client.State.Inflight.Get(pk.PacketID)
	if !ok || held.FixedHeader.Type == unlessHeld {
		return
	}
	if pk.FixedHeader.Type != packets.Publish && pk.FixedHeader.Type != packets.Pubrel && held.FixedHeader.Type == packets.Pubrec {
		return // the client's own: MQTT 5 §3.9.3 has 0x91 for it
	}
	for range firstID - 1 { // far from where mochi counts up
		if ids.last--; ids.last == 0 || ids.last >= firstID {
			ids.last = firstID - 1
		}
		if _, taken := c.client.State.Inflight.Get(ids.last); taken {
			continue
		}
		if _, taken := ids.toClient[ids.last]; taken {
			continue
		}
		ids.set(pk.PacketID, ids.last)
		pk.PacketID = ids.last
		return
	}
}

func (ids *packetIDs) set(client, server uint16) {
	if ids.toServer == nil {
		ids.toServer, ids.toClient = map[uint16]uint16{}, map[uint16]uint16{}
	}
	ids.toServer[client], ids.toClient[server] = server, client
}

// outbound gives an answer to such a packet the client's identifier.
func (c *conn) outbound(pk *packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Pubcomp, packets.Suback, packets.Unsuback:
		pk.PacketID = c.ids.release(pk.PacketID)
	case packets.Pubrec:
		if pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
			pk.PacketID = c.ids.release(pk.PacketID)
		} else {
			c.received(pk)
		}
	}
}

// release ends the use of an identifier and returns the client's.
func (ids *packetIDs) release(alias uint16) uint16 {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	id, ok := ids.toClient[alias]
	if !ok {
		return alias
	}
	delete(ids.toServer, id)
	delete(ids.toClient, alias)
	return id
}

// received is outbound for a PUBREC that an exchange goes on after.
func (c *conn) received(pk *packets.Packet) {
	ids := &c.ids
	ids.mu.Lock()
	defer ids.mu.Unlock()
	alias := pk.PacketID
	id, ok := ids.toClient[alias]
	if !ok {
		return
	}
	pk.PacketID = id
	// The exchange may go on over another connection: the entry tells of it.
	if held, ok := c.client.State.Inflight.Get(alias); ok && held.Connect.Keepalive != id {
		held.Connect.Keepalive = id // a field of CONNECT, and free here
		c.client.State.Inflight.Set(held)
	}
}

// resume takes up the exchanges of QoS 2 that the connection before had begun.
func (c *conn) resume(from *mqtt.Client) {
	c.ids.mu.Lock()
	defer c.ids.mu.Unlock()
	for _, pk := range from.State.Inflight.GetAll(false) {
		if pk.FixedHeader.Type == packets.Pubrec && pk.Connect.Keepalive != 0 {
			c.ids.set(pk.Connect.Keepalive, pk.PacketID)
		}
	}
}
