package faults

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Flow is one direction of a link.
type Flow struct {
	Delay time.Duration // of every byte
	// Loss is the share of segments that are lost, and come Resend later: what TCP
	// makes of a lost packet. The packets behind them wait, too.
	Loss   float64
	Resend time.Duration
	// CutAfter cuts the link when this many bytes have passed, also in the middle of
	// a packet; 0: never.
	CutAfter int
}

// Path is what a new link is like. Up is from the client.
type Path struct{ Up, Down Flow }

// Proxy is a network between clients and a server that can be told to fail.
type Proxy struct {
	ln     net.Listener
	target func(context.Context) (string, error)
	path   func(n int) Path
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	links map[*Link]bool
	n     int
}

// NewProxy listens on loopback. path, unless nil, says what the nth link is like.
func NewProxy(target func(context.Context) (string, error), path func(n int) Path) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{ln: ln, target: target, path: path, links: map[*Link]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// Address is where clients connect.
func (p *Proxy) Address() string { return p.ln.Addr().String() }

// Close cuts everything and waits.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.ln.Close() // its error would be that it is closed
	p.Each((*Link).Cut)
	p.wg.Wait()
}

// Each calls fn with every link there is.
func (p *Proxy) Each(fn func(*Link)) {
	p.mu.Lock()
	var all []*Link
	for l := range p.links {
		all = append(all, l)
	}
	p.mu.Unlock()
	for _, l := range all {
		fn(l)
	}
}

// Any returns one link at random, nil where there is none.
func (p *Proxy) Any() *Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.links) == 0 {
		return nil
	}
	i := rand.IntN(len(p.links))
	for l := range p.links {
		if i--; i < 0 {
			return l
		}
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close() // gone is gone
	address, err := p.target(p.ctx)
	if err != nil {
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close() // gone is gone
	l := &Link{client: client, server: server, over: make(chan struct{})}
	l.gate[0].moved, l.gate[1].moved = make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	p.n++
	var path Path
	if p.path != nil {
		path = p.path(p.n)
	}
	p.links[l] = true
	p.mu.Unlock()
	if p.ctx.Err() != nil {
		l.Cut()
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(server, client, &l.gate[0], path.Up) })
	wg.Go(func() { l.copy(client, server, &l.gate[1], path.Down) })
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// Link is one connection through a Proxy.
type Link struct {
	client, server net.Conn
	once           sync.Once
	over           chan struct{}
	gate           [2]gate // up, down
	half           sync.Once
	halved         bool // guarded by gate[0].mu
}

// gate holds one direction while it is shut.
type gate struct {
	mu    sync.Mutex
	shut  bool
	moved chan struct{}
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != shut {
		g.shut = shut
		close(g.moved)
		g.moved = make(chan struct{})
	}
}

// pass waits until the gate is open; false: the link is over.
func (g *gate) pass(over <-chan struct{}) bool {
	for {
		g.mu.Lock()
		shut, moved := g.shut, g.moved
		g.mu.Unlock()
		if !shut {
			return true
		}
		select {
		case <-moved:
		case <-over:
			return false
		}
	}
}

// Cut ends both sides.
func (l *Link) Cut() {
	l.once.Do(func() {
		close(l.over)
		_ = l.client.Close() // gone is gone
		_ = l.server.Close()
	})
}

// Stall holds a direction up, and lets it go on.
func (l *Link) Stall(up, down bool) {
	l.gate[0].set(up)
	l.gate[1].set(down)
}

// HalfOpen takes the client away without a word to the server: to it the connection
// is there, and silent.
func (l *Link) HalfOpen() {
	l.half.Do(func() {
		l.gate[0].mu.Lock()
		l.halved = true
		l.gate[0].mu.Unlock()
		l.Stall(true, true)
		_ = l.client.Close() // gone is gone
	})
}

func (l *Link) isHalf() bool {
	l.gate[0].mu.Lock()
	defer l.gate[0].mu.Unlock()
	return l.halved
}

// copy moves bytes one way until an end is gone.
func (l *Link) copy(to, from net.Conn, g *gate, f Flow) {
	type chunk struct {
		b   []byte
		due time.Time
	}
	way := make(chan chunk, 256)
	var wg sync.WaitGroup
	wg.Go(func() {
		passed := 0
		for c := range way {
			if wait := time.Until(c.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-l.over:
				}
			}
			if !g.pass(l.over) {
				continue
			}
			cut := false
			if f.CutAfter > 0 && passed+len(c.b) >= f.CutAfter {
				c.b, cut = c.b[:f.CutAfter-passed], true
			}
			passed += len(c.b)
			if _, err := to.Write(c.b); err != nil || cut {
				l.ended(to == l.client)
			}
		}
	})
	for {
		b := make([]byte, 4<<10)
		n, err := from.Read(b)
		if n > 0 {
			due := time.Time{}
			if f.Delay > 0 || f.Loss > 0 {
				due = time.Now().Add(f.Delay)
				if f.Loss > 0 && rand.Float64() < f.Loss {
					due = due.Add(f.Resend)
				}
			}
			select {
			case way <- chunk{b[:n], due}:
			case <-l.over:
			}
		}
		if err != nil {
			break
		}
	}
	if from == l.client && l.isHalf() {
		<-l.over // the server gives it up, or the proxy is closed
	} else {
		l.Cut()
	}
	close(way)
	wg.Wait()
}

func (l *Link) ended(client bool) {
	if client && l.isHalf() {
		return
	}
	l.Cut()
}
