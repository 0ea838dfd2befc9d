package hooks

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// What is in flight to a client carries its place in the order in the field
// ReasonCodes, which a PUBLISH and a PUBREL do not have: mochi sorts by the second
// in which a message was published, and takes what falls into one in the order of
// a Go map [MQTT-4.6.0-6]. After the place comes when it was really created.
const orderBytes = 16

func (h *Hook) ordered(pk *packets.Packet) {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, orderBytes), h.order.Add(1))
	pk.ReasonCodes = binary.BigEndian.AppendUint64(b, uint64(pk.Created))
}

func orderOf(pk *packets.Packet) uint64 {
	if len(pk.ReasonCodes) != orderBytes {
		return 0
	}
	return binary.BigEndian.Uint64(pk.ReasonCodes)
}

// OnQosPublish comes when mochi has put a message in flight, before it is sent,
// and again when it is sent again.
func (h *Hook) OnQosPublish(cl *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	if pk.FixedHeader.Type != packets.Publish {
		return
	}
	if orderOf(&pk) != 0 {
		if c := h.conn(cl); c != nil {
			c.flow.begun.Add(1) // OnPacketSent will count it
		}
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
}

// released gives a PUBREL its place: mochi has put it where the PUBLISH was.
func (h *Hook) released(cl *mqtt.Client, id uint16) {
	if held, ok := cl.State.Inflight.Get(id); ok && held.FixedHeader.Type == packets.Pubrel && orderOf(&held) == 0 {
		h.ordered(&held)
		cl.State.Inflight.Set(held)
	}
}

// OnQosDropped hears of a message that mochi gave to a client which had just been
// taken over: its successor has a copy of all that came before.
func (h *Hook) OnQosDropped(cl *mqtt.Client, pk packets.Packet) {
	if pk.FixedHeader.Type != packets.Publish || !cl.IsTakenOver() {
		return
	}
	v, ok := h.successors.Load(cl.ID)
	if !ok {
		return
	}
	if held, ok := v.(*conn).client.State.Inflight.Get(pk.PacketID); ok && bytes.Equal(held.ReasonCodes, pk.ReasonCodes) {
		return
	}
	h.strayed(cl, pk)
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
	c.flow.begun.Add(1)
	_ = c.client.WritePacket(pk) // it is in flight: the next connection gets it
}

// inherit prepares the session of the client before for cl, which is about to get
// it: what is in flight in its order, and nothing that cl cannot take.
func (h *Hook) inherit(cl, before *mqtt.Client) {
	c := h.conn(cl)
	if c == nil {
		return
	}
	_ = h.server.DisconnectClient(before, packets.ErrSessionTakenOver) // [MQTT-3.1.4-3]; mochi finds it done
	h.successors.Store(cl.ID, c)
	c.inherits = !cl.Properties.Clean
	if !c.inherits {
		return
	}
	c.resume(before)
	list := before.State.Inflight.GetAll(false)
	slices.SortStableFunc(list, func(a, b packets.Packet) int { return cmp.Compare(orderOf(&a), orderOf(&b)) })
	at := time.Now().Unix() - int64(len(list))
	if int(uint16(at))+len(list) > math.MaxUint16 {
		at = time.Now().Unix() &^ math.MaxUint16 // mochi compares 16 bits
	}
	for _, pk := range list {
		if pk.FixedHeader.Type == packets.Publish && tooLarge(cl, pk) {
			// [MQTT-3.1.2-25] It counts as sent. mochi would end every connection over it.
			if before.State.Inflight.Delete(pk.PacketID) {
				atomic.AddInt64(&h.server.Info.Inflight, -1)
				h.Counters.TooLarge.Add(1)
			}
			continue
		}
		if held, ok := before.State.Inflight.Get(pk.PacketID); ok && held.FixedHeader.Type == pk.FixedHeader.Type {
			at++
			held.Created = at
			before.State.Inflight.Set(held)
		}
	}
}

func tooLarge(cl *mqtt.Client, pk packets.Packet) bool {
	limit := cl.Properties.Props.MaximumPacketSize
	if limit == 0 || int(limit) > len(pk.Payload)+len(pk.TopicName)+4096 && len(pk.Properties.User) == 0 && len(pk.Properties.CorrelationData) == 0 {
		return false
	}
	var buf bytes.Buffer
	pk.ProtocolVersion = cl.Properties.ProtocolVersion
	pk.Mods.AllowResponseInfo = true
	if pk.Expiry > 0 {
		pk.Properties.MessageExpiryInterval = 1
	}
	return pk.PublishEncode(&buf) == nil && uint32(buf.Len()) > limit
}

// settle ends the take-over: everything that was in flight has been sent.
func (c *conn) settle() {
	for _, pk := range c.client.State.Inflight.GetAll(false) {
		if len(pk.ReasonCodes) == orderBytes {
			pk.Created = int64(binary.BigEndian.Uint64(pk.ReasonCodes[8:]))
			c.client.State.Inflight.Set(pk)
		}
	}
	c.hook.successors.CompareAndDelete(c.client.ID, c)
	for {
		c.mu.Lock()
		strays := c.strays
		c.strays = nil
		c.settled = len(strays) == 0
		c.mu.Unlock()
		if len(strays) == 0 {
			return
		}
		for _, pk := range strays {
			c.adopt(pk)
		}
	}
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
