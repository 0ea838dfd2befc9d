package nodes

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// gate is the network between clients and a server: a proxy on loopback that passes
// everything until it is cut.
type gate struct {
	net.Listener
	dial  func() (net.Conn, error) // the server
	ctx   context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	moved   chan struct{} // closed at each change
	shut    [2]bool       // bytes of clients, and of the server, are not passed on
	refuses bool          // connections
	links   map[*link]bool
}

// link is a connection through a gate.
type link struct {
	client, server net.Conn
	dead           bool // the network has forgotten it: nothing passes any more, and nobody is told
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newGateOn(t, l, func() (net.Conn, error) { return net.Dial("tcp", target) })
}

func newGateOn(t *testing.T, l net.Listener, dial func() (net.Conn, error)) *gate {
	t.Helper()
	g := &gate{Listener: l, dial: dial, moved: make(chan struct{}), links: map[*link]bool{}}
	g.ctx, g.end = context.WithCancel(context.Background())
	g.tasks.Go(g.accept)
	t.Cleanup(func() {
		g.end()
		_ = l.Close() // accept ends with it
		g.reset()
		g.tasks.Wait()
	})
	return g
}

func (g *gate) address() string { return g.Addr().String() }

func (g *gate) change(fn func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fn()
	close(g.moved)
	g.moved = make(chan struct{})
}

// lose loses all packets from clients (up), from the server (down) or both. Connections stay
// and are silent, new ones get no answer.
func (g *gate) lose(up, down bool) { g.change(func() { g.shut = [2]bool{up, down} }) }

// forget has the network forget its connections, as a firewall does after a while: both ends
// go on believing in them.
func (g *gate) forget() {
	g.change(func() {
		for l := range g.links {
			l.dead = true
		}
	})
}

// refuse resets all connections, and new ones at once.
func (g *gate) refuse() {
	g.change(func() { g.refuses = true })
	g.reset()
}

// heal ends lose and refuse. Connections that were forgotten stay silent.
func (g *gate) heal() { g.change(func() { g.shut, g.refuses = [2]bool{}, false }) }

func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for l := range g.links {
		l.reset()
	}
}

func (l *link) reset() {
	for _, c := range []net.Conn{l.client, l.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a RST
			_ = tcp.Close()
		}
	}
}

func (g *gate) accept() {
	for {
		client, err := g.Accept()
		if err != nil {
			return
		}
		g.tasks.Go(func() { g.serve(&link{client: client}) })
	}
}

func (g *gate) serve(l *link) {
	defer l.client.Close()
	g.mu.Lock()
	refuses := g.refuses || g.ctx.Err() != nil
	g.links[l] = true
	g.mu.Unlock()
	defer g.change(func() { delete(g.links, l) })
	if refuses || !g.passes(l, 0) {
		l.reset()
		return
	}
	server, err := g.dial()
	if err != nil {
		l.reset()
		return
	}
	defer server.Close()
	g.mu.Lock()
	l.server = server
	over := g.ctx.Err() != nil || g.refuses
	g.mu.Unlock()
	if over {
		l.reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { g.copy(l, server, l.client, 0) })
	both.Go(func() { g.copy(l, l.client, server, 1) })
	both.Wait()
}

// passes waits until bytes pass in a direction; false: the end has come.
func (g *gate) passes(l *link, way int) bool {
	for {
		g.mu.Lock()
		held, moved := g.shut[way] || l.dead, g.moved
		g.mu.Unlock()
		if !held {
			return true
		}
		select {
		case <-moved:
		case <-g.ctx.Done():
			return false
		}
	}
}

func (g *gate) copy(l *link, to, from net.Conn, way int) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if !g.passes(l, way) {
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			g.mu.Lock()
			told := !l.dead && !g.shut[way]
			g.mu.Unlock()
			if told { // an end is a packet, too
				_ = to.Close()
			} else {
				_ = from.Close()
			}
			return
		}
	}
}

// A gate passes bytes both ways, holds them while it is cut, and leaves a forgotten connection
// silent for ever while new ones work.
func TestGate(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	g := newGate(t, echo.Addr().String())
	dial := func() net.Conn {
		c, err := net.Dial("tcp", g.address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	answer := make([]byte, 1)
	says := func(c net.Conn, b byte) error {
		if _, err := c.Write([]byte{b}); err != nil {
			return err
		}
		_, err := io.ReadFull(c, answer)
		if err == nil && answer[0] != b {
			t.Errorf("%c came back as %c", b, answer[0])
		}
		return err
	}
	first := dial()
	if err := says(first, 'a'); err != nil {
		t.Fatal(err)
	}
	g.lose(true, false)
	if _, err := first.Write([]byte{'b'}); err != nil {
		t.Fatal(err)
	}
	g.heal()
	if _, err := io.ReadFull(first, answer); err != nil || answer[0] != 'b' {
		t.Errorf("after the cut: %c, %v", answer[0], err)
	}
	g.forget()
	if err := says(dial(), 'c'); err != nil {
		t.Error(err)
	}
	if _, err := first.Write([]byte{'d'}); err != nil {
		t.Fatal(err)
	}
	_ = first.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // long enough for what must not come to be seen mostly
	if n, err := first.Read(answer); n != 0 || err == nil {
		t.Errorf("a forgotten connection answers: %d, %v", n, err)
	}
	second := dial()
	if err := says(second, 'e'); err != nil {
		t.Fatal(err)
	}
	g.refuse()
	if _, err := second.Read(answer); err == nil {
		t.Error("a connection outlives a refusal")
	}
	g.heal()
	if err := says(dial(), 'f'); err != nil {
		t.Error(err)
	}
}
