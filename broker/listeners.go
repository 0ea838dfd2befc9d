package broker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// listeners accept MQTT clients; nil means off.
type listeners struct {
	gate     *listener.Gate
	sessions *listener.Sessions
	tcp      *listener.Listener
	tls      *listener.Listener
	ws       *listener.WebSocket
}

// bindMQTT binds the MQTT listeners and hands them to the server, which serves
// them at Start.
func (b *Broker) bindMQTT() error {
	m := b.cfg.MQTT
	sessions, err := listener.NewSessions(b.server, b.hook)
	if err != nil {
		return err
	}
	b.listeners.sessions = sessions
	b.listeners.gate = listener.NewGate(listener.Limits{Connections: m.MaxConnections, PerAddress: m.MaxConnectionsPerAddress})
	if m.Address != "" {
		socket, err := bind("mqtt.address", m.Address)
		if err != nil {
			return err
		}
		b.listeners.tcp = listener.New(b.listenerOptions("tcp", socket))
		if err := b.server.AddListener(b.listeners.tcp); err != nil {
			return fmt.Errorf("mqtt.address: %w", err)
		}
	}
	if m.TLS.Address != "" {
		certs, err := loadCertificates("mqtt.tls", tlsFiles{m.TLS.CertFile, m.TLS.KeyFile, m.TLS.ClientCAFile, m.TLS.CRLFile}, b.files, b.log)
		if err != nil {
			return err
		}
		b.certs = append(b.certs, certs)
		socket, err := bind("mqtt.tls.address", m.TLS.Address)
		if err != nil {
			return err
		}
		opts := b.listenerOptions("tls", socket)
		opts.TLS = certs.config()
		l := listener.New(opts)
		b.listeners.tls = l
		certs.onRevoked = func() {
			if n := l.KickIf(func(c *listener.Conn) bool { return certs.isRevoked(c.TLS()) }, packets.ErrNotAuthorized); n > 0 {
				b.log.Info("connections ended: their certificates were revoked", "connections", n)
			}
		}
		if err := b.server.AddListener(b.listeners.tls); err != nil {
			return fmt.Errorf("mqtt.tls.address: %w", err)
		}
	}
	if b.cfg.HTTP.Address != "" {
		opts := b.listenerOptions("ws", nil)
		opts.Address = b.cfg.HTTP.Address
		for _, entry := range m.AllowedOrigins {
			if pattern, ok := config.OriginPattern(entry); ok { // the configuration has been checked
				opts.Origins = append(opts.Origins, pattern)
			}
		}
		opts.TrustProxy = nil // the HTTP server does that
		b.listeners.ws = listener.NewWebSocket(opts)
		if err := b.server.AddListener(b.listeners.ws); err != nil {
			return fmt.Errorf("http.address: %w", err)
		}
	}
	return nil
}

func (b *Broker) listenerOptions(id string, socket net.Listener) listener.Options {
	m := b.cfg.MQTT
	var trust func(netip.Addr) bool
	if m.ProxyProtocol {
		trust = newProxies(b.cfg.TrustedProxies).trust
	}
	return listener.Options{
		TrustProxy: trust,
		ID:         id, Socket: socket, Gate: b.listeners.gate, Sessions: b.listeners.sessions,
		Strict:         strict.Options{MaxPacketSize: int(m.MaxPacketSize)},
		ConnectTimeout: m.ConnectTimeout, WriteTimeout: m.WriteTimeout,
		Logger:  b.log,
		OnPanic: func(c *listener.Conn) { b.hook.Lost(c) },
	}
}

// MQTTAddr is where MQTT is spoken over TCP, "" for nowhere. It tells the port
// that was found for port 0.
func (b *Broker) MQTTAddr() string { return listenerAddr(b.listeners.tcp) }

// TLSAddr is where MQTT is spoken over TLS, "" for nowhere.
func (b *Broker) TLSAddr() string { return listenerAddr(b.listeners.tls) }

func listenerAddr(l *listener.Listener) string {
	if l == nil {
		return ""
	}
	return l.Address()
}

// bind listens, and reports errors in the words of the configuration.
func bind(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use by another process; stop it, or choose another port", key, address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: may not listen on %s; ports below 1024 need CAP_NET_BIND_SERVICE", key, address)
	case err != nil:
		return nil, fmt.Errorf("%s: listen on %s: %w", key, address, err)
	}
	return l, nil
}
