package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/seldom"
	"github.com/heartline-mqtt/heartline/internal/text"
	"github.com/heartline-mqtt/heartline/internal/workers"
)

// Options configure a Hook.
type Options struct {
	TopicPrefix  string        // contract §3; "heartline"
	MaxKeepalive time.Duration // forced on clients that ask for more or for none; at most 43,690 s (see connect.go)
	WriteTimeout time.Duration // how long a client may take to let a write through
	// MaxWaiting is how many publishes of one backend connection may wait for the
	// disk at once; further ones wait unread (the server's Receive Maximum).
	MaxWaiting int
	// Authenticate decides the identity of a client; nil accepts the identity that
	// each client claims (auth.mode: none).
	Authenticate func(ctx context.Context, c auth.Credentials) (auth.Identity, error)
	// Services reports whether a client that other hooks have let in is a service;
	// nil: none is. It is used with HostAuth.
	Services func(*mqtt.Client) bool
	// HostAuth leaves the decision on connections and on ordinary topics to
	// other hooks of the server. It is for the plugin.
	HostAuth bool
	// Rules may change later; see Hook.Reconfigure.
	Rules
	// AccessClosed refuses ordinary topics of which no entry of Access speaks, and $SYS,
	// to all but services.
	AccessClosed bool
	// Hub routes ordinary messages. nil leaves them to the server, for the plugin.
	Hub *ordinary.Hub
	// Events are sent to services that subscribe to them; nil: to nobody.
	Events Events
	// Elsewhere is asked, before a client takes its session, to bring the session that it has
	// at another node into the Hub, if it is to be kept, and to end its connection there. It may
	// wait for 5 s. nil: there are no other nodes.
	Elsewhere func(client, account string, keep bool)
	// Newcomers is shared with what else makes devices known; nil: nothing else does.
	Newcomers *Newcomers
}

// Counters counts what nobody else can see. Read them at any time.
type Counters struct {
	Refused     atomic.Int64 // publishes below the prefix that were refused
	UnknownAcks atomic.Int64 // acks of a notification that was never for the device
	Ingress     atomic.Int64 // notifications taken over MQTT
	Limited     atomic.Int64 // subscriptions, publishes and sessions refused for a limit
	// RefusedConnects counts CONNECTs under an identifier of another account.
	RefusedConnects atomic.Int64
	// OverDevices counts refusals because the account has too many devices.
	OverDevices atomic.Int64
	// Connacks counts the answers to CONNECT by their code on the wire: MQTT 5's reason
	// code, in 3.1.1 the return code. RefusedBy counts refused publishes by the reason
	// code that MQTT 5 has for the refusal.
	Connacks, RefusedBy [256]atomic.Int64
	// Revoked counts connections ended because their credentials were no longer valid.
	Revoked atomic.Int64
}

// Hook connects a mochi server with a core. Make it with New and add it with
// server.AddHook. It may be stopped before or after the server closes.
type Hook struct {
	mqtt.HookBase
	Counters Counters

	opts   Options
	core   Core
	server *mqtt.Server
	log    *slog.Logger
	topics topics
	rules  atomic.Pointer[rules]

	conns    sync.Map      // *mqtt.Client → *conn
	connects atomic.Uint64 // CONNECTs that have come
	arrivals arrivals
	claims   claims
	rates    rates

	rejections atomic.Uint64 // numbers the identifiers of rejected connections

	hub        *ordinary.Hub // nil: ordinary messages are the server's
	workers    *workers.Workers
	flushers   flushers
	turns      *turns
	stopped    atomic.Bool
	stalled    stalled
	logs       seldom.Log // of what clients cause
	permission sync.Once  // starts watchPermissions

	eventsStart atomic.Pointer[delivery.Place] // where the store ended at the server's start
	ctx         context.Context
	cancel      context.CancelFunc
}

// New returns a hook for server that feeds core.
func New(server *mqtt.Server, core Core, opts Options, log *slog.Logger) *Hook {
	h := &Hook{opts: opts, core: core, server: server, log: log, topics: topics{opts.TopicPrefix}, workers: workers.New(), turns: newTurns()}
	if h.opts.Newcomers == nil {
		h.opts.Newcomers = &Newcomers{}
	}
	h.Reconfigure(opts.Rules)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.stalled.hook = h
	h.flushers = newFlushers(h)
	if h.hub = opts.Hub; h.hub != nil {
		h.hub.Guard(h.mayRead, h.mayWrite)
	}
	return h
}

// ID implements mqtt.Hook.
func (h *Hook) ID() string { return "heartline" }

// Provides implements mqtt.Hook.
func (h *Hook) Provides(b byte) bool {
	return slices.Contains([]byte{
		mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished,
		mqtt.OnDisconnect, mqtt.OnPacketRead, mqtt.OnPacketProcessed, mqtt.OnSubscribed, mqtt.OnUnsubscribed,
		mqtt.OnPublish, mqtt.OnPacketEncode, mqtt.OnSysInfoTick, mqtt.OnStarted,
	}, b)
}

// OnStarted starts what runs by the clock.
func (h *Hook) OnStarted() {
	if h.hub != nil {
		h.workers.Start(h.ctx, func() { h.hub.Run(h.ctx) })
	}
	if h.opts.Events != nil {
		if end, err := h.opts.Events.EventsEnd(); err == nil {
			h.eventsStart.Store(&end)
		}
	}
}

// Stop ends the hook's part of every connection and returns when no goroutine of the
// hook runs any more. It is safe on a Hook that was never added to a server, twice,
// and twice at once. mochi calls it at the end of server.Close; called earlier, the
// server goes on with ordinary MQTT, and publishes below the prefix are refused. The
// error is always nil. It implements mqtt.Hook.
func (h *Hook) Stop() error {
	h.stopped.Store(true)
	h.cancel()
	h.conns.Range(func(_, v any) bool {
		v.(*conn).outlet.finish()
		return true
	})
	h.workers.Stop()
	return nil
}

// Connections returns how many clients are connected.
func (h *Hook) Connections() (n int) {
	h.conns.Range(func(any, any) bool { n++; return true })
	return n
}

func (h *Hook) conn(cl *mqtt.Client) *conn {
	if v, ok := h.conns.Load(cl); ok {
		return v.(*conn)
	}
	return nil
}

// OnSessionEstablished hears of a connection that has its CONNACK. A resumed
// session has its subscriptions already; a new one is heard at OnSubscribed.
func (h *Hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c := h.conn(cl)
	if c == nil {
		return
	}
	if c.rejected.Load() {
		cl.Stop(packets.ErrNotAuthorized)
		return
	}
	c.releaseClaim()
	c.established.Store(true)
	if c.present = c.present || cl.State.Subscriptions.Len() > 0; cl.Closed() && h.hub != nil {
		c.leaveSession(false) // it ended before it was established
	}
	c.standing.resumed = c.present
	c.eventsChanged(c.present)
	c.subscriptionsChanged()
	c.Wake() // there may be messages of an earlier connection
	c.uncork()
}

// OnDisconnect may come after the new connection's OnSessionEstablished at a
// take-over: it speaks of this connection alone. mochi calls it at start for
// every stored session, too: those have no conn.
func (h *Hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	v, ok := h.conns.LoadAndDelete(cl) // once: Lost may call this as well
	if !ok {
		return
	}
	c := v.(*conn)
	c.outlet.close()
	c.endEvents()
	c.offline(whyLost(cl, err))
	defer c.sayApp() // behind the session, which a successor waits for
	if h.hub == nil {
		return
	}
	if errors.Is(c.identity.Check(time.Now()), auth.ErrRemoved) {
		c.session.EndService(c) // before its will is sent
	}
	c.leaveSession(c.bye && err == nil)
	if same, ok := h.server.Clients.Get(cl.ID); ok && same == cl {
		h.server.Clients.Delete(cl.ID) // the session is ours, and goes on without mochi's client
	}
}

func whyLost(cl *mqtt.Client, err error) string {
	if cl.IsTakenOver() || errors.Is(cl.StopCause(), packets.ErrSessionTakenOver) {
		return "session taken over"
	}
	if cause := cl.StopCause(); cause != nil {
		if errors.Is(cause, packets.CodeDisconnect) && err == nil {
			return "device disconnected"
		}
		err = cause
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, os.ErrDeadlineExceeded):
		return "heartbeat overdue"
	case err == nil, errors.Is(err, io.EOF):
		return "connection closed"
	}
	return clip(err.Error())
}

// OnPacketRead sees every packet first: each is a heartbeat, and a PUBACK may be
// for us. OnQosComplete would not do: it fires for the client's own publishes and
// for negative reason codes, too.
func (h *Hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	h.read(cl, &pk)
	return pk, nil
}

func (h *Hook) read(cl *mqtt.Client, pk *packets.Packet) {
	c := h.conn(cl)
	switch {
	case pk.FixedHeader.Type == packets.Connect:
		readConnect(pk)
		return
	case c == nil:
		return
	}
	if pk.FixedHeader.Type == packets.Puback && c.puback(pk) {
		pk.PacketID = 0 // mochi may have a packet of its own under this identifier
		return
	}
	c.heartbeat()
	if h.hub != nil && c.established.Load() {
		c.ordinary(pk)
	}
}

func (c *conn) heartbeat() {
	if c.presence != nil {
		c.presence.Heartbeat()
	}
}

// OnSubscribed runs before the SUBACK is written: the packets it causes are held
// until OnPacketProcessed.
func (h *Hook) OnSubscribed(cl *mqtt.Client, _ packets.Packet, _ []byte) {
	if c := h.conn(cl); c != nil {
		c.outlet.cork()
		c.subscriptionsChanged()
	}
}

// OnPacketProcessed comes when the SUBACK is out.
func (h *Hook) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	if pk.FixedHeader.Type != packets.Subscribe {
		return
	}
	if c := h.conn(cl); c != nil {
		c.uncork()
	}
}

// OnUnsubscribed also comes when mochi drops a session.
func (h *Hook) OnUnsubscribed(cl *mqtt.Client, _ packets.Packet) {
	if c := h.conn(cl); c != nil && !cl.Closed() {
		c.subscriptionsChanged()
	}
}

// OnACLCheck decides on subscriptions in a server whose routing is its own, and again
// at each delivery. mochi lets pass
// what any of its hooks lets pass: in a server with hooks of its own, ordinary
// topics are theirs alone, and this one says yes to a device's own topics only.
func (h *Hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	if cl.Net.Inline {
		return true
	}
	ours := h.topics.within(topic)
	if write {
		// OnPublish answers with a reason, and after a topic alias has been
		// resolved; a refusal here would cut a 3.1.1 client off.
		return ours || !h.opts.HostAuth
	}
	if !ours && !h.reads(cl, topic) {
		return false
	}
	c := h.conn(cl)
	if c == nil {
		return !h.opts.HostAuth
	}
	switch {
	case c.isDevice() != nil && h.topics.belowDevices(topic):
		return c.refuseSubscription(topic, c.isDevice())
	case h.opts.Authenticate == nil && !h.opts.HostAuth:
		return true
	case h.topics.overlaps(topic):
		if _, events := h.topics.eventsOf(topic); events && c.refusesEvents(topic) == "" {
			return true
		}
		if c.isDevice() != nil || !h.topics.coversOwn(topic, cl.ID) {
			return slices.Contains(h.topics.refusals(cl.ID), topic)
		}
		if err := c.admitDevice(); err != nil {
			return c.refuseSubscription(topic, err)
		}
		return true
	}
	return !h.opts.HostAuth
}

// refuseSubscription notes why a client may not subscribe below the
// devices' topics: the SUBACK of MQTT 5 says so, and the log.
func (c *conn) refuseSubscription(filter string, err error) bool {
	if errors.Is(err, errTooManyDevices) {
		c.hook.Counters.OverDevices.Add(1)
	}
	reason := text.OneLine(err.Error())
	c.refusedSub.Store(&reason)
	c.hook.log.Info("subscription refused", "client", c.client.ID, "account", c.identity.Account, "filter", filter, "error", reason)
	return false
}

func (h *Hook) String() string { return fmt.Sprintf("heartline hook below %s/", h.opts.TopicPrefix) }
