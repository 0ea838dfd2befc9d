package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// A stop takes less than 5 s when nothing answers: pushGrace for the pushes under way,
// then endGrace for the HTTP calls and for the push requests that have been cancelled.
const (
	pushGrace = 3 * time.Second
	endGrace  = 500 * time.Millisecond
)

// Heartline is what Attach adds to a server. All its methods are safe for
// concurrent use.
type Heartline struct {
	auth     *auth.Auth
	core     core
	outbox   outbox
	node     *node // nil: the store is no PostgreSQL
	router   *fallback.Router
	servers  pushServers // of router; a reload replaces them
	hook     *hooks.Hook
	gates    []*xmpp.Gate
	tail     *receipts.Tail // of the store, for whoever reads events
	receipts *receipts.Receipts
	server   *mqtt.Server
	log      *slog.Logger
	engine   string           // of the store
	metrics  *metrics.Metrics // of a plugin; nil in a Broker, which has its own
	gate     *listener.Gate   // of a plugin's listeners
	census   *census

	closing context.Context // ends when Close begins to stop the rest
	endAll  context.CancelFunc

	stopCore, stopRest sync.Once
	stopErr, closeErr  error
}

// attachment is what New does differently from a plugin's user.
type attachment struct {
	log      *slog.Logger
	hostAuth bool // other hooks of the server decide on connections
	services func(*mqtt.Client) bool
	observe  []delivery.Observer
	pushed   func(server string, took time.Duration, err error) // counts push requests
	hub      *ordinary.Hub                                      // routes ordinary messages; nil: the server does
}

func attach(server *mqtt.Server, cfg *config.Config, with attachment) (_ *Heartline, err error) {
	h := &Heartline{server: server, log: with.log, engine: cfg.Store.Engine}
	hold := &receipts.Hold{}
	h.closing, h.endAll = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = h.Close(context.Background()) // the first error is the one to report
		}
	}()
	if cfg.Store.Engine == config.EnginePostgres {
		if h.node, err = openNode(cfg, hold.Oldest, with.hub, with.log); err != nil {
			return nil, err
		}
		h.core, h.outbox = h.node, &h.node.lives
	} else if out, err := openOutbox(cfg, hold.Oldest, with.log); err != nil {
		return nil, err
	} else {
		h.outbox = out
	}
	h.census = &census{outbox: h.outbox}
	if h.auth, err = auth.New(cfg.Auth, auth.Options{Logger: with.log, StateDir: stateDir(cfg)}); err != nil {
		return nil, err
	}
	opts := deliveryOptions(cfg, h.auth.Open() && !with.hostAuth)
	if h.servers, err = newPushServers(cfg.Fallback, pushServers{}, with.log); err != nil {
		return nil, err
	}
	if h.router, err = newRouter(h.servers, h.outbox.Notification, with.pushed, with.log); err != nil {
		return nil, err
	}
	opts.CheckRegistration, opts.CompleteRegistration = checkRegistration, completeRegistration(h.router)
	opts.AppConfig, opts.CheckContent = h.router.Fingerprint, checkContent(h.router)
	if h.node == nil {
		h.core = delivery.New(opts, h.outbox, h.router, with.log)
	} else {
		h.node.opts, h.node.pusher = opts, h.router
	}
	h.tail = receipts.NewTail(h.core)
	for _, o := range with.observe {
		h.core.Observe(o)
	}
	if h.shares() { // it has webhooks as it has partitions
		if h.receipts, err = newReceipts(cfg, h, hold); err != nil {
			return nil, err
		}
		h.node.receipts = h.receipts
	}
	if h.node != nil { // what the others read is there once it has joined
		if err := h.core.Start(); err != nil {
			return nil, err
		}
	}
	if h.receipts == nil {
		if h.receipts, err = newReceipts(cfg, h, hold); err != nil {
			return nil, err
		}
	}
	if h.node == nil {
		if err := h.core.Start(); err != nil {
			return nil, err
		}
		pushesPossible(h.core, h.router) // a node does so for each of its Cores
	}
	rules := hooks.Options{
		TopicPrefix:  cfg.MQTT.TopicPrefix,
		MaxKeepalive: cfg.MQTT.MaxKeepalive,
		WriteTimeout: cfg.MQTT.WriteTimeout,
		MaxWaiting:   int(server.Options.Capabilities.ReceiveMaximum),
		HostAuth:     with.hostAuth,
		Services:     with.services,
		Rules:        hookRules(cfg),
		AccessClosed: !h.auth.Open(),
		Hub:          with.hub,
		Events:       eventSource{h.core, h.tail},
		Newcomers:    &newcomers.List{},
	}
	if !h.auth.Open() {
		sayTopicsClosed(cfg.Auth.ACL, with.log)
		rules.Authenticate = h.auth.Connect
	}
	if h.node != nil {
		rules.Newcomers = h.node.rooms
	}
	if h.node != nil && h.node.topics != nil {
		rules.Elsewhere = h.node.topics.takeSession
	}
	h.hook = hooks.New(server, h.core, rules, with.log)
	if err := server.AddHook(h.hook, nil); err != nil {
		return nil, fmt.Errorf("add the hook to the server: %w", err)
	}
	var xmppCore xmpp.Core = h.core
	if h.node != nil {
		xmppCore = nodeCore{h.node}
	}
	if h.gates, err = newGates(cfg, xmppCore, rules.Newcomers, with.log); err != nil {
		return nil, err
	}
	for _, g := range h.gates {
		g.Start()
	}
	if h.node != nil {
		h.node.links.start(h.node, h.gates)
		end := h.endHere
		h.node.end.Store(&end) // until now it has no connections
	}
	h.receipts.Start()
	return h, nil
}

// Notify accepts a notification; see delivery.Core.Accept for the errors. When it
// returns without one, the notification is on the disk.
func (h *Heartline) Notify(ctx context.Context, r delivery.Request) (*delivery.Notification, error) {
	receipt, err := h.core.Accept(ctx, r)
	return receipt.Notification, err
}

// Cancel ends the deliveries of a notification that are not final.
func (h *Heartline) Cancel(ctx context.Context, id string) error { return h.core.Cancel(ctx, id) }

// Timeline returns a notification, the state of its deliveries and every event so
// far.
func (h *Heartline) Timeline(ctx context.Context, id string) (*delivery.View, error) {
	return h.core.Get(ctx, id)
}

// Core is the whole of the core's methods: the registry, lists, asynchronous
// accepts.
func (h *Heartline) Core() Core { return h.core }

// Close stops Heartline: nothing more is accepted, running pushes get 3 s, and
// everything is on the disk when it returns. It may be called before or after the
// server is closed. Called before, the server goes on with ordinary MQTT, and
// publishes below the prefix are refused. It is safe to call twice, and twice at once:
// each call returns when all has stopped.
func (h *Heartline) Close(ctx context.Context) error {
	return errors.Join(h.quiesce(ctx), h.close(ctx))
}

// quiesce stops accepting and waits for running pushes; acks still count.
func (h *Heartline) quiesce(ctx context.Context) error {
	h.stopCore.Do(func() {
		if h.core == nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, pushGrace)
		defer cancel()
		for _, g := range h.gates {
			g.Quiesce() // an XMPP server that is refused later would delete push registrations
		}
		h.stopErr = h.core.Stop(ctx)
	})
	return h.stopErr
}

func (h *Heartline) close(ctx context.Context) error {
	h.stopRest.Do(func() { h.closeErr = h.closeParts(ctx) })
	return h.closeErr
}

func (h *Heartline) closeParts(ctx context.Context) error {
	h.endAll()
	h.census.stop()
	var errs []error
	if h.node != nil {
		h.node.links.stop()
	}
	var gates sync.WaitGroup // each may wait for its server
	for _, g := range h.gates {
		gates.Go(g.Stop)
	}
	gates.Wait()
	if h.hook != nil {
		errs = append(errs, h.hook.Stop())
	}
	if h.router != nil {
		// quiesce has given the pushes their time.
		now, cancel := context.WithCancel(ctx)
		cancel()
		errs = append(errs, h.router.Close(now))
	}
	if h.hook != nil {
		errs = append(errs, h.core.Flush(ctx))
	}
	if h.receipts != nil {
		ctx, cancel := context.WithTimeout(ctx, endGrace)
		defer cancel()
		h.receipts.Stop(ctx)
	}
	if h.tail != nil {
		h.tail.Stop()
	}
	if h.outbox != nil {
		errs = append(errs, h.outbox.Close())
	}
	if h.node != nil {
		errs = append(errs, h.node.Close())
	}
	if h.auth != nil {
		errs = append(errs, h.auth.Close())
	}
	return errors.Join(errs...)
}

// hookRules translates the part of the configuration that the hook can change later.
func hookRules(cfg *config.Config) hooks.Rules {
	l := cfg.MQTT.Limits
	return hooks.Rules{
		Access: accessRules(cfg.Auth.ACL), MaxDevices: l.Devices,
		Limits: hooks.Limits{TopicLevels: l.TopicLevels, PublishRate: l.PublishRate},
	}
}

// sayTopicsClosed tells why devices cannot use ordinary topics where that is so.
func sayTopicsClosed(acl []config.ACLEntry, log *slog.Logger) {
	if len(acl) == 0 {
		log.Info("ordinary MQTT topics are closed to devices: auth.acl has no entries; services may use all",
			"to_open_all", `auth.acl: [{filter: "#", access: readwrite}]`)
	}
}

func accessRules(entries []config.ACLEntry) (rules []hooks.AccessRule) {
	for _, e := range entries {
		rules = append(rules, hooks.AccessRule{
			Username: e.Username, TopicFilter: e.Filter,
			Read:  e.Access == config.AccessRead || e.Access == config.AccessReadWrite,
			Write: e.Access == config.AccessWrite || e.Access == config.AccessReadWrite,
		})
	}
	return rules
}

// deliveryOptions translates the configuration. anyAccount: nobody proves who a client
// is, so that a device moves to whichever account uses it.
func deliveryOptions(cfg *config.Config, anyAccount bool) delivery.Options {
	d := cfg.Delivery
	opts := delivery.Options{
		Windows: delivery.Windows{Ack: d.AckWindow, Fallback: d.FallbackWindow},
		Ack:     delivery.AckReceived, TTL: d.TTL,
		MaxOutstanding: d.MaxOutstandingPerDevice, MaxInflight: d.MaxInflightPerDevice,
		ForgetDeviceAfter: d.ForgetDeviceAfter,
		ForgetInterval:    forgetInterval(cfg),
		History:           cfg.Store.History,
		AnyAccount:        anyAccount,
		HoldUnknown:       d.UnknownAccounts == config.UnknownHold,
		// A connection is given up after one and a half keepalives (MQTT 5 §3.1.2.10).
		RepeatWithin: cfg.MQTT.MaxKeepalive*3/2 + time.Minute,
	}
	if d.Ack == config.AckDisplayed {
		opts.Ack = delivery.AckDisplayed
	}
	return opts
}

// forgetInterval is how often devices and dismissals that are too old are searched for.
// Each search reads the whole registry, so that it is no more frequent than the ages
// need.
func forgetInterval(cfg *config.Config) time.Duration {
	return min(time.Hour, max(cfg.Store.Housekeeping, min(cfg.Delivery.ForgetDeviceAfter, cfg.Store.History)/10))
}
