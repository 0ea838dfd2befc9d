package listener

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

var (
	// ErrSlow is the error of a write to a peer that takes its messages more slowly
	// than they come, for longer than its queue lasts.
	ErrSlow = errors.New("peer does not keep up: write queue full")
	// ErrStuck is the error of a write to a peer that has taken nothing for the
	// write timeout.
	ErrStuck = errors.New("peer takes nothing: write timeout")
)

// sender is a net.Conn whose Write does not wait for the peer. mochi writes under
// a lock that every publisher to the client takes, and the take-over of its
// session too: one reader that stops would stop them all.
//
// A write is tried at once on the caller's goroutine. What the socket does not
// take goes to a queue, and a goroutine that lives as long as the queue is not
// empty.
type sender struct {
	net.Conn
	timeout time.Duration
	limit   int
	failed  func(error) // told once why the peer was cut; must not block

	raw      syscall.RawConn // for reads that do not wait; nil: reads wait
	reading  *reading        // of the goroutine that reads now
	onClosed func()          // called when the socket is closed; must not block

	pre       *bufio.Reader // holds what was read behind a PROXY header; nil: nothing
	peeked    [1]byte       // a byte that was read to see whether there is one
	hasPeeked bool

	mu      sync.Mutex
	try     func([]byte) (int, error) // one write that does not wait; nil: there is no such
	queue   []byte
	sending bool
	drained func()        // called when the queue has been taken, and when it is empty; may be nil
	done    chan struct{} // closed when sending ends, if someone waits for it
	closed  bool
	err     error // why nothing is sent any more
}

func newSender(c net.Conn, timeout time.Duration, limit int, failed func(error)) *sender {
	return &sender{Conn: c, timeout: timeout, limit: limit, failed: failed}
}

// Write sends p, or queues what the peer does not take. An error means that the
// connection is of no use any more.
func (s *sender) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	n := 0
	if !s.sending {
		if s.try == nil {
			s.try = writeNow(s.Conn)
		}
		var err error
		if n, err = s.try(p); err != nil {
			s.failLocked(err)
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
	}
	if len(s.queue) > s.limit {
		s.failLocked(ErrSlow)
		return n, ErrSlow
	}
	s.queue = append(s.queue, p[n:]...)
	if !s.sending {
		s.sending = true
		go func() {
			s.send()
			if f := s.onDrained(nil); f != nil {
				f()
			}
		}()
	}
	return len(p), nil
}

// send writes the queue until it is empty.
func (s *sender) send() {
	piece := 64 << 10
	_, overTLS := s.Conn.(*tls.Conn)
	if overTLS { // a write that has timed out is its last one, whatever the peer has taken
		piece = 4 << 10
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && len(s.queue) > 0 {
		b := s.queue
		s.queue = nil
		if f := s.drained; f != nil {
			s.mu.Unlock()
			f()
			s.mu.Lock()
		}
		for len(b) > 0 && s.err == nil {
			p := b[:min(piece, len(b))]
			s.mu.Unlock()
			_ = s.Conn.SetWriteDeadline(time.Now().Add(s.timeout))
			n, err := s.Conn.Write(p)
			s.mu.Lock()
			b = b[n:]
			var t net.Error
			switch timeout := errors.As(err, &t) && t.Timeout(); {
			case timeout && n > 0 && !overTLS: // slow, not stuck
			case timeout:
				s.failLocked(ErrStuck)
			case err != nil:
				s.failLocked(err)
			}
		}
	}
	_ = s.Conn.SetWriteDeadline(time.Time{})
	s.sending = false
	if s.done != nil {
		close(s.done)
		s.done = nil
	}
}

// failLocked ends the connection: after part of a packet, the stream is not MQTT.
func (s *sender) failLocked(err error) {
	if s.err == nil {
		s.err = err
		s.failed(err)
	}
	s.queue = nil
	_ = s.closeLocked()
}

// queued is how many bytes wait.
func (s *sender) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// onDrained sets the function to call when the queue has room again, unless f is nil,
// and returns the function that is set.
func (s *sender) onDrained(f func()) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f != nil {
		s.drained = f
	}
	return s.drained
}

// failure is why nothing is sent any more, nil as long as it is.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// idle returns a channel that is closed when nothing waits to be sent.
func (s *sender) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sending {
		c := make(chan struct{})
		close(c)
		return c
	}
	if s.done == nil {
		s.done = make(chan struct{})
	}
	return s.done
}

// Close closes the connection and leaves the queue unsent.
func (s *sender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = net.ErrClosed
	}
	return s.closeLocked()
}

func (s *sender) closeLocked() error {
	if s.closed {
		return nil
	}
	s.closed = true
	if s.onClosed != nil {
		defer s.onClosed()
	}
	if t, ok := s.Conn.(*tls.Conn); ok {
		// Its own Close may wait five seconds for the peer to take an alert.
		return t.NetConn().Close()
	}
	return s.Conn.Close()
}

// SetWriteDeadline does nothing: no write waits. It keeps a TLS or WebSocket
// layer above from shortening the queue's own.
func (s *sender) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the read deadline.
func (s *sender) SetDeadline(t time.Time) error { return s.Conn.SetReadDeadline(t) }

// peek waits for the first byte and returns it. The next Read returns it again.
func (s *sender) peek() (byte, error) {
	if !s.hasPeeked {
		if _, err := s.Read(s.peeked[:]); err != nil {
			return 0, err
		}
		s.hasPeeked = true
	}
	return s.peeked[0], nil
}

func (s *sender) Read(p []byte) (int, error) {
	if s.hasPeeked && len(p) > 0 {
		s.hasPeeked = false
		p[0] = s.peeked[0]
		return 1, nil
	}
	if s.pre != nil {
		if s.pre.Buffered() > 0 {
			return s.pre.Read(p)
		}
		s.pre = nil
	}
	if s.reading != nil {
		return s.reading.read(s.raw, p)
	}
	return s.Conn.Read(p)
}

// closeWrite tells the peer that nothing more comes.
func (s *sender) closeWrite() {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// neverNow stands for a connection that cannot be written to without waiting,
// such as the TLS of an HTTP server.
func neverNow([]byte) (int, error) { return 0, nil }

func rawOf(c net.Conn) syscall.RawConn {
	if p, ok := c.(*proxyproto.Conn); ok {
		c = p.Raw()
	}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}
