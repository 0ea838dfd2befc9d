package listener

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// Options of a front. The zero value of a field is its default.
type Options struct {
	// ID names the front to mochi and in logs; it must be unique in a server.
	// Default: tcp, tls or ws.
	ID string
	// Address is what a Listener listens on, host:port. Of a WebSocket it is only
	// shown.
	Address string
	// Socket is listened on instead of Address. Close closes it.
	Socket net.Listener
	// TLS makes a Listener speak TLS. It is not used by a WebSocket, whose HTTP
	// server does that.
	TLS *tls.Config
	// Origins are the Origin headers that a WebSocket accepts besides none and its
	// own host: hosts, or scheme://host, with * as in hosts.Match. The single
	// element * accepts any.
	Origins []string

	// TrustProxy, unless it is nil, makes a Listener expect the PROXY protocol, from
	// peers for which it returns true; others are closed. The addresses of clients are
	// those that the header names. A WebSocket's HTTP server does that.
	TrustProxy func(netip.Addr) bool

	// Gate limits the number of connections, over all the fronts that share it.
	// Default: no limit.
	Gate *Gate
	// Strict sets the checks on each packet. MaxConnectSize defaults to 64 KiB.
	Strict strict.Options

	// ConnectTimeout is how long after it was accepted a connection may take to
	// send a complete CONNECT, TLS handshake included. Default: 10 s.
	ConnectTimeout time.Duration
	// HandshakeTimeout is how much of that the TLS handshake may take. Default: 5 s.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a peer may take nothing of the data sent to it
	// before it is cut. Default: 10 s.
	WriteTimeout time.Duration
	// WriteQueue is how many bytes may wait for a peer before messages of QoS 0 to
	// it are dropped; at four times as many it is cut, and its session gets what
	// was in flight when it comes back. Default: 1 MiB.
	WriteQueue int
	// UserTimeout is how long sent data may go unacknowledged before the system
	// gives the connection up (TCP_USER_TIMEOUT, Linux). Default: 1 min; negative:
	// the system's.
	UserTimeout time.Duration
	// KeepAlive is how long a connection may be idle before TCP probes it. It
	// stands behind MQTT's keep alive and costs a phone's radio a wake-up.
	// Default: 5 min; negative: none.
	KeepAlive time.Duration
	// CloseTimeout bounds how long Close waits. Default: 5 s.
	CloseTimeout time.Duration

	// Sessions, unless it is nil, has idle connections of a Listener wait without a
	// goroutine, where the system can do that (Linux).
	Sessions *Sessions

	// Logger gets one record for each client that is cut off, at most one a second.
	// Default: what mochi gives.
	Logger *slog.Logger
	// OnPanic is called after a panic under a connection has been recovered, for a
	// hook that keeps a record of the client: mochi has not called OnDisconnect.
	// May be nil.
	OnPanic func(*Conn)
}

// linger is how long a connection that was told why it ends is still read from:
// closing a socket with unread input resets it, and the reason is lost.
const linger = 500 * time.Millisecond

func (o Options) withDefaults(id string) Options {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.ID == "" {
		o.ID = id
	}
	if o.Gate == nil {
		o.Gate = NewGate(Limits{})
	}
	if o.WriteQueue == 0 {
		o.WriteQueue = 1 << 20
	}
	if o.Strict.MaxConnectSize == 0 {
		o.Strict.MaxConnectSize = 64 << 10
		if o.Strict.MaxPacketSize > 0 {
			o.Strict.MaxConnectSize = min(o.Strict.MaxConnectSize, o.Strict.MaxPacketSize)
		}
	}
	or(&o.ConnectTimeout, 10*time.Second)
	or(&o.HandshakeTimeout, 5*time.Second)
	or(&o.WriteTimeout, 10*time.Second)
	or(&o.UserTimeout, time.Minute)
	or(&o.KeepAlive, 5*time.Minute)
	or(&o.CloseTimeout, 5*time.Second)
	return o
}
