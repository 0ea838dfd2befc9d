package fallback

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// pool keeps a few long-lived HTTP/2 connections to one server for one app.
//
// Apple takes fast connecting and disconnecting for an attack, grants one stream
// to a connection until it has seen a valid provider token on it, and then a
// number of streams that must not be assumed. net/http's own pool opens a new
// connection for every request that finds the others full, so this one is built
// from single connections (http.Transport.NewClientConn): one dial at a time, a
// bounded rate of dials, one request on a connection that has not proved itself,
// and never a request more than the server's SETTINGS allow.
type pool struct {
	dial func(context.Context) (*http.ClientConn, error)
	max  int // connections

	base   context.Context // of dials
	cancel context.CancelFunc
	wg     sync.WaitGroup

	allowed atomic.Int64 // requests that may be under way now, those that are included

	mu      sync.Mutex
	conns   []*poolConn        // that take requests
	old     map[*poolConn]bool // that finish what they have
	changed chan struct{}      // closed when a waiter should look again
	waiting int
	dialing bool
	closed  bool

	fails       int // dials, or connections, in a row that led to nothing
	failedDials int // since the start
	lastErr     error
	nextDial    time.Time
	credit      float64 // dials that may be made at once
	creditAt    time.Time
}

const (
	dialTimeout      = 5 * time.Second
	dialBackoffFirst = 250 * time.Millisecond
	dialBackoffMax   = 30 * time.Second
	dialPatience     = time.Second // a request waits so long for the next dial
	dialBurst        = 20
	dialInterval     = 5 * time.Second // a further dial each
	maxServerErrors  = 5               // 5xx in a row before a connection is replaced
)

// poolConn is one connection. Its fields are guarded by pool.mu.
type poolConn struct {
	cc       *http.ClientConn
	inFlight int
	proven   bool // it has given a valid answer
	errors   int  // 5xx answers in a row
	limit    int  // requests that the server allowed when it was looked at
	looked   time.Time
}

// limitAge is how old the limit of a connection may be. To look takes the lock
// that every request on it takes. One that is sent too many has them wait.
const limitAge = 5 * time.Millisecond

// look asks how many requests the server allows on c at this moment.
//
// ClientConn.Reserve would count for us, but requests that hold a reservation
// block each other for good when the server lowers its limit below their number:
// the first one waits for a stream, and the others' reservations are in its way.
func (c *poolConn) look(now time.Time) {
	c.limit, c.looked = c.cc.InFlight()+c.cc.Available(), now
}

func newPool(limit int, dial func(context.Context) (*http.ClientConn, error)) *pool {
	p := &pool{dial: dial, max: limit, old: map[*poolConn]bool{}, changed: make(chan struct{}), credit: dialBurst, creditAt: time.Now()}
	p.base, p.cancel = context.WithCancel(context.Background())
	p.allowed.Store(1) // the one that opens a connection
	return p
}

// dialError is why there is no connection, and when the next one is tried.
type dialError struct {
	err   error
	after time.Duration
}

func (e *dialError) Error() string { return "connect: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

var errTooManyDials = errors.New("too many connections were opened and lost in a short time")

// acquire finds a connection with a free stream, opening one if it must and may.
// The caller makes exactly one round trip on it, then calls release.
func (p *pool) acquire(ctx context.Context) (*poolConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.reckonLocked()
	for {
		if p.closed {
			return nil, ErrClosed
		}
		if c := p.pickLocked(); c != nil {
			return c, nil
		}
		var due <-chan time.Time
		if !p.dialing && len(p.conns) < p.max && !p.unprovenLocked() {
			switch wait := p.dialWaitLocked(); {
			case wait <= 0:
				p.startDialLocked()
			case wait <= dialPatience:
				timer := time.NewTimer(wait)
				defer timer.Stop() // few and short: a request comes here once or twice
				due = timer.C
			case len(p.conns) == 0:
				return nil, &dialError{err: p.lastErr, after: wait}
			}
		}
		dials := p.failedDials
		changed := p.changed
		p.waiting++
		p.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		p.waiting--
		if err != nil {
			return nil, fmt.Errorf("wait for a connection: %w", err)
		}
		if p.failedDials > dials && len(p.conns) == 0 && !p.closed {
			return nil, &dialError{err: p.lastErr, after: max(0, time.Until(p.nextDial))}
		}
	}
}

func (p *pool) pickLocked() *poolConn {
	for i := 0; i < len(p.conns); i++ {
		c := p.conns[i]
		if !c.proven && c.inFlight > 0 {
			continue
		}
		if c.inFlight >= c.limit {
			c.look(time.Now())
		}
		if c.inFlight < c.limit {
			c.inFlight++
			return c
		}
		// Full, or not usable any more (GOAWAY, closed): which of them, it does not
		// say. One that takes none although it has none is of no use; one that goes
		// away comes to that as soon as what it has is answered.
		if c.inFlight == 0 {
			p.retireLocked(c)
			i--
		}
	}
	return nil
}

// release gives back what acquire gave. valid: the answer proves that the
// connection may be used in full. serverError: it was a 5xx.
func (p *pool) release(c *poolConn, valid, serverError bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.reckonLocked()
	c.inFlight--
	switch {
	case valid:
		c.errors = 0
		if !c.proven {
			c.proven = true
			p.fails = 0
		}
	case serverError:
		if c.errors++; c.errors >= maxServerErrors {
			p.retireLocked(c)
		}
	}
	if now := time.Now(); !valid || now.Sub(c.looked) >= limitAge {
		c.look(now)
		if c.cc.Err() != nil {
			p.retireLocked(c)
		}
	}
	if p.old[c] && c.inFlight == 0 {
		delete(p.old, c)
		_ = c.cc.Close() // nothing is under way on it
	}
	p.wakeLocked()
}

// retire lets c finish what it has and gives it nothing more.
func (p *pool) retire(c *poolConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.reckonLocked()
	p.retireLocked(c)
}

func (p *pool) retireLocked(c *poolConn) {
	i := slices.Index(p.conns, c)
	if i < 0 {
		return
	}
	p.conns = slices.Delete(p.conns, i, i+1)
	if !c.proven {
		// As useless as one that could not be opened.
		err := c.cc.Err()
		if err == nil {
			err = errors.New("a connection ended before it gave a valid answer")
		}
		p.failedLocked(err)
	}
	if c.inFlight == 0 {
		_ = c.cc.Close() // nothing is under way on it
	} else {
		p.old[c] = true
	}
	p.wakeLocked()
}

func (p *pool) unprovenLocked() bool {
	return slices.ContainsFunc(p.conns, func(c *poolConn) bool { return !c.proven })
}

// dialWaitLocked is how long to wait before another connection may be opened.
func (p *pool) dialWaitLocked() time.Duration {
	now := time.Now()
	if wait := p.nextDial.Sub(now); wait > 0 {
		return wait
	}
	p.credit = min(dialBurst, p.credit+now.Sub(p.creditAt).Seconds()/dialInterval.Seconds())
	p.creditAt = now
	if p.credit < 1 {
		p.lastErr = errTooManyDials
		return time.Duration((1 - p.credit) * float64(dialInterval))
	}
	return 0
}

func (p *pool) startDialLocked() {
	p.dialing = true
	p.credit--
	p.wg.Go(func() {
		// Not the context of the request that asked: others wait for it as well.
		ctx, cancel := context.WithTimeout(p.base, dialTimeout)
		defer cancel()
		cc, err := p.dial(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer p.reckonLocked()
		p.dialing = false
		switch {
		case err != nil:
			p.failedDials++
			p.failedLocked(err)
		case p.closed:
			_ = cc.Close() // never used
		default:
			c := &poolConn{cc: cc}
			c.look(time.Now())
			p.conns = append(p.conns, c)
		}
		p.wakeLocked()
	})
}

func (p *pool) failedLocked(err error) {
	p.lastErr = err
	p.nextDial = time.Now().Add(backoff.Jitter(backoff.Doubled(dialBackoffFirst, dialBackoffMax, p.fails)))
	p.fails++
}

func (p *pool) wakeLocked() {
	if p.waiting > 0 {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// concurrency is how many requests may be under way now, those that are
// included.
func (p *pool) concurrency() int { return int(p.allowed.Load()) }

// reckonLocked brings that up to date.
func (p *pool) reckonLocked() {
	n, unproven := 0, p.dialing
	for _, c := range p.conns {
		if c.proven {
			n += max(c.inFlight, c.limit)
		} else {
			n++
			unproven = true
		}
	}
	for c := range p.old {
		n += c.inFlight
	}
	if len(p.conns) == 0 || (!unproven && len(p.conns) < p.max && p.dialWaitLocked() <= 0) {
		n++ // the one that opens another connection
	}
	p.allowed.Store(int64(n))
}

func (p *pool) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) + len(p.old)
}

// close ends all connections and waits for a dial under way. No acquire comes
// after it.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		_ = c.cc.Close() // going away
	}
	for c := range p.old {
		_ = c.cc.Close() // going away
	}
	p.conns, p.old = nil, map[*poolConn]bool{}
	p.wakeLocked()
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}
