package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/broker/internal/web"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/hooks/persist"
	"github.com/heartline-mqtt/heartline/internal/filewatch"
)

// Broker is the whole program: a mochi server of its own with Heartline attached,
// its listeners and the HTTP side.
type Broker struct {
	*Heartline
	cfg            *config.Config // as it was at the start
	reloading      Reloading
	reloads        sync.Mutex // one at a time
	log            *slog.Logger
	server         *mqtt.Server
	listeners      listeners
	hub            *ordinary.Hub
	persist        *persist.Keeper // nil: ordinary MQTT is not kept
	metrics        *metrics.Metrics
	overview       *overview.Overview
	api            *api.API // nil: off
	web            *http.Server
	httpConns      *httpConns
	files          *filewatch.Watcher // certificates
	certs          []*certificates    // of the TLS listeners
	internal       *http.Server       // nil: everything is served by web
	publicAPI      *api.API           // beside internal
	internalSocket net.Listener
	socket         net.Listener // of web

	starting sync.Mutex // held by Start, and by Close while it sets closed
	started  bool
	closed   bool
	serving  sync.WaitGroup
	failed   chan error // of something that should have gone on serving
	once     sync.Once
	err      error // of Close
	ready    atomic.Bool
	leaving  atomic.Bool // drain has begun, and other nodes take over
}

// New opens the store, resumes unfinished deliveries and binds every listener, so
// that it reports every fault before it serves anything. Close it, whether it
// has been started or not.
func New(cfg *config.Config, log *slog.Logger) (*Broker, error) {
	return NewReloadable(cfg, log, Reloading{})
}

// NewReloadable is New for a broker that can reload its configuration.
func NewReloadable(cfg *config.Config, log *slog.Logger, reloading Reloading) (_ *Broker, err error) {
	b := &Broker{cfg: cfg, reloading: reloading, log: log, files: filewatch.New(log), failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			_ = b.Close(context.Background()) // the first error is the one to report
		}
	}()
	b.server = mqtt.New(serverOptions(cfg, log))
	b.metrics = metrics.New()
	b.overview = overview.New(overview.Options{
		Gatherer: b.metrics.Gatherer(), Node: b.nodeName, Version: Version(), Ready: b.readiness, ID: b.notificationID, Logger: log,
	})
	b.hub = ordinary.New(b.hubOptions())
	if b.Heartline, err = attach(b.server, cfg, attachment{log: log, observe: []delivery.Observer{b.metrics, b.overview}, pushed: b.metrics.Pushed, hub: b.hub}); err != nil {
		return nil, err
	}
	if err := b.keepMQTT(); err != nil {
		return nil, err
	}
	b.metrics.Register(figures{b})
	if err := b.bindMQTT(); err != nil {
		return nil, err
	}
	if err := b.bindHTTP(); err != nil {
		return nil, err
	}
	return b, nil
}

// nodeName returns "" without PostgreSQL.
func (b *Broker) nodeName() string {
	if b.node == nil {
		return ""
	}
	return b.node.name
}

// notificationID names a notification for people.
func (b *Broker) notificationID(seq delivery.Seq) (string, error) {
	n, err := b.core.Notification(seq)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

// hubOptions are what bounds ordinary MQTT.
func (b *Broker) hubOptions() ordinary.Options {
	return ordinary.Options{
		Bounds:           hubBounds(b.cfg.MQTT.Limits),
		MaxSessionExpiry: config.MaxTTL,
		Room:             func() error { return b.outbox.Ready() },
		Logger:           b.log,
	}
}

func hubBounds(l config.MQTTLimits) ordinary.Bounds {
	return ordinary.Bounds{
		Budget: ordinary.Budget{Bytes: int(l.SessionBytes)},
		Limits: ordinary.Limits{Subscriptions: l.Subscriptions, RetainedBytes: int64(l.RetainedBytes), Sessions: l.Sessions},
	}
}

// keepMQTT makes ordinary MQTT survive a restart, if configured and if the store can,
// and restores the stored state.
func (b *Broker) keepMQTT() error {
	if !b.cfg.MQTT.Persistence {
		return nil
	}
	if !b.outbox.HasState() {
		b.log.Debug("mqtt.persistence has no effect with this store.engine", "engine", b.cfg.Store.Engine)
		return nil
	}
	if b.cfg.Cluster.Address != "" {
		b.log.Info("mqtt.persistence has no effect with cluster.address: the nodes keep retained messages together, and sessions of ordinary MQTT end with their node")
		return nil
	}
	b.persist = persist.New(b.hub, persist.Options{Store: b.outbox, MaxSessionExpiry: config.MaxTTL, Logger: b.log})
	if err := b.persist.Restore(); err != nil {
		return fmt.Errorf("mqtt.persistence: %w", err)
	}
	return nil
}

// serverOptions are mochi's capabilities as Heartline needs them.
func serverOptions(cfg *config.Config, log *slog.Logger) *mqtt.Options {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClients = math.MaxInt64 // the listeners count, before anything is allocated
	c.MaximumPacketSize = uint32(cfg.MQTT.MaxPacketSize)
	c.MaximumClientWritesPending = 1 // ordinary messages are not mochi's to write; 8,192 slots cost 64 KiB a client
	// Otherwise mochi gives every PUBLISH an expiry of a day, and a step of the
	// clock drops all that is in flight.
	c.MaximumMessageExpiryInterval = 0
	c.TopicAliasMaximum = 10 // as Mosquitto; the default has mochi make room for 65,535 on each connection
	c.Compatibilities.NoInheritedPropertiesOnAck = true
	c.Compatibilities.ObscureNotAuthorized = cfg.Auth.ObscureRefusals
	c.MaximumSessionExpiryInterval = uint32(config.MaxTTL / time.Second) // a session lives as long as a notification may
	return &mqtt.Options{
		Capabilities:           c,
		Logger:                 slog.New(quiet{log.Handler()}),
		SysTopicResendInterval: 10,
		// Only a WebSocket is read by mochi, and hooks/strict has a buffer of its own.
		ClientNetReadBufferSize: 16,
	}
}

// Start serves until Close. It returns at once. A second call does nothing; after Close
// it returns delivery.ErrStopped.
func (b *Broker) Start() error {
	b.starting.Lock()
	defer b.starting.Unlock()
	if b.closed {
		return fmt.Errorf("start after close: %w", delivery.ErrStopped)
	}
	if b.started {
		return nil
	}
	b.started = true
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("serve MQTT: %w", err)
	}
	if b.listeners.ws != nil {
		<-b.listeners.ws.Serving() // mochi's Serve returns before
	}
	if b.internal != nil {
		b.serving.Go(func() {
			if err := b.internal.Serve(b.internalSocket); err != nil && !errors.Is(err, http.ErrServerClosed) {
				b.fail(fmt.Errorf("serve HTTP on %s: %w", b.internalSocket.Addr(), err))
			}
		})
	}
	if b.web != nil {
		b.serving.Go(func() {
			if err := b.web.Serve(b.socket); err != nil && !errors.Is(err, http.ErrServerClosed) {
				b.fail(fmt.Errorf("serve HTTP on %s: %w", b.socket.Addr(), err))
			}
		})
	}
	b.files.Start()
	b.overview.Start()
	b.ready.Store(true)
	if b.web != nil && !web.Built() {
		b.log.Info("this binary was built without its web pages: / says how to have them (make build)")
	}
	dir := b.cfg.DataDir // a relative one leads elsewhere from another working directory
	if abs, err := filepath.Abs(dir); err == nil && dir != "" {
		dir = abs
	}
	b.log.Info("heartline is ready", "mqtt", b.MQTTAddr(), "mqtt_tls", b.TLSAddr(), "http", b.HTTPAddr(), "data_dir", dir)
	return nil
}

func (b *Broker) fail(err error) {
	select {
	case b.failed <- err:
	default:
	}
}

// Run starts b and returns when ctx has ended and everything is stopped and on the disk,
// or when something that should have gone on did not. A node that has others hands its
// accounts over to them before it stops. ready, unless it is nil, is called when
// everything is served.
func (b *Broker) Run(ctx context.Context, ready func()) error {
	err := b.Start()
	if err == nil {
		if ready != nil {
			ready()
		}
		select {
		case <-ctx.Done():
			b.log.Info("stopping")
			b.drain(context.WithoutCancel(ctx))
		case err = <-b.failed:
		}
	}
	return errors.Join(err, b.Close(context.WithoutCancel(ctx)))
}

// stopTimeout bounds Close, and so what a stop takes beyond cluster.drain. The next start
// resumes whatever has no answer by then.
const stopTimeout = 20 * time.Second

// handedGrace is what HTTP calls of a node get whose accounts other nodes serve: the answers
// come from there.
const handedGrace = 5 * time.Second

// Close stops in the order of the package comment. It is safe before Start, twice, and
// twice at once.
func (b *Broker) Close(ctx context.Context) error {
	b.once.Do(func() {
		b.starting.Lock()
		b.closed = true
		b.starting.Unlock()
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		b.ready.Store(false)
		b.files.Stop()
		b.overview.Stop()
		var errs []error
		handed := b.leaving.Load()
		if b.api != nil && handed { // the calls are answered by other nodes
			errs = append(errs, b.closeHTTP(ctx, handedGrace))
		}
		if b.Heartline != nil {
			errs = append(errs, b.quiesce(ctx)) // ends the event streams, too
		}
		if b.api != nil && !handed {
			errs = append(errs, b.closeHTTP(ctx, endGrace))
		}
		if b.server != nil {
			_ = b.server.Close() // it has no error to return
		}
		if b.persist != nil {
			b.persist.Stop()
		}
		if b.Heartline != nil {
			errs = append(errs, b.Heartline.close(ctx))
		}
		b.serving.Wait()
		b.err = errors.Join(errs...)
	})
	return b.err
}
