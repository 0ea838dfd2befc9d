package hooks

import (
	"errors"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// This file is between mochi's packets and hooks/ordinary, on a server of our own.
// mochi reads the packets, and learns of none that is about routing: its index, its
// subscriptions and its in-flight maps stay empty.

// Limits are what a client may do on a server of our own; 0: no limit. A service that
// has authenticated is exempt.
type Limits struct {
	TopicLevels int // of a topic name or filter
	PublishRate int // ordinary messages a second
}

// pacer is a connection whose writes do not wait: it says how much is queued, and when
// that is all gone.
type pacer interface {
	Queued() int
	OnDrained(func())
}

// bridged is a connection that knows whether its client is a bridge, by the top bit of
// the CONNECT's protocol level.
type bridged interface{ Bridge() bool }

// paceAt is how many bytes may be queued on a connection when more is written to it.
const paceAt = 256 << 10

// watchedConn is a client's connection before mochi establishes it: mochi tells of its
// end in no other way.
type watchedConn struct {
	net.Conn
	closed func()
	// grace is what mochi's deadlines lack: it computes one and a half times the keepalive
	// in whole seconds, rounded down.
	grace time.Duration
}

// SetDeadline implements net.Conn. mochi sets nothing but the keepalive's deadline by it
// [MQTT-3.1.2-22].
func (w *watchedConn) SetDeadline(t time.Time) error {
	if !t.IsZero() {
		t = t.Add(w.grace)
	}
	return w.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (w *watchedConn) Close() error {
	w.closed()
	return w.Conn.Close()
}

func unwrapped(nc net.Conn) net.Conn {
	if w, ok := nc.(*watchedConn); ok {
		return w.Conn
	}
	return nc
}

var errPanic = errors.New("a fault of the server ended the connection")

// Lost forgets the client of a connection that ended without mochi's OnDisconnect: in a
// panic that a listener has recovered.
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

// exempt reports whether the client has no limits.
func (c *conn) exempt() bool { return c.hook.opts.Authenticate != nil && c.identity.Service }

// takeConnection prepares a client's connection for its session.
func (c *conn) takeConnection(pk *packets.Packet) {
	cl := c.client
	c.peer = ordinary.Peer{
		Version: cl.Properties.ProtocolVersion, ReceiveMaximum: c.limits.receiveMaximum,
		MaximumPacketSize: int(cl.Properties.Props.MaximumPacketSize), TopicAliasMaximum: int(cl.Properties.Props.TopicAliasMaximum),
	}
	if c.peer.ReceiveMaximum == 0 {
		c.peer.ReceiveMaximum = math.MaxUint16
	}
	if c.hook.hub == nil {
		c.peer.Taken = func(id uint16) bool {
			_, taken := cl.State.Inflight.Get(id)
			return taken
		}
		c.session = ordinary.NewWindow(c, c.peer)
		return
	}
	if b, ok := cl.Net.Conn.(bridged); ok {
		c.bridge = b.Bridge()
	}
	if p, ok := cl.Net.Conn.(pacer); ok {
		c.pacer, c.flusher = p, c.hook.flushers.next()
		p.OnDrained(func() {
			if c.paused.Swap(false) {
				c.Wake()
			}
		})
	}
	if pk.Connect.WillFlag {
		p := &pk.Connect.WillProperties
		c.will = &ordinary.Will{
			Message: ordinary.Message{
				TopicName: pk.Connect.WillTopic, Payload: pk.Connect.WillPayload, QoS: pk.Connect.WillQos, Retain: pk.Connect.WillRetain,
				Origin: cl.ID, Properties: passedOn(p),
			},
			Delay: p.WillDelayInterval, Lifetime: p.MessageExpiryInterval,
		}
		if pk.Ignore { // see readConnect
			c.will.Payload = nil
		}
		c.will.Message = c.will.Detached() // it outlives the packet, and is less than that
	}
	cl.Properties.Will = mqtt.Will{} // mochi publishes none
	c.outlet.cork()                  // the CONNACK is first [MQTT-3.2.0-1]
}

// stand-in for a will's payload of no bytes.
const emptyWill = "\x00"

// readConnect has mochi take what MQTT allows and its check refuses: a will with an
// empty payload, and an empty password.
func readConnect(pk *packets.Packet) {
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		pk.Connect.WillPayload = []byte(emptyWill)
		pk.Ignore = true // without a meaning on a CONNECT: takeConnection takes the payload back
	}
	if pk.Connect.PasswordFlag && len(pk.Connect.Password) == 0 {
		pk.Connect.PasswordFlag = false
	}
}

// takeSession brings the client to its session. mochi asks next for a session of its
// own, and finds none.
func (h *Hook) takeSession(c *conn) {
	cl := c.client
	kept, expiry := h.outlives(cl)
	if c.will != nil && !c.exempt() && h.opts.Authenticate != nil {
		c.will.Account = c.identity.Account
	}
	if h.opts.Elsewhere != nil {
		h.opts.Elsewhere(cl.ID, c.identity.Account, !cl.Properties.Clean)
	}
	s, present := h.hub.Connect(ordinary.Arrival{
		ID: cl.ID, Account: c.identity.Account, Number: c.number, Service: c.exempt(), Clean: cl.Properties.Clean,
		Kept: kept, Expiry: expiry, Peer: c.peer, Link: c, Will: c.will,
	})
	if s == nil {
		h.rejectEstablish(c, errLater)
		return
	}
	c.mu.Lock()
	c.session, c.present = s, present
	c.mu.Unlock()
	h.server.Clients.Delete(cl.ID)
	if cl.Closed() { // before the session knew of it
		c.failedToEstablish()
	}
}

// outlives reports whether a client's session does not end with its connection, and by
// how many seconds.
func (h *Hook) outlives(cl *mqtt.Client) (kept bool, expiry uint32) {
	limit := h.server.Options.Capabilities.MaximumSessionExpiryInterval
	if cl.Properties.ProtocolVersion == 5 {
		expiry = min(limit, cl.Properties.Props.SessionExpiryInterval)
		return expiry > 0, expiry
	}
	return !cl.Properties.Clean, limit
}

// failedToEstablish ends what a client has that got no further than its CONNECT.
func (c *conn) failedToEstablish() {
	c.mu.Lock()
	begun := c.session != nil && c.hook.hub != nil
	c.mu.Unlock()
	if begun && !c.established.Load() {
		c.leaveSession(false)
	}
}

func (c *conn) leaveSession(bye bool) {
	kept, expiry := c.hook.outlives(c.client)
	c.hook.hub.Disconnect(c.session, c, ordinary.Bye{Clean: bye, Kept: kept, Expiry: expiry})
}

// Wake implements ordinary.Link.
func (c *conn) Wake() {
	if c.outlet.kick() {
		c.startDrain()
	}
}

// Close implements ordinary.Link.
func (c *conn) Close() {
	c.over.Store(true)
	code := packets.ErrSessionTakenOver // [MQTT-3.1.4-3]
	if other := c.closing.Load(); other != nil {
		code = *other
	}
	_ = c.hook.server.DisconnectClient(c.client, code)
	c.routing.Lock() // the packet that is being routed
	defer c.routing.Unlock()
}

// hasRoom reports whether the connection takes more now; Wake follows where it does not.
func (c *conn) hasRoom() bool {
	if c.pacer == nil || c.pacer.Queued() < paceAt {
		return true
	}
	c.paused.Store(true)
	if c.pacer.Queued() < paceAt {
		c.paused.Store(false)
		return true
	}
	return false
}

// sent counts the messages and bytes that are written to the client without mochi.
func (c *conn) sent(messages, bytes int) {
	info := c.hook.server.Info
	if c.hook.hub != nil {
		c.hook.hub.Sent(messages)
	}
	atomic.AddInt64(&info.BytesSent, int64(bytes))
	if messages > 0 {
		atomic.AddInt64(&info.PacketsSent, int64(messages))
		atomic.AddInt64(&info.MessagesSent, int64(messages))
	}
}

// noPacket is what mochi gets in the place of a packet that is dealt with: a PUBACK of
// nothing.
func noPacket(pk *packets.Packet) {
	*pk = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, ProtocolVersion: pk.ProtocolVersion}
}

// ordinary deals with a packet that is about routing.
func (c *conn) ordinary(pk *packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if pk.PublishValidate(c.hook.server.Options.Capabilities.TopicAliasMaximum) != packets.CodeSuccess {
			return // mochi says the same
		}
		c.take(pk)
	case packets.Subscribe:
		if pk.SubscribeValidate() != packets.CodeSuccess {
			return // mochi says the same
		}
		c.subscribe(pk)
	case packets.Unsubscribe:
		if pk.UnsubscribeValidate() != packets.CodeSuccess {
			return
		}
		c.unsubscribe(pk)
	case packets.Puback, packets.Pubcomp:
		c.session.Acknowledge(c, pk.PacketID)
	case packets.Pubrec:
		c.pubrec(pk)
	case packets.Pubrel:
		c.pubrel(pk)
	case packets.Pingreq:
		c.pong()
	case packets.Disconnect:
		c.bye = pk.ReasonCode == packets.CodeDisconnect.Code
		return
	default:
		return
	}
	noPacket(pk)
}

// pong answers a PINGREQ, behind the acknowledgements of packets before it.
func (c *conn) pong() {
	if !c.session.Answer(c, packets.Pingresp<<4, 0) {
		c.client.Stop(errAnswers)
	}
}

func (c *conn) pubrec(pk *packets.Packet) {
	if pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
		c.session.Reject(c, pk.PacketID)
		return
	}
	code := packets.CodeSuccess.Code
	if !c.session.Received(c, pk.PacketID) {
		code = packets.ErrPacketIdentifierNotFound.Code
	}
	c.control(packets.Pubrel, 2, pk.PacketID, code)
}

func (c *conn) pubrel(pk *packets.Packet) {
	code := packets.CodeSuccess.Code
	if !c.session.End(c, pk.PacketID) {
		code = packets.ErrPacketIdentifierNotFound.Code
	}
	c.control(packets.Pubcomp, 0, pk.PacketID, code) // whatever the PUBREL's reason code [MQTT-4.3.3-11]
}

// control answers with a packet of an identifier and, in MQTT 5, a reason code.
func (c *conn) control(packet, flags byte, id uint16, code byte) {
	b := []byte{packet<<4 | flags, 2, byte(id >> 8), byte(id)}
	if code != 0 && c.peer.Version == 5 {
		b[1] = 3
		b = append(b, code)
	}
	if !c.session.Answer(c, b...) {
		c.client.Stop(errAnswers)
	}
}

var errAnswers = errors.New("client takes no acknowledgements")

// acknowledge answers a PUBLISH with success.
func (c *conn) acknowledge(pk *packets.Packet) {
	switch pk.FixedHeader.Qos {
	case 1:
		c.control(packets.Puback, 0, pk.PacketID, 0)
	case 2:
		c.session.Begin(c, pk.PacketID)
		c.control(packets.Pubrec, 0, pk.PacketID, 0)
	}
}

// passedOn is what of a packet's properties goes on to subscribers.
func passedOn(p *packets.Properties) ordinary.Properties {
	out := ordinary.Properties{
		PayloadFormat: p.PayloadFormat, HasPayloadFormat: p.PayloadFormatFlag, ContentType: p.ContentType,
		ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData,
	}
	for i := range p.User {
		out.User = append(out.User, ordinary.UserProperty{Key: p.User[i].Key, Value: p.User[i].Val})
	}
	return out
}

// repeated deals with the packet identifier of a PUBLISH of QoS 2. It reports whether
// the packet has come before, or must not come.
func (c *conn) repeated(pk *packets.Packet) bool {
	if pk.FixedHeader.Qos != 2 {
		return false
	}
	switch known, open := c.session.Incoming(pk.PacketID); {
	case known:
		c.acknowledge(pk) // [MQTT-4.3.3-10]
		return true
	case c.peer.Version == 5 && open >= int(c.hook.server.Options.Capabilities.ReceiveMaximum):
		_ = c.hook.server.DisconnectClient(c.client, packets.ErrReceiveMaximum) // [MQTT-3.3.4-7]
		return true
	}
	return false
}

// route publishes an ordinary message, acknowledges it, and holds its publisher up
// while receivers that read have too much waiting.
func (h *Hook) route(c *conn, pk *packets.Packet) {
	m := &ordinary.Message{
		TopicName: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain,
		Origin: pk.Origin, Created: pk.Created, Expiry: pk.Expiry, Properties: passedOn(&pk.Properties),
	}
	if c == nil { // the server's own client
		_, _ = h.hub.Publish(m) // over a limit: nobody to tell
		return
	}
	if h.opts.Authenticate != nil && !c.exempt() {
		m.Account = c.identity.Account
	}
	endTurn := func() {}
	if m.Account != "" {
		endTurn = h.turns.take(m.Account)
	}
	if !c.routing.TryLock() {
		endTurn()
		return // taken over
	}
	if c.over.Load() {
		c.routing.Unlock()
		endTurn()
		return
	}
	if !m.Retain { // which may be refused
		c.acknowledge(pk)
	}
	pressed, err := h.hub.Publish(m)
	endTurn()
	switch {
	case err != nil:
		c.routing.Unlock()
		h.limited(c, "publish refused", err.Error())
		_ = c.refuse(pk, refuse(packets.ErrQuotaExceeded, 429, "over_limit", err.Error()))
		return
	case m.Retain:
		c.acknowledge(pk)
	}
	c.routing.Unlock()
	if len(pressed) > 0 {
		h.hub.Wait(h.ctx, pressed)
	}
}

// refusesTopic says why an ordinary message is not taken.
func (c *conn) refusesTopic(topicName string) refusal {
	l := c.hook.rules.Load().Limits
	if c.exempt() {
		return refusal{}
	}
	if l.TopicLevels > 0 && ordinary.Levels(topicName) > l.TopicLevels {
		return refuse(packets.ErrTopicNameInvalid, 422, "invalid", "too many levels (mqtt.limits.topic_levels)")
	}
	if l.PublishRate > 0 && !c.mayPublish(l.PublishRate, time.Now()) {
		return refuse(packets.ErrQuotaExceeded, 429, "over_limit", "too many messages a second (mqtt.limits.publish_rate)")
	}
	return refusal{}
}

// bridgeState reports whether a topic is where the client, if it is a bridge, says
// whether it is connected, as Mosquitto's bridges do. MQTT 5 has no bit that tells a
// bridge, so that every client may write the one topic that bears its identifier.
func (c *conn) bridgeState(topicName string) bool { return stateTopic(c.client.ID, topicName) }

func stateTopic(clientID, topicName string) bool {
	return !strings.ContainsAny(clientID, "/+#") && topicName == ordinary.ConnectionTopics+clientID+"/state"
}

// reserved reports whether a topic name is the server's own, or one that no filter can
// ask for (MQTT 5 §4.8.2).
func reserved(topicName string) bool {
	first, _, _ := strings.Cut(topicName, "/")
	return strings.EqualFold(first, mqtt.SysPrefix) || first == "$share"
}

// limitPause is how long a connection is not read after a refusal for a limit. A client
// that goes on at full speed would otherwise keep a core busy with refusals alone.
const limitPause = 50 * time.Millisecond

// limited counts and logs that a client has been refused something, at most once a
// minute and connection, and holds up the connection's read loop, which calls it without
// any lock held.
func (h *Hook) limited(c *conn, what, reason string) {
	h.Counters.Limited.Add(1)
	pause := time.NewTimer(limitPause)
	defer pause.Stop()
	defer func() {
		select {
		case <-pause.C:
		case <-h.ctx.Done():
		}
	}()
	if now := time.Now(); now.Sub(c.limitedAt) >= time.Minute {
		c.limitedAt = now
		h.logs.Info(h.log, what, "client", c.client.ID, "account", c.identity.Account, "reason", reason)
	}
}

// OnPacketEncode completes mochi's CONNACK, or, where the routing is the server's, its
// SUBACK. Packets are large and mochi hands them on by value, several to a stack: here
// they go by pointer, so that the stack of an idle connection stays below 16 KiB.
func (h *Hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Connack {
		h.Counters.Connacks[pk.ReasonCode].Add(1)
	}
	switch {
	case pk.FixedHeader.Type == packets.Connack && h.hub != nil:
		h.connack(cl, &pk)
	case pk.FixedHeader.Type == packets.Suback && h.hub == nil:
		h.suback(cl, &pk)
	}
	return pk
}

func (h *Hook) connack(cl *mqtt.Client, pk *packets.Packet) {
	if pk.ReasonCode != packets.CodeSuccess.Code {
		return
	}
	if c := h.conn(cl); c != nil {
		pk.SessionPresent = c.present
	}
	if cl.Properties.ProtocolVersion == 5 {
		announce(&pk.Properties, h.server.Options.Capabilities)
	}
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

// refusesWill says why a will is not taken, whoever the client is.
func (c *conn) refusesWill() string {
	if c.will == nil || c.bridgeState(c.will.TopicName) {
		return ""
	}
	if reserved(c.will.TopicName) {
		return "the will is for one of the server's own topics, or below $share" // [MQTT-4.7.2-1]
	}
	return ""
}
