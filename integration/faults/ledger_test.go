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
	// Link and Place are the backend's connection and the place among the requests sent
	// on it: acceptances of one link are in that order in the store.
	Link  string
	Place int
	// Again: it had been asked for before, or was by another at the same time, so that
	// its place in the store may be of then.
	Again bool
	// Status is 202 for a first answer and 200 for a repeated one, over MQTT 202; 0:
	// not known.
	Status int
	// AcceptedAt is what the answer said, over HTTP.
	AcceptedAt string
}

// Cancel is a DELETE of a notification.
type Cancel struct {
	ID       string
	Answered time.Time // the zero time: without a 204
}

// Cancels is the ledger of who cancels.
type Cancels struct {
	mu   sync.Mutex
	list []Cancel
}

// asked is noted before the request goes out.
func (c *Cancels) asked(id string) (index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, Cancel{ID: id})
	return len(c.list) - 1
}

func (c *Cancels) answered(index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list[index].Answered = time.Now()
}

// All returns them.
func (c *Cancels) All() []Cancel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
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

func (a *Acceptances) at(n int) Acceptance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list[n]
}

// reach returns a channel that is closed at the next one, or nil where there are n.
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

// Copy is a pseudo-notification, or a message, that a device got.
type Copy struct {
	ID         string
	Message    bool
	PacketID   uint16
	Redelivery bool
	Pushed     bool
	Acked      bool // a PUBACK was handed to the network
	AckedAt    time.Time
	At         time.Time
}

// Report is what a device said of its app.
type Report struct {
	Foreground bool
	At         time.Time // before it was handed to the network
	Confirmed  time.Time // its PUBACK was read; the zero time: not
	packetID   uint16
}

// Connection is what a device got on one connection, in order.
type Connection struct {
	Device         string
	Number         int       // of the device's connections, from 1
	ReceiveMaximum int       // 0: not given
	Dialled, Up    time.Time // before the CONNECT and after the CONNACK

	mu      sync.Mutex
	copies  []Copy
	open    map[uint16]int // unacknowledged packet identifiers, the copy of each
	most    int            // open at a time
	twice   []string       // IDs that came under a packet identifier in use
	unasked []string       // what the device could not read
	reports []Report

	forgot int // copies that will not be acknowledged; the device's own
}

// Copies returns the copies received so far.
func (c *Connection) Copies() []Copy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Copy(nil), c.copies...)
}

// Reports returns what the device has said of its app.
func (c *Connection) Reports() []Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reports)
}

func (c *Connection) reporting(foreground bool) (packetID uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	packetID = uint16(len(c.reports)%60000 + 2) // 1 is the SUBSCRIBE's
	c.reports = append(c.reports, Report{Foreground: foreground, At: time.Now(), packetID: packetID})
	return packetID
}

func (c *Connection) confirmed(packetID uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.reports {
		if r := &c.reports[i]; r.packetID == packetID && r.Confirmed.IsZero() {
			r.Confirmed = time.Now()
			return
		}
	}
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
	c.copies[index].Acked, c.copies[index].AckedAt = true, time.Now()
	delete(c.open, c.copies[index].PacketID)
}

func (c *Connection) unsent(index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies[index].Acked, c.copies[index].AckedAt = false, time.Time{}
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
