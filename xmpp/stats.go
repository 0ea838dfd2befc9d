package xmpp

import (
	"maps"
	"sync"
)

// Outcomes of the server's publishes (XEP-0357).
const (
	publishAccepted = "accepted"     // a notification of its own
	publishJoined   = "joined"       // one with those of the same interval
	publishEcho     = "echo"         // the server pushes our own stanza back
	publishEmpty    = "empty"        // nothing to show
	publishUnknown  = "unknown_node" // or the device's push registration has ended
	publishSecret   = "bad_secret"   // wrong secret, or from a domain that is not the account's
	publishRefused  = "refused"      // not now: the store fails, too much is outstanding
)

// StanzaKind counts stanzas: "in" or "out", and presence, iq, message, notification,
// dismissal, other.
type StanzaKind struct{ Direction, Kind string }

// Stats is what a Gate has counted since its Start.
type Stats struct {
	Domain    string
	Holds     bool // the link is this process's
	Up        bool
	Queue     int // outbound stanzas that are not written
	Devices   int // channels that count as up
	Dropped   uint64
	Stanzas   map[StanzaKind]uint64
	Publishes map[string]uint64 // by outcome
}

type counters struct {
	mu        sync.Mutex
	stanzas   map[StanzaKind]uint64
	publishes map[string]uint64
	dropped   uint64 // answers for which the queue had no room, requests over the limit
}

func newCounters() *counters {
	c := &counters{stanzas: map[StanzaKind]uint64{}, publishes: map[string]uint64{}}
	for _, outcome := range []string{publishAccepted, publishJoined, publishEcho, publishEmpty, publishUnknown, publishSecret, publishRefused} {
		c.publishes[outcome] = 0 // a rate needs the 0 before the first
	}
	return c
}

func (c *counters) stanza(direction, kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stanzas[StanzaKind{direction, kind}]++
}

func (c *counters) publish(outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publishes[outcome]++
}

func (c *counters) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped++
}

// Stats returns the figures so far.
func (g *Gate) Stats() Stats {
	s := Stats{Domain: g.opts.Domain}
	g.mu.Lock()
	s.Holds, s.Up, s.Queue, s.Devices = g.tenure != nil, g.link != nil, g.waitingLocked(), len(g.channels)
	g.mu.Unlock()
	g.counts.mu.Lock()
	defer g.counts.mu.Unlock()
	s.Stanzas, s.Publishes, s.Dropped = maps.Clone(g.counts.stanzas), maps.Clone(g.counts.publishes), g.counts.dropped
	return s
}
