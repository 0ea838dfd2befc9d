package hooks

import (
	"errors"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// maxKeepalive is the longest keepalive that mochi can keep: it computes one and a
// half of it in 16 bits.
const maxKeepalive = 43_690 * time.Second

// OnConnect takes a CONNECT before anything acts upon it. It is the only veto.
func (h *Hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	if cl.ID == mqtt.InlineClientId {
		return h.refuse(cl, packets.ErrClientIdentifierNotValid) // it is the server's own client
	}
	if pk.Connect.WillFlag && h.topics.within(pk.Connect.WillTopic) {
		// mochi publishes a will without any check.
		return h.refuse(cl, packets.ErrNotAuthorized)
	}
	h.clampKeepalive(cl)
	cl.ID = strings.Clone(cl.ID) // not a part of the packet, which the session would keep in memory

	// mochi's own accounting of the client's Receive Maximum loses packets and can
	// deadlock, and its topic aliases break at a resend: both are switched off.
	receiveMaximum := int(pk.Properties.ReceiveMaximum) // mochi has cut down the other one to a limit of its own
	c := &conn{hook: h, client: cl, number: h.connects.Add(1), limits: limits{receiveMaximum: receiveMaximum}, waiting: make(chan struct{}, h.opts.MaxWaiting)}
	c.takeConnection(&pk)
	cl.Net.Conn = &watchedConn{Conn: cl.Net.Conn, closed: c.onConnClosed, grace: time.Duration(cl.State.Keepalive%2) * time.Second / 2} // nobody else has the client yet
	if reason := c.refusesWill(); reason != "" {
		h.logs.Info(h.log, "connection refused", "client", clip(cl.ID), "remote", cl.Net.Remote, "error", reason)
		return h.refuse(cl, packets.ErrNotAuthorized)
	}
	cl.Properties.Props.ReceiveMaximum = 0
	cl.Properties.Props.TopicAliasMaximum = 0
	cl.State.Inflight.ResetSendQuota(0)

	h.arrivals.add(h, c)
	return nil
}

// refuse answers a CONNECT: mochi closes without a CONNACK when OnConnect fails.
func (h *Hook) refuse(cl *mqtt.Client, code packets.Code) error {
	if cl.Properties.ProtocolVersion < 5 { // mochi's table lacks the first, and knows the second by its own reason only
		switch code.Code {
		case packets.ErrNotAuthorized.Code, packets.ErrQuotaExceeded.Code:
			code = packets.Err3NotAuthorized
		case packets.ErrServerUnavailable.Code:
			code = packets.ErrServerUnavailable
		case packets.ErrClientIdentifierNotValid.Code:
			code = packets.ErrClientIdentifierNotValid
		}
	}
	_ = h.server.SendConnack(cl, code, false, nil) // the connection is closed in any case
	return code
}

// clampKeepalive caps the keepalive, 0 (none) above all: a half-open connection is
// noticed only by a heartbeat that does not come. MQTT 5 clients are told
// [MQTT-3.2.2-21]; MQTT 3.1.1 has no word for it, and a client that is silent for
// longer is cut off and comes back.
func (h *Hook) clampKeepalive(cl *mqtt.Client) {
	limit := uint16(min(h.opts.MaxKeepalive, maxKeepalive) / time.Second)
	asked := cl.State.Keepalive
	if asked != 0 && asked <= limit {
		return
	}
	cl.State.Keepalive, cl.State.ServerKeepalive = limit, true
}

// OnConnectAuthenticate decides who the client is.
func (h *Hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	c := h.conn(cl)
	if c == nil {
		return false
	}
	switch {
	case h.opts.HostAuth:
		return false // mochi asks the next hook
	case h.opts.Authenticate == nil:
		c.identify(h.byName(cl))
	default:
		id, err := h.opts.Authenticate(h.ctx, credentials(cl, pk.Connect.Password))
		if err != nil {
			return h.refuseLogin(cl, err)
		}
		c.identify(id)
		h.permission.Do(func() { h.workers.Start(h.ctx, h.watchPermissions) })
		if !id.MayUse(cl.ID) {
			why := errNotItsDevice
			if other, refused := h.mayNotUse(c); refused {
				why = other
			}
			h.Counters.RefusedConnects.Add(1)
			h.logs.Info(h.log, "connection refused", "client", clip(cl.ID), "account", clip(id.Account), "remote", cl.Net.Remote, "error", why.Reason)
			cl.Stop(h.refuse(cl, why))
			return false
		}
	}
	cl.Properties.Username = []byte(c.identity.Account) // whose session it is, for OnSessionEstablish
	if h.hub == nil {
		return true
	}
	if c.will != nil && !c.bridgeState(c.will.TopicName) && !h.writes(cl, c.will.TopicName) {
		cl.Stop(h.refuse(cl, packets.ErrNotAuthorized)) // mochi's CONNACK would name the password
		return false
	}
	if reason := c.overLimits(); reason != "" {
		h.limited(c, "connection refused", reason)
		cl.Stop(h.refuse(cl, packets.ErrQuotaExceeded))
		return false
	}
	return true
}

// overLimits says which of mqtt.limits a CONNECT would pass.
func (c *conn) overLimits() string {
	h := c.hook
	if c.exempt() {
		return ""
	}
	if limit := h.rules.Load().Limits.TopicLevels; limit > 0 && c.will != nil && !c.bridgeState(c.will.TopicName) && ordinary.Levels(c.will.TopicName) > limit {
		return "the will's topic has too many levels (mqtt.limits.topic_levels)"
	}
	if h.opts.Authenticate != nil {
		kept, _ := h.outlives(c.client)
		if err := h.hub.Room(c.client.ID, c.identity.Account, kept); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (c *conn) identify(id auth.Identity) {
	c.identity = id
	c.notDevice = errors.Join(delivery.ValidDevice(c.client.ID), delivery.ValidAccount(id.Account))
}

// byName takes a client's word, or that of whoever has let it in.
func (h *Hook) byName(cl *mqtt.Client) auth.Identity {
	id := auth.Identity{Account: string(cl.Properties.Username), Service: !h.opts.HostAuth || h.opts.Services != nil && h.opts.Services(cl)}
	if id.Account == "" {
		id.Account = h.accountOf(cl.ID)
	}
	return id
}

// accountOf is the account of a client that names none: the one its device is
// registered for, else its identifier (contract §3).
func (h *Hook) accountOf(clientID string) string {
	if account, err := h.core.AccountOf(clientID); err == nil {
		return account
	}
	return clientID
}

// OnSessionEstablish comes before mochi hands the session of the same identifier
// on. It refuses a client whose identifier belongs to another account. Where nobody
// proves who a client is, and where a service has moved the device here, the session
// of the other account is dropped: its subscriptions and messages are nobody else's.
func (h *Hook) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	// Not in OnConnectAuthenticate: mochi asks nobody after the first hook that
	// says yes, and someone else's may come before this one.
	c := h.conn(cl)
	if c != nil && h.opts.HostAuth {
		c.identify(h.byName(cl))
	}
	if c != nil {
		if code, refused := h.claim(c); refused {
			h.rejectEstablish(c, code)
			return
		}
	}
	if h.hub != nil {
		if c != nil {
			h.takeSession(c)
		}
		return
	}
	existing, ok := h.server.Clients.Get(cl.ID)
	if !ok || existing == cl {
		return
	}
	if string(existing.Properties.Username) == string(cl.Properties.Username) {
		return
	}
	_ = h.server.DisconnectClient(existing, packets.ErrSessionTakenOver) // [MQTT-3.1.4-3]
	h.server.UnsubscribeClient(existing)
	existing.ClearInflights()
	h.server.Clients.Delete(cl.ID)
}

// arrivals are the connections that are not established yet. mochi says nothing
// when one fails before that: each arrival clears away those that have.
type arrivals struct {
	mu   sync.Mutex
	list []*conn
}

func (a *arrivals) add(h *Hook, c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := a.list[:0]
	for _, x := range a.list {
		switch {
		case x.established.Load():
		case x.client.Closed():
			h.conns.Delete(x.client)
		default:
			kept = append(kept, x)
		}
	}
	clear(a.list[len(kept):])
	a.list = kept
	a.list = append(a.list, c)
	h.conns.Store(c.client, c)
	if h.stopped.Load() { // after Store, so that Stop misses no connection
		c.outlet.finish()
	}
}
