package fallback

import (
	"net"
	"sync"
	"time"
)

// gatherer is a connection that writes with one system call what came while the
// call before was under way. net/http writes a request in two parts and every
// part at once: in a storm of pushes that is a third of its work.
//
// A Write returns before the network has its bytes. Where they do not get there,
// the connection is closed, as it is when it goes silent: nobody is waiting for
// the Write, everybody for an answer.
type gatherer struct {
	net.Conn

	mu     sync.Mutex
	moved  sync.Cond // buf has grown or shrunk, or the end has come
	buf    []byte
	spare  []byte
	err    error
	closed bool
	done   chan struct{} // closed when nothing is written any more
}

// gatherLimit is how many bytes may wait: a Write beyond waits itself, so that a
// connection that takes nothing is found by net/http, whose write does not end.
const gatherLimit = 256 << 10

const (
	writeTimeout = 5 * time.Second // how long a connection may take nothing of what is written
	closeTimeout = 100 * time.Millisecond
)

func gather(c net.Conn) *gatherer {
	g := &gatherer{Conn: c, done: make(chan struct{})}
	g.moved.L = &g.mu
	go g.run()
	return g
}

func (g *gatherer) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.buf) > gatherLimit && g.err == nil && !g.closed {
		g.moved.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closed:
		return 0, net.ErrClosed
	}
	g.buf = append(g.buf, b...)
	g.moved.Broadcast()
	return len(b), nil
}

func (g *gatherer) run() {
	defer close(g.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for len(g.buf) == 0 {
			if g.closed {
				return
			}
			g.moved.Wait()
		}
		b := g.buf
		g.buf = g.spare[:0]
		if !g.closed {
			_ = g.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails with the write
		}
		g.mu.Unlock()
		_, err := g.Conn.Write(b)
		g.mu.Lock()
		if g.spare = b; cap(b) > gatherLimit {
			g.spare = nil
		}
		if err != nil {
			g.err = err
			g.moved.Broadcast()
			_ = g.Conn.Close() // who reads has to know
			return
		}
		g.moved.Broadcast()
	}
}

// SetWriteDeadline does nothing: whoever calls it means a Write of its own, and
// lifts it after that.
func (g *gatherer) SetWriteDeadline(time.Time) error { return nil }

// Close writes what is left, a GOAWAY perhaps, for as long as the connection
// takes it at once.
func (g *gatherer) Close() error {
	g.mu.Lock()
	g.closed = true
	_ = g.Conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // fails with the write
	g.moved.Broadcast()
	g.mu.Unlock()
	<-g.done
	return g.Conn.Close()
}
