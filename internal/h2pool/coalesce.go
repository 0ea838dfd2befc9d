package h2pool

import (
	"errors"
	"net"
	"sync"
	"time"
)

// coalescingConn writes with one system call all data that callers wrote during the
// previous call. net/http writes a request in two parts and each part at once; in a
// storm of pushes that is a third of its work.
//
// Write returns before the network has the bytes. If they cannot be sent, the
// connection is closed, as it is when the server goes silent: callers wait for an
// answer, not for Write.
type coalescingConn struct {
	net.Conn

	mu     sync.Mutex
	moved  sync.Cond // signals that buf, err or closed has changed
	buf    []byte
	spare  []byte
	err    error
	closed bool
	done   chan struct{} // closed when run has returned
	live   liveness
}

// bufferLimit bounds the bytes in buf. A Write beyond it blocks, so that net/http
// notices a connection that accepts nothing.
const bufferLimit = 256 << 10

var errSilent = errors.New("the connection has gone silent")

const (
	writeTimeout = 5 * time.Second // a connection that accepts nothing for this long is closed
	closeTimeout = 100 * time.Millisecond
)

func coalesce(nc net.Conn) *coalescingConn {
	c := &coalescingConn{Conn: nc, done: make(chan struct{})}
	c.live.start = time.Now()
	c.moved.L = &c.mu
	go c.run()
	return c
}

func (c *coalescingConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) > bufferLimit && c.err == nil && !c.closed {
		c.moved.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	}
	c.buf = append(c.buf, b...)
	c.wroteLocked(b)
	c.moved.Broadcast()
	return len(b), nil
}

// Read notes that the connection is alive.
func (c *coalescingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.live.read.Store(int64(max(c.live.since(), 1)))
	}
	return n, err
}

func (c *coalescingConn) run() {
	defer close(c.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.buf) == 0 {
			if c.closed {
				return
			}
			c.moved.Wait()
		}
		b := c.buf
		c.buf = c.spare[:0]
		if !c.closed {
			_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a failure shows in the write
		}
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		if c.spare = b; cap(b) > bufferLimit {
			c.spare = nil
		}
		if err != nil {
			c.err = err
			c.moved.Broadcast()
			_ = c.Conn.Close() // wakes the read loop
			return
		}
		c.moved.Broadcast()
	}
}

// SetWriteDeadline does nothing: a caller means it for its own Write, which only
// appends to a buffer.
func (c *coalescingConn) SetWriteDeadline(time.Time) error { return nil }

// Close flushes the buffer, which may end in a GOAWAY, for at most closeTimeout.
func (c *coalescingConn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.live.timer != nil {
		c.live.timer.Stop()
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // a failure shows in the write
	c.moved.Broadcast()
	c.mu.Unlock()
	<-c.done
	return c.Conn.Close()
}
