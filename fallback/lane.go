package fallback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// laneState is what a lane does with a push that reaches the head of its queue.
type laneState uint8

const (
	// laneOK sends it.
	laneOK laneState = iota
	// laneOpen hands it back until `until`: the server has failed steadily. After
	// that the lane is probing.
	laneOpen
	// lanePaused is laneOpen for a fault of configuration: longer, and louder.
	lanePaused
	// laneProbing sends one and keeps the others waiting for its outcome.
	laneProbing
)

func (s laneState) String() string {
	return [...]string{"ok", "open", "paused", "probing"}[s]
}

// item is a push that waits. 50,000 of them are about 10 MB.
type item struct {
	ctx  context.Context
	push delivery.Push
	done func(delivery.PushResult)
}

// lane is the queue of one App. Everything below mu is guarded by it; mu is
// never held while a Pusher or a done is called, Pusher.Concurrency excepted.
type lane struct {
	app    App
	pusher Pusher
	r      *Router
	log    *slog.Logger

	mu       sync.Mutex
	queue    fifo
	running  int // workers, each with at most one request under way
	inFlight int
	closed   bool

	state     laneState
	cause     string    // why the state is not laneOK
	since     time.Time // when it left laneOK
	until     time.Time // laneOpen, lanePaused: the end of it
	trips     int       // consecutive times that it left laneOK; sets the length
	streak    int       // consecutive failures, concurrent ones counted as one
	streakEnd time.Time // when the last failure counted ended

	throttled map[string]throttle // by token
	recent    uint32              // the last answers, a bit each: the token was bad
	recentN   int
	badTokens bool // the last look at recent was alarming
	counts    map[Count]uint64
	logged    map[string]*logged
}

// throttle is how long a token is left in peace, and how often it was asked for.
type throttle struct {
	until   time.Time
	strikes int
}

type logged struct {
	at         time.Time
	suppressed int
}

func (l *lane) enqueue(it item) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.r.refuse(it, delivery.PushResult{
			Outcome: delivery.PushRetry, RetryAfter: l.r.opts.RetryInitial,
			Detail: ErrClosed.Error(), Err: ErrClosed,
		})
		return
	}
	l.queue.push(it)
	l.kickLocked()
	l.mu.Unlock()
}

// kickLocked starts workers while there is work that none of them has taken and
// room for it. A worker without work ends by itself.
func (l *lane) kickLocked() {
	limit := l.limitLocked()
	for idle := l.running - l.inFlight; l.running < limit && idle < l.queue.len(); idle++ {
		l.running++
		l.r.wg.Add(1)
		go l.work()
	}
}

func (l *lane) limitLocked() int {
	if l.state == laneProbing || (l.state != laneOK && !time.Now().Before(l.until)) {
		return 1
	}
	return max(1, min(l.r.opts.MaxConcurrent, l.pusher.Concurrency(l.app)))
}

// work takes pushes from the queue until it is empty or there are too many
// workers.
func (l *lane) work() {
	defer l.r.wg.Done()
	// A context of the worker's own: hundreds of requests entering and leaving
	// the children of one would contend for its lock.
	ctx, cancel := context.WithCancel(l.r.base)
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && l.queue.len() > 0 && l.running <= l.limitLocked() {
		it := l.queue.pop()
		if res, refused := l.refuseLocked(&it); refused {
			l.countLocked(res.Outcome, res.Detail)
			l.mu.Unlock()
			it.done(res)
			l.mu.Lock()
			continue
		}
		l.inFlight++
		l.mu.Unlock()

		started := time.Now()
		receipt, err := l.push(ctx, &it)

		l.mu.Lock()
		l.inFlight--
		res := l.settleLocked(&it, err, started)
		res.Receipt, res.Registration = receipt, it.push.Registration
		l.kickLocked() // the answer may have raised the limit, or ended a probe
		l.mu.Unlock()
		it.done(res)
		l.mu.Lock()
	}
	l.running--
}

// refuseLocked answers a push that is not to be sent now.
func (l *lane) refuseLocked(it *item) (delivery.PushResult, bool) {
	if err := context.Cause(it.ctx); err != nil {
		return delivery.PushResult{Outcome: delivery.PushRetry, Detail: reasonCancelled, Err: it.ctx.Err()}, true
	}
	now := time.Now()
	if !it.push.ExpiresAt.IsZero() && !now.Before(it.push.ExpiresAt) {
		return delivery.PushResult{Outcome: delivery.PushRefused, Detail: reasonExpired, Err: errors.New("notification expired before its push")}, true
	}
	if t, ok := l.throttled[it.push.Registration.Token]; ok {
		if wait := t.until.Sub(now); wait > 0 {
			return delivery.PushResult{
				Outcome: delivery.PushRetry, RetryAfter: wait + backoff.Spread(l.r.opts.RetryInitial), Detail: reasonThrottled,
				Err: &PushError{Reason: reasonThrottled, Throttled: true, RetryAfter: wait},
			}, true
		}
	}
	switch l.state {
	case laneOpen, lanePaused:
		if wait := l.until.Sub(now); wait > 0 {
			what := reasonUnavailable
			if l.state == lanePaused {
				what = reasonPaused
			}
			// Those handed back here all wait for the same moment: spread them.
			wait = max(wait, l.r.backoff(it.push.Attempt)) + backoff.Spread(l.r.opts.RetryInitial)
			return delivery.PushResult{
				Outcome: delivery.PushRetry, RetryAfter: wait,
				Detail: what + ": " + l.cause,
				Err:    &PushError{Reason: what, ConfigFault: l.state == lanePaused, RetryAfter: wait, Help: l.cause},
			}, true
		}
		l.state = laneProbing // with this one; limitLocked keeps the others back
	}
	return delivery.PushResult{}, false
}

// push gets the content and makes the request. The request does not end with
// it.ctx: a push that is cut off half-way may have been accepted, and what was
// accepted should be known. Only Close cuts it off.
func (l *lane) push(ctx context.Context, it *item) (receipt string, err error) {
	n := it.push.Notification
	if n == nil {
		if n, err = l.r.opts.Content(it.push.Seq); err != nil {
			return "", &contentError{err: err}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, l.r.opts.Timeout)
	defer cancel()
	return l.pusher.Push(ctx, Request{
		App: l.app, Device: it.push.Device, Registration: it.push.Registration,
		Notification: n, Dismiss: it.push.Dismiss, Attempt: it.push.Attempt,
	})
}

// contentError is a notification that could not be read for its push: the
// store's fault, not the server's.
type contentError struct{ err error }

func (e *contentError) Error() string { return "read the notification: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// Details that the router itself gives.
const (
	reasonAccepted      = "accepted"
	reasonCancelled     = "no longer wanted"
	reasonExpired       = "expired"
	reasonThrottled     = "throttled after 429 TooManyRequests"
	reasonUnavailable   = "push server unavailable"
	reasonPaused        = "push paused"
	reasonTimeout       = "timeout"
	reasonContent       = "content not readable"
	reasonNotConfigured = "app not configured"
)

// settleLocked turns the outcome of a request into a result, and the lane's
// state into what follows from it.
func (l *lane) settleLocked(it *item, err error, started time.Time) delivery.PushResult {
	now := time.Now()
	if err == nil {
		l.recoverLocked()
		delete(l.throttled, it.push.Registration.Token)
		l.tokenLocked(false)
		l.countLocked(delivery.PushAccepted, reasonAccepted)
		return delivery.PushResult{Outcome: delivery.PushAccepted, Detail: "200"}
	}
	if ce := (*contentError)(nil); errors.As(err, &ce) {
		if l.state == laneProbing {
			l.state = laneOpen // the probe was none; the next one is
		}
		res := delivery.PushResult{Outcome: delivery.PushRetry, RetryAfter: l.r.backoff(it.push.Attempt), Detail: reasonContent, Err: err}
		if errors.Is(err, delivery.ErrNotFound) {
			res.Outcome, res.RetryAfter = delivery.PushRefused, 0
		}
		l.logLocked(slog.LevelError, reasonContent, it, err)
		l.countLocked(res.Outcome, reasonContent)
		return res
	}

	pe := (*PushError)(nil)
	if !errors.As(err, &pe) {
		pe = &PushError{Err: err}
	}
	detail := pe.detail()
	if pe.StatusCode == 0 && errors.Is(pe.Err, context.DeadlineExceeded) {
		detail = fmt.Sprintf("%s after %s", reasonTimeout, l.r.opts.Timeout)
	} else if pe.StatusCode == 0 && pe.Reason == "" && pe.Err != nil {
		detail += ": " + pe.Err.Error()
	}
	res := delivery.PushResult{Detail: detail, Err: pe}
	switch {
	case pe.TokenGone:
		// The server has looked at the token, so it works.
		l.recoverLocked()
		delete(l.throttled, it.push.Registration.Token)
		l.tokenLocked(pe.GoneSince.IsZero())
		res.Outcome, res.GoneSince = delivery.PushTokenGone, pe.GoneSince
		if pe.Help != "" {
			res.Detail += ": " + pe.Help
		}
	case pe.Permanent:
		l.recoverLocked()
		res.Outcome = delivery.PushRefused
		l.logLocked(slog.LevelError, detail, it, pe)
	case pe.ConfigFault:
		res.Outcome = delivery.PushRetry
		l.pauseLocked(now, pe)
		res.RetryAfter = max(l.until.Sub(now), l.r.backoff(it.push.Attempt)) + backoff.Spread(l.r.opts.RetryInitial)
	case pe.Throttled:
		l.recoverLocked()
		res.Outcome = delivery.PushRetry
		res.RetryAfter = l.throttleLocked(now, it.push.Registration.Token, pe.RetryAfter)
	default:
		res.Outcome = delivery.PushRetry
		if errors.Is(err, context.Canceled) && l.r.base.Err() != nil {
			res.Detail, res.Err = ErrClosed.Error(), ErrClosed // cut off by Close, no fault of the server
		} else {
			l.failLocked(now, started, detail)
		}
		res.RetryAfter = max(l.r.backoff(it.push.Attempt), min(pe.RetryAfter, maxRetryAfter))
		if l.state == laneOpen {
			res.RetryAfter = max(res.RetryAfter, l.until.Sub(now)+backoff.Spread(l.r.opts.RetryInitial))
		}
	}
	l.countLocked(res.Outcome, countReason(pe, detail))
	return res
}

// countReason keeps the number of different reasons small: an error text may
// name addresses and ports.
func countReason(pe *PushError, detail string) string {
	switch {
	case pe.StatusCode != 0 || pe.Reason != "":
		return detail
	case errors.Is(pe.Err, context.DeadlineExceeded):
		return reasonTimeout
	}
	return "connection"
}

// recoverLocked: the server has answered as one that works.
func (l *lane) recoverLocked() {
	l.streak = 0
	// A request that left before the breaker opened may answer after it: good
	// news too. One that left before a pause says nothing of what is refused
	// since: only a probe ends a pause.
	if l.state == laneOK || l.state == lanePaused {
		return
	}
	l.log.Info("push works again", "app", l.app.String(), "was", l.state.String(), "cause", l.cause, "for", time.Since(l.since).Round(time.Millisecond))
	l.state, l.cause, l.trips = laneOK, "", 0
}

// failLocked counts a passing failure and opens the breaker after
// BreakerFailures of them without a success between. Requests that were under
// way together and fail together, as when one connection dies under 500 of them,
// are one failure: only a request that began after the last failure counts anew.
func (l *lane) failLocked(now, started time.Time, cause string) {
	if started.Before(l.streakEnd) {
		return
	}
	l.streakEnd = now
	l.streak++
	if l.state != laneProbing && l.streak < l.r.opts.BreakerFailures {
		return
	}
	if l.state == laneOK {
		l.since = now
	}
	was := l.state
	l.state, l.cause = laneOpen, cause
	length := backoff.Jitter(backoff.Doubled(l.r.opts.RetryInitial, l.r.opts.RetryMax, l.trips))
	l.trips++
	l.until = now.Add(length)
	if was == laneOK {
		l.log.Warn("push server unavailable, pushes wait", "app", l.app.String(), "cause", cause, "failures", l.streak, "next_try_in", length)
	}
}

// pauseLocked stops the app for a fault that only a person can mend, or for as
// long as the server wants. One push is let through from time to time, at growing
// distances.
func (l *lane) pauseLocked(now time.Time, pe *PushError) {
	if l.state == lanePaused {
		return // others were under way when the first one told us
	}
	l.streakEnd = now
	if l.state == laneOK {
		l.since, l.trips = now, 0
	}
	first := l.state == laneOK || l.cause != pe.Error()
	l.state, l.cause = lanePaused, pe.Error()
	length := backoff.Jitter(backoff.Doubled(l.r.opts.PauseInitial, l.r.opts.PauseMax, l.trips))
	if pe.RetryAfter > 0 {
		length = max(length, min(pe.RetryAfter, maxRetryAfter))
	}
	l.trips++
	l.until = now.Add(length)
	if first {
		l.log.Error("push paused: the configuration of this app is at fault; pushes are kept", "app", l.app.String(), "cause", l.cause, "next_try_in", length)
	}
}

// resume lets the next push through as a probe.
func (l *lane) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == laneOpen || l.state == lanePaused {
		l.until = time.Now()
		l.kickLocked()
	}
}

// throttleLocked leaves a token in peace after a 429, longer each time.
func (l *lane) throttleLocked(now time.Time, token string, retryAfter time.Duration) time.Duration {
	t := l.throttled[token]
	wait := max(backoff.Jitter(backoff.Doubled(l.r.opts.RetryInitial, l.r.opts.RetryMax, t.strikes)), min(retryAfter, maxRetryAfter))
	t.strikes++
	t.until = now.Add(wait)
	if len(l.throttled) >= maxThrottled {
		// Room for the new one: those that are over first, then any.
		for k, v := range l.throttled {
			if len(l.throttled) < maxThrottled && now.Before(v.until) {
				break
			}
			delete(l.throttled, k)
		}
	}
	l.throttled[token] = t
	return wait
}

// tokenLocked watches the share of tokens that the server does not know at all
// (not those gone with a time): many of them mean sandbox and production mixed
// up, or the wrong topic.
func (l *lane) tokenLocked(bad bool) {
	l.recent <<= 1
	if bad {
		l.recent |= 1
	}
	if l.recentN < 32 {
		l.recentN++
	}
	n := 0
	for b := l.recent; b != 0; b &= b - 1 {
		n++
	}
	alarming := n >= 5 && 2*n >= l.recentN
	if alarming && !l.badTokens {
		l.log.Error("most push tokens are refused: is this app's environment (sandbox, production) or topic the wrong one?", "app", l.app.String(), "refused", n, "of", l.recentN)
	}
	l.badTokens = alarming
}

// logLocked logs a fault that may strike every push once a minute.
func (l *lane) logLocked(level slog.Level, reason string, it *item, err error) {
	now := time.Now()
	s := l.logged[reason]
	if s == nil {
		if len(l.logged) >= maxReasons {
			return
		}
		s = &logged{}
		l.logged[reason] = s
	} else if now.Sub(s.at) < time.Minute {
		s.suppressed++
		return
	}
	l.log.Log(context.Background(), level, "push refused", "app", l.app.String(), "device", it.push.Device, "seq", uint64(it.push.Seq), "err", err, "suppressed", s.suppressed)
	s.at, s.suppressed = now, 0
}

func (l *lane) countLocked(o delivery.PushOutcome, reason string) {
	for _, own := range []string{reasonPaused, reasonUnavailable} {
		if len(reason) > len(own) && reason[:len(own)] == own {
			reason = own // without its cause
		}
	}
	k := Count{Outcome: outcomeName(o), Reason: reason}
	if _, ok := l.counts[k]; !ok && len(l.counts) >= maxReasons {
		k.Reason = "other" // a server that invents reasons does not fill our memory
	}
	l.counts[k]++
}

// close hands back what waits. Workers end after the request they have.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	q := l.queue
	l.queue = fifo{}
	l.mu.Unlock()
	for q.len() > 0 {
		it := q.pop()
		it.done(delivery.PushResult{Outcome: delivery.PushRetry, RetryAfter: l.r.opts.RetryInitial, Detail: ErrClosed.Error(), Err: ErrClosed})
	}
}

const (
	// maxRetryAfter bounds what a server's Retry-After can do to a delivery.
	maxRetryAfter = time.Hour
	maxThrottled  = 10_000
	maxReasons    = 200
)

// fifo is a queue that gives its memory back. Its zero value is empty.
type fifo struct {
	head, tail *chunk
	n          int
}

type chunk struct {
	next  *chunk
	r, w  int
	items [64]item
}

func (f *fifo) len() int { return f.n }

func (f *fifo) push(it item) {
	if f.tail == nil || f.tail.w == len(f.tail.items) {
		c := &chunk{}
		if f.tail == nil {
			f.head = c
		} else {
			f.tail.next = c
		}
		f.tail = c
	}
	f.tail.items[f.tail.w] = it
	f.tail.w++
	f.n++
}

func (f *fifo) pop() item {
	c := f.head
	it := c.items[c.r]
	c.items[c.r] = item{}
	c.r++
	f.n--
	if c.r == c.w {
		if f.head = c.next; f.head == nil {
			f.tail = nil
		}
	}
	return it
}
