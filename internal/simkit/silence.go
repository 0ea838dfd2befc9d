package simkit

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// mutable is a listener whose connections can go dead without a word, as when a NAT has
// forgotten them: nothing that comes is read, and nothing that is written leaves.
type mutable struct {
	net.Listener
	mu    sync.Mutex
	conns map[*mutableConn]bool
}

type mutableConn struct {
	net.Conn
	l      *mutable
	silent atomic.Bool
}

func (l *mutable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m := &mutableConn{Conn: c, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[m] = true
	return m, nil
}

func (l *mutable) silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.silent.Store(true)
	}
}

func (c *mutableConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

func (c *mutableConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *mutableConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// withConn is the ConnContext of the server.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// silenceConn makes the connection of a request go dead.
func silenceConn(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*mutableConn); ok {
		c.silent.Store(true)
	}
}
