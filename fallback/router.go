package fallback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
)

// Options are what a Router is made of. Zero values stand for the defaults.
type Options struct {
	// Pushers are the notification servers; each Server name once.
	Pushers []Pusher
	// Content reads a notification whose push came without it. It is called by
	// the workers, many at a time.
	Content func(delivery.Seq) (*delivery.Notification, error)

	// Timeout bounds one request; 10 s.
	Timeout time.Duration
	// MaxConcurrent bounds the requests of one app that are under way; 500.
	MaxConcurrent int
	// RetryInitial and RetryMax bound the backoff: RetryInitial (1 s) for the
	// first retry, doubled for each further one up to RetryMax (1 min), up to half
	// of it taken off at random. A Retry-After longer than that is honoured, up to
	// an hour; Apple's advice to wait 15 minutes after a 5xx without Retry-After
	// is met by the breaker, which lets one request through where all of them
	// failed, and not by holding each delivery that long.
	RetryInitial, RetryMax time.Duration

	// BreakerFailures is how many failures in a row open an app's breaker; 5. It
	// stays open for RetryInitial at first, and up to RetryMax.
	BreakerFailures int
	// PauseInitial (30 s) and PauseMax (10 min) bound the distance of the probes
	// of an app whose configuration is at fault.
	PauseInitial, PauseMax time.Duration
	// CloseGrace is how long Close lets running requests finish; 5 s.
	CloseGrace time.Duration

	Logger *slog.Logger // nil: none
}

func (o *Options) setDefaults() {
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.MaxConcurrent = cmp.Or(o.MaxConcurrent, 500)
	o.RetryInitial = cmp.Or(o.RetryInitial, time.Second)
	o.RetryMax = max(cmp.Or(o.RetryMax, time.Minute), o.RetryInitial)
	o.BreakerFailures = cmp.Or(o.BreakerFailures, 5)
	o.PauseInitial = cmp.Or(o.PauseInitial, 30*time.Second)
	o.PauseMax = max(cmp.Or(o.PauseMax, 10*time.Minute), o.PauseInitial)
	o.CloseGrace = cmp.Or(o.CloseGrace, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Content == nil {
		o.Content = func(seq delivery.Seq) (*delivery.Notification, error) {
			return nil, fmt.Errorf("notification %d: no content source: %w", seq, delivery.ErrNotFound)
		}
	}
}

// Router is the core's delivery.Pusher: it takes each push to the Pusher that
// serves its app. See the package comment for who runs what.
type Router struct {
	opts    Options
	lanes   map[App]*lane // fixed
	order   []*lane
	servers map[string]Pusher

	base   context.Context // of every request; ends when Close loses its patience
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // workers, and late refusals

	mu     sync.Mutex
	closed bool
	gone   chan struct{} // closed when all is stopped
}

var _ delivery.Pusher = (*Router)(nil)

// New makes a Router. Its pushers are its own from then on: Close closes them.
func New(opts Options) (*Router, error) {
	opts.setDefaults()
	r := &Router{opts: opts, lanes: map[App]*lane{}, servers: map[string]Pusher{}, gone: make(chan struct{})}
	r.base, r.cancel = context.WithCancelCause(context.Background())
	for _, p := range opts.Pushers {
		for _, app := range p.Apps() {
			if other, ok := r.servers[app.Server]; ok && other != p {
				return nil, fmt.Errorf("two pushers for server %q", app.Server)
			}
			if _, ok := r.lanes[app]; ok {
				return nil, fmt.Errorf("app %s is configured twice", app)
			}
			r.servers[app.Server] = p
			l := &lane{
				app: app, pusher: p, r: r, log: opts.Logger,
				throttled: map[string]throttle{}, counts: map[Count]uint64{}, logged: map[string]*logged{},
			}
			r.lanes[app] = l
			r.order = append(r.order, l)
		}
	}
	return r, nil
}

// Push implements delivery.Pusher. done is called by a worker, never by Push
// itself.
//
// A push whose ctx ends while it waits is dropped when its turn comes: soon,
// because dropping costs nothing, but after those before it. One that is under
// way is not cut off by ctx; see Close.
func (r *Router) Push(ctx context.Context, p delivery.Push, done func(delivery.PushResult)) {
	it := item{ctx: ctx, push: p, done: done}
	l := r.lanes[appOf(p.Registration)]
	if l == nil {
		// The token was checked when it was registered: the configuration has
		// changed since.
		err := r.notConfigured(p.Registration)
		r.refuse(it, delivery.PushResult{Outcome: delivery.PushRefused, Detail: reasonNotConfigured, Err: err})
		return
	}
	l.enqueue(it)
}

// refuse answers from a goroutine, so that done never runs within Push, whose
// caller may hold what done needs.
func (r *Router) refuse(it item, res delivery.PushResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		// Close may already have stopped waiting; there is nothing left to outlive.
		go it.done(res)
		return
	}
	r.wg.Go(func() { it.done(res) })
}

// Normalize checks a token that a device registers and returns it as it is to be
// stored: complete, in one spelling. See Pusher.Normalize. Of a token without a
// Server the server is the only one there is.
func (r *Router) Normalize(t delivery.Registration) (delivery.Registration, error) {
	if t.Server == "" && len(r.servers) == 1 {
		for s := range r.servers {
			t.Server = s
		}
	}
	p := r.servers[t.Server]
	if p == nil {
		return t, r.notConfigured(t)
	}
	return p.Normalize(t)
}

// Validate is Normalize for a caller that only wants to know.
func (r *Router) Validate(t delivery.Registration) error {
	_, err := r.Normalize(t)
	return err
}

func (r *Router) notConfigured(t delivery.Registration) error {
	if len(r.lanes) == 0 {
		return fmt.Errorf("%w: no notification server is configured", ErrNotConfigured)
	}
	names := make([]string, 0, len(r.order))
	for _, l := range r.order {
		names = append(names, l.app.String())
	}
	return fmt.Errorf("%w: %s; configured: %s", ErrNotConfigured, appOf(t), strings.Join(names, ", "))
}

// CheckPayload refuses content that a push could not carry even shortened; the
// error wraps ErrTooLarge. Asked before a notification is accepted.
func (r *Router) CheckPayload(n *delivery.Notification) error {
	if !n.Fallback {
		return nil
	}
	for _, p := range r.opts.Pushers {
		if err := p.Fits(n); err != nil {
			return err
		}
	}
	return nil
}

// Resume lets apps that are paused or whose breaker is open try again at once:
// after a change of what was at fault.
func (r *Router) Resume() {
	for _, l := range r.order {
		l.resume()
	}
}

// Close stops the router. What waits is handed back (PushRetry, ErrClosed);
// requests under way may finish within CloseGrace or ctx, then they are cut off.
// When Close returns, every push taken over before has had its done; a later one
// gets ErrClosed. A second Close waits for the first.
func (r *Router) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if !first {
		select {
		case <-r.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, l := range r.order {
		l.close()
	}
	idle := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(idle)
	}()
	grace := time.NewTimer(r.opts.CloseGrace)
	defer grace.Stop()
	select {
	case <-idle:
	case <-grace.C:
	case <-ctx.Done():
	}
	r.cancel(ErrClosed)
	// A Pusher returns soon after its context has ended. Content may hang in a
	// sick store, and must not hang the stop.
	last := time.NewTimer(r.opts.CloseGrace)
	defer last.Stop()
	var errs []error
	select {
	case <-idle:
	case <-last.C:
		errs = append(errs, errors.New("stop pushing: a push did not end"))
	}
	for _, p := range r.opts.Pushers {
		errs = append(errs, p.Close())
	}
	close(r.gone)
	return errors.Join(errs...)
}

// backoff is the wait after attempt n (1: the first) of a delivery.
func (r *Router) backoff(n int) time.Duration {
	return backoff.Jitter(backoff.Doubled(r.opts.RetryInitial, r.opts.RetryMax, max(0, n-1)))
}

// Count is a label pair of the router's counters.
type Count struct {
	Outcome string // accepted, retry, gone, refused
	Reason  string // "410 Unregistered", "timeout", "connection", …: a small set
}

func outcomeName(o delivery.PushOutcome) string {
	switch o {
	case delivery.PushAccepted:
		return "accepted"
	case delivery.PushRetry:
		return "retry"
	case delivery.PushTokenGone:
		return "gone"
	case delivery.PushRefused:
		return "refused"
	}
	return "unknown"
}

// AppStatus is how one app stands, for /readyz, /metrics and the dashboard.
type AppStatus struct {
	App App
	// State is "ok"; "open" (the server fails steadily, pushes are handed back
	// until NextTry); "paused" (the configuration is at fault, likewise); or
	// "probing" (one push is finding out).
	State    string
	Cause    string    // why it is not ok
	Since    time.Time // since when it is not ok
	NextTry  time.Time // with open and paused
	Queue    int
	InFlight int
	Limit    int // requests that may be under way now
	// Counts are the outcomes since the start.
	Counts      map[Count]uint64
	Credentials Credentials
	// Warnings are what an operator should look at, whatever the State.
	Warnings []string
}

// Status tells how each app stands, in the order of their configuration.
func (r *Router) Status() []AppStatus {
	out := make([]AppStatus, 0, len(r.order))
	for _, l := range r.order {
		out = append(out, l.status())
	}
	return out
}

func (l *lane) status() AppStatus {
	l.mu.Lock()
	s := AppStatus{
		App: l.app, State: l.state.String(), Queue: l.queue.len(), InFlight: l.inFlight,
		Limit: l.limitLocked(), Counts: make(map[Count]uint64, len(l.counts)),
	}
	if l.state != laneOK {
		s.Cause, s.Since = l.cause, l.since
		if l.state != laneProbing {
			s.NextTry = l.until
		}
	}
	maps.Copy(s.Counts, l.counts)
	if l.badTokens {
		s.Warnings = append(s.Warnings, "most push tokens are refused: is the environment or the topic the wrong one?")
	}
	l.mu.Unlock()
	if c, ok := l.pusher.(Credentialed); ok {
		s.Credentials = c.Credentials(l.app)
		if s.Credentials.Warning != "" {
			s.Warnings = append(s.Warnings, s.Credentials.Warning)
		}
	}
	slices.Sort(s.Warnings)
	return s
}
