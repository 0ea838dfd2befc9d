package hooks

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// What is in flight to a client carries its place in the order in the field
// ReasonCodes, which a PUBLISH and a PUBREL do not have: mochi knows the second
// alone in which a message was published, and takes what falls into one in the
// order of a Go map.
const orderBytes = 8

func (h *Hook) ordered(pk *packets.Packet) {
	pk.ReasonCodes = binary.BigEndian.AppendUint64(make([]byte, 0, orderBytes), h.order.Add(1))
}

func orderOf(pk *packets.Packet) uint64 {
	if len(pk.ReasonCodes) != orderBytes {
		return 0
	}
	return binary.BigEndian.Uint64(pk.ReasonCodes)
}

// OnQosPublish comes when mochi has put a message in flight, before it is sent,
// and again, as DUP, when it means to send it again: see leftOut.
func (h *Hook) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	if pk.FixedHeader.Type != packets.Publish || pk.FixedHeader.Dup {
		return
	}
	if cl.IsTakenOver() {
		if cl.State.Inflight.Delete(pk.PacketID) { // else mochi has dropped it: see OnQosDropped
			atomic.AddInt64(&h.server.Info.Inflight, -1)
			h.strayed(cl, pk)
		}
		return
	}
	if held, ok := cl.State.Inflight.Get(pk.PacketID); ok && orderOf(&held) == 0 {
		h.ordered(&held)
		cl.State.Inflight.Set(held)
	}
	if c := h.conn(cl); !h.keep(cl, &pk) && c != nil {
		c.shed.Store(true)
	}
}

// released gives a PUBREL its place: mochi has put it where the PUBLISH was.
func (h *Hook) released(cl *mqtt.Client, id uint16) {
	if held, ok := cl.State.Inflight.Get(id); ok && held.FixedHeader.Type == packets.Pubrel && orderOf(&held) == 0 {
		h.ordered(&held)
		cl.State.Inflight.Set(held)
	}
}

// OnQosDropped hears of all that a client had in flight which has just been taken
// over: its successor has a copy of what came before that, and not of a message
// that mochi gave to it after.
func (h *Hook) OnQosDropped(cl *mqtt.Client, pk packets.Packet) {
	h.relieve(cl, pk.PacketID)
	if !cl.IsTakenOver() {
		return
	}
	if v, ok := h.successors.Load(cl.ID); ok && !v.(*conn).inherited(pk) && pk.FixedHeader.Type == packets.Publish {
		h.strayed(cl, pk)
	}
}

// inherited reports whether pk came over with the session, and notes it for settle.
func (c *conn) inherited(pk packets.Packet) bool {
	held, ok := c.client.State.Inflight.Get(pk.PacketID)
	if !ok {
		return false
	}
	if orderOf(&held) == 0 && sameMessage(&held, &pk) { // copied just before it had its place
		if held.ReasonCodes = pk.ReasonCodes; orderOf(&held) == 0 {
			c.hook.ordered(&held)
		}
		c.client.State.Inflight.Set(held)
	} else if !bytes.Equal(held.ReasonCodes, pk.ReasonCodes) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backlog = append(c.backlog, pk.PacketID)
	return true
}

func sameMessage(a, b *packets.Packet) bool {
	return a.FixedHeader.Type == b.FixedHeader.Type && a.Created == b.Created && a.Origin == b.Origin &&
		a.TopicName == b.TopicName && bytes.Equal(a.Payload, b.Payload)
}

// strayed brings a message to the client that has the session now.
func (h *Hook) strayed(old *mqtt.Client, pk packets.Packet) {
	c := h.successor(old)
	if c == nil || !c.inherits {
		return
	}
	h.Counters.Strayed.Add(1)
	c.mu.Lock()
	ready := c.settled
	if !ready {
		c.strays = append(c.strays, pk)
	}
	c.mu.Unlock()
	if ready {
		c.adopt(pk)
	}
}

func (h *Hook) successor(old *mqtt.Client) *conn {
	if v, ok := h.successors.Load(old.ID); ok {
		return v.(*conn)
	}
	if cl, ok := h.server.Clients.Get(old.ID); ok && cl != old {
		return h.conn(cl)
	}
	return nil
}

// adopt puts a message in flight and sends it.
func (c *conn) adopt(pk packets.Packet) {
	id, err := c.client.NextPacketID()
	if err != nil {
		atomic.AddInt64(&c.hook.server.Info.InflightDropped, 1)
		return
	}
	pk.PacketID, pk.ReasonCodes = uint16(id), nil
	c.hook.ordered(&pk)
	if c.client.State.Inflight.Set(pk) {
		atomic.AddInt64(&c.hook.server.Info.Inflight, 1)
	}
	if c.hook.keep(c.client, &pk) {
		c.sendNow(pk)
	}
}

// inherit prepares the session of the client before for cl, which is about to get
// it.
func (h *Hook) inherit(cl, before *mqtt.Client) {
	c := h.conn(cl)
	if c == nil {
		return
	}
	_ = h.server.DisconnectClient(before, packets.ErrSessionTakenOver) // [MQTT-3.1.4-3]; mochi finds it done
	h.successors.Store(cl.ID, c)
	if cl.Properties.Clean {
		return
	}
	c.mu.Lock()
	c.inherits, c.resuming = true, make(chan struct{})
	c.mu.Unlock()
	c.resume(before)
	list := slices.DeleteFunc(before.State.Inflight.GetAll(false), func(pk packets.Packet) bool { return !flowsOut(&pk) })
	slices.SortStableFunc(list, func(a, b packets.Packet) int { return cmp.Compare(h.placeOf(&a), h.placeOf(&b)) })
	older := len(list) > 0 && h.placeOf(&list[0]) == 0
	for _, pk := range list {
		if held, ok := before.State.Inflight.Get(pk.PacketID); ok && held.FixedHeader.Type == pk.FixedHeader.Type && (older || orderOf(&held) == 0) {
			h.ordered(&held)
			before.State.Inflight.Set(held)
		}
	}
}

// placeOf is the order of a packet. One without is from a store of another hook, and
// older than all that have one, or mochi has just put it in flight.
func (h *Hook) placeOf(pk *packets.Packet) uint64 {
	switch order := orderOf(pk); {
	case order != 0:
		return order
	case pk.Created < h.since:
		return 0
	}
	return math.MaxUint64
}

// flowsOut reports whether a packet in flight is of a message to the client.
func flowsOut(pk *packets.Packet) bool {
	return pk.FixedHeader.Type == packets.Publish || pk.FixedHeader.Type == packets.Pubrel
}

// leftOut reports whether mochi's packet is not to be written: what has been dropped,
// which mochi sends all the same, and what is sent here. What is in flight is
// sent again by settle, in its order [MQTT-4.6.0-6], and nothing overtakes that:
// mochi's own resend is left out, with what has been published meanwhile in it, and
// its goroutine for new messages waits here. Before the CONNACK, too [MQTT-3.2.0-1].
func (c *conn) leftOut(pk *packets.Packet) bool {
	if pk.Ignore {
		return false
	}
	if c.shed.Load() && pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos > 0 && !isInFlight(c.client, pk.PacketID) {
		c.flow.wrote()
		return true
	}
	if !c.inherits {
		return false
	}
	c.mu.Lock()
	resuming := c.resuming
	c.mu.Unlock()
	switch {
	case resuming == nil:
		return false
	case pk.FixedHeader.Dup || pk.FixedHeader.Type == packets.Pubrel:
		return true
	}
	<-resuming
	return false
}

// proceed ends the waiting for settle: it is done, or the connection is closed.
func (c *conn) proceed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proceedLocked()
}

func (c *conn) proceedLocked() {
	if c.resuming != nil {
		close(c.resuming)
		c.resuming = nil
	}
}

// sendNow writes a packet that is in flight: if that fails, the next connection
// gets it.
func (c *conn) sendNow(pk packets.Packet) {
	if pk.FixedHeader.Type == packets.Publish {
		c.flow.begun.Add(1) // OnPacketSent will count it
	}
	pk.Ignore = true // without a meaning here: see leftOut
	_ = c.client.WritePacket(pk)
}

func tooLarge(cl *mqtt.Client, pk *packets.Packet) bool {
	limit := cl.Properties.Props.MaximumPacketSize
	if limit == 0 || int(limit) > len(pk.Payload)+len(pk.TopicName)+4096 && len(pk.Properties.User) == 0 && len(pk.Properties.CorrelationData) == 0 {
		return false
	}
	return encodedTooLarge(cl, *pk, limit)
}

func encodedTooLarge(cl *mqtt.Client, pk packets.Packet, limit uint32) bool {
	var buf bytes.Buffer
	pk.ProtocolVersion = cl.Properties.ProtocolVersion
	pk.Mods.AllowResponseInfo = true
	if pk.Expiry > 0 {
		pk.Properties.MessageExpiryInterval = 1
	}
	return pk.PublishEncode(&buf) == nil && uint32(buf.Len()) > limit
}

// settle ends the take-over: it sends all that was in flight, then what the client
// before was given by mistake, and lets go what waits.
func (c *conn) settle() {
	for _, pk := range c.takeBacklog() {
		pk.FixedHeader.Dup = pk.FixedHeader.Type == packets.Publish // [MQTT-3.3.1-1]
		c.sendNow(pk)
	}
	c.hook.successors.CompareAndDelete(c.client.ID, c)
	for {
		c.mu.Lock()
		strays := c.strays
		c.strays = nil
		if c.settled = len(strays) == 0; c.settled {
			c.proceedLocked()
		}
		c.mu.Unlock()
		if len(strays) == 0 {
			return
		}
		for _, pk := range strays {
			if held, ok := c.client.State.Inflight.Get(pk.PacketID); ok && orderOf(&held) == 0 && sameMessage(&held, &pk) {
				c.client.State.Inflight.Delete(pk.PacketID) // copied just before it was seen to have strayed
			}
			c.adopt(pk)
		}
	}
}

// takeBacklog returns what came over with the session, in its order.
func (c *conn) takeBacklog() (list []packets.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.backlog {
		if pk, ok := c.client.State.Inflight.Get(id); ok && flowsOut(&pk) {
			list = append(list, pk)
		}
	}
	c.backlog = nil
	slices.SortFunc(list, func(a, b packets.Packet) int { return cmp.Compare(orderOf(&a), orderOf(&b)) })
	return slices.CompactFunc(list, func(a, b packets.Packet) bool { return a.PacketID == b.PacketID })
}

// stillThere mends a take-over with a clean start, at whose end mochi can forget
// the new client in place of the old one: nobody would find it any more.
func (c *conn) stillThere() {
	if !c.established.Load() || c.client.Closed() {
		return
	}
	s := c.hook.server
	if _, ok := s.Clients.Get(c.client.ID); ok {
		return
	}
	s.Clients.Add(c.client)
	for _, sub := range c.client.State.Subscriptions.GetAll() {
		if s.Topics.Subscribe(c.client.ID, sub) {
			atomic.AddInt64(&s.Info.Subscriptions, 1)
		}
	}
	c.hook.Counters.Forgotten.Add(1)
}
