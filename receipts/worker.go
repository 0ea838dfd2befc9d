package receipts

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

const (
	// concurrency is how many requests are made to one receiver at a time.
	concurrency = 8
	// maxWindow is how many events are held in memory behind the oldest unfinished one.
	maxWindow = 1024
	// caughtUp is how many events may wait where a webhook no longer counts as behind.
	caughtUp = 64
	// maxAside bounds the events that are kept apart: retried while others go on, or
	// parked. Beyond it the oldest is dropped.
	maxAside = 10_000
	// downAfter is how many first attempts fail in a row before the receiver counts as
	// down. A later attempt of an event that failed before says little about the receiver.
	downAfter = 3
	// Pauses between the single requests to a receiver that is down.
	probeInitial, probeMax = time.Second, 30 * time.Second
	// saveEvery is how often the position is written. After a crash, later
	// events are sent again under the same IDs.
	saveEvery = 250 * time.Millisecond
	// dropEvery is how often events that are too old are searched for.
	dropEvery = time.Minute
)

// schedule is the pauses after each failure of one event, while the receiver takes
// others: that of Standard Webhooks. Then it is parked.
var schedule = [...]time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

// longestPause is more than the last of them and its random part.
const longestPause = 27 * time.Hour

// localRetry is the pause after the store could not be read.
const localRetry = time.Second

// deferFrom is the pause from which a failed event no longer holds up the cursor.
const deferFrom = time.Minute

// The types of messages that are no events of a timeline.
const (
	typeGap  = "gap"
	typeTest = "test"
)

// worker sends the events of one webhook. One goroutine follows the events, one decides
// (run), one for each request sends.
type worker struct {
	r    *Receipts
	log  *slog.Logger
	name string
	own  Tenure

	mu     sync.Mutex
	sender *sender
	rec    record // At and Time as they are to be written
	window []*item
	asides map[delivery.Position]*item // deferred and parked
	queue  queue
	gap    *item // the notice on its way
	readTo delivery.Place
	readAt time.Time // of the latest event up to there
	live   bool      // everything is read
	behind bool      // it was not, and at least caughtUp events wait
	pace   pace      // while behind
	room   chan struct{}
	kick   chan struct{}

	inflight int
	stopping bool
	up       bool
	failures int // in a row
	probes   int
	probeAt  time.Time
	pausedTo time.Time // by Retry-After

	dirty     map[delivery.Position]*item // asides to be written, nil: removed
	unsaved   bool                        // rec
	savedAt   time.Time
	droppedAt time.Time

	figures figures

	sends      sync.WaitGroup
	tasks      sync.WaitGroup
	ctx        context.Context // of following and deciding
	cancel     context.CancelFunc
	sendCtx    context.Context
	cancelSend context.CancelFunc
}

// figures is what a worker counts.
type figures struct {
	delivered, failed, dropped, parked uint64
	lastSuccess, lastFailure           time.Time
	lastError                          string
}

// newWorker takes up a webhook where it was left; a new one begins at the end.
func (r *Receipts) newWorker(w Webhook, own Tenure) (*worker, error) {
	rec, items, found, err := loadWebhook(own.State, w.Name)
	if err != nil {
		return nil, err
	}
	k := &worker{
		r: r, own: own, name: w.Name, log: r.log.With("webhook", w.Name), sender: r.newSender(w), rec: rec,
		asides: map[delivery.Position]*item{}, dirty: map[delivery.Position]*item{},
		room: make(chan struct{}, 1), kick: make(chan struct{}, 1), up: true,
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.sendCtx, k.cancelSend = context.WithCancel(context.Background())
	if !found {
		if k.rec.At, err = r.core.EventsEnd(); err != nil {
			return nil, err
		}
		k.rec.Time = r.opts.Now()
		// On the disk before the first event that it is to send.
		if err := own.State.ApplyState([]store.StateChange{put(recordKey(k.name), &k.rec)}); err != nil {
			return nil, err
		}
	}
	end, err := r.core.EventsEnd()
	if err != nil {
		return nil, err
	}
	if !k.rec.At.Within(end) {
		k.log.Error("the position of the webhook is not of this store, beginning with the next event")
		k.rec.At, k.unsaved = end, true
	}
	k.readTo, k.readAt = slices.Clone(k.rec.At), k.rec.Time
	now := time.Now()
	for _, at := range slices.SortedFunc(maps.Keys(items), comparePositions) {
		d := items[at]
		// The wall clock was ahead then. Or it is behind now, as on a machine that starts without a
		// clock of its own: Round drops the monotonic reading, so that the retry is due once it is set.
		if most := now.Round(0).Add(longestPause); d.Due.After(most) {
			d.Due = most
		}
		i := &item{at: at, kind: d.Kind.String(), deferred: d, chain: chainKey{seq: d.Seq}, aside: true, index: -1}
		k.asides[at] = i
		if i.Parked.IsZero() {
			k.queue.add(i, now)
		}
	}
	k.queueGap()
	if d := k.rec.Disabled; d != nil && d.Of != "" && d.Of != hashURL(w.URL) { // that was another receiver
		k.rec.Disabled, k.unsaved = nil, true
		k.log.Info("webhook enabled")
	}
	if d := k.rec.Disabled; d != nil {
		k.log.Warn("webhook is disabled and gets no events", "since", d.At, "reason", d.Reason, "to_enable", "heartline webhooks retry "+k.name)
	}
	return k, nil
}

func (k *worker) start() {
	k.tasks.Go(func() {
		_ = k.r.tail.Follow(k.ctx, k.readTo, k.offer) // it ends with ctx or with the tail
	})
	k.tasks.Go(k.run)
}

// stop waits for the requests under way until ctx ends, and then ends them. Requests
// without an answer are made again after the next start.
func (k *worker) stop(ctx context.Context) {
	k.mu.Lock()
	k.stopping = true
	k.mu.Unlock()
	k.cancel()
	end := context.AfterFunc(ctx, k.cancelSend)
	k.sends.Wait()
	end()
	k.end()
	if err := k.save(); err != nil {
		k.log.Warn("position of webhook not written, the latest events will be sent again", "error", err)
	}
}

// abandon ends the requests and the deciding without waiting. end waits.
func (k *worker) abandon() {
	k.mu.Lock()
	k.stopping = true
	k.mu.Unlock()
	k.cancel()
	k.cancelSend()
}

func (k *worker) end() {
	k.cancelSend()
	k.sends.Wait()
	k.tasks.Wait()
	k.sender.close()
}

func (k *worker) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// offer takes the next events. It waits while the window is full: the events wait in
// the store.
func (k *worker) offer(batch []Event, at delivery.Place, live bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.window) >= maxWindow {
		k.mu.Unlock()
		select {
		case <-k.room:
		case <-k.ctx.Done():
		}
		k.mu.Lock()
		if k.ctx.Err() != nil {
			return errStopping
		}
	}
	now := time.Now()
	old := k.r.keptSince()
	for n := range batch {
		e := &batch[n]
		if !k.sender.hook.wants(&e.AccountEvent) {
			continue
		}
		if e.Time.Before(old) {
			k.dropped(e.Time, e.Number)
			continue
		}
		event := e.AccountEvent
		i := &item{
			at: e.At, kind: e.Kind.String(), event: &event, chain: chainKey{seq: e.Seq}, index: -1,
			deferred: deferred{Seq: e.Seq, Kind: e.Kind, Time: e.Time},
		}
		// An event behind a deferred one waits as that does.
		if chain := k.queue.chains[i.chain]; len(chain) > 0 && chain[0].aside {
			k.setAside(i)
		} else {
			k.window = append(k.window, i)
		}
		k.queue.add(i, now)
	}
	k.readTo, k.live = at, live
	k.behind = k.behind || !live
	if len(batch) > 0 {
		k.readAt = batch[len(batch)-1].Time
	}
	k.advance()
	k.wake()
	return nil
}

// advance moves the cursor over all that is finished or deferred. mu is held.
func (k *worker) advance() {
	n := 0
	for n < len(k.window) && (k.window[n].finished || k.window[n].aside) {
		k.rec.At.Advance(k.window[n].at)
		k.rec.Time = k.window[n].Time
		k.window[n] = nil
		n++
	}
	k.unsaved = k.unsaved || n > 0
	k.window = k.window[n:]
	if len(k.window) == 0 {
		k.window = nil // with its array
		k.unsaved = k.unsaved || !k.rec.At.Covers(k.readTo)
		k.rec.At, k.rec.Time = slices.Clone(k.readTo), k.readAt
	}
	if k.live && len(k.window) < caughtUp {
		k.behind, k.pace = false, pace{}
	}
	if len(k.window) < maxWindow {
		select {
		case k.room <- struct{}{}:
		default:
		}
	}
}

// run starts the requests and writes the position, until stop.
func (k *worker) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		k.mu.Lock()
		now := time.Now()
		if now.Sub(k.droppedAt) >= dropEvery {
			k.droppedAt = now
			k.dropOld(now)
		}
		for i := k.next(now); i != nil; i = k.next(now) {
			k.begin(i)
		}
		wait := k.wait(now)
		due := k.saveDue(now)
		k.mu.Unlock()
		if due {
			if err := k.save(); err != nil {
				k.log.Debug("position of webhook not written, retrying", "error", err)
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-k.kick:
		case <-k.ctx.Done():
			return
		}
	}
}

// wait is how long run may sleep. mu is held.
func (k *worker) wait(now time.Time) time.Duration {
	at := k.droppedAt.Add(dropEvery)
	if k.changed() {
		at = earliest(at, k.savedAt.Add(saveEvery))
	}
	if k.rec.Disabled == nil && k.inflight < k.limit() {
		next := k.queue.next()
		if len(k.queue.ready) > 0 {
			next = now
		}
		if !next.IsZero() {
			next = latest(latest(next, k.pausedTo), k.pace.next)
			if !k.up {
				next = latest(next, k.probeAt)
			}
			at = earliest(at, next)
		}
	}
	return max(at.Sub(now), time.Millisecond)
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// limit is how many requests may be under way.
func (k *worker) limit() int {
	if k.up {
		return concurrency
	}
	return 1
}

// next takes the next item to be sent now; nil: none is. mu is held.
func (k *worker) next(now time.Time) *item {
	if k.stopping || k.rec.Disabled != nil || now.Before(k.pausedTo) || now.Before(k.pace.next) || k.inflight >= k.limit() || !k.up && now.Before(k.probeAt) {
		return nil
	}
	k.queue.ripen(now)
	i := k.queue.take()
	if i == nil {
		return nil
	}
	if k.behind && !i.aside { // the time of a retried event says nothing about the others
		k.pace.sends(now, i.Time)
	}
	k.inflight++
	i.sending, i.probe = true, !k.up
	if i.kind == typeGap && !k.rec.Gap.Sent {
		k.rec.Gap.Sent, k.unsaved = true, true
	}
	return i
}

// message is the body of a request, in the form of Standard Webhooks.
type message struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"`
	Data      any    `json:"data"`
}

// gapData tells of events that were dropped.
type gapData struct {
	Dropped int    `json:"dropped"`
	Since   string `json:"since"`
	Until   string `json:"until"`
	Detail  string `json:"detail"`
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// setWebhook takes up a changed configuration.
func (k *worker) setWebhook(w Webhook) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.sender
	k.sender = k.r.newSender(w)
	old.close()
	if old.hook.URL != w.URL { // what was learned is about another receiver
		k.encourageLocked()
	}
}

// encourageLocked enables the webhook and makes the next attempt now.
func (k *worker) encourageLocked() {
	if k.rec.Disabled != nil {
		k.rec.Disabled, k.unsaved = nil, true
		k.log.Info("webhook enabled")
	}
	k.pausedTo, k.probeAt, k.probes = time.Time{}, time.Time{}, 0
	k.queue.hasten(func(*item) bool { return true })
	k.wake()
}

// retry sends parked events again: those with these IDs, or all. It returns how many.
func (k *worker) retry(ids []string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	n := 0
	for _, at := range slices.SortedFunc(maps.Keys(k.asides), comparePositions) {
		i := k.asides[at]
		if i.Parked.IsZero() || len(ids) > 0 && !slices.Contains(ids, i.messageID()) {
			continue
		}
		i.Parked, i.First, i.Due, i.Strikes = time.Time{}, time.Time{}, time.Time{}, 0
		i.chain.again = true
		k.dirty[at] = i
		k.queue.add(i, now)
		n++
	}
	k.encourageLocked()
	return n
}
