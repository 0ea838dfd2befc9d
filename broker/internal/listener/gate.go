package listener

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/heartline-mqtt/heartline/internal/rlimit"
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
	// the oldest of them, so that a silent connection is evicted for one that may
	// send its CONNECT. Default: 10,000.
	Pending int
	// ConnectBytes is the memory that CONNECT packets of more than half a kilobyte
	// may take in all while they arrive. One that has no room closes the oldest that
	// has not arrived. Default: 16 MiB.
	ConnectBytes int64
}

// Gate counts connections and lets no more in than it may. It is safe for
// concurrent use and can be shared by fronts.
type Gate struct {
	limits Limits

	mu           sync.Mutex
	total        int
	byAddr       map[netip.Prefix]int
	connectBytes int64
	pending      int
	waiting      ring // those that have not sent their CONNECT
	arriving     ring // of these, the ones that have bytes reserved for it
}

// ring holds connections in the order in which they came. Any of them leaves it at
// once.
type ring struct{ end link }

// link is a connection's place in a ring.
type link struct {
	conn       *Conn
	prev, next *link
}

func (r *ring) init() { r.end.prev, r.end.next = &r.end, &r.end }

func (r *ring) push(l *link, c *Conn) {
	l.conn, l.prev, l.next = c, r.end.prev, &r.end
	l.prev.next, r.end.prev = l, l
}

// oldest is nil where there is none.
func (r *ring) oldest() *Conn { return r.end.next.conn }

// remove takes l out of its ring and reports whether it was in one.
func (l *link) remove() bool {
	if l.next == nil {
		return false
	}
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
	return true
}

// NewGate returns a Gate.
func NewGate(l Limits) *Gate {
	if l.Pending == 0 {
		l.Pending = 10_000
	}
	if l.ConnectBytes == 0 {
		l.ConnectBytes = 16 << 20
	}
	l.Connections = connectionsWithin(l.Connections, rlimit.OpenFiles())
	g := &Gate{limits: l, byAddr: make(map[netip.Prefix]int)}
	g.waiting.init()
	g.arriving.init()
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

// claim counts a connection, which was let in without an address, with addr. It
// reports false where there are as many as are allowed.
func (g *Gate) claim(addr netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limits.PerAddress == 0 || !addr.IsValid() {
		return true
	}
	if g.byAddr[addr] >= g.limits.PerAddress {
		return false
	}
	g.byAddr[addr]++
	return true
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
	g.waiting.push(&c.waiting, c)
	g.pending++
	if g.pending > g.limits.Pending {
		return g.evictLocked()
	}
	return nil
}

// arrived takes c from them, unless it was evicted.
func (g *Gate) arrived(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropLocked(c)
}

// evict takes the oldest of them, nil if there is none.
func (g *Gate) evict() *Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.evictLocked()
}

func (g *Gate) evictLocked() *Conn {
	c := g.waiting.oldest()
	if c != nil {
		g.dropLocked(c)
	}
	return c
}

func (g *Gate) dropLocked(c *Conn) {
	if c.waiting.remove() {
		g.pending--
	}
	c.arriving.remove()
}

// reserve takes n bytes for the CONNECT of c, which is about to be read; release
// gives them back. Those in evict are to be closed, and have given theirs back.
func (g *Gate) reserve(c *Conn, n int) (evict []*Conn, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if int64(n) > g.limits.ConnectBytes {
		return nil, false
	}
	for g.connectBytes+int64(n) > g.limits.ConnectBytes {
		oldest := g.arriving.oldest()
		if oldest == nil {
			return evict, false // all that is taken is by those that have arrived
		}
		g.dropLocked(oldest)
		g.releaseLocked(oldest)
		evict = append(evict, oldest)
	}
	c.reserved = int64(n)
	g.connectBytes += c.reserved
	if c.waiting.next != nil { // otherwise it has been evicted itself
		g.arriving.push(&c.arriving, c)
	}
	return evict, true
}

func (g *Gate) release(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.releaseLocked(c)
}

func (g *Gate) releaseLocked(c *Conn) {
	g.connectBytes -= c.reserved
	c.reserved = 0
}

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
