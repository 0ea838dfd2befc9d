package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/web"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rlimit"
)

// bindHTTP binds the listeners of the API, the WebSocket and the web pages.
func (b *Broker) bindHTTP() error {
	if b.cfg.HTTP.Address == "" && b.cfg.HTTP.Internal.Address == "" {
		return nil
	}
	opts := api.Options{
		Core: b.core, FlushAll: b.flushAll(), Logger: b.log, Version: Version(), Ready: b.readiness, Metrics: b.metrics, Receipts: b.receipts,
		Overview: b.overview, Reload: b.reloadByAPI, Disconnect: b.disconnect, EndSession: b.endSession,
		Handlers: map[string]http.Handler{"/mqtt": b.listeners.ws, "/mqtt/{$}": b.listeners.ws},
	}
	opts.Backup = b.outbox.Checkpoint
	if why := noBackup[b.cfg.Store.Engine]; why != "" {
		opts.Backup, opts.NoBackup = nil, why
	}
	opts.Handlers["/{$}"] = http.RedirectHandler(web.DashboardPath, http.StatusFound)
	opts.Handlers[web.DashboardPath] = web.Dashboard(web.DashboardOptions{Token: b.cfg.Auth.Mode != config.AuthNone})
	if b.cfg.HTTP.WebTerminal {
		key, err := webPushKey(b.cfg.Fallback.WebPush)
		if err != nil {
			return err
		}
		opts.Handlers[web.TerminalPath] = web.Terminal(web.TerminalOptions{
			TopicPrefix: b.cfg.MQTT.TopicPrefix, Password: b.cfg.Auth.Mode != config.AuthNone, WebPushKey: key,
		})
	}
	b.credentials(&opts)
	if b.cfg.HTTP.Internal.Address == "" {
		b.api = api.New(opts)
		return b.bindPublic(b.api)
	}
	opts.Internal = true
	b.api = api.New(opts)
	var err error
	if b.internalSocket, err = bind("http.internal.address", b.cfg.HTTP.Internal.Address); err != nil {
		return err
	}
	b.internal = &http.Server{
		Handler: b.api, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(quiet{b.log.Handler()}, slog.LevelDebug),
	}
	if b.cfg.HTTP.Address == "" {
		return nil
	}
	opts.Internal, opts.Overview = false, nil
	delete(opts.Handlers, "/{$}")
	delete(opts.Handlers, web.DashboardPath)
	b.publicAPI = api.New(opts)
	return b.bindPublic(publicOnly(b.publicAPI))
}

// bindPublic binds http.address.
func (b *Broker) bindPublic(handler http.Handler) error {
	socket, err := bind("http.address", b.cfg.HTTP.Address)
	if err != nil {
		return err
	}
	trusted := newProxies(b.cfg.TrustedProxies)
	socket = trusted.listen(socket, b.cfg.HTTP.ProxyProtocol, b.log)
	b.socket = socket
	if c := b.cfg.HTTP.TLS; c.CertFile != "" {
		certs, err := loadCertificates("http.tls", tlsFiles{cert: c.CertFile, key: c.KeyFile}, b.files, b.log)
		if err != nil {
			return err
		}
		b.certs = append(b.certs, certs)
		b.socket = tls.NewListener(socket, certs.config())
	}
	b.httpConns = newHTTPConns(b.cfg.MQTT.MaxConnections, rlimit.OpenFiles())
	b.web = &http.Server{
		Handler:           b.elsewhere(trusted.handler(handler)),
		ReadHeaderTimeout: 10 * time.Second, // the API bounds the rest call by call
		IdleTimeout:       2 * time.Minute,
		ConnState:         b.httpConns.onState,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(quiet{b.log.Handler()}, slog.LevelDebug),
	}
	return nil
}

// publicOnly serves the public address when http.internal is set too: no API and no
// metrics.
func publicOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := path.Clean("/" + r.URL.Path)
		if p == "/metrics" || p == "/openapi.json" || p == "/v1" || strings.HasPrefix(p, "/v1/") {
			api.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// InternalAddr returns the address of http.internal; "" means that it is off.
func (b *Broker) InternalAddr() string {
	if b.internalSocket == nil {
		return ""
	}
	return b.internalSocket.Addr().String()
}

// HTTPAddr returns the address that serves HTTP; "" means that HTTP is off.
func (b *Broker) HTTPAddr() string {
	if b.socket == nil {
		return ""
	}
	return b.socket.Addr().String()
}

// closeHTTP ends the event streams and batches. Other calls may finish within grace.
func (b *Broker) closeHTTP(ctx context.Context, grace time.Duration) error {
	b.api.Close()
	if b.publicAPI != nil {
		b.publicAPI.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if b.httpConns != nil {
		b.httpConns.closeIdle()
	}
	var cut error
	for _, server := range []*http.Server{b.internal, b.web} {
		if server == nil {
			continue
		}
		if err := server.Shutdown(ctx); err != nil {
			cut = errors.Join(cut, fmt.Errorf("HTTP calls were cut off: %w", err), server.Close())
		}
	}
	for _, socket := range []net.Listener{b.internalSocket, b.socket} {
		if socket != nil {
			_ = socket.Close() // of a broker that was not started; else it is closed
		}
	}
	return cut
}
