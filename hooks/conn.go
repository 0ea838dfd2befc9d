package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// conn is one MQTT connection. mochi makes a *mqtt.Client for each, also when it
// takes a session over, so that the pointer tells connections apart; the client
// identifier does not.
type conn struct {
	hook        *Hook
	client      *mqtt.Client
	number      uint64 // of its CONNECT, in the order in which these came
	identity    auth.Identity
	counted     atomic.Bool // among the devices of its account
	established atomic.Bool
	notDevice   error                  // why the client cannot be a device; nil: it can
	signedOut   atomic.Bool            // the device has signed out on this connection
	refusedSub  atomic.Pointer[string] // why a subscription is refused, for the SUBACK
	limits      limits
	topicNames  topicNames // of a device that has been online

	outlet      outlet
	flusher     *flusher
	awaitsPlace bool              // the draining goroutine's: publications wait for a place in the Receive Maximum
	session     *ordinary.Session // of a server whose routing is its own, packet identifiers alone
	peer        ordinary.Peer

	// On a server of our own; see routing.go.
	present   bool           // the session is older than the connection
	will      *ordinary.Will // nil: none
	bridge    bool
	pacer     pacer                        // nil: its writes wait
	paused    atomic.Bool                  // the connection has enough to write
	over      atomic.Bool                  // another connection has the session
	replaced  atomic.Bool                  // the device has connected to another node
	closing   atomic.Pointer[packets.Code] // why it ends, if not for a take-over
	routing   sync.Mutex                   // while a packet of the client is routed
	bye       bool                         // it has said DISCONNECT with success
	rate      atomic.Pointer[rate]         // nil until the first message
	limitedAt time.Time

	waiting chan struct{} // a slot for each publish of this client that waits for the disk
	replies replies       // to those publishes
	events  eventReader

	// presence is touched by the connection's read goroutine alone.
	presence delivery.Up
	app      delivery.AppState
	// appUnsaid: it was reported while the channel was down.
	appUnsaid bool

	mu       sync.Mutex
	open     map[uint16]delivery.Ref // our unacknowledged packets
	standing standing
	claimed  string // the client identifier that the connection claims until it is established; see ownership.go

	rejected atomic.Bool // refused in OnSessionEstablish
}

// limits is what the client said in CONNECT and mochi is kept from acting upon.
type limits struct {
	receiveMaximum int // MQTT 5 §3.1.2.11.3; 65535 where it said nothing
}

var errNoPlace = errors.New("no place in the client's Receive Maximum")

// Publish implements delivery.Channel. The core calls it with its mutex held.
func (c *conn) Publish(p delivery.Publication) error {
	return c.send(item{pub: p})
}

// Closed implements delivery.Channel.
func (c *conn) Closed() bool {
	return c.client.Closed() || c.over.Load() || c.replaced.Load() || c.client.IsTakenOver()
}

// Replaced implements delivery.Replaceable: the device has connected to another node.
func (c *conn) Replaced() {
	if !c.Closed() && c.replaced.CompareAndSwap(false, true) {
		_ = c.send(item{stop: packets.ErrSessionTakenOver}) // [MQTT-3.1.4-3]; or it is gone
	}
}

// Move implements delivery.Movable: another node can serve the device.
func (c *conn) Move() { _ = c.send(item{stop: packets.ErrUseAnotherServer}) } // or it is gone

func (c *conn) send(it item) error {
	start, err := c.outlet.put(it)
	if start {
		c.startDrain()
	}
	return err
}

func (c *conn) uncork() {
	if c.outlet.uncork() {
		c.startDrain()
	}
}

// claimID takes a packet identifier for ref, and a place in the client's Receive Maximum
// until releaseID gives it back.
func (c *conn) claimID(ref delivery.Ref) (uint16, error) {
	id, ok := c.session.Claim(c)
	if !ok {
		return 0, errNoPlace
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[uint16]delivery.Ref{}
	}
	c.open[id] = ref
	return id, nil
}

func (c *conn) releaseID(id uint16) (delivery.Ref, bool) {
	c.mu.Lock()
	ref, ok := c.open[id]
	delete(c.open, id)
	c.mu.Unlock()
	if ok {
		c.session.Release(c, id)
	}
	return ref, ok
}

func (c *conn) encodeAck(buf *bytes.Buffer, a *ack) {
	if a.qos == 1 && a.code == packets.CodeSuccess.Code { // all but a few; in MQTT 5 the code is left out, too [§3.4.2.1]
		buf.Write([]byte{packets.Puback << 4, 2, byte(a.packetID >> 8), byte(a.packetID)})
		return
	}
	c.encodeOtherAck(buf, a)
}

func (c *conn) encodeOtherAck(buf *bytes.Buffer, a *ack) {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Puback},
		ProtocolVersion: c.client.Properties.ProtocolVersion,
		PacketID:        a.packetID, ReasonCode: a.code,
		Mods: packets.Mods{MaxSize: c.client.Properties.Props.MaximumPacketSize},
	}
	if p := &c.client.Properties.Props; p.RequestProblemInfoFlag && p.RequestProblemInfo == 0 {
		pk.Mods.DisallowProblemInfo = true // [MQTT-3.1.2-29]
	}
	if a.code >= packets.ErrUnspecifiedError.Code {
		pk.Properties.ReasonString = a.reason
	}
	before := buf.Len()
	var err error
	if a.qos == 2 {
		pk.FixedHeader.Type = packets.Pubrec
		switch failed := a.code >= packets.ErrUnspecifiedError.Code; {
		case failed: // the exchange is over [MQTT-4.3.3-4]
		case c.hook.hub == nil:
			// mochi answers the PUBREL, and knows a repeated PUBLISH by this entry [MQTT-4.3.3-10].
			c.client.State.Inflight.Set(pk)
		default:
			c.session.Begin(c, a.packetID)
		}
		err = pk.PubrecEncode(buf)
	} else {
		err = pk.PubackEncode(buf)
	}
	if err != nil {
		buf.Truncate(before)
		c.hook.log.Error("encode an acknowledgement", "client", c.client.ID, "error", err)
	}
}

// write sends whole packets with one call. It takes the lock that mochi's own
// writes take, so that packets do not mix.
func (c *conn) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.client.Lock()
	defer c.client.Unlock()
	if c.client.Closed() || c.client.Net.Conn == nil {
		return errClosed
	}
	_ = c.client.Net.Conn.SetWriteDeadline(time.Now().Add(c.hook.opts.WriteTimeout)) // fails with the write
	_, err := c.client.Net.Conn.Write(b)
	return err
}

// puback takes the device's acknowledgement of one of our packets.
func (c *conn) puback(pk *packets.Packet) bool {
	if pk.PacketID < ordinary.FirstNotificationID {
		return false
	}
	ref, ours := c.releaseID(pk.PacketID)
	if !ours {
		return c.hook.hub == nil && c.ackEvent(pk.PacketID)
	}
	if pk.ReasonCode < packets.ErrUnspecifiedError.Code {
		ref.Acked()
	} else {
		ref.Nacked(nackDetail(pk))
	}
	return true
}

func nackDetail(pk *packets.Packet) string {
	detail := fmt.Sprintf("0x%02x", pk.ReasonCode)
	if pk.Properties.ReasonString != "" {
		detail += " " + clip(pk.Properties.ReasonString)
	}
	return detail
}

// subscriptions are the client's, by filter.
func (c *conn) subscriptions() map[string]ordinary.Subscription {
	if c.hook.hub != nil {
		return c.session.Subscriptions()
	}
	all := map[string]ordinary.Subscription{}
	for filter, sub := range c.client.State.Subscriptions.GetAll() {
		all[filter] = ordinary.Subscription{QoS: sub.Qos, Identifier: sub.Identifier}
	}
	return all
}

// subscribed reports whether the client is subscribed to exactly that filter.
func (c *conn) subscribed(filter string) bool {
	if c.hook.hub != nil {
		return c.session.Subscribed(filter)
	}
	_, ok := c.client.State.Subscriptions.Get(filter)
	return ok
}

// subscriptionsChanged brings the presence into line with what the client is
// subscribed to.
func (c *conn) subscriptionsChanged() {
	c.eventsChanged(false)
	if c.isDevice() != nil {
		return
	}
	id, t := c.client.ID, c.hook.topics
	filters := c.subscriptions()
	c.stand(filters)
	var known, notifications, messages, dismissals bool
	for filter, sub := range filters {
		if t.covers(filter, id, kindNotifications) {
			known = true
			notifications = notifications || sub.QoS >= 1
		}
		messages = messages || sub.QoS >= 1 && t.covers(filter, id, kindMessages)
		dismissals = dismissals || sub.QoS >= 1 && t.covers(filter, id, kindDismissals)
	}
	if known || notifications {
		if err := c.admitDevice(); err != nil { // of a session that is older than the limit
			c.registrationFailed(err)
			return
		}
	}
	switch p := c.presence; {
	case notifications && p == nil:
		c.online(messages, dismissals)
	case notifications:
		p.SetSubscribed(messages, dismissals)
	case p != nil:
		c.offline("unsubscribed")
	case known:
		if err := c.hook.core.Register(id, c.identity.Account); err != nil && !errors.Is(err, delivery.ErrStopped) {
			c.registrationFailed(err)
		}
	}
}

func (c *conn) online(messages, dismissals bool) {
	if c.topicNames.notifications == "" {
		c.topicNames = c.hook.topics.names(c.client.ID)
	}
	keepalive := time.Duration(c.client.State.Keepalive) * time.Second
	p, err := c.hook.core.Online(delivery.OnlineInfo{
		Device: c.client.ID, Account: c.identity.Account, Channel: c, ReceiveMaximum: c.limits.receiveMaximum,
		Messages: messages, Dismissals: dismissals, App: c.app, Keepalive: keepalive, Remote: c.client.Net.Remote,
	})
	switch {
	case errors.Is(err, delivery.ErrChannelClosed), errors.Is(err, delivery.ErrStopped): // the connection ends, too
		return
	case err != nil:
		c.registrationFailed(err)
		return
	}
	c.presence, c.appUnsaid = p, false
}

// registrationFailed handles a device that the core does not take up. One that a
// service has moved to another account while it was connected is disconnected.
func (c *conn) registrationFailed(err error) {
	switch {
	case errors.Is(err, delivery.ErrForeignDevice):
		_ = c.send(item{stop: errOtherDevice}) // or it is gone
		return
	case errors.Is(err, errTooManyDevices):
		c.hook.Counters.OverDevices.Add(1)
		c.hook.logs.Info(c.hook.log, "device refused, it gets no notifications on this connection", "device", clip(c.client.ID), "account", clip(c.identity.Account), "error", err)
		return
	}
	c.hook.logs.Error(c.hook.log, "register a device failed, it gets no notifications on this connection", "device", c.client.ID, "account", c.identity.Account, "error", err)
}

// isDevice returns nil if the client is a device, and otherwise why it is not.
func (c *conn) isDevice() error {
	if c.signedOut.Load() {
		return errSignedOut
	}
	return c.notDevice
}

func (c *conn) offline(why string) {
	if c.presence != nil {
		c.presence.Offline(why)
		c.presence = nil
	}
}

// clip bounds what a client or the network says before it gets into a timeline.
func clip(s string) string { return text.OneLine(text.Clip(s, 200)) }
