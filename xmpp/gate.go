package xmpp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/internal/seldom"
)

// Options describe one component. Zero values stand for the defaults of the
// configuration's section xmpp.
type Options struct {
	Domain  string // the component's name at the server
	Address string // host:port of the server's component port
	Secret  []byte // shared with the server
	// ReadSecret, where there is one, is asked before each attempt to connect, so that a
	// changed secret needs no restart.
	ReadSecret func() ([]byte, error)
	Hosts      []string // whose users are accounts
	Key        []byte   // signs the secrets of push registrations

	NotifyAll   bool          // publishes without a body become notifications, too
	Title       string        // of a notification that a publish becomes
	ShowBody    bool          // the server's text goes into its body
	ShowSender  bool          // the sender goes into its subtitle
	MinInterval time.Duration // of such notifications of one device
	MaxDevices  int           // of one account; 0 sets no limit
	// Newcomers is shared with what else makes devices known; nil: nothing else does.
	Newcomers *Newcomers

	MaxStanzaSize    int
	WriteTimeout     time.Duration
	PingInterval     time.Duration
	PingTimeout      time.Duration
	ReconnectInitial time.Duration
	ReconnectMax     time.Duration
	// Hold is how long stanzas wait for a link that is down: the ack window. A shorter
	// flap costs no push.
	Hold time.Duration
	// Standby leaves the link to another process until TakeUp.
	Standby bool
	Logger  *slog.Logger
}

// Newcomers are the devices that are about to become known.
type Newcomers = newcomers.List

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	if o.Title == "" {
		o.Title = "New message"
	}
	if o.MaxStanzaSize <= 0 {
		o.MaxStanzaSize = 512 << 10
	}
	set(&o.MinInterval, time.Second)
	set(&o.WriteTimeout, 10*time.Second)
	set(&o.PingInterval, 30*time.Second)
	set(&o.PingTimeout, 10*time.Second)
	set(&o.ReconnectInitial, time.Second)
	set(&o.ReconnectMax, 30*time.Second)
	set(&o.Hold, 3*time.Second)
	if o.Newcomers == nil {
		o.Newcomers = &Newcomers{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Bounds.
const (
	maxQueue   = 8192 // outbound stanzas
	flushAt    = 64 << 10
	perUser    = 10 // presences and requests a second of one user, or of one foreign domain
	maxLimits  = 10_000
	maxGivenUp = 1000 // IQs of one channel whose late answer still acks
)

// Gate is one component: the devices of one XMPP server. Its methods are safe for
// concurrent use.
type Gate struct {
	core   Core
	opts   Options
	log    *slog.Logger
	seldom seldom.Log
	counts *counters
	prefix string // of the ids of our IQs: another for each process, so that an answer to an earlier one is no answer to ours

	ctx      context.Context
	cancel   context.CancelFunc
	once     sync.Once
	tasks    sync.WaitGroup
	calls    lanes // they wait for the store
	reads    lanes // of what is to be sent, by device
	kick     chan struct{}
	stopping chan struct{}
	ending   chan chan struct{} // asks write to end the stream; it closes what it is sent
	turn     chan struct{}      // wakes run: there is a tenure
	turns    sync.Mutex         // held by TakeUp and GiveUp

	limits map[string]*rate.Limiter // touched by run alone

	maxDevices atomic.Int64 // of one account; 0: no limit

	mu       sync.Mutex
	started  bool
	quiesced bool
	stopped  bool    // no timer may be set any more
	tenure   *tenure // nil: the link is another process's
	link     *link
	restored bool                // the devices that were online are up
	begun    bool                // the search for them has
	departed map[string]struct{} // full JIDs whose session has ended before that
	cause    string              // why there is no link, or why the devices are not up yet
	hold     time.Duration       // Options.Hold
	held     *time.Timer         // ends the wait for a link
	overdue  bool                // that wait is over
	seq      uint64
	queue    []item
	parked   int                 // requests that came since the link was lost
	channels map[string]*channel // by full JID: those that count as up
	devices  map[string]*channel // the same by device
	// givenUp holds channels whose session the server cannot reach. A client that
	// resumes it announces nothing: its next stanza brings the channel back.
	givenUp     map[string]*channel // by full JID
	hibernating map[string]*channel // the same by device
	// former holds channels with unanswered requests whose device is on another session
	// now. They never come back, and late answers ack.
	former map[string]*channel // by full JID
	bursts map[string]*burst   // publishes, by device
}

// New returns a Gate that is not connected yet.
func New(core Core, o Options) *Gate {
	o = o.withDefaults()
	g := &Gate{
		core: core, opts: o, log: o.Logger.With("component", o.Domain), counts: newCounters(), prefix: rand.Text()[:8] + "-",
		kick: make(chan struct{}, 1), stopping: make(chan struct{}), ending: make(chan chan struct{}), turn: make(chan struct{}, 1),
		cause: "not connected yet", departed: map[string]struct{}{},
		limits: map[string]*rate.Limiter{}, channels: map[string]*channel{}, devices: map[string]*channel{},
		givenUp: map[string]*channel{}, hibernating: map[string]*channel{}, former: map[string]*channel{}, bursts: map[string]*burst{},
	}
	g.Reconfigure(o.MaxDevices, o.Hold)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.calls = lanes{ctx: g.ctx, tasks: &g.tasks, waiting: map[string]*lane{}}
	g.reads = lanes{ctx: g.ctx, tasks: &g.tasks, waiting: map[string]*lane{}}
	return g
}

// Reconfigure replaces Options.MaxDevices and Options.Hold. Devices that are known stay,
// and a wait that has begun keeps its length.
func (g *Gate) Reconfigure(maxDevices int, hold time.Duration) {
	g.maxDevices.Store(int64(maxDevices))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold = hold
}

// Start connects and keeps connected until Stop, unless Options.Standby leaves that to
// TakeUp. It returns at once.
func (g *Gate) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.stopped { // a Go after Stop's Wait has begun would be a race
		return
	}
	g.started = true
	if !g.opts.Standby {
		g.takeUpLocked()
	}
	g.tasks.Go(g.run)
	g.tasks.Go(g.write)
}

// Quiesce refuses the server's publishes from now on, for a passing reason. Acks still count.
func (g *Gate) Quiesce() {
	g.mu.Lock()
	g.quiesced = true
	g.mu.Unlock()
}

// Stop closes the link and returns when nothing runs any more. Devices stay registered, and
// their addresses remembered. It is safe before Start, twice, and twice at once.
func (g *Gate) Stop() {
	g.Quiesce()
	var late *time.Timer
	g.once.Do(func() {
		late = time.AfterFunc(stopGrace, g.cancel) // a server that takes little, or nothing, holds up the writer
		g.mu.Lock()
		g.stopped = true
		waiting := g.endBurstsLocked()
		if g.held != nil {
			g.stopTimer(g.held)
			g.held = nil
		}
		started := g.started
		g.mu.Unlock()
		for _, e := range waiting {
			g.refuseForNow(e)
		}
		if close(g.stopping); !started {
			g.cancel()
		}
	})
	g.tasks.Wait()
	if late != nil {
		late.Stop()
	}
}

// endBurstsLocked returns the publishes that wait to join a notification.
func (g *Gate) endBurstsLocked() (waiting []*element) {
	for device, b := range g.bursts {
		g.stopTimer(b.timer)
		waiting = append(waiting, b.waiting...)
		delete(g.bursts, device)
	}
	return waiting
}

// afterLocked runs fn after d, and Stop waits for it. The timer ends by itself or by
// stopTimer. The caller holds mu and has checked stopped.
func (g *Gate) afterLocked(d time.Duration, fn func()) *time.Timer {
	g.tasks.Add(1)
	return time.AfterFunc(d, func() {
		defer g.tasks.Done()
		fn()
	})
}

// stopTimer stops a timer of afterLocked. One that runs already goes on.
func (g *Gate) stopTimer(t *time.Timer) {
	if t.Stop() {
		g.tasks.Done()
	}
}

// Up reports whether the link is up, and the devices that a former process left online with
// it, and if not, why.
func (g *Gate) Up() (up bool, cause string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.tenure == nil:
		return false, g.cause
	case g.link == nil || g.restored:
		return g.link != nil, g.cause
	case g.cause != "":
		return false, reading + ": " + g.cause
	}
	return false, reading
}

const reading = "reading the devices that were online"

// Domain returns the component's name.
func (g *Gate) Domain() string { return g.opts.Domain }

// run keeps the link, in each tenure.
func (g *Gate) run() {
	for {
		g.mu.Lock()
		t := g.tenure
		keeps := t != nil && t.ctx.Err() == nil
		if keeps {
			t.kept = true
		}
		g.mu.Unlock()
		if keeps {
			g.keepLink(t)
			close(t.over)
		}
		select {
		case <-g.turn:
		case <-g.ctx.Done():
			return
		}
	}
}

// keepLink dials, reads until the link ends, and dials again, until the tenure ends.
func (g *Gate) keepLink(t *tenure) {
	failures, last := 0, ""
	for t.ctx.Err() == nil {
		l, err := g.dial(t.ctx)
		if err == nil {
			failures, last = 0, ""
			err = g.attend(t, l)
		}
		if t.ctx.Err() != nil {
			return
		}
		cause := (&LinkError{Domain: g.opts.Domain, Address: g.opts.Address, Err: err}).Words()
		if failed, ok := errors.AsType[*LinkError](err); ok {
			cause = failed.Words()
		}
		g.mu.Lock()
		g.cause = cause
		g.mu.Unlock()
		if cause != last { // once, not at each attempt
			g.log.Warn("connection to the XMPP server lost, redialing", "address", g.opts.Address, "error", cause)
			last = cause
		}
		select {
		case <-time.After(backoff.Jitter(backoff.Doubled(g.opts.ReconnectInitial, g.opts.ReconnectMax, failures))):
		case <-t.ctx.Done():
		}
		failures++
	}
}

// dial connects with the secret of the moment.
func (g *Gate) dial(ctx context.Context) (*link, error) {
	o := g.opts
	if o.ReadSecret != nil {
		secret, err := o.ReadSecret()
		if err != nil {
			return nil, &LinkError{Domain: o.Domain, Address: o.Address, Err: fmt.Errorf("read the secret: %w", err)}
		}
		o.Secret = secret
	}
	return dial(ctx, &o)
}

// attend handles the stanzas of a link until it ends.
func (g *Gate) attend(t *tenure, l *link) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	stop := context.AfterFunc(t.ctx, func() { _ = l.conn.Close() })
	defer stop()
	l.over = ctx
	l.in.passOver = g.stranger
	g.up(t, l)
	var watch sync.WaitGroup
	var deaf error
	watch.Go(func() { deaf = g.ping(ctx, l) })
	var err error
	for {
		var e *element
		if e, err = l.in.next(); err != nil {
			break
		}
		l.hear()
		g.handle(e)
	}
	_ = l.conn.Close()
	g.down()
	cancel()
	watch.Wait()
	if deaf != nil {
		err = deaf
	}
	g.blame(err)
	return err
}

// up puts a link into use. Unanswered requests of the last one are sent again, in their
// order: the answers may have been lost with the link.
func (g *Gate) up(t *tenure, l *link) {
	g.mu.Lock()
	g.link, g.cause, g.parked = l, "", 0
	overdue := g.overdue
	g.overdue = false
	if g.held != nil {
		g.stopTimer(g.held)
		g.held = nil
	}
	refused := g.requeueLocked(t, l)
	again := make([]*channel, 0, len(g.channels))
	for _, c := range g.channels {
		if c.tenure == t { // others are brought up by restore
			again = append(again, c)
		}
	}
	if !g.begun && g.tenure == t {
		g.begun = true
		g.tasks.Go(func() { g.restore(t) })
	}
	g.mu.Unlock()
	for _, r := range refused {
		r.Nacked("not queued: " + errQueueFull.Error())
	}
	g.wake()
	g.log.Info("connected to the XMPP server", "address", g.opts.Address, "devices", len(again))
	if overdue { // the core has given up what it had sent
		for _, c := range again {
			if !g.calls.put(c.account, func() { g.revive(c) }) {
				g.counts.drop()
			}
		}
	}
}

// down takes the link out of use. Channels stay up: their addresses are right when it is
// back, or the server says otherwise within a millisecond.
func (g *Gate) down() {
	g.mu.Lock()
	g.link = nil
	answers := g.queue[:0]
	for _, it := range g.queue {
		if it.req == nil { // requests are read again for the next link
			answers = append(answers, it)
		}
	}
	clear(g.queue[len(answers):])
	g.queue = answers
	g.holdLocked()
	g.mu.Unlock()
}

// maxBreaks is how many streams a request may break before it is refused. Sent again each time,
// one that the server cannot take would keep the link down for everybody.
const maxBreaks = 3

// blame counts the end of a stream against the unanswered requests, where the server has
// ended it because of a stanza of ours.
func (g *Gate) blame(err error) {
	ended, ok := errors.AsType[*StreamError](err)
	if !ok {
		return
	}
	switch ended.Condition {
	case "policy-violation", "not-well-formed", "invalid-xml", "bad-format", "restricted-xml", "invalid-namespace", "unsupported-stanza-type", "improper-addressing":
	default:
		return
	}
	var refs []delivery.Ref
	g.mu.Lock()
	for _, c := range g.channels {
		for id, r := range c.open {
			if !r.written {
				continue
			}
			if r.breaks++; r.breaks >= maxBreaks {
				r.done = true
				delete(c.open, id)
				refs = append(refs, r.pub.Ref)
			}
		}
	}
	g.mu.Unlock()
	for _, r := range refs {
		r.Nacked("the XMPP server ends the stream: " + ended.Condition)
	}
}

func (g *Gate) holdLocked() {
	if g.held == nil && !g.overdue && !g.stopped && g.ctx.Err() == nil {
		g.held = g.afterLocked(g.hold, g.giveUp)
	}
}

// giveUp ends the wait for a link: requests that wait for it, or for an answer over the last
// one, are refused, so that their deliveries are pushed.
func (g *Gate) giveUp() {
	g.mu.Lock()
	if g.link != nil || g.stopped || g.ctx.Err() != nil {
		g.mu.Unlock()
		return
	}
	g.overdue, g.held, g.queue, g.parked = true, nil, nil, 0
	var refs []delivery.Ref
	var left []delivery.Up
	for _, c := range g.channels {
		refs = append(refs, c.giveUpLocked()...)
		if g.tenure == nil { // whoever has the link now has not brought them up
			g.closeLocked(c)
			if c.presence != nil {
				left = append(left, c.presence)
			}
		}
	}
	g.mu.Unlock()
	for _, r := range refs {
		r.Nacked("the link to the XMPP server is down")
	}
	for _, p := range left {
		p.Offline("the link to the XMPP server is another node's")
	}
}

// ping asks the server for a sign of life and closes a link that gives none. Each stanza is
// one: behind a backlog of its own, a server answers late. The time begins when the ping is
// written; a server that does not read is the write timeout's.
func (g *Gate) ping(ctx context.Context, l *link) error {
	tick := time.NewTicker(g.opts.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-l.heard: // before the ping
		default:
		}
		select {
		case <-g.sendPing():
		case <-ctx.Done():
			return nil
		}
		timeout := time.NewTimer(g.opts.PingTimeout)
		select {
		case <-l.heard:
		case <-ctx.Done():
		case <-timeout.C:
			_ = l.conn.Close()
			return fmt.Errorf("the server has sent nothing for %s after a ping", g.opts.PingTimeout)
		}
		timeout.Stop()
	}
}

// sendPing queues a ping, also where the queue is full, and closes written when it is written.
func (g *Gate) sendPing() (written <-chan struct{}) {
	done := make(chan struct{})
	g.mu.Lock()
	b := appendIQ(nil, "get", g.opts.Domain, g.opts.Hosts[0], g.nextIDLocked(), false)
	g.queue = append(g.queue, item{raw: append(b, "<ping xmlns='"+nsPing+"'/></iq>"...), written: done})
	g.mu.Unlock()
	g.counts.stanza("out", "answer")
	g.wake()
	return done
}

func (g *Gate) nextIDLocked() string {
	g.seq++
	return g.prefix + strconv.FormatUint(g.seq, 36)
}
