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
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Limits bound what the router asks of one notification server. Zero fields stand for
// the defaults.
type Limits struct {
	// Timeout bounds one request; 10 s.
	Timeout time.Duration
	// MaxConcurrent bounds the requests in flight of one app, and where an app speaks
	// to several push services, to each of them; 500.
	MaxConcurrent int
	// RetryInitial and RetryMax bound the backoff: RetryInitial (1 s) for the
	// first retry, doubled for each further one up to RetryMax (1 min), up to half
	// of it taken off at random. An urgent push waits 5 s at most. A Retry-After
	// longer than that is honoured, up to an hour. Apple's advice to wait 15 minutes
	// after a 5xx without Retry-After is met by the breaker, which lets one request
	// through where all of them failed, and not by holding each delivery that long.
	RetryInitial, RetryMax time.Duration
}

// Options configure a Router. Zero values stand for the defaults.
type Options struct {
	// Pushers are the notification servers; each Server name once. None is possible:
	// every push is then PushUnserved.
	Pushers []Pusher
	// Content reads the notification of a push (Core.Notification). Each worker calls
	// it just before it pushes.
	Content func(delivery.Seq) (*delivery.Notification, error)

	// Servers holds the limits of a server, by its name. Those it leaves out are
	// Timeout, MaxConcurrent, RetryInitial and RetryMax.
	Servers                map[string]Limits
	Timeout                time.Duration
	MaxConcurrent          int
	RetryInitial, RetryMax time.Duration

	// BreakerFailures is how many failures in a row open a lane's breaker; 5. It
	// stays open for RetryInitial at first, and up to RetryMax.
	BreakerFailures int
	// PauseInitial (30 s) and PauseMax (10 min) bound the distance of the probes
	// of an app whose configuration is at fault.
	PauseInitial, PauseMax time.Duration
	// MaxLanes bounds the lanes that are made on demand, one for each push service
	// that a device names, of one App and OriginLabel; 1000. Further push services share
	// one.
	MaxLanes int
	// OnRequest, unless it is nil, is called after each request with how long it took; err
	// is the Pusher's. The workers call it, many at a time.
	OnRequest func(server string, took time.Duration, err error)
	// CloseGrace is how long Close lets running requests finish; 5 s.
	CloseGrace time.Duration

	Logger *slog.Logger // nil: none
}

func (o *Options) setDefaults() {
	o.BreakerFailures = cmp.Or(o.BreakerFailures, 5)
	o.PauseInitial = cmp.Or(o.PauseInitial, 30*time.Second)
	o.PauseMax = max(cmp.Or(o.PauseMax, 10*time.Minute), o.PauseInitial)
	o.MaxLanes = cmp.Or(o.MaxLanes, 1000)
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

func (o *Options) limits(server string) Limits {
	l := o.Servers[server]
	l.Timeout = cmp.Or(l.Timeout, o.Timeout, 10*time.Second)
	l.MaxConcurrent = cmp.Or(l.MaxConcurrent, o.MaxConcurrent, 500)
	l.RetryInitial = cmp.Or(l.RetryInitial, o.RetryInitial, time.Second)
	l.RetryMax = max(cmp.Or(l.RetryMax, o.RetryMax, time.Minute), l.RetryInitial)
	return l
}

// Router is the core's delivery.Pusher: it takes each push to the Pusher that
// serves its app. See the package comment for who runs what.
type Router struct {
	opts    Options                 // Pushers and Servers are those at the start
	servers atomic.Pointer[servers] // replaced with mu held

	base   context.Context // of every request; ends when Close cuts them off
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // workers, refusals, and the ends of replaced servers

	mu      sync.Mutex // taken before a lane's
	lanes   map[laneKey]*lane
	tallies []*tally
	closed  bool
	gone    chan struct{} // closed when all has stopped
	err     error         // of Close; set before gone is closed
}

// servers are the notification servers that are on. Reconfigure replaces them whole.
type servers struct {
	pushers []Pusher
	byName  map[string]*server
}

// server is a notification server with its configuration.
type server struct {
	pusher  Pusher
	laned   Laned // nil: one origin
	apps    []App
	fixed   map[App]*lane // without laned: the lanes, made at the start
	limits  Limits
	workers sync.WaitGroup // of all its lanes
}

// fingerprint tells one configuration from another. The app is a part of it: a default
// topic or environment that is mended leads to another app.
func (s *server) fingerprint(app App) string {
	if f, ok := s.pusher.(Fingerprinted); ok {
		return app.String() + " " + f.Fingerprint(app)
	}
	return app.String()
}

// laneKey tells one lane from another.
type laneKey struct {
	app    App
	origin string
}

var _ delivery.Pusher = (*Router)(nil)

// New makes a Router. Its pushers are its own from then on: Close closes them.
func New(opts Options) (*Router, error) {
	opts.setDefaults()
	r := &Router{opts: opts, lanes: map[laneKey]*lane{}, gone: make(chan struct{})}
	r.base, r.cancel = context.WithCancelCause(context.Background())
	next, err := newServers(opts, nil)
	if err != nil {
		return nil, err
	}
	r.addFixedLocked(next)
	r.servers.Store(next)
	return r, nil
}

// newServers arranges the pushers of opts. A server of before whose pusher stays is
// taken over with its lanes.
func newServers(opts Options, before *servers) (*servers, error) {
	next := &servers{pushers: opts.Pushers, byName: map[string]*server{}}
	stays := map[*server]bool{}
	for _, p := range opts.Pushers {
		for _, app := range p.Apps() {
			s := next.byName[app.Server]
			if s == nil && before != nil {
				if old := before.byName[app.Server]; old != nil && old.pusher == p {
					s, stays[old] = old, true
					next.byName[app.Server] = s
				}
			}
			switch {
			case s == nil:
				s = &server{pusher: p, fixed: map[App]*lane{}, limits: opts.limits(app.Server)}
				s.laned, _ = p.(Laned)
				next.byName[app.Server] = s
			case s.pusher != p:
				return nil, fmt.Errorf("two pushers for server %q", app.Server)
			case stays[s]:
				continue
			case slices.Contains(s.apps, app):
				return nil, fmt.Errorf("app %s is configured twice", app)
			}
			s.apps = append(s.apps, app)
		}
	}
	return next, nil
}

// addFixedLocked makes the lanes that are there from the start.
func (r *Router) addFixedLocked(next *servers) {
	for _, p := range next.pushers {
		for _, app := range p.Apps() {
			if s := next.byName[app.Server]; s.laned == nil && s.fixed[app] == nil {
				s.fixed[app] = r.addLaneLocked(s, laneKey{app: app}, r.tallyLocked(app, ""))
			}
		}
	}
}

// Reconfigure replaces the pushers and the limits, or changes nothing if it returns an
// error. A Pusher that is among the former ones stays as it is, with its limits, lanes and
// connections. The others' waiting pushes go to the new ones. Requests of theirs in flight
// finish, each with the configuration that it began with; then Reconfigure's goroutine
// closes them. The caller calls delivery.Core.PushPossible afterwards.
func (r *Router) Reconfigure(pushers []Pusher, limits map[string]Limits) error {
	opts := r.opts
	opts.Pushers, opts.Servers = slices.Clone(pushers), limits
	r.mu.Lock()
	before := r.servers.Load()
	next, err := newServers(opts, before)
	if err == nil && r.closed {
		err = ErrClosed
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	var retired []*lane
	for key, l := range r.lanes {
		if next.byName[key.app.Server] != l.server {
			retired = append(retired, l)
			r.removeLaneLocked(l)
		}
	}
	r.addFixedLocked(next)
	r.servers.Store(next)
	r.wg.Add(1) // Close waits for the pushes that move, and for the closing
	r.mu.Unlock()
	var moving []*item
	for _, l := range retired {
		moving = append(moving, l.retire()...)
	}
	for _, it := range moving {
		it.to = nil
		for _, a := range r.enqueue(it) {
			a.it.done(a.res)
		}
	}
	go func() {
		defer r.wg.Done()
		for name, s := range before.byName {
			if next.byName[name] != s {
				s.workers.Wait()
			}
		}
		for _, p := range before.pushers {
			if !slices.Contains(next.pushers, p) {
				if err := p.Close(); err != nil {
					r.opts.Logger.Warn("replaced notification server not closed", "error", err)
				}
			}
		}
	}()
	return nil
}

// tallyLocked returns the tally of an App and origin label, making it if there is none.
func (r *Router) tallyLocked(app App, label string) *tally {
	i := slices.IndexFunc(r.tallies, func(t *tally) bool { return t.app == app && t.origin == label })
	if i < 0 {
		i = len(r.tallies)
		r.tallies = append(r.tallies, newTally(app, label))
	}
	return r.tallies[i]
}

func (r *Router) addLaneLocked(s *server, key laneKey, t *tally) *lane {
	l := &lane{
		key: key, server: s, limits: s.limits, tally: t, r: r, log: r.opts.Logger,
		queues: map[string]*queue{}, throttled: map[string]throttle{}, swept: time.Now(), closed: r.closed,
	}
	r.lanes[key] = l
	t.lanes++
	return l
}

func (r *Router) removeLaneLocked(l *lane) {
	delete(r.lanes, l.key)
	l.tally.lanes--
}

// sharedOrigin begins the origin of a lane that further push services of a label share.
const sharedOrigin = "shared "

// laneLocked returns the lane of a push service, making it if there is none.
func (r *Router) laneLocked(s *server, key laneKey) *lane {
	if l := r.lanes[key]; l != nil {
		return l
	}
	label := s.laned.OriginLabel(key.origin)
	t := r.tallyLocked(key.app, label)
	if t.lanes >= r.opts.MaxLanes { // those of other labels do not count: devices make them up
		key.origin = sharedOrigin + label
		if l := r.lanes[key]; l != nil {
			return l
		}
	}
	return r.addLaneLocked(s, key, t)
}

// drop removes a lane that was made on demand, if it is still idle.
func (r *Router) drop(l *lane) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.idleLocked(time.Now()) && r.lanes[l.key] == l {
		l.closed = true
		if l.timer != nil {
			l.timer.Stop()
		}
		r.removeLaneLocked(l)
	}
}

// Push implements delivery.Pusher. done is called by a worker, never by Push
// itself.
//
// Of the pushes to one registration one is in flight at a time, in the order of Seq,
// urgent ones first. A push that fails for a passing reason is handed back
// (PushRetry); the next one of its registration and urgency waits until it has come
// back, has failed three times, or is no longer wanted: its ctx ends. A push whose ctx
// ends while it waits is dropped within seconds. One that is in flight is not cut off by ctx; see Close.
func (r *Router) Push(ctx context.Context, p delivery.Push, done func(delivery.PushResult)) {
	for _, a := range r.enqueue(&item{ctx: ctx, push: p, done: done}) {
		r.refuse(a)
	}
}

// answer is a push that was not queued, or not any more, and its result.
type answer struct {
	it  *item
	res delivery.PushResult
}

// enqueue puts a push into its lane. The caller gives the answers.
func (r *Router) enqueue(it *item) []answer {
	for {
		set := r.servers.Load()
		answers, ok := r.enqueueIn(set, it)
		if ok || r.servers.Load() == set {
			return answers
		}
		it.to = nil // the lane was retired meanwhile
	}
}

// enqueueIn is enqueue with a configuration. ok is false if the lane is closed.
func (r *Router) enqueueIn(set *servers, it *item) (answers []answer, ok bool) {
	reg := it.push.Registration
	s := set.byName[reg.Server]
	app := appOf(reg)
	if s != nil && !slices.Contains(s.apps, app) {
		// It leaves out what the configuration says, which may have changed since, or names its
		// app otherwise: a subscription by any part of its key.
		if full, err := s.pusher.Normalize(reg); err == nil {
			it.to, app = &full, appOf(full)
		}
	}
	if s == nil || !slices.Contains(s.apps, app) {
		return []answer{{it, delivery.PushResult{Outcome: delivery.PushUnserved, Detail: reasonNotConfigured, Err: set.notConfigured(reg)}}}, true
	}
	var replaced []*item
	if s.laned == nil {
		replaced, ok = s.fixed[app].enqueue(it)
	} else {
		key := laneKey{app: app, origin: s.laned.Origin(reg)}
		r.mu.Lock()
		if r.servers.Load() == set {
			replaced, ok = r.laneLocked(s, key).enqueue(it)
		}
		r.mu.Unlock()
	}
	if !ok {
		answers = append(answers, answer{it, closedResult(s.limits)})
	}
	for _, x := range replaced {
		answers = append(answers, answer{x, delivery.PushResult{Outcome: delivery.PushRefused, Detail: reasonPassed, Err: errPassed}})
	}
	return answers, ok
}

// refuse answers from a goroutine, so that done never runs within Push, whose
// caller may hold a lock that done needs.
func (r *Router) refuse(a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		// Close may already have stopped waiting; nothing is left to outlive.
		go a.it.done(a.res)
		return
	}
	r.wg.Go(func() { a.it.done(a.res) })
}

// Servers returns the names of the notification servers that are on.
func (r *Router) Servers() []string { return slices.Sorted(maps.Keys(r.servers.Load().byName)) }

// CheckNames checks those parts of a registration that every server has in common: they
// are short, and printable ASCII without a space. The error does not repeat them.
func CheckNames(r delivery.Registration) error {
	for _, part := range []struct {
		name, value string
		most        int
	}{{"app", r.App, 256}, {"environment", r.Environment, 32}, {"kind", r.Kind, 128}, {"token", r.Token, 4096}} {
		if len(part.value) > part.most {
			return fmt.Errorf("the registration's %s has %d characters; at most %d are possible", part.name, len(part.value), part.most)
		}
		if strings.ContainsFunc(part.value, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return fmt.Errorf("the registration's %s holds a character that is none of printable ASCII", part.name)
		}
	}
	return nil
}

// Complete checks a registration against the configuration and fills in the fields it leaves
// out; see Pusher.Normalize. A registration whose server is off comes back as it is: it
// is completed when it is used.
func (r *Router) Complete(reg delivery.Registration) (delivery.Registration, error) {
	if s := r.servers.Load().byName[reg.Server]; s != nil {
		return s.pusher.Normalize(reg)
	}
	return reg, nil
}

// Normalize is Complete for a registration whose server must be on. Without a Server
// it means the only one there is.
func (r *Router) Normalize(reg delivery.Registration) (delivery.Registration, error) {
	set := r.servers.Load()
	if reg.Server == "" && len(set.byName) == 1 {
		for name := range set.byName {
			reg.Server = name
		}
	}
	if set.byName[reg.Server] == nil {
		return reg, set.notConfigured(reg)
	}
	return r.Complete(reg)
}

// Validate is Normalize without its result.
func (r *Router) Validate(reg delivery.Registration) error {
	_, err := r.Normalize(reg)
	return err
}

// Fingerprint identifies the configuration that serves a registration, without its
// secrets; "" if its server is off. A registration that a server has suspended is
// asked again when it changes.
func (r *Router) Fingerprint(reg delivery.Registration) string {
	s := r.servers.Load().byName[reg.Server]
	if s == nil {
		return ""
	}
	app := appOf(reg)
	if !slices.Contains(s.apps, app) {
		if full, err := s.pusher.Normalize(reg); err == nil {
			app = appOf(full)
		}
	}
	return s.fingerprint(app)
}

func (set *servers) notConfigured(reg delivery.Registration) error {
	if len(set.byName) == 0 {
		return fmt.Errorf("%w: no notification server is configured", ErrNotConfigured)
	}
	var names []string
	for _, p := range set.pushers {
		for _, app := range p.Apps() {
			names = append(names, app.String())
		}
	}
	return fmt.Errorf("%w: %s; configured: %s", ErrNotConfigured, appOf(reg), strings.Join(names, ", "))
}

// CheckPayload refuses content that a push could not carry even shortened; the
// error wraps ErrTooLarge. It is called before a notification is accepted.
func (r *Router) CheckPayload(n *delivery.Notification) error {
	if !n.Fallback {
		return nil
	}
	if n.BadgeAuto { // counted at each push; this is the longest number
		most, counted := delivery.MaxUnread, *n
		counted.Badge, n = &most, &counted
	}
	for _, p := range r.servers.Load().pushers {
		if err := p.Fits(n); err != nil {
			return err
		}
	}
	return nil
}

// Resume lets lanes that do not send try again at once: after a change of the
// configuration.
func (r *Router) Resume() {
	r.mu.Lock()
	lanes := slices.Collect(maps.Values(r.lanes))
	r.mu.Unlock()
	for _, l := range lanes {
		l.resume()
	}
}

// Close stops the router. Waiting pushes are handed back (PushRetry, ErrClosed).
// Requests in flight may finish within CloseGrace or ctx, then they are cut off.
// When Close returns, every push taken over before has had its done; a later one
// gets ErrClosed. A second Close waits for the first.
func (r *Router) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	lanes := slices.Collect(maps.Values(r.lanes))
	r.mu.Unlock()
	if !first {
		select {
		case <-r.gone:
			return r.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, l := range lanes {
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
	for _, p := range r.servers.Load().pushers {
		errs = append(errs, p.Close())
	}
	r.err = errors.Join(errs...)
	close(r.gone)
	return r.err
}
