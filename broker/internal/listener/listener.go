package listener

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// Listener serves MQTT over TCP, or over TLS where Options.TLS is set.
type Listener struct {
	front
	socket    net.Listener
	turnstile *turnstile    // of TLS handshakes
	loop      chan struct{} // closed when accepting has ended
}

var _ listeners.Listener = (*Listener)(nil)

// New returns a Listener to be added to a *mqtt.Server.
func New(o Options) *Listener {
	id := "tcp"
	if o.TLS != nil {
		id = "tls"
	}
	return &Listener{front: newFront(o, id), socket: o.Socket, turnstile: newTurnstile(), loop: make(chan struct{})}
}

// Init opens the socket. mochi calls it in AddListener.
func (l *Listener) Init(log *slog.Logger) error {
	l.takeLog(log)
	if l.socket != nil {
		return nil
	}
	var err error
	if l.socket, err = net.Listen("tcp", l.options.Address); err != nil {
		return fmt.Errorf("open listener %s: %w", l.ID(), err)
	}
	return nil
}

// Address is where the Listener can be reached, with the port that it was given
// where it asked for any.
func (l *Listener) Address() string {
	if l.socket != nil {
		return l.socket.Addr().String()
	}
	return l.options.Address
}

// Protocol is tcp or tls.
func (l *Listener) Protocol() string {
	if l.options.TLS != nil {
		return "tls"
	}
	return "tcp"
}

// Serve accepts connections until Close. mochi calls it on a goroutine. After Close, and
// the second time, it returns at once.
func (l *Listener) Serve(establish listeners.EstablishFn) {
	if !l.start(establish) {
		return
	}
	defer close(l.loop)
	if l.options.Sessions != nil {
		if p, err := newPoller(); err == nil {
			l.poller = p
		} else if !errors.Is(err, errors.ErrUnsupported) {
			l.log.Warn("each connection has a goroutine, which takes more memory", "listener", l.ID(), "error", err)
		}
	}
	prepare := l.prepareTCP
	if l.options.TLS != nil {
		prepare = l.prepareTLS
	}
	wait := time.Duration(0)
	for {
		socket, err := l.socket.Accept()
		if err == nil {
			wait = 0
			addr := addressOf(socket.RemoteAddr())
			if l.proxied() {
				if !l.trusts(socket.RemoteAddr()) {
					l.stats.refusedAddress.Add(1)
					l.unproxied(socket.RemoteAddr(), "its address is not that of a trusted proxy", "add the address to trusted_proxies, or set mqtt.proxy_protocol: false")
					_ = socket.Close()
					continue
				}
				addr = netip.Prefix{} // the header tells
			}
			if l.admit(addr) != nil {
				// Without a word: it has not said in which version.
				_ = socket.Close()
				continue
			}
			l.tune(socket)
			if c, err := l.take(socket, addr); err == nil {
				go l.run(c, prepare)
			}
			continue
		}
		if !l.accepts() {
			return
		}
		l.stats.acceptErrors.Add(1)
		if l.stats.acceptTold.due() {
			l.log.Error("accept failed, retrying", "listener", l.ID(), "error", err)
		}
		if errors.Is(err, net.ErrClosed) {
			l.log.Error("listening socket was closed by someone else", "listener", l.ID())
			return
		}
		// Most likely the process is out of file descriptors: the oldest that has
		// said nothing yet gives its own up.
		if l.evict(l.options.Gate.evict()) {
			wait = 0
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.done:
			t.Stop()
			return
		}
	}
}

// Refuse closes the listening socket. The connections go on until Close.
func (l *Listener) Refuse() {
	l.refuse()
	if l.socket != nil {
		_ = l.socket.Close()
	}
}

// Close ends the Listener with all its connections, and tells the clients. It
// returns when all have ended, and may be called more than once. mochi's function
// is not used; it may be nil.
func (l *Listener) Close(listeners.CloseFn) {
	l.stop(func() {
		if l.socket != nil {
			_ = l.socket.Close()
		}
		if l.started() {
			<-l.loop
		}
	})
}

func (l *Listener) tune(socket net.Conn) {
	t, ok := socket.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetNoDelay(true)
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   l.options.KeepAlive > 0,
		Idle:     l.options.KeepAlive,
		Interval: 30 * time.Second,
		Count:    4,
	})
	if l.options.UserTimeout > 0 {
		setUserTimeout(t, l.options.UserTimeout)
	}
}

func (l *Listener) prepareTCP(c *Conn) error {
	if l.proxied() {
		if err := l.readProxyHeader(c); err != nil {
			return err
		}
	}
	c.in.Init((*arriving)(c), &l.options.Strict)
	return nil
}

var (
	errNotTLS      = errors.New("first byte is not that of a TLS handshake")
	errProxyHeader = errors.New("a header of the PROXY protocol comes before the TLS handshake")
)

func (l *Listener) prepareTLS(c *Conn) error {
	err := l.handshake(c)
	switch {
	case err == nil:
		c.in.Init((*arriving)(c), &l.options.Strict)
		return nil
	case c.closed.Load():
	case timedOut(err):
		l.stats.handshakeTimeouts.Add(1)
	case errors.Is(err, errNoProxyHeader): // counted and logged
	case errors.Is(err, errProxyHeader):
		l.stats.handshakeFailures.Add(1)
		l.unexpectedProxyHeader(c)
	default:
		l.stats.handshakeFailures.Add(1)
		l.cutOff(c, "TLS handshake failed", "error", err)
	}
	return err
}

func (l *Listener) handshake(c *Conn) error {
	until := c.since.Add(l.options.ConnectTimeout)
	deadline := until
	if h := c.since.Add(l.options.HandshakeTimeout); h.Before(until) {
		deadline = h
		_ = c.base.SetReadDeadline(deadline)
	}
	if l.proxied() {
		if err := l.readProxyHeader(c); err != nil {
			return err
		}
	}
	// The state of a handshake is several kilobytes: not before there is one.
	first, err := c.base.peek()
	if err != nil {
		return err
	}
	if first != 0x16 {
		start := make([]byte, 16)
		if n, _ := io.ReadAtLeast(c.base, start, 6); strict.ProxyHeader(start[:n]) { // a shorter start is none
			return errProxyHeader
		}
		return errNotTLS
	}
	h := &handshaking{sender: c.base, turns: l.turnstile, deadline: deadline}
	h.waited(l.turnstile.enter(&l.turnstile.begins))
	defer l.turnstile.leave()
	t := tls.Server(h, l.options.TLS)
	if err := t.Handshake(); err != nil {
		return err
	}
	h.over = true
	state := t.ConnectionState()
	c.tls = &state
	c.stream = t
	return c.base.SetReadDeadline(until.Add(h.deadline.Sub(deadline)))
}
