package fallback

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// lane sends the pushes of one App to one origin. Everything below mu is guarded by
// it; mu is never held while a Pusher (Pusher.Concurrency excepted), Push.Current or a
// done is called.
type lane struct {
	key    laneKey
	server *server
	limits Limits
	tally  *tally
	r      *Router
	log    *slog.Logger

	mu       sync.Mutex
	queues   map[string]*queue // by token; those that are not empty
	ready    [classes]readyList
	readyLen int
	wakes    wakeHeap
	waiting  int // pushes in queues
	running  int // workers, each with at most one request in flight
	inFlight int
	timer    *time.Timer // nil: none yet
	timerAt  time.Time   // zero: it is not set
	swept    time.Time
	closed   bool

	breaker   breaker
	throttled map[string]throttle // by token
	relieved  time.Time           // when the last throttle elapses
	tokens    tokenHistory
	lacking   string    // the detail of the last refusal with NotToken
	lackingAt time.Time // when it came
}

// throttle is the pause of a registration after a 429.
type throttle struct {
	until   time.Time
	strikes int
}

const (
	// sweepEvery is how often waiting pushes are searched for those that have expired
	// or are no longer wanted, while none is sent. A lane that sends finds them as
	// their turn comes.
	sweepEvery   = time.Second
	sweepBusy    = 10 * time.Second
	maxThrottled = 10_000
)

// String names the lane in logs.
func (l *lane) String() string { return l.tally.String() }

// enqueue takes it over. It returns the pushes that must be answered: replaced by a
// newer one of their collapse key. False: the lane is closed.
func (l *lane) enqueue(it *item) (replaced []*item, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	token := it.push.Registration.Token
	q := l.queues[token]
	if q == nil {
		q = &queue{token: token, ready: classes, index: -1, until: l.throttled[token].until}
		l.queues[token] = q
	}
	replaced = q.insert(it)
	l.waiting += 1 - len(replaced)
	now := time.Now()
	l.placeLocked(q, now)
	l.kickLocked(now)
	return replaced, true
}

// placeLocked puts q into the ready list of its turn, or lets it wait for a time, or
// drops it if it is empty.
func (l *lane) placeLocked(q *queue, now time.Time) {
	class, wake := q.turn(now)
	if q.ready != class {
		if q.ready < classes {
			l.ready[q.ready].remove(q)
			l.readyLen--
		}
		if class < classes {
			l.ready[class].push(q)
			l.readyLen++
		}
		q.ready = class
	}
	switch {
	case wake.IsZero():
		if q.index >= 0 {
			heap.Remove(&l.wakes, q.index)
		}
	case q.index < 0:
		q.wakeAt = wake
		heap.Push(&l.wakes, q)
	case !q.wakeAt.Equal(wake):
		q.wakeAt = wake
		heap.Fix(&l.wakes, q.index)
	}
	if q.empty() {
		delete(l.queues, q.token)
	}
}

// nextLocked returns the queue whose first push is to be sent now; nil: none before
// at, which is zero if only another event can change that.
func (l *lane) nextLocked(now time.Time) (q *queue, at time.Time) {
	for class := range l.ready {
		if q := l.ready[class].head; q != nil {
			open, when := l.breaker.open(class, now)
			if open {
				return q, now
			}
			if !when.IsZero() && (at.IsZero() || when.Before(at)) {
				at = when
			}
		}
	}
	return nil, at
}

// kickLocked starts workers while there are pushes to be sent that no worker has
// taken, and sets the timer. A worker without work ends by itself.
func (l *lane) kickLocked(now time.Time) {
	next, at := l.nextLocked(now)
	if next != nil && !l.closed {
		limit := l.limitLocked()
		for idle := l.running - l.inFlight; l.running < limit && idle < l.readyLen; idle++ {
			l.running++
			l.r.wg.Add(1)
			l.server.workers.Add(1)
			go l.work()
		}
	}
	l.setTimerLocked(now, at)
}

// setTimerLocked sets the timer for the next time at which something changes by
// itself.
func (l *lane) setTimerLocked(now, gate time.Time) {
	at := gate
	if !at.After(now) {
		at = time.Time{}
	}
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if len(l.wakes) > 0 {
		earlier(l.wakes[0].wakeAt)
	}
	if l.waiting > 0 {
		earlier(l.sweepAtLocked())
	}
	if kept := l.keptUntilLocked(); l.server.laned != nil && len(l.queues) == 0 && kept.After(now) {
		earlier(kept)
	}
	switch {
	case at.IsZero() || l.closed:
		if l.timer != nil {
			l.timer.Stop()
		}
		l.timerAt = time.Time{}
	case !at.Equal(l.timerAt):
		l.timerAt = at
		if l.timer == nil {
			l.timer = time.AfterFunc(max(0, at.Sub(now)), l.wake)
		} else {
			l.timer.Reset(max(0, at.Sub(now)))
		}
	}
}

// wake is the timer's function.
func (l *lane) wake() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	now := time.Now()
	l.timerAt = time.Time{}
	for len(l.wakes) > 0 && !l.wakes[0].wakeAt.After(now) {
		q := heap.Pop(&l.wakes).(*queue)
		l.placeLocked(q, now)
	}
	var over []*item
	if l.waiting > 0 && !now.Before(l.sweepAtLocked()) {
		over = l.sweepLocked(now)
	}
	l.kickLocked(now)
	idle := l.idleLocked(now)
	if len(over) > 0 {
		l.r.wg.Add(1) // Close waits for their done
	}
	l.mu.Unlock()
	for _, it := range over {
		res, _ := unwanted(it, now)
		it.done(res)
	}
	if len(over) > 0 {
		l.r.wg.Done()
	}
	if idle {
		l.r.drop(l)
	}
}

func (l *lane) sweepAtLocked() time.Time {
	if l.breaker.state == laneOK && l.readyLen > 0 {
		return l.swept.Add(sweepBusy)
	}
	return l.swept.Add(sweepEvery)
}

// sweepLocked takes out the waiting pushes that have expired or are no longer wanted.
func (l *lane) sweepLocked(now time.Time) (over []*item) {
	l.swept = now
	for _, q := range l.queues {
		found := false
		for c := range q.class {
			for it := q.class[c].head; it != nil; {
				next := it.next
				if res, ok := unwanted(it, now); ok {
					q.class[c].remove(it)
					l.waiting--
					l.tally.count(res.Outcome, res.Detail)
					over, found = append(over, it), true
				}
				it = next
			}
		}
		if found {
			l.placeLocked(q, now)
		}
	}
	return over
}

// unwanted reports whether a waiting push is not to be sent any more, and its result.
func unwanted(it *item, now time.Time) (delivery.PushResult, bool) {
	if err := it.ctx.Err(); err != nil {
		return delivery.PushResult{Outcome: delivery.PushWithdrawn, Detail: reasonWithdrawn, Err: err}, true
	}
	if !it.push.ExpiresAt.IsZero() && !now.Before(it.push.ExpiresAt) {
		return delivery.PushResult{Outcome: delivery.PushRefused, Detail: reasonExpired, Err: errExpired}, true
	}
	return delivery.PushResult{}, false
}

// limitLocked is how many workers there may be. While the lane is not OK, a worker
// beyond those in flight sends the probe.
func (l *lane) limitLocked() int {
	if l.breaker.state != laneOK {
		return l.inFlight + 1
	}
	return max(1, min(l.limits.MaxConcurrent, l.server.pusher.Concurrency(l.key.app)))
}

// work sends pushes until none is to be sent or there are too many workers.
func (l *lane) work() {
	defer l.r.wg.Done()
	defer l.server.workers.Done()
	// The worker has a context of its own: hundreds of requests entering and leaving
	// the children of one would contend for its lock.
	ctx, cancel := context.WithCancel(l.r.base)
	defer cancel()
	l.mu.Lock()
	for !l.closed && l.running <= l.limitLocked() {
		q, it, probe := l.takeLocked(time.Now())
		if it == nil {
			break
		}
		l.mu.Unlock()
		next, res := l.current(it)
		var err error
		started := time.Now()
		if next == stepSend {
			res.Receipt, err = l.push(ctx, q, it)
		}
		l.mu.Lock()
		now := time.Now()
		l.inFlight--
		q.inFlight = false
		pe := (*PushError)(nil)
		switch {
		case probe && errors.As(err, &pe) && pe.Unsent:
			l.deferProbeLocked(now.Add(min(pe.RetryAfter, maxRetryAfter)))
			next = stepMove // to its place in this lane: it was not attempted
		case next == stepSend:
			l.settleLocked(q, it, &res, err, started, now, probe)
		case probe:
			l.abandonProbeLocked(now) // no request was made: the next push is the probe
		}
		if next != stepMove {
			l.tally.count(res.Outcome, countReason(&res))
		}
		l.placeLocked(q, now)
		l.kickLocked(now) // the answer may have raised the limit, or ended a probe
		l.mu.Unlock()
		if next != stepMove {
			it.done(res)
		} else {
			for _, a := range l.r.enqueue(it) {
				a.it.done(a.res)
			}
		}
		l.mu.Lock()
	}
	l.running--
	idle := l.idleLocked(time.Now())
	l.mu.Unlock()
	if idle {
		l.r.drop(l)
	}
}

// takeLocked takes the next push out of its queue.
func (l *lane) takeLocked(now time.Time) (q *queue, it *item, probe bool) {
	if q, _ = l.nextLocked(now); q == nil {
		return nil, nil, false
	}
	list := &q.class[q.ready]
	it = list.head
	list.remove(it)
	l.waiting--
	q.inFlight = true
	l.inFlight++
	probe = l.breaker.probe()
	l.placeLocked(q, now)
	return q, it, probe
}

// step is what a worker does with a push whose turn has come.
type step uint8

const (
	stepSend   step = iota
	stepAnswer      // it is not wanted any more
	stepMove        // it is queued again, mostly for another registration
)

// current asks whether a push is still wanted, and where it goes now.
func (l *lane) current(it *item) (step, delivery.PushResult) {
	if res, ok := unwanted(it, time.Now()); ok {
		return stepAnswer, res
	}
	if it.push.Current != nil {
		r, err := it.push.Current()
		if err != nil {
			return stepAnswer, delivery.PushResult{Outcome: delivery.PushWithdrawn, Detail: reasonWithdrawn, Err: err}
		}
		same := r.SameAddress(&it.push.Registration)
		if it.push.Registration = r; !same {
			it.to = nil
			return stepMove, delivery.PushResult{}
		}
	}
	return stepSend, delivery.PushResult{Registration: it.push.Registration}
}

// push gets the content and makes the request. The request does not end with it.ctx: a
// push that is cut off half-way may have been accepted, and an acceptance must be
// known. Only Close cuts it off.
func (l *lane) push(ctx context.Context, q *queue, it *item) (receipt string, err error) {
	n := it.push.Dismiss
	if n == nil {
		if n, err = l.r.opts.Content(it.push.Seq); err != nil {
			return "", &contentError{err: err}
		}
	}
	if !it.push.ExpiresAt.IsZero() {
		// A step of the wall clock does not change how long the push is worth showing.
		if expires := time.Now().Add(time.Until(it.push.ExpiresAt)).Round(0); expires.Sub(n.ExpiresAt.Round(0)).Abs() >= time.Second {
			moved := *n
			moved.ExpiresAt, n = expires, &moved
		}
	}
	if n.BadgeAuto {
		counted, unread := *n, 0
		if it.push.Unread != nil {
			unread = it.push.Unread()
		}
		counted.Badge, n = &unread, &counted
	}
	to := it.push.Registration
	if it.to != nil {
		to.App, to.Environment, to.Token = it.to.App, it.to.Environment, it.to.Token
	}
	l.mu.Lock()
	q.sending(it)
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.limits.Timeout)
	defer cancel()
	began := time.Now()
	receipt, err = l.server.pusher.Push(ctx, Request{
		App: l.key.app, Device: it.push.Device, Registration: to, Notification: n, Dismiss: it.push.Dismiss != nil, Attempt: it.push.Attempt,
	})
	if observe := l.r.opts.OnRequest; observe != nil {
		observe(l.key.app.Server, time.Since(began), err)
	}
	return receipt, err
}

// contentError is a notification that could not be read for its push: the store's
// fault, not the server's.
type contentError struct{ err error }

func (e *contentError) Error() string { return "read the notification: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// idleLocked reports whether a lane that was made on demand can be dropped.
func (l *lane) idleLocked(now time.Time) bool {
	return l.server.laned != nil && !l.closed && l.running == 0 && len(l.queues) == 0 && !now.Before(l.keptUntilLocked())
}

// keptUntilLocked returns until when a lane without pushes remembers the state of its server:
// PauseMax after the next try, or after the last refusal that counts for an alarm. Zero:
// there is nothing to remember. A lane whose server is dead must not stay for ever: it is an
// alarm, and takes a place of MaxLanes.
func (l *lane) keptUntilLocked() (at time.Time) {
	if l.breaker.state != laneOK {
		at = l.breaker.normal
	}
	if len(l.throttled) > 0 && l.relieved.After(at) {
		at = l.relieved
	}
	if l.tokens.refusedAt.After(at) {
		at = l.tokens.refusedAt
	}
	if at.IsZero() {
		return at
	}
	return at.Add(l.r.opts.PauseMax)
}

// close hands back the waiting pushes.
func (l *lane) close() {
	for _, it := range l.retire() {
		it.done(closedResult(l.limits))
	}
}

// retire closes the lane and returns the waiting pushes. Workers end after the request they
// have.
func (l *lane) retire() (rest []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, q := range l.queues {
		for c := range q.class {
			for it := q.class[c].head; it != nil; it = q.class[c].head {
				q.class[c].remove(it)
				rest = append(rest, it)
			}
		}
	}
	l.waiting = 0
	if l.timer != nil {
		l.timer.Stop()
	}
	return rest
}

func closedResult(limits Limits) delivery.PushResult {
	return delivery.PushResult{Outcome: delivery.PushRetry, RetryAfter: limits.RetryInitial, Detail: ErrClosed.Error(), Err: ErrClosed}
}
