package hooks

import (
	"sync"
	"time"
)

// rate is a bucket of tokens: as many as a second brings.
type rate struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func (r *rate) take(perSecond int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := float64(perSecond)
	if r.at.IsZero() {
		r.tokens = limit
	} else {
		r.tokens = min(limit, r.tokens+limit*now.Sub(r.at).Seconds())
	}
	r.at = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// rates are the buckets by client identifier. A bucket outlives its connection until it
// is full again, after a second: a client that connects again for each burst would
// otherwise have a full one each time.
type rates struct {
	mu             sync.Mutex
	newer, older   map[string]*rate
	lastGeneration time.Time
}

// generation is how long a bucket is kept at least.
const generation = 2 * time.Second

func (r *rates) of(clientID string, now time.Time) *rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked(now)
	b := r.newer[clientID]
	if b == nil {
		if b = r.older[clientID]; b == nil {
			b = &rate{}
		}
		r.newer[clientID] = b
	}
	return b
}

// keep has the next connection of a client go on with a bucket.
func (r *rates) keep(clientID string, b *rate, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ageLocked(now)
	r.newer[clientID] = b
}

func (r *rates) ageLocked(now time.Time) {
	if r.newer != nil && now.Sub(r.lastGeneration) < generation {
		return
	}
	r.older, r.newer, r.lastGeneration = r.newer, map[string]*rate{}, now
}

// mayPublish takes a token of the client's. The connection's read loop alone calls it.
func (c *conn) mayPublish(perSecond int, now time.Time) bool {
	r := c.rate.Load()
	if r == nil {
		r = c.hook.rates.of(c.client.ID, now)
		c.rate.Store(r)
	}
	return r.take(perSecond, now)
}

// keepRate keeps the bucket of a connection that has ended.
func (c *conn) keepRate() {
	if r := c.rate.Load(); r != nil {
		c.hook.rates.keep(c.client.ID, r, time.Now())
	}
}
