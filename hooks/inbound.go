package hooks

import (
	"errors"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// OnPublish takes what devices and backends publish below the prefix; nothing of
// it is routed further. It is the last place before mochi acknowledges.
func (h *Hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	return pk, h.published(cl, &pk)
}

func (h *Hook) published(cl *mqtt.Client, pk *packets.Packet) error {
	ours := h.topics.within(pk.TopicName)
	if cl.Net.Inline || !ours && h.access.writes(cl, pk.TopicName) {
		return nil
	}
	c := h.conn(cl)
	if c == nil {
		return packets.ErrRejectPacket
	}
	if h.stopped.Load() {
		return c.refuseStopped(pk)
	}
	if !ours {
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, h.access.acl.Why()))
	}
	device, account, kind, ok := h.topics.parse(pk.TopicName)
	switch {
	case !ok:
		return c.refuse(pk, refuse(packets.ErrTopicNameInvalid, "no such topic below "+h.topics.prefix))
	case account != "":
		return c.ingress(pk, account)
	case kind == kindNotifications || kind == kindMessages:
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, "only the server publishes here"))
	case !c.device || device != cl.ID:
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, "a device publishes to its own topics only"))
	}
	var err error
	switch kind {
	case kindAcks:
		err = c.acks(pk.Payload)
	case kindState:
		err = c.state(pk.Payload)
	case kindPushToken:
		err = c.pushToken(pk.Payload)
	}
	if err != nil {
		return c.refuse(pk, refusalFor(err))
	}
	return packets.CodeSuccessIgnore // acknowledged, and not fanned out
}

func (c *conn) acks(payload []byte) error {
	id, kind, err := wire.ParseAck(payload)
	if err != nil {
		return invalid(err)
	}
	err = c.hook.core.AckByID(id, c.client.ID, c.identity.Account, kind)
	if errors.Is(err, delivery.ErrNotYours) {
		c.hook.Counters.ForeignID.Add(1)
	}
	return err
}

func (c *conn) state(payload []byte) error {
	app, err := wire.ParseAppState(payload)
	if err != nil {
		return invalid(err)
	}
	c.app = app // a channel that comes up later on this connection begins with it
	if c.presence == nil {
		return nil
	}
	return c.presence.SetApp(app)
}

func (c *conn) pushToken(payload []byte) error {
	token, err := wire.ParsePushToken(payload)
	if err != nil {
		return invalid(err)
	}
	if token == nil {
		return c.hook.core.RemoveRegistrations(c.client.ID, c.identity.Account, delivery.ServerAPNs, "")
	}
	return c.hook.core.SetRegistration(c.client.ID, c.identity.Account, *token)
}

// ingress accepts a notification. Its acknowledgement goes out when the disk has
// it; meanwhile the read loop goes on, for as many as there are slots.
func (c *conn) ingress(pk *packets.Packet, account string) error {
	reply := c.replies.expect(ack{packetID: pk.PacketID, qos: pk.FixedHeader.Qos})
	if !c.identity.Service {
		return c.refuseIngress(reply, refuse(packets.ErrNotAuthorized, "only a service may notify an account"))
	}
	r, err := wire.ParseContent(pk.Payload, account)
	if err != nil {
		return c.refuseIngress(reply, refusalFor(err))
	}
	select {
	case c.waiting <- struct{}{}:
	case <-c.hook.ctx.Done():
		return packets.ErrRejectPacket
	}
	c.hook.core.AcceptAsync(r, func(_ delivery.Receipt, err error) {
		<-c.waiting
		if err != nil {
			_ = c.refuseIngress(reply, refusalFor(err))
			return
		}
		c.hook.Counters.Ingress.Add(1)
		if reply.ack.qos > 0 {
			reply.item.ack = &reply.ack
		}
		c.replies.answer(c, reply)
	})
	return packets.ErrRejectPacket
}

// refuse answers a publish that is not taken: mochi is to do nothing more with it.
func (c *conn) refuse(pk *packets.Packet, r refusal) error {
	c.answer(ack{packetID: pk.PacketID, qos: pk.FixedHeader.Qos}, r, true)
	return packets.ErrRejectPacket
}

// refuseStopped answers a publish after Stop, when nothing is written by the hook any
// more. mochi writes the answer where it can: a PUBACK of MQTT 5 to QoS 1. Elsewhere
// the connection ends, because an acknowledgement would promise a delivery.
func (c *conn) refuseStopped(pk *packets.Packet) error {
	c.hook.Counters.Refused.Add(1)
	switch {
	case pk.FixedHeader.Qos == 0:
	case pk.FixedHeader.Qos == 1 && c.client.Properties.ProtocolVersion == 5:
		return errStopped // mochi panics if this is wrapped
	default:
		c.client.Stop(errStopped)
	}
	return packets.ErrRejectPacket
}

var errStopped = packets.Code{Code: packets.ErrImplementationSpecificError.Code, Reason: "heartline is stopped"}

func (c *conn) refuseIngress(reply *reply, r refusal) error {
	reply.item = c.answerTo(&reply.ack, r, false)
	c.replies.answer(c, reply)
	return packets.ErrRejectPacket
}

// answer says no, at once.
func (c *conn) answer(a ack, r refusal, keepOpen bool) {
	if it := c.answerTo(&a, r, keepOpen); it != (item{}) {
		_ = c.send(it)
	}
}

// answerTo is a no: a reason code and a reason string in MQTT 5. MQTT 3.1.1 has no
// word for it. A backend is cut off there, as [MQTT-3.3.5-2] leaves no other way
// not to acknowledge (contract §3); for a device's own topics and for ordinary ones
// the publish is acknowledged and counted, as tearing a channel down would cost
// more.
func (c *conn) answerTo(a *ack, r refusal, keepOpen bool) item {
	h := c.hook
	h.Counters.Refused.Add(1)
	h.logs.Info(h.log, "publish refused", "client", c.client.ID, "code", r.code, "reason", r.reason)
	a.code, a.reason = r.code, r.reason
	switch {
	case c.client.Properties.ProtocolVersion == 5:
	case keepOpen:
		a.code = packets.CodeSuccess.Code
	default:
		return item{stop: packets.Code{Code: r.code, Reason: r.reason}}
	}
	if a.qos == 0 {
		return item{}
	}
	return item{ack: a}
}

func invalid(err error) error { return errors.Join(delivery.ErrInvalid, err) }
