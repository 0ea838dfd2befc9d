package h2pool

import (
	"cmp"
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

// Options configure a Pool.
type Options struct {
	// Dial opens a connection.
	Dial func(context.Context) (*http.ClientConn, error)
	// MaxConnections bounds the open connections that take requests; 4. There is
	// one until its streams are all in use.
	MaxConnections int
	// ProveFirst sends one request at a time on a new connection until Release has
	// reported a valid answer on it. Apple grants one stream until it has seen a
	// valid provider token.
	ProveFirst bool
}

// Pool keeps a few long-lived HTTP/2 connections to one server. All methods are
// safe for concurrent use.
//
// net/http's own pool opens a new connection for every request that finds the
// others full. Apple treats fast connecting and disconnecting as an attack, and the
// number of streams must not be assumed. So this pool is built from single
// connections (http.Transport.NewClientConn): one dial at a time, a bounded rate of
// dials, and never more requests on a connection than the server's SETTINGS allow.
type Pool struct {
	opts Options

	base   context.Context // of dials
	cancel context.CancelFunc
	wg     sync.WaitGroup

	allowed atomic.Int64 // the limit on requests in flight, including those in flight now

	mu      sync.Mutex
	conns   []*Conn        // take requests
	retired map[*Conn]bool // finish their requests and take no more
	changed chan struct{}  // closed to wake Acquire calls
	waiting int            // blocked Acquire calls
	dialing bool
	closed  bool

	fails       int // consecutive dials or connections without a valid answer
	failedDials int // since New
	lastErr     error
	nextDial    time.Time
	credit      float64 // dials allowed now; refilled at one per dialInterval
	creditAt    time.Time
}

const (
	// DialTimeout bounds a dial with its TLS handshake.
	DialTimeout = 5 * time.Second
	// DialBurst dials may follow each other at once; then one every 5 s.
	DialBurst = 20
	// MaxServerErrors consecutive 5xx answers, or requests without an answer in time,
	// replace a connection.
	MaxServerErrors = 5

	dialBackoffFirst = 250 * time.Millisecond
	dialBackoffMax   = 5 * time.Second // an urgent push is the next probe, at most 5 s away (contract §2)
	dialPatience     = time.Second     // Acquire waits at most this long for the next dial to be allowed
	dialInterval     = 5 * time.Second
)

// Conn is one connection of a Pool.
type Conn struct {
	cc *http.ClientConn

	// Guarded by Pool.mu.
	inFlight int
	proven   bool // has given a valid answer
	errors   int  // consecutive 5xx answers
	limit    int  // requests that the server allowed when refreshLimit last asked
	limitAt  time.Time
}

// RoundTrip makes one request on the connection.
func (c *Conn) RoundTrip(q *http.Request) (*http.Response, error) { return c.cc.RoundTrip(q) }

// limitAge is how old a connection's limit may be. Reading it takes the lock that
// every request on the connection takes. net/http queues requests over the limit.
const limitAge = 5 * time.Millisecond

// refreshLimit asks how many requests the server allows on c at this moment.
//
// It does not use ClientConn.Reserve. Requests that hold a reservation block each
// other for ever when the server lowers its limit below their number: the first
// waits for a stream, and the other reservations keep it from getting one.
func (c *Conn) refreshLimit(now time.Time) {
	c.limit, c.limitAt = c.cc.InFlight()+c.cc.Available(), now
}

// New makes a Pool. It opens no connection.
func New(opts Options) *Pool {
	opts.MaxConnections = cmp.Or(opts.MaxConnections, 4)
	p := &Pool{opts: opts, retired: map[*Conn]bool{}, changed: make(chan struct{}), credit: DialBurst, creditAt: time.Now()}
	p.base, p.cancel = context.WithCancel(context.Background())
	p.allowed.Store(1) // the request that opens the first connection
	return p
}

// DialError says why there is no connection.
type DialError struct {
	Err        error
	RetryAfter time.Duration // until the pool dials again
	Untried    bool          // Err is of an earlier dial: the pool did not dial now
}

func (e *DialError) Error() string { return "connect: " + e.Err.Error() }

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

var (
	// ErrClosed is the error of Acquire after Close.
	ErrClosed = errors.New("connection pool closed")

	errTooManyDials = errors.New("too many connections were opened and lost in a short time")
)

// Acquire returns a connection with a free stream. It opens one if all are full and
// a dial is allowed, and otherwise waits. The error is a *DialError, ErrClosed or
// wraps ctx's. The caller makes exactly one RoundTrip, then calls Release.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.updateAllowedLocked()
	for {
		if p.closed {
			return nil, ErrClosed
		}
		if c := p.pickLocked(); c != nil {
			return c, nil
		}
		var due <-chan time.Time
		if !p.dialing && len(p.conns) < p.opts.MaxConnections && !p.unprovenLocked() {
			switch wait := p.dialWaitLocked(); {
			case wait <= 0:
				p.startDialLocked()
			case wait <= dialPatience:
				timer := time.NewTimer(wait)
				defer timer.Stop() // a request gets here once or twice
				due = timer.C
			case len(p.conns) == 0:
				return nil, &DialError{Err: p.lastErr, RetryAfter: wait, Untried: true}
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
			return nil, &DialError{Err: p.lastErr, RetryAfter: max(0, time.Until(p.nextDial))}
		}
	}
}

func (p *Pool) pickLocked() *Conn {
	for i := 0; i < len(p.conns); i++ {
		c := p.conns[i]
		if !c.proven && c.inFlight > 0 {
			continue
		}
		if c.inFlight >= c.limit {
			c.refreshLimit(time.Now())
		}
		if c.inFlight < c.limit {
			c.inFlight++
			return c
		}
		// The connection is full or no longer usable (GOAWAY, closed); net/http does
		// not say which. One without requests that accepts none is unusable. One that
		// is going away gets here when its last request is answered.
		if c.inFlight == 0 {
			p.retireLocked(c)
			i--
		}
	}
	return nil
}

// Release returns a connection that Acquire gave. valid: the answer proves that the
// connection may be used in full. failed: the answer was a 5xx, or none came in time; a
// connection may answer PINGs, and no request.
func (p *Pool) Release(c *Conn, valid, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.updateAllowedLocked()
	c.inFlight--
	switch {
	case valid:
		c.errors = 0
		if !c.proven {
			c.proven = true
			p.fails = 0
		}
	case failed:
		if c.errors++; c.errors >= MaxServerErrors {
			p.retireLocked(c)
		}
	}
	if now := time.Now(); !valid || now.Sub(c.limitAt) >= limitAge {
		c.refreshLimit(now)
		if c.cc.Err() != nil {
			p.retireLocked(c)
		}
	}
	if p.retired[c] && c.inFlight == 0 {
		delete(p.retired, c)
		_ = c.cc.Close() // no request is in flight on it
	}
	p.wakeLocked()
}

// Retire lets c finish its requests and gives it no more.
func (p *Pool) Retire(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.updateAllowedLocked()
	p.retireLocked(c)
}

func (p *Pool) retireLocked(c *Conn) {
	i := slices.Index(p.conns, c)
	if i < 0 {
		return
	}
	p.conns = slices.Delete(p.conns, i, i+1)
	// One that has only given 5xx is replaced, not lost: the way to the server works, and
	// a pause before the next dial would come on top of the one before the next request.
	if !c.proven && c.errors < MaxServerErrors {
		// Counts like a failed dial.
		err := c.cc.Err()
		if err == nil {
			err = errors.New("a connection ended before it gave a valid answer")
		}
		p.failedLocked(err)
	}
	if c.inFlight == 0 {
		_ = c.cc.Close() // no request is in flight on it
	} else {
		p.retired[c] = true
	}
	p.wakeLocked()
}

func (p *Pool) unprovenLocked() bool {
	return slices.ContainsFunc(p.conns, func(c *Conn) bool { return !c.proven })
}

// dialWaitLocked returns how long to wait before another connection may be opened.
func (p *Pool) dialWaitLocked() time.Duration {
	now := time.Now()
	if wait := p.nextDial.Sub(now); wait > 0 {
		return wait
	}
	p.credit = min(DialBurst, p.credit+now.Sub(p.creditAt).Seconds()/dialInterval.Seconds())
	p.creditAt = now
	if p.credit < 1 {
		p.lastErr = errTooManyDials
		return time.Duration((1 - p.credit) * float64(dialInterval))
	}
	return 0
}

func (p *Pool) startDialLocked() {
	p.dialing = true
	p.credit--
	p.wg.Go(func() {
		// Not the context of the request that started the dial: others wait for the
		// connection, too.
		ctx, cancel := context.WithTimeout(p.base, DialTimeout)
		defer cancel()
		cc, err := p.opts.Dial(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer p.updateAllowedLocked()
		p.dialing = false
		switch {
		case err != nil:
			p.failedDials++
			p.failedLocked(err)
		case p.closed:
			_ = cc.Close() // never used
		default:
			c := &Conn{cc: cc, proven: !p.opts.ProveFirst}
			c.refreshLimit(time.Now())
			p.conns = append(p.conns, c)
		}
		p.wakeLocked()
	})
}

func (p *Pool) failedLocked(err error) {
	p.lastErr = err
	p.nextDial = time.Now().Add(backoff.Jitter(backoff.Doubled(dialBackoffFirst, dialBackoffMax, p.fails)))
	p.fails++
}

func (p *Pool) wakeLocked() {
	if p.waiting > 0 {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Concurrency returns how many requests may be in flight now, including those that
// are.
func (p *Pool) Concurrency() int { return int(p.allowed.Load()) }

// updateAllowedLocked recomputes allowed.
func (p *Pool) updateAllowedLocked() {
	n, unproven := 0, p.dialing
	for _, c := range p.conns {
		if c.proven {
			n += max(c.inFlight, c.limit)
		} else {
			n++
			unproven = true
		}
	}
	for c := range p.retired {
		n += c.inFlight
	}
	if len(p.conns) == 0 || (!unproven && len(p.conns) < p.opts.MaxConnections && p.dialWaitLocked() <= 0) {
		n++ // the request that opens another connection
	}
	p.allowed.Store(int64(n))
}

// Open returns how many connections are open.
func (p *Pool) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) + len(p.retired)
}

// FailedDials returns how many dials have failed since New.
func (p *Pool) FailedDials() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failedDials
}

// Close closes all connections and waits for a dial in progress. It is safe to call
// twice.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		_ = c.cc.Close() // the pool is closing
	}
	for c := range p.retired {
		_ = c.cc.Close() // the pool is closing
	}
	p.conns, p.retired = nil, map[*Conn]bool{}
	p.wakeLocked()
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
}
