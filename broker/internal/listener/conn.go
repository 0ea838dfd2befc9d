package listener

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/pires/go-proxyproto"

	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// Conn is a connection as mochi sees it, in Client.Net.Conn: a hook that knows
// it by a type assertion learns where it comes from and can end it.
type Conn struct {
	front  *front
	remote net.Addr
	addr   netip.Prefix
	since  time.Time
	tls    *tls.ConnectionState

	// The Gate's.
	waiting, arriving link
	reserved          int64 // bytes, for the CONNECT until mochi has it

	turns turns // of a connection without a goroutine

	base   *sender
	stream net.Conn // carries the MQTT: base, or the TLS or WebSocket over it
	in     strict.Reader
	// span is how long the reader waits for a packet, in ns; 0: it does not say, or for ever.
	span atomic.Int64

	given   atomic.Bool // to mochi
	closed  atomic.Bool
	read    bool // mochi has read the CONNECT
	wmu     sync.Mutex
	written bool   // a first packet, which is the CONNACK
	early   []byte // whole packets that wait for the CONNACK
	last    bool   // the last packet has been written
	cause   error  // why we ended it, nil if we did not
}

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is the address that the peer connected to.
func (c *Conn) LocalAddr() net.Addr { return c.base.LocalAddr() }

// ListenerID is the ID of the front that the connection came through.
func (c *Conn) ListenerID() string { return c.front.ID() }

// TLS is the state of the connection's TLS with the client's certificates, nil
// where it has none.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// PeerOpen reports whether the connection is still open on both sides, as far as the
// system knows. It reads nothing and does not block.
func (c *Conn) PeerOpen() bool {
	if c.closed.Load() {
		return false
	}
	socket := c.base.Conn
	for {
		switch s := socket.(type) {
		case *tls.Conn:
			socket = s.NetConn()
			continue
		case *proxyproto.Conn:
			socket = s.Raw()
			continue
		}
		break
	}
	raw := rawOf(socket)
	return raw == nil || peerOpen(raw)
}

// Since is when the connection was accepted.
func (c *Conn) Since() time.Time { return c.since }

// Queued is how many bytes wait for the peer to take them.
func (c *Conn) Queued() int { return c.base.queued() }

// OnDrained has f called when bytes that were queued have been taken. f must not block.
func (c *Conn) OnDrained(f func()) { c.base.onDrained(f) }

// Bridge reports whether the client is a bridge, by its CONNECT.
func (c *Conn) Bridge() bool { return c.in.Bridge() }

// A KickError is why a read ended after Kick.
type KickError struct{ Code packets.Code }

func (e *KickError) Error() string {
	return fmt.Sprintf("connection ended by the server: %s (0x%02X)", e.Code.Reason, e.Code.Code)
}

// Kick ends the connection, with the answer that the client's version has for
// it: before CONNACK a CONNACK with the code, or its 3.1.1 equivalent; after it
// in MQTT 5 a DISCONNECT; in 3.1.1 nothing. It does not block and may be called
// from any goroutine, more than once; the first reason counts. mochi's read
// returns a *KickError, and the will is sent as after any end that the client did
// not announce.
func (c *Conn) Kick(code packets.Code) {
	c.front.stats.kicked.Add(1)
	c.kick(code)
}

func (c *Conn) kick(code packets.Code) {
	c.part(&KickError{code}, func() []byte {
		if !c.written {
			return c.in.Refuse(code.Code, code.Reason)
		}
		return c.in.Disconnect(code.Code, code.Reason)
	})
}

// part ends the connection with the words of farewell that say returns.
func (c *Conn) part(cause error, say func() []byte) {
	c.wmu.Lock()
	if !c.last && c.cause == nil {
		c.cause = cause
		if b := say(); len(b) > 0 {
			_, _ = c.stream.Write(b)
		}
		c.last = true
	}
	c.wmu.Unlock()
	_ = c.Close()
}

// Read returns the packets of the client, those only that MQTT allows.
func (c *Conn) Read(p []byte) (int, error) {
	if !c.read {
		// The CONNECT, of which ReadConnect has left nothing else.
		c.read = true
		c.front.options.Gate.release(c)
	}
	n, err := c.in.Read(p)
	if err == nil {
		return n, nil
	}
	if v := new(strict.Violation); errors.As(err, &v) {
		c.violated(v)
		return n, v
	}
	c.wmu.Lock()
	cause := c.cause
	c.wmu.Unlock()
	if cause == nil {
		if cause = c.base.failure(); errors.Is(cause, net.ErrClosed) {
			cause = nil
		}
	}
	if cause != nil {
		err = cause
	}
	return n, err
}

// violated answers a packet that MQTT forbids.
func (c *Conn) violated(v *strict.Violation) {
	c.part(v, func() []byte {
		c.front.stats.violated(v)
		if v.Rule == strict.RuleProxyHeader {
			c.front.unexpectedProxyHeader(c)
			return nil
		}
		c.front.cutOff(c, "client cut off: a packet that MQTT or a limit forbids",
			"packet", strict.PacketName(v.Packet), "rule", v.Rule, "code", v.Code)
		return c.in.Answer(v)
	})
}

// Write sends whole packets. It does not wait for the peer.
func (c *Conn) Write(b []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.last || c.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(b) == 0 {
		return 0, nil
	}
	size := len(b)
	if !c.written {
		if b = c.connackFirst(b); len(b) == 0 {
			return size, nil
		}
	}
	if c.base.queued() > c.front.options.WriteQueue {
		// [MQTT-4.3.1-1]: at most once. mochi may have put several into one write.
		var dropped int
		b, dropped = strict.Shed(b, c.in.Version())
		c.front.stats.droppedQoS0.Add(uint64(dropped))
	}
	out, final := c.in.Outbound(b)
	c.written = true
	c.last = final
	if len(out) == 0 {
		return size, nil
	}
	if _, err := c.stream.Write(out); err != nil {
		c.cut(err)
		return 0, err
	}
	return size, nil
}

// connackFirst keeps packets until the CONNACK goes ahead of them: it is the first
// that a server sends [MQTT-3.2.0-1]. mochi makes a client known, to publishers and
// to a connection that takes its session over, before it answers it.
func (c *Conn) connackFirst(b []byte) []byte {
	c.early = append(c.early, b...)
	for at := 0; at < len(c.early); {
		size, n := binary.Uvarint(c.early[at+1:])
		end := at + 1 + n + int(size)
		if n <= 0 || end > len(c.early) {
			b, c.early = c.early, nil // no packet of ours; not for us to judge
			return b
		}
		switch c.early[at] >> 4 {
		case packets.Connack:
			b = slices.Concat(c.early[at:end], c.early[:at], c.early[end:])
			c.early = nil
			return b
		case packets.Disconnect:
			// Taken over before it was answered. There is no CONNACK for that.
			c.early, c.last = nil, true
			return nil
		}
		at = end
	}
	return nil
}

// cut ends the connection after a write has failed.
func (c *Conn) cut(err error) {
	c.cause = err
	c.last = true
	c.closed.Store(true)
	_ = c.base.Close()
}

// Close ends the connection. The connection's goroutine still sends the bytes already
// written, and for a moment reads from the peer and discards.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	// Wakes the reader. SetReadDeadline leaves it so.
	_ = c.stream.SetReadDeadline(past)
	c.wake()
	return nil
}

var past = time.Unix(1, 0)

// SetDeadline sets the read deadline only: mochi means its keep alive, and a
// write has its own.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	var span time.Duration
	if !t.IsZero() {
		span = time.Until(t)
	}
	c.span.Store(int64(span))
	return c.readUntil(t)
}

func (c *Conn) readUntil(t time.Time) error {
	err := c.stream.SetReadDeadline(t)
	if c.closed.Load() {
		_ = c.stream.SetReadDeadline(past) // Close may have come first
		return net.ErrClosed
	}
	return err
}

// largeRest is how much of a packet must be missing for its bytes to count as a sign of life. A
// client can send nothing else before the packet is complete, and on a slow link that takes
// longer than its keepalive.
const largeRest = 1000

// progresses reports whether n bytes that have just come are a part of a packet of which much
// is missing.
func (c *Conn) progresses(n int) bool { return n > 0 && c.in.Missing()-n >= largeRest }

// arriving is what the client sends, on a connection that has a goroutine.
type arriving Conn

func (a *arriving) Read(p []byte) (int, error) {
	c := (*Conn)(a)
	n, err := c.stream.Read(p)
	if span := time.Duration(c.span.Load()); span > 0 && c.progresses(n) {
		_ = c.readUntil(time.Now().Add(span)) // the next read has the error
	}
	return n, err
}

// SetWriteDeadline does nothing: no write waits.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// depart closes the sockets, on the connection's own goroutine.
func (c *Conn) depart() {
	c.closed.Store(true)
	until := time.Now().Add(linger)
	timer := time.NewTimer(linger)
	select {
	case <-c.base.idle():
	case <-timer.C:
	}
	timer.Stop()
	c.wmu.Lock()
	told := c.last && c.base.failure() == nil
	c.wmu.Unlock()
	if told {
		// The socket is not closed with input unread: that would reset it, and
		// what the client was told would be lost with it.
		if w, ok := c.stream.(interface{ CloseWrite() error }); ok && c.stream != net.Conn(c.base) {
			_ = w.CloseWrite() // TLS's closing alert, WebSocket's closing frame
		}
		c.base.closeWrite()
		_ = c.base.SetReadDeadline(until)
		var waste [512]byte
		for time.Now().Before(until) {
			if _, err := c.base.Read(waste[:]); err != nil {
				break
			}
		}
	}
	_ = c.stream.Close()
	_ = c.base.Close()
}

// takeLeave ends the connection because the front ends.
func (c *Conn) takeLeave() {
	if c.given.Load() {
		c.kick(packets.ErrServerShuttingDown)
	} else {
		c.abort()
	}
}

// abort ends the connection at once, from any goroutine.
func (c *Conn) abort() {
	c.closed.Store(true)
	_ = c.base.Close()
}
