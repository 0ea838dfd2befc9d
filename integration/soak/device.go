package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// device is one client identifier. It connects, lives for a while, goes in one of many
// ways, stays away for a while, and comes back, sometimes with another account.
type device struct {
	*load
	id      string
	slot    int
	account int
	webpush json.RawMessage // its browser's subscription
}

// chance is true with probability p.
func chance(p float64) bool { return rand.Float64() < p }

// about returns an exponentially distributed duration with the mean d, at most five times
// that.
func about(d time.Duration) time.Duration {
	return min(time.Duration(rand.ExpFloat64()*float64(d)), 5*d)
}

func newDevice(l *load, slot int) *device {
	return &device{load: l, id: fmt.Sprintf("device-%05d", slot), slot: slot, account: slot / 2}
}

// live is the device's life until ctx ends.
func (d *device) live(ctx context.Context) {
	// Thousands that connect at once are another test.
	if !rest(ctx, time.Duration(rand.Float64()*float64(d.timing.arrive))) {
		return
	}
	var old *connection
	for ctx.Err() == nil {
		c := d.connect(ctx)
		old.close() // the connection that this one has taken over
		old = nil
		if c != nil && !d.session(ctx, c) {
			if old = c; chance(0.5) {
				continue // takes it over at once
			}
			rest(ctx, about(d.timing.away))
			continue
		}
		pause := about(d.timing.away)
		if chance(0.05) {
			pause *= 4
		}
		rest(ctx, pause)
	}
	old.close()
}

// connection is a device's connection.
type connection struct {
	*rawmqtt.Client
	d          *device
	account    string
	quit       atomic.Bool   // the device is gone without a word: nothing is answered
	subscribed atomic.Int64  // when the SUBACK came, in Unix nanoseconds
	signedOut  atomic.Bool   // the server has acknowledged the sign-out
	signOut    atomic.Uint32 // the packet identifier of the sign-out
	packetID   atomic.Uint32
	ended      chan struct{}
}

func (c *connection) close() {
	if c != nil {
		c.Close()
		<-c.ended
	}
}

// connect connects and subscribes; nil where that failed.
func (d *device) connect(ctx context.Context) *connection {
	transport, version := overTCP, byte(5)
	switch r := rand.IntN(20); r {
	case 0:
		transport = overTLS
	case 1:
		transport = overWebSocket
	}
	if chance(0.4) {
		version = 4
	}
	conn, err := d.world.dial(ctx, transport, "")
	if err != nil {
		if ctx.Err() == nil {
			d.unexpected.countWith("device dials", err.Error())
		}
		return nil
	}
	c := &connection{Client: rawmqtt.New(conn, version), d: d, account: d.world.account(d.account), ended: make(chan struct{})}
	o := rawmqtt.Connect{ID: d.id, Username: c.account, Password: password, Keepalive: uint16(d.timing.keepalive / time.Second), Clean: chance(0.3)}
	if !o.Clean && version == 5 {
		o.SessionExpiry = uint32(max(d.timing.session, time.Minute) / time.Second)
	}
	if chance(0.2) {
		o.WillTopic, o.WillPayload = "soak/wills/"+d.id, "gone"
	}
	if version == 5 && chance(0.2) {
		o.ReceiveMaximum = 10
	}
	ack, err := c.Connect(o)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.unexpected.countWith("CONNECT", err.Error())
	case ack.ReasonCode != 0:
		d.unexpected.countWith(fmt.Sprintf("CONNACK 0x%02x", ack.ReasonCode), d.id+" as "+c.account)
	default:
		d.done.count("CONNECT")
		go c.read()
		c.subscribe()
		return c
	}
	c.Close()
	return nil
}

func (c *connection) nextID() uint16 { return uint16(c.packetID.Add(1)%30_000 + 10) }

const subscribeID = 1

func (c *connection) subscribe() {
	d := c.d
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: subscribeID}
	add := func(filter string, qos byte) {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: filter, Qos: qos})
	}
	for _, kind := range []string{"notifications", "messages", "dismissals"} {
		add("heartline/devices/"+d.id+"/"+kind, 1)
	}
	add(fmt.Sprintf("soak/groups/%d", d.slot/10), byte(d.slot%3))
	add("soak/state/"+d.id, 1)
	if d.slot%20 == 0 {
		add("soak/wills/+", 0)
	}
	_ = c.Send(pk) // the reader hears of the failure
}

func (c *connection) read() {
	defer close(c.ended)
	for {
		pk, err := c.Read(0)
		if err != nil {
			return
		}
		if !c.quit.Load() {
			c.take(pk)
		}
	}
}

// take answers a packet. A failed write shows in the next read.
func (c *connection) take(pk packets.Packet) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		c.message(pk)
	case packets.Pubrec:
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: pk.PacketID})
	case packets.Pubrel:
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: pk.PacketID})
	case packets.Puback:
		if pk.ReasonCode >= 0x80 {
			c.d.done.count(fmt.Sprintf("PUBACK 0x%02x", pk.ReasonCode))
		} else if id := c.signOut.Load(); id != 0 && uint32(pk.PacketID) == id {
			c.signedOut.Store(true)
		}
	case packets.Suback:
		if pk.PacketID == subscribeID {
			c.subscribed.Store(time.Now().UnixNano())
		}
		for _, code := range pk.ReasonCodes {
			if code >= 0x80 {
				c.d.unexpected.count(fmt.Sprintf("SUBACK 0x%02x", code))
			}
		}
	case packets.Disconnect:
		c.d.done.count(fmt.Sprintf("DISCONNECT 0x%02x", pk.ReasonCode))
	}
}

func (c *connection) message(pk packets.Packet) {
	switch {
	case strings.HasSuffix(pk.TopicName, "/notifications") && strings.HasPrefix(pk.TopicName, "heartline/"):
		c.notification(pk)
		return
	case strings.HasPrefix(pk.TopicName, "heartline/"):
		c.d.done.count("received: " + pk.TopicName[strings.LastIndexByte(pk.TopicName, '/')+1:])
	default:
		c.d.done.count(fmt.Sprintf("received: ordinary message of QoS %d", pk.FixedHeader.Qos))
	}
	switch pk.FixedHeader.Qos {
	case 1:
		_ = c.Puback(pk.PacketID)
	case 2:
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: pk.PacketID})
	}
}

// notification acknowledges a notification, mostly.
func (c *connection) notification(pk packets.Packet) {
	var p wire.Pseudo
	if err := json.Unmarshal(pk.Payload, &p); err != nil {
		c.d.unexpected.countWith("payload of a notification", err.Error())
		return
	}
	if at := c.subscribed.Load(); at != 0 {
		c.d.ledger.arrived(p.ID, c.d.id, time.Unix(0, at))
	}
	c.d.done.count("received: notification")
	switch r := rand.Float64(); {
	case r < 0.03: // never, on this connection
		return
	case r < 0.06:
		time.AfterFunc(about(time.Second), func() { _ = c.Puback(pk.PacketID) })
	case r < 0.08 && c.Version == 5:
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID, ReasonCode: 0x80})
	default:
		_ = c.Puback(pk.PacketID)
	}
	status := ""
	switch {
	case chance(0.05):
		status = "read"
	case p.Ack == "displayed" && chance(0.9), chance(0.1):
		status = "displayed"
	}
	switch {
	case status == "":
	case chance(0.1):
		go c.ackOverHTTP(p.ID, status)
	default:
		c.publish("acks", fmt.Sprintf(`{"id":%q,"status":%q}`, p.ID, status))
	}
}

// ackOverHTTP acknowledges as an app's extension does, which has no connection.
func (c *connection) ackOverHTTP(id, status string) {
	as := func(r *http.Request) { r.SetBasicAuth(c.account, password) }
	code, body, err := c.d.world.server.callAs(context.Background(), http.MethodPost, "/v1/notifications/"+id+"/acks", fmt.Sprintf(`{"device":%q,"status":%q}`, c.d.id, status), as)
	// Erased meanwhile, or the device has another account.
	c.d.answered("ack over HTTP", code, body, err, http.StatusNoContent, http.StatusNotFound, http.StatusForbidden)
}

func (c *connection) publish(kind, payload string) {
	_ = c.Client.Publish(c.nextID(), 1, "heartline/devices/"+c.d.id+"/"+kind, []byte(payload)) // the reader hears of the failure
}

// session is the life of one connection. It reports false where the device leaves the
// connection open and silent.
func (d *device) session(ctx context.Context, c *connection) (closed bool) {
	if chance(0.3) {
		d.register(ctx, c)
	}
	ping := time.NewTicker(d.timing.keepalive * 6 / 10)
	defer ping.Stop()
	act := time.NewTimer(about(d.timing.act))
	defer act.Stop()
	end := time.NewTimer(about(d.timing.session))
	defer end.Stop()
	for {
		select {
		case <-ping.C:
			_ = c.Ping() // the reader hears of the failure
		case <-act.C:
			d.act(c)
			act.Reset(about(d.timing.act))
		case <-end.C:
			return d.leave(ctx, c)
		case <-c.ended:
			c.Close()
			return true
		case <-ctx.Done():
			c.close()
			return true
		}
	}
}

// act does one of the things that a device does from time to time.
func (d *device) act(c *connection) {
	group := fmt.Sprintf("soak/groups/%d", d.slot/10)
	publish := func(topicName string, qos byte, retain bool, payload string) {
		d.done.count(fmt.Sprintf("ordinary publish of QoS %d", qos))
		_ = c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Retain: retain}, PacketID: c.nextID() * min(uint16(qos), 1),
			TopicName: topicName, Payload: []byte(payload),
		}) // the reader hears of the failure
	}
	switch rand.IntN(10) {
	case 0, 1:
		publish(group, 0, false, strings.Repeat("a", 200))
	case 2, 3:
		publish(group, 1, false, strings.Repeat("b", 500))
	case 4, 5:
		publish(group, 2, false, strings.Repeat("c", 300))
	case 6:
		publish("soak/state/"+d.id, 1, true, time.Now().String())
	case 7:
		d.done.count("app state")
		c.publish("state", `{"app":"foreground"}`)
	case 8:
		d.done.count("app state")
		c.publish("state", `{"app":"background"}`)
	case 9:
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: c.nextID(), Filters: packets.Subscriptions{{Filter: group}}})
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: c.nextID(), Filters: packets.Subscriptions{{Filter: group, Qos: byte(d.slot % 3)}}})
	}
}

// register registers the device at its notification server, with a new token now and then.
func (d *device) register(ctx context.Context, c *connection) {
	generation := 0
	if chance(0.05) {
		generation = rand.IntN(4)
	}
	var payload string
	switch d.slot % 5 {
	case 0:
		payload = fmt.Sprintf(`{"apns":{"token":"%056x%08x","topic":%q,"environment":"production"}}`, d.slot+1, generation, app)
	case 1:
		payload = fmt.Sprintf(`{"fcm":{"token":"token-%06d:%020d"}}`, d.slot, generation)
	case 2:
		if d.webpush == nil || generation > 0 {
			d.newSubscription(ctx)
		}
		if d.webpush == nil {
			return
		}
		payload = fmt.Sprintf(`{"webpush":%s}`, d.webpush)
	default:
		return // no push for two in five
	}
	d.done.count("push-token")
	c.publish("push-token", payload)
}

// newSubscription has the browser subscribe again, which ends its old subscription.
func (d *device) newSubscription(ctx context.Context) {
	var old struct{ Endpoint string }
	if d.webpush != nil && json.Unmarshal(d.webpush, &old) == nil {
		token := old.Endpoint[strings.LastIndexByte(old.Endpoint, '/')+1:]
		status, body, err := d.simulator(ctx, http.MethodDelete, "/webpush/subscriptions/"+token, "")
		d.answered("end of a subscription", status, body, err, http.StatusNoContent)
	}
	status, body, err := d.simulator(ctx, http.MethodPost, "/webpush/subscriptions", `{"application_server_key":""}`)
	if d.answered("subscription", status, body, err, http.StatusCreated) {
		d.webpush = body
	}
}

// leave ends a session, and reports false where the connection stays open and silent.
func (d *device) leave(ctx context.Context, c *connection) (closed bool) {
	way := rand.Float64()
	switch {
	case way < 0.30:
		d.done.count("left: DISCONNECT")
		_ = c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	case way < 0.55:
		d.done.count("left: closed")
	case way < 0.65:
		d.done.count("left: reset")
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	case way < 0.75:
		d.done.count("left: open and silent, until the server closes")
		c.quit.Store(true)
		select {
		case <-c.ended:
		case <-ctx.Done():
		case <-time.After(d.timing.keepalive*3/2 + patience):
			d.unexpected.countWith("silent connection that the server leaves open", d.id)
		}
	case way < 0.95:
		d.done.count("left: open and silent")
		c.quit.Store(true)
		return false
	default:
		d.signOut(ctx, c)
	}
	c.close()
	return true
}

// signOut gives the device to another account.
func (d *device) signOut(ctx context.Context, c *connection) {
	d.done.count("left: signed out")
	if chance(0.3) {
		as := func(r *http.Request) { r.SetBasicAuth(c.account, password) }
		status, body, err := d.world.server.callAs(ctx, http.MethodDelete, "/v1/accounts/"+c.account+"/devices/"+d.id, "", as)
		if !d.answered("sign-out over HTTP", status, body, err, http.StatusNoContent, http.StatusNotFound) {
			return
		}
	} else {
		c.signOut.Store(uint32(c.nextID()))
		_ = c.Client.Publish(uint16(c.signOut.Load()), 1, "heartline/devices/"+d.id+"/sign-out", []byte("{}")) // the reader hears of the failure
		select {
		case <-c.ended:
		case <-ctx.Done():
		case <-time.After(patience):
			d.unexpected.countWith("sign-out that does not end the connection", d.id)
		}
		if !c.signedOut.Load() {
			return
		}
	}
	d.account = rand.IntN(d.world.accounts)
	d.done.count("change of account")
}
