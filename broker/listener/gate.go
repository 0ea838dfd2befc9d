package listener

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Limits of a Gate; 0 is no limit.
type Limits struct {
	// Connections in all. Never more than the process has file descriptors for,
	// less some for the store, the API and pushes. Where they are as many, one more
	// closes the oldest that has not sent its CONNECT, and is refused only where
	// there is none.
	Connections int
	// PerAddress is the number from one IPv4 address or one IPv6 /64. Mind that a
	// mobile network puts thousands of its subscribers behind an address, and a
	// reverse proxy everyone behind its own.
	PerAddress int
	// Pending is the number that have not sent their CONNECT yet. One more closes
	// the oldest of them, so that who waits for nothing gives way to who has
	// something to say. Default: 10,000.
	Pending int
	// ConnectBytes is the memory that CONNECT packets of more than half a kilobyte
	// may take in all while they arrive. Default: 16 MiB.
	ConnectBytes int64
}

// Gate counts connections and lets no more in than it may. It is safe for
// concurrent use and can be shared by fronts.
type Gate struct {
	limits       Limits
	connectBytes atomic.Int64

	mu      sync.Mutex
	total   int
	byAddr  map[netip.Prefix]int
	pending int
	// The pending connections, oldest first, linked through them: a ring with this
	// as its end, so that any of them leaves it at once.
	ring pendingLink
}

type pendingLink struct {
	conn       *Conn
	prev, next *pendingLink
}

// NewGate returns a Gate.
func NewGate(l Limits) *Gate {
	if l.Pending == 0 {
		l.Pending = 10_000
	}
	if l.ConnectBytes == 0 {
		l.ConnectBytes = 16 << 20
	}
	l.Connections = connectionsWithin(l.Connections, openFiles())
	g := &Gate{limits: l, byAddr: make(map[netip.Prefix]int)}
	g.ring.prev, g.ring.next = &g.ring, &g.ring
	return g
}

// connectionsWithin is how many connections may be had with so many file
// descriptors, 0 being no limit of either. A process that has none left cannot
// write to its store.
func connectionsWithin(connections, files int) int {
	if files == 0 {
		return connections
	}
	most := max(1, files-min(max(64, files/8), 1024))
	if connections == 0 {
		return most
	}
	return min(connections, most)
}

var (
	errFull        = errors.New("as many connections as are allowed")
	errAddressFull = errors.New("as many connections as are allowed from one address")
)

// admit lets a connection from addr in, or says why not. leave takes it back. Where
// one has to make room for it, admit returns that, which is to be closed.
func (g *Gate) admit(addr netip.Prefix) (evict *Conn, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	limited := g.limits.PerAddress > 0 && addr.IsValid()
	if limited && g.byAddr[addr] >= g.limits.PerAddress {
		return nil, errAddressFull
	}
	if g.limits.Connections > 0 && g.total >= g.limits.Connections {
		if evict = g.evictLocked(); evict == nil {
			return nil, errFull
		}
	}
	if limited {
		g.byAddr[addr]++
	}
	g.total++
	return evict, nil
}

func (g *Gate) leave(addr netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.limits.PerAddress > 0 && addr.IsValid() {
		if g.byAddr[addr]--; g.byAddr[addr] == 0 {
			delete(g.byAddr, addr)
		}
	}
}

// await puts c with those that have not sent their CONNECT. Where they are too
// many it returns the oldest, which is to be closed.
func (g *Gate) await(c *Conn) (evict *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &c.link
	l.conn = c
	l.prev, l.next = g.ring.prev, &g.ring
	l.prev.next, g.ring.prev = l, l
	g.pending++
	if g.pending > g.limits.Pending {
		return g.evictLocked()
	}
	return nil
}

// arrived takes c from them. It reports whether c was one, which it is not when
// it was evicted.
func (g *Gate) arrived(c *Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unlinkLocked(&c.link)
}

// evict takes the oldest of them, nil if there is none.
func (g *Gate) evict() *Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.evictLocked()
}

func (g *Gate) evictLocked() *Conn {
	l := g.ring.next
	if l == &g.ring {
		return nil
	}
	g.unlinkLocked(l)
	return l.conn
}

func (g *Gate) unlinkLocked(l *pendingLink) bool {
	if l.next == nil {
		return false
	}
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
	g.pending--
	return true
}

// reserve takes n bytes for a CONNECT that is about to be read; release gives
// them back.
func (g *Gate) reserve(n int) bool {
	if g.connectBytes.Add(int64(n)) > g.limits.ConnectBytes {
		g.connectBytes.Add(int64(-n))
		return false
	}
	return true
}

func (g *Gate) release(n int) { g.connectBytes.Add(int64(-n)) }

// Open is the number of connections at present, those before their CONNECT
// included; Pending is the number of these.
func (g *Gate) Open() (open, pending int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total, g.pending
}

// addressOf is what connections from one place have in common: the IPv4 address,
// or the /64 that IPv6 gives to a subscriber.
func addressOf(a net.Addr) netip.Prefix {
	var ip netip.Addr
	if t, ok := a.(*net.TCPAddr); ok {
		ip, _ = netip.AddrFromSlice(t.IP)
	} else if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		ip = ap.Addr()
	}
	ip = ip.Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}
