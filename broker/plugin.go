package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	mochi "github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// Options are what Attach uses: the sections of the configuration that are not about
// listeners or HTTP. Every zero value stands for its default (config.Default).
type Options struct {
	DataDir string // where the store is, unless Store.Engine is memory
	Store   config.Store
	// Cluster makes the server one of several nodes over Store.Postgres: docs/nodes.md.
	// Without an Address it is the only one. Close hands the accounts over to the other
	// nodes; the server's connections are yours to end.
	Cluster     config.Cluster
	TopicPrefix string // "heartline"
	// MaxKeepalive is forced on clients that ask for more or for none.
	MaxKeepalive time.Duration
	// WriteTimeout is how long a client may take to let a write through.
	WriteTimeout time.Duration
	Delivery     config.Delivery
	Fallback     config.Fallback
	// Auth is Heartline's own authentication. In mode none, the default, the server's
	// other hooks decide who may connect, and a client's user name is its account. In
	// the other modes Heartline decides; mochi lets in whom any hook lets in, so that
	// no other hook may authenticate then.
	Auth config.Auth
	// XMPP makes the clients of XMPP servers devices, too; without Components it is off.
	XMPP config.XMPP
	// Receipts sends events to webhooks; without Webhooks it is off.
	Receipts config.Receipts
	// Services reports whether a client that the server's other hooks have let in is a
	// service: it may notify every account over MQTT. nil: none is. It runs while the
	// client connects, and must not block. It is not used with Heartline's own
	// authentication.
	Services func(*mqtt.Client) bool
	// Logger gets what an operator should know; nil: the server's.
	Logger *slog.Logger
}

// config is o as the sections that New uses.
func (o Options) config() *config.Config {
	c := config.Default()
	given := *c
	given.DataDir, given.Store, given.Delivery, given.Fallback, given.Auth, given.XMPP, given.Receipts = o.DataDir, o.Store, o.Delivery, o.Fallback, o.Auth, o.XMPP, o.Receipts
	given.Cluster = o.Cluster
	given.MQTT.TopicPrefix, given.MQTT.MaxKeepalive, given.MQTT.WriteTimeout = o.TopicPrefix, o.MaxKeepalive, o.WriteTimeout
	fillZero(reflect.ValueOf(&given).Elem(), reflect.ValueOf(c).Elem())
	return &given
}

// fillZero sets each zero field of v to the same field of defaults.
func fillZero(v, defaults reflect.Value) {
	if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			fillZero(v.Field(i), defaults.Field(i))
		}
		return
	}
	if v.IsZero() && v.CanSet() {
		v.Set(defaults)
	}
}

// Attach adds Heartline to a mochi server, before or after its Serve. The topics below
// Options.TopicPrefix are Heartline's. In a server of yours nobody becomes a service by
// being let in: Options.Services or Heartline's own authentication decides that. What
// the server itself publishes to an account's notifications topic is taken as a
// service's.
//
// mochi's own listeners keep mochi's faults: a connection that never sends its CONNECT
// holds up Close, a header of 5 bytes allocates 256 MiB, some malformed packets end the
// process. NewListener and NewWebSocket make Heartline's, which do not.
func Attach(server *mqtt.Server, o Options) (*Heartline, error) {
	cfg := o.config()
	if cfg.Auth.Mode == config.AuthNone && len(cfg.Auth.ACL) > 0 {
		// mochi lets pass what any hook lets pass, so it would forbid nothing.
		return nil, errors.New("auth.acl: must be empty where auth.mode is none, as the server's own hooks decide: give them the rules")
	}
	if cfg.Cluster.Address != "" { // nodes obey each other: their TLS must not be forgotten
		nodes := config.Default()
		nodes.Store, nodes.Cluster = cfg.Store, cfg.Cluster
		if err := nodes.Validate(); err != nil {
			return nil, err
		}
	}
	log := o.Logger
	if log == nil {
		log = server.Log
	}
	counts := metrics.New()
	h, err := attach(server, cfg, attachment{
		log: log, hostAuth: cfg.Auth.Mode == config.AuthNone, services: o.Services, observe: []delivery.Observer{counts}, pushed: counts.Pushed,
	})
	if err != nil {
		return nil, err
	}
	h.metrics = counts
	limits := config.Default().MQTT
	h.gate = listener.NewGate(listener.Limits{Connections: limits.MaxConnections, PerAddress: limits.MaxConnectionsPerAddress})
	counts.Register(figures{&Broker{Heartline: h, cfg: cfg, server: server}})
	return h, nil
}

// PutDevice registers a device of an account, or moves it there from another account,
// as PUT /v1/accounts/{account}/devices/{device} does. A nil registration leaves those
// that the device has. It returns when that is on the disk.
func (h *Heartline) PutDevice(ctx context.Context, account, device string, r *delivery.Registration) error {
	before, err := h.core.AccountOf(device)
	if err != nil && !errors.Is(err, delivery.ErrNotFound) {
		return err
	}
	err = h.core.PutDevice(ctx, account, device, r)
	if before != "" && before != account && (err == nil || delivery.Unrecorded(ctx, err)) {
		h.endSession(before, device) // the former account's
	}
	return err
}

// ForgetDevice removes a device with its registrations, cancels its outstanding
// deliveries, and ends its connection and session: another account can use it then. The error
// wraps delivery.ErrUnknownDevice if the account has no such device.
func (h *Heartline) ForgetDevice(ctx context.Context, account, device string) error {
	err := h.core.ForgetDevice(ctx, account, device)
	if err == nil || delivery.Unrecorded(ctx, err) {
		h.endSession(account, device)
	}
	return err
}

// DisconnectDevice ends the connection of a client and leaves its session. It reports
// false if it is not connected.
func (h *Heartline) DisconnectDevice(clientID string) bool { return h.disconnect(clientID) }

// ReleaseClient ends the connection and the session of a client, device or not, so that
// another account can use its identifier. It reports false if there was neither.
func (h *Heartline) ReleaseClient(clientID string) bool { return h.endSession("", clientID) }

// APIHandler returns the HTTP API (contract §4), to be mounted at "/". authorize lets a
// request through by returning nil; its error is the answer's detail, with status 401.
// With a nil authorize Heartline's own authentication decides; with auth.mode none the
// API answers to localhost only. Close ends what the handler serves.
func (h *Heartline) APIHandler(authorize func(*http.Request) error) http.Handler {
	o := api.Options{
		Core: h.core, FlushAll: h.flushAll(), Logger: h.log, Version: Version(), Ready: h.pluginReadiness, Metrics: h.metrics, Receipts: h.receipts,
		Disconnect: h.disconnect, EndSession: h.endSession, Backup: h.outbox.Checkpoint,
	}
	if why := noBackup[h.engine]; why != "" {
		o.Backup, o.NoBackup = nil, why
	}
	h.credentials(&o)
	if authorize == nil {
		return h.serve(api.New(o))
	}
	// The API asks for a token. The host has decided, so that any will do.
	o.Bearer = func(context.Context, string, string) (auth.Identity, error) {
		return auth.Identity{Service: true, Admin: true}, nil
	}
	calls := h.serve(api.New(o))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := authorize(r); err != nil {
			api.Unauthenticated(w, err.Error())
			return
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer authorized-by-the-host")
		calls.ServeHTTP(w, r)
	})
}

// flushAll flushes the Cores of all nodes; nil: there is one.
func (h *Heartline) flushAll() func(context.Context) error {
	if h.node == nil {
		return nil
	}
	return h.node.FlushAll
}

// credentials has an API ask for what auth.mode takes.
func (h *Heartline) credentials(o *api.Options) {
	if !h.auth.Open() {
		o.Bearer = h.auth.Bearer
	}
	if h.auth.Passwords() {
		o.Password = h.auth.Connect
	}
}

// serve has Close end the streams of an API.
func (h *Heartline) serve(a *api.API) http.Handler {
	context.AfterFunc(h.closing, a.Close)
	return a
}

// NewListener returns a listener of Heartline's on socket, for the server's AddListener.
// It bounds what a slow, malformed or hostile client can cost, before its CONNECT and
// after. tls is nil for plain TCP.
func (h *Heartline) NewListener(id string, socket net.Listener, tls *tls.Config) mochi.Listener {
	o := h.listenerOptions(id)
	o.Socket, o.TLS = socket, tls
	return listener.New(o)
}

// NewWebSocket is NewListener for MQTT over WebSocket: add it to the server, and mount
// it in an http.Server, at /mqtt by custom.
func (h *Heartline) NewWebSocket(id string) interface {
	mochi.Listener
	http.Handler
} {
	return listener.NewWebSocket(h.listenerOptions(id))
}

func (h *Heartline) listenerOptions(id string) listener.Options {
	m := config.Default().MQTT
	if limit := h.server.Options.Capabilities.MaximumPacketSize; limit > 0 {
		m.MaxPacketSize = config.ByteSize(limit)
	}
	return listener.Options{
		ID: id, Gate: h.gate, Strict: strict.Options{MaxPacketSize: int(m.MaxPacketSize)},
		ConnectTimeout: m.ConnectTimeout, WriteTimeout: m.WriteTimeout, OnPanic: func(c *listener.Conn) { h.hook.Lost(c) },
	}
}

// MetricsHandler returns the metrics in Prometheus' text form. It asks for no token.
func (h *Heartline) MetricsHandler() http.Handler { return h.metrics.Handler() }

// Event is a line of a timeline, of the notification ID of Account.
type Event struct {
	delivery.AccountEvent
	// ID is the notification's; "" if its history is gone already.
	ID string
}

// Subscription is a live view of every event.
type Subscription struct {
	// C carries the events as they happen. It is closed at the end: by Close, by
	// Heartline's Close, or because the reader was too slow (Lagged).
	C <-chan Event

	events *delivery.Subscription
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// Subscribe opens a live view of every event. A reader that lags by more than buffer
// events is cut off. Close it.
func (h *Heartline) Subscribe(buffer int) *Subscription {
	c := make(chan Event)
	s := &Subscription{C: c, events: h.core.Subscribe(buffer), done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(h.closing)
	go s.run(c, h.core)
	return s
}

// run adds the IDs.
func (s *Subscription) run(c chan<- Event, core Core) {
	defer close(s.done)
	defer close(c)
	var last Event // events of one notification follow one another
	for e := range s.events.C {
		if e.Seq != last.Seq {
			last = Event{}
			if n, err := core.Notification(e.Seq); err == nil {
				last.ID = n.ID
			}
		}
		last.AccountEvent = e
		select {
		case c <- last:
		case <-s.ctx.Done():
			s.events.Close()
			return
		}
	}
}

// Close ends the view and returns when it has ended. It is safe to call twice.
func (s *Subscription) Close() {
	s.cancel()
	s.events.Close()
	<-s.done
}

// Lagged reports whether the view ended because its reader was too slow. Ask after C is
// closed.
func (s *Subscription) Lagged() bool { return s.events.Lagged() }
