package faults

import (
	"slices"
	"sync"
	"time"
)

// Acceptance is a notification that the program has answered for: a 202 or a
// PUBACK has been seen.
type Acceptance struct {
	ID      string
	Account string
	// Link and Place are the backend's connection and the place among what was sent
	// on it: acceptances of one link are in that order in the store.
	Link  string
	Place int
	// Again: it had been sent before on another link, without an answer, so that its
	// place in the store may be of then.
	Again bool
}

// Acceptances is the ledger of the backends.
type Acceptances struct {
	mu      sync.Mutex
	list    []Acceptance
	changed chan struct{}
}

func (a *Acceptances) add(x Acceptance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, x)
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// Len is how many there are.
func (a *Acceptances) Len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.list)
}

// All returns them, in the order in which the answers were seen.
func (a *Acceptances) All() []Acceptance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clip(a.list)
}

// Reach returns a channel that is closed at the next one, or nil where there are n.
func (a *Acceptances) reach(n int) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) >= n {
		return nil
	}
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	return a.changed
}

// Copy is a pseudo-notification that a device got.
type Copy struct {
	ID         string
	PacketID   uint16
	Redelivery bool
	Pushed     bool
	Acked      bool // a PUBACK was handed to the network
	At         time.Time
}

// Connection is what a device got on one connection, in order.
type Connection struct {
	Device         string
	Number         int // of the device's connections, from 1
	ReceiveMaximum int // 0: not given

	mu      sync.Mutex
	copies  []Copy
	open    map[uint16]int // unacknowledged packet identifiers, the copy of each
	most    int            // open at a time
	twice   []string       // IDs that came under a packet identifier in use
	unasked []string       // what the device could not read

	forgot int // copies that will not be acknowledged; the device's own
}

// Copies returns what has come.
func (c *Connection) Copies() []Copy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Copy(nil), c.copies...)
}

func (c *Connection) got(x Copy) (index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[uint16]int{}
	}
	if _, used := c.open[x.PacketID]; used {
		c.twice = append(c.twice, x.ID)
	}
	c.copies = append(c.copies, x)
	c.open[x.PacketID] = len(c.copies) - 1
	c.most = max(c.most, len(c.open))
	return len(c.copies) - 1
}

// acking is noted before the PUBACK goes out: the answer to it may be the next
// PUBLISH. unsent takes it back.
func (c *Connection) acking(index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies[index].Acked = true
	delete(c.open, c.copies[index].PacketID)
}

func (c *Connection) unsent(index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies[index].Acked = false
}

// Receipts is the ledger of the devices.
type Receipts struct {
	mu    sync.Mutex
	conns []*Connection
}

func (r *Receipts) open(c *Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
}

// All returns the connections.
func (r *Receipts) All() []*Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Connection(nil), r.conns...)
}
