package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// listeners accept MQTT clients; nil means off.
type listeners struct {
	gate *listener.Gate
	tcp  *listener.Listener
	tls  *listener.Listener
	ws   *listener.WebSocket
}

// bindMQTT binds the MQTT listeners and hands them to the server, which serves
// them at Start.
func (b *Broker) bindMQTT() error {
	m := b.cfg.MQTT
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
		certificates, err := serverTLS("mqtt.tls", m.TLS.CertFile, m.TLS.KeyFile, m.TLS.ClientCAFile)
		if err != nil {
			return err
		}
		socket, err := bind("mqtt.tls.address", m.TLS.Address)
		if err != nil {
			return err
		}
		opts := b.listenerOptions("tls", socket)
		opts.TLS = certificates
		b.listeners.tls = listener.New(opts)
		if err := b.server.AddListener(b.listeners.tls); err != nil {
			return fmt.Errorf("mqtt.tls.address: %w", err)
		}
	}
	if b.cfg.HTTP.Address != "" {
		opts := b.listenerOptions("ws", nil)
		opts.Address = b.cfg.HTTP.Address
		b.listeners.ws = listener.NewWebSocket(opts)
		if err := b.server.AddListener(b.listeners.ws); err != nil {
			return fmt.Errorf("http.address: %w", err)
		}
	}
	return nil
}

func (b *Broker) listenerOptions(id string, socket net.Listener) listener.Options {
	m := b.cfg.MQTT
	return listener.Options{
		ID: id, Socket: socket, Gate: b.listeners.gate,
		Strict:         strict.Options{MaxPacketSize: int(m.MaxPacketSize)},
		ConnectTimeout: m.ConnectTimeout, WriteTimeout: m.WriteTimeout,
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

// bind listens, and says what is wrong in the words of the configuration.
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

func serverTLS(key, certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s.cert_file and %s.key_file: %w", key, key, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if clientCAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(clientCAFile)
	if err != nil {
		return nil, fmt.Errorf("%s.client_ca_file: %w", key, err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s.client_ca_file: %s holds no certificate in PEM", key, clientCAFile)
	}
	return c, nil
}
