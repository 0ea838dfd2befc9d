package hooks

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/text"
	"github.com/heartline-mqtt/heartline/wire"
)

// OnPublish handles what devices and backends publish below the prefix; nothing of
// it is routed further. It is the last place before mochi acknowledges. On a server of
// our own only the server's own client comes here: conn.take has the others' packets.
func (h *Hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if h.hub == nil {
		return pk, h.onPublish(cl, &pk)
	}
	if err := h.onPublish(cl, &pk); err == nil {
		h.route(nil, &pk)
	}
	return pk, errReject
}

// take does on a server of our own all that mochi would do with a PUBLISH.
func (c *conn) take(pk *packets.Packet) {
	h, cl := c.hook, c.client
	pk.Origin, pk.Created = cl.ID, time.Now().Unix()
	if after := pk.Properties.MessageExpiryInterval; after > 0 {
		pk.Expiry = pk.Created + int64(after)
	}
	// mochi's strings are parts of the packet, all of which they keep in memory. The names in
	// this one outlive it: as a topic alias, as a retained message's, as an account.
	pk.TopicName = strings.Clone(pk.TopicName)
	if pk.Properties.TopicAliasFlag {
		pk.TopicName = cl.State.TopicAliases.Inbound.Set(pk.Properties.TopicAlias, pk.TopicName) // [MQTT-3.3.2-11]
	}
	if c.repeated(pk) {
		return
	}
	switch err := h.onPublish(cl, pk); {
	case err == nil:
		h.route(c, pk)
	case errors.Is(err, errIgnore):
		c.acknowledge(pk)
	case errors.Is(err, errStopped):
		c.control(packets.Puback, 0, pk.PacketID, packets.ErrImplementationSpecificError.Code)
	}
}

func (h *Hook) onPublish(cl *mqtt.Client, pk *packets.Packet) error {
	ours := h.topics.within(pk.TopicName)
	if cl.Net.Inline {
		return h.onInlinePublish(pk)
	}
	c := h.conn(cl)
	if c == nil {
		return errReject
	}
	if h.stopped.Load() && ours {
		return c.refuseStopped(pk)
	}
	if !ours && h.hub != nil {
		if r := c.refusesTopic(pk.TopicName); r.code != 0 {
			h.limited(c, "publish refused", r.reason)
			return c.refuse(pk, r)
		}
	}
	if !ours && h.hub != nil && reserved(pk.TopicName) && !c.bridgeState(pk.TopicName) {
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, 403, "forbidden", "nobody may publish below $SYS or $share"))
	}
	if !ours && (c.bridgeState(pk.TopicName) || h.writes(cl, pk.TopicName)) {
		return nil
	}
	if !ours {
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, 403, "forbidden", h.rules.Load().acl.Why()))
	}
	device, account, kind, ok := h.topics.parse(pk.TopicName)
	switch {
	case !ok:
		return c.refuse(pk, refuse(packets.ErrTopicNameInvalid, 404, "unknown_topic", "no such topic below "+h.topics.prefix))
	case kind == kindEvents:
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, 403, "forbidden", "only the server publishes here"))
	case account != "":
		return c.onNotification(pk, account)
	case kind == kindNotifications || kind == kindMessages || kind == kindDismissals:
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, 403, "forbidden", "only the server publishes here"))
	case c.isDevice() != nil || device != cl.ID:
		return c.refuse(pk, refuse(packets.ErrNotAuthorized, 403, "forbidden", "a device publishes to its own topics only"))
	}
	if err := c.admitDevice(); err != nil {
		h.Counters.OverDevices.Add(1)
		return c.refuse(pk, refuse(packets.ErrQuotaExceeded, 403, "over_limit", err.Error()))
	}
	var err error
	id := "" // of the notification
	switch kind {
	case kindAcks:
		id, err = c.onAck(pk.Payload)
	case kindState:
		err = c.onAppState(pk)
	case kindPushToken:
		err = c.onPushToken(pk.Payload)
	case kindSignOut:
		if err = c.onSignOut(pk); err == nil {
			return errReject // the PUBACK is queued before the end of the connection
		}
	}
	if err != nil {
		return c.refuseOwn(pk, id, refusalFor(err))
	}
	return errIgnore // acknowledged, and not fanned out
}

// onInlinePublish handles the server's own Publish: to a notifications topic it is
// accepted as a service's. Publish has no error for what a hook decides, so that a
// refusal is in the log. It returns when the notification is durable.
func (h *Hook) onInlinePublish(pk *packets.Packet) error {
	_, account, kind, ok := h.topics.parse(pk.TopicName)
	if !ok || account == "" || kind != kindNotifications {
		return nil
	}
	r, err := wire.ParseContent(pk.Payload, account)
	if err == nil {
		_, err = h.core.Accept(h.ctx, r)
	}
	if err != nil {
		h.Counters.Refused.Add(1)
		h.logs.Warn(h.log, "notification of the server's own Publish refused", "account", account, "notification", r.ID, "error", err)
	} else {
		h.Counters.Ingress.Add(1)
	}
	return errIgnore
}

// onAck returns the notification that the payload names.
func (c *conn) onAck(payload []byte) (string, error) {
	id, kind, err := wire.ParseAck(payload)
	if err != nil {
		return id, err
	}
	err = c.hook.core.AckByID(id, c.client.ID, c.identity.Account, kind)
	if errors.Is(err, delivery.ErrNotYours) || errors.Is(err, delivery.ErrUnknownNotification) {
		c.hook.Counters.UnknownAcks.Add(1)
	}
	return id, err
}

func (c *conn) onAppState(pk *packets.Packet) error {
	app, err := wire.ParseAppState(pk.Payload)
	if err != nil {
		return err
	}
	c.app = app // a channel that comes up later on this connection begins with it
	if c.presence != nil {
		return c.presence.SetApp(app)
	}
	c.appUnsaid = true
	if pk.FixedHeader.Qos == 0 { // devices subscribe next, and the channel says it then
		return nil
	}
	return c.hook.core.ReportsApp(c.client.ID, c.identity.Account)
}

// sayApp notes that the device has reported the state of its app, if no channel has said so: the
// connection ends without one, and the device may have become known after the report.
func (c *conn) sayApp() {
	if !c.appUnsaid || c.isDevice() != nil {
		return
	}
	if err := c.hook.core.ReportsApp(c.client.ID, c.identity.Account); err != nil && !errors.Is(err, delivery.ErrStopped) {
		c.hook.logs.Warn(c.hook.log, "app state not recorded, the device may get messages in the background", "device", c.client.ID, "account", c.identity.Account, "error", err)
	}
}

func (c *conn) onPushToken(payload []byte) error {
	t, err := wire.ParsePushToken(payload)
	if err != nil {
		return err
	}
	if t.Registration == nil {
		err = c.hook.core.RemoveRegistrations(c.client.ID, c.identity.Account, t.Server, t.Kind)
	} else {
		err = c.hook.core.SetRegistration(c.client.ID, c.identity.Account, *t.Registration)
	}
	if err != nil {
		return err
	}
	// On the disk before the PUBACK: the app sends its token once, and a token that it
	// has removed must not be back after a crash.
	ctx, cancel := context.WithTimeout(c.hook.ctx, diskPatience)
	defer cancel()
	return c.hook.core.Flush(ctx)
}

// diskPatience is how long a change of the registry may wait for the disk.
const diskPatience = 5 * time.Second

// onSignOut forgets the device. After the PUBACK the connection and its session end,
// and another account may use the device. If the store has not recorded it, the device is
// forgotten too: the connection ends with a refusal, and the client signs out again.
func (c *conn) onSignOut(pk *packets.Packet) error {
	if err := wire.Decode(pk.Payload, new(struct{})); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.hook.ctx, diskPatience)
	defer cancel()
	err := c.hook.core.SignOut(ctx, c.client.ID, c.identity.Account)
	if err != nil && !delivery.Unrecorded(ctx, err) {
		return err
	}
	c.signedOut.Store(true) // what the client has sent after this is not a device's
	c.offline("signed out")
	c.expireWithConnection()
	reply, stop := item{ack: &ack{packetID: pk.PacketID, qos: pk.FixedHeader.Qos}}, errSignedOut
	if err != nil {
		reply, stop = c.refusalItem(reply.ack, pk.TopicName, "", refusalFor(err)), packets.ErrServerBusy
	} else {
		c.hook.log.Info("device signed out", "device", c.client.ID, "account", c.identity.Account)
	}
	if pk.FixedHeader.Qos > 0 {
		_ = c.send(reply) // the connection ends in any case
	}
	_ = c.send(item{stop: stop})
	return nil
}

var errSignedOut = packets.Code{Code: packets.ErrAdministrativeAction.Code, Reason: "signed out"}

// onNotification accepts a notification. Its acknowledgement goes out when the disk
// has it; meanwhile the read loop goes on, for as many as there are slots.
func (c *conn) onNotification(pk *packets.Packet, account string) error {
	reply := c.replies.expect(ack{packetID: pk.PacketID, qos: pk.FixedHeader.Qos})
	if !c.identity.MayActFor(account) {
		return c.refuseNotification(reply, account, "", refuse(packets.ErrNotAuthorized, 403, "forbidden", "only a service may notify this account"))
	}
	r, err := wire.ParseContent(pk.Payload, account)
	if err != nil {
		return c.refuseNotification(reply, account, r.ID, refusalFor(err))
	}
	select {
	case c.waiting <- struct{}{}:
	case <-c.hook.ctx.Done():
		return errReject
	}
	c.accept(reply, r, account, pk.Payload, pk.FixedHeader.Dup)
	return errReject
}

// accept has the core accept a notification that has a slot, and replies.
func (c *conn) accept(reply *reply, r delivery.Request, account string, payload []byte, dup bool) {
	id := r.ID
	if id == "" && reply.ack.qos > 0 {
		// A PUBLISH that was accepted, and whose PUBACK was lost, comes again with DUP.
		r.Mark = &delivery.RequestMark{Client: c.client.ID, PacketID: reply.ack.packetID, Payload: xxhash.Sum64(payload)}
		r.Again = dup
	}
	c.hook.core.AcceptAsync(r, func(receipt delivery.Receipt, err error) {
		<-c.waiting
		if err != nil {
			_ = c.refuseNotification(reply, account, id, refusalFor(err))
			return
		}
		if !receipt.Repeated {
			c.hook.Counters.Ingress.Add(1)
		}
		c.replies.complete(c, reply)
	})
}

// refuse replies to a publish that is not taken: mochi is to do nothing more with it.
// MQTT 3.1.1 has no negative acknowledgement: there it is acknowledged and dropped.
func (c *conn) refuse(pk *packets.Packet, r refusal) error {
	r.temporary = false
	return c.refuseOwn(pk, "", r)
}

// refuseOwn is refuse for an ack, a push token or a sign-out of the device. What may pass
// later ends the connection of a 3.1.1 client unacknowledged, as with a notification: a
// device that trusts a sign-out which did not happen still gets its former user's pushes.
func (c *conn) refuseOwn(pk *packets.Packet, id string, r refusal) error {
	r.temporary = r.temporary && pk.FixedHeader.Qos > 0
	switch it := c.refusalItem(&ack{packetID: pk.PacketID, qos: pk.FixedHeader.Qos}, pk.TopicName, id, r); {
	case it.empty():
	case it.ack != nil && c.hook.hub != nil:
		c.answerAck(it.ack)
	default:
		_ = c.send(it) // the connection is gone: nobody waits for the answer
	}
	return errReject
}

// answerAck queues an acknowledgement behind those of the publishes before it [MQTT-4.6.0-2]:
// the session has them.
func (c *conn) answerAck(a *ack) {
	var buf bytes.Buffer
	c.encodeAck(&buf, a)
	if !c.session.Answer(c, buf.Bytes()...) {
		c.client.Stop(errAnswers)
	}
}

// refuseNotification is refuse for a backend's publish. What may be accepted later
// ends the connection of a 3.1.1 client unacknowledged (contract §3): it publishes
// again when it is back. What would be refused again is acknowledged, so that one bad
// message does not keep a client from its others for ever.
func (c *conn) refuseNotification(reply *reply, account, id string, r refusal) error {
	refusal := c.refusalItem(&reply.ack, c.hook.topics.account(account), id, r)
	reply.refusal = &refusal
	c.replies.complete(c, reply)
	return errReject
}

// refuseStopped replies to a publish after Stop, when the hook writes nothing any
// more. mochi writes the reply where it can: a PUBACK of MQTT 5 to QoS 1. Elsewhere
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
	return errReject
}

// The answers to mochi about a publish, converted to errors only once: each conversion would be
// an allocation.
var (
	errReject error = packets.ErrRejectPacket
	errIgnore error = packets.CodeSuccessIgnore
)

var errStopped error = packets.Code{Code: packets.ErrImplementationSpecificError.Code, Reason: "heartline is stopped"}

// refusalItem counts, logs and tells a refusal, and returns the reply to write.
func (c *conn) refusalItem(a *ack, topicName, id string, r refusal) item {
	h := c.hook
	h.Counters.Refused.Add(1)
	h.Counters.RefusedBy[r.code].Add(1)
	id = text.Clip(id, delivery.MaxID)
	h.logs.Info(h.log, "publish refused", "client", c.client.ID, "account", c.identity.Account, "topic", topicName, "notification", id, "code", r.code, "error", r.reason)
	c.tellRefusal(topicName, id, r)
	a.code, a.reason = r.code, r.reason
	if r.inDoubt && a.qos > 0 { // neither answer would be true: the client sends it again with DUP, which tells
		return item{stop: packets.Code{Code: r.code, Reason: r.reason}}
	}
	if c.client.Properties.ProtocolVersion < 5 {
		if r.temporary {
			return item{stop: packets.Code{Code: r.code, Reason: r.reason}}
		}
		a.code = packets.CodeSuccess.Code
	}
	if a.qos == 0 {
		return item{}
	}
	return item{ack: a}
}
