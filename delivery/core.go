package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the rules of delivery (contract §5, section delivery).
type Options struct {
	Windows           Windows
	Ack               AckKind       // asked for where a notification names none
	TTL               time.Duration // given to a notification that names none
	MaxOutstanding    int           // unfinished deliveries a device may have
	MaxInflight       int           // unacknowledged packets a device may have
	ForgetDeviceAfter time.Duration // without a sign of life
	// ForgetInterval is how often devices to forget are searched for; 0: 1 h.
	ForgetInterval time.Duration
	// History is how long a dismissal is kept for a device that does not acknowledge
	// it (store.history); 0: 72 h.
	History time.Duration
	// HoldUnknown keeps a notification for an account without devices until the
	// first one registers (delivery.unknown_accounts: hold).
	HoldUnknown bool
	// AnyAccount lets a device move to whichever account uses it: where nobody
	// checks who a client is (auth.mode none).
	AnyAccount bool
	// CheckRegistration refuses a registration whose form no notification server
	// could have given out (length, alphabet, names). It needs no configuration. Nil
	// accepts all.
	CheckRegistration func(Registration) error
	// CompleteRegistration fills in what a registration leaves out (APNs: topic and
	// environment) and refuses one that the configured servers cannot serve. The core
	// stores a missing topic or environment as missing, and asks again to show it: the default
	// of the configuration may change. A registration whose server is off comes back as
	// it is. Nil takes all as they are.
	CompleteRegistration func(Registration) (Registration, error)
	// AppConfig returns the fingerprint of the configuration that serves a
	// registration, without secrets. A different one lifts a suspension. Nil: it
	// never changes.
	AppConfig func(Registration) string
	// CheckContent refuses content that a notification server cannot carry, or may not be
	// given; nil accepts all. It is called for a Notification without Fallback, too.
	CheckContent func(*Notification) error
	// RepeatWithin is how long after its acceptance a publish may come again (Request.Again).
	// A client sends it again when it is back, and a client that is cut off notices that
	// by its keepalive. 0: 10 min.
	RepeatWithin time.Duration
	// Shard is the part of the accounts that this Core serves. The zero Shard is all.
	Shard Shard
	// Neighbours are the Cores of the other shards. Nil: there are none.
	Neighbours Neighbours
	// Floor is a bound that new Seqs and event Numbers exceed, like the store's last.
	Floor uint64
	// Now is the clock that Seqs and event Numbers are taken from, one for all Cores of
	// a store; nil: time.Now.
	Now func() time.Time
	// Wall is the clock of the times that are stored, and that stored times are compared
	// with. It may be set back. Nil: time.Now.
	Wall func() time.Time
	// Observers get every event; nil: the Core makes its own. Several Cores may share
	// one.
	Observers *Observers
	// Trusted returns nil as long as this Core may act on the outside: nobody else can
	// have taken over its accounts. It is asked right before a push. Nil: always.
	Trusted func() error
	// Boottime is a clock that goes on while the machine is suspended; nil:
	// CLOCK_BOOTTIME. For tests.
	Boottime func() time.Duration
}

// Settings are the rules that can change while a Core runs; see Options. A Settings is
// never changed: Reconfigure puts another in its place.
type Settings struct {
	Windows           Windows
	Ack               AckKind
	TTL               time.Duration
	MaxOutstanding    int
	MaxInflight       int
	ForgetDeviceAfter time.Duration
}

// Settings returns the part of o that Reconfigure can change.
func (o Options) Settings() Settings {
	return Settings{o.Windows, o.Ack, o.TTL, o.MaxOutstanding, o.MaxInflight, o.ForgetDeviceAfter}
}

// Reconfigure changes the rules from now on. A window that runs keeps its length; so
// does the TTL of an accepted notification.
func (c *Core) Reconfigure(s Settings) { c.settings.Store(&s) }

// lingering is how long a change that nobody waits for may stay in memory to share
// a commit with others. A crash within it costs a line of a timeline, or a
// second copy of something that was acked.
const lingering = 50 * time.Millisecond

// Core runs every delivery. Create it with New, then Start, then Stop. All its
// methods are safe for concurrent use.
//
// One mutex guards the transition, the device's queue and the deadline of every
// input. Nothing waits while it is held: the store, the network and the notification
// servers get their work and answer later.
type Core struct {
	settings atomic.Pointer[Settings] // of opts, and what Reconfigure has changed since

	opts   Options
	out    Outbox
	pusher Pusher
	log    *slog.Logger
	clock  *clock
	up     atomic.Int64 // devices whose channel is up

	mu        sync.Mutex
	devices   map[string]*device    // with a connection, something unfinished or a pending change
	accounts  map[string]*account   // of those devices
	accepting map[string]*claimedID // IDs on their way into the store
	slab      slab                  // of deliveries, and all that has handles of it:
	deadlines deadlines
	over      []*delivery       // to be released by settle
	withdraws map[handle]func() // tell the pusher that a push under way is not wanted any more
	pending   pending
	stopped   bool
	abandoned bool // stopped, and nothing may be committed any more

	holders   map[address]*device // of registrations, among the devices in memory
	versions  versions            // of the registry
	wallSetAt int64               // steady time at which the wall clock was set far; 0: it was not

	observers        *Observers
	underway         *commitResult        // the latest acceptance on its way into the store
	committed        inbox[*commitResult] // of acceptances
	results          sync.Pool            // of *commitResult
	recorded         inbox[*delivery]     // whose push may begin
	answers          inbox[pushAnswer]    // of notification servers
	dismissalAnswers inbox[dismissalAnswer]
	openings         map[string]*opening // by account: acceptances that need the store first

	kick     chan struct{}  // the earliest deadline, or the linger, may have come nearer
	quit     chan struct{}  // closed by Stop
	stopDone chan struct{}  // closed when the first Stop returns
	loops    sync.WaitGroup // the loop, and what reads the store for acceptances
	pushing  int            // pushes that the pusher has not answered
	// pushConfigs counts the calls of PushPossible.
	pushConfigs uint64
	noPushing   chan struct{}   // closed when that is 0 and the core is stopped
	ctx         context.Context // ends when pushes that have not begun are not wanted any more
	cancel      context.CancelCauseFunc
}

// pending holds the changes since the last commit.
type pending struct {
	events     []Event
	finished   []Finish
	dirty      []*delivery // whose Record is to be written
	putDevices []Device
	removed    []DeviceKey
	assign     []Key // held deliveries, to their devices
	dismissals []Dismissal
	dismissed  []Key       // dismissals that are over
	registry   []*account  // of those two
	slots      []uint16    // of versions, likewise
	claims     []Claim     // that the neighbours are to be told of
	pushes     []*delivery // to be asked for once their Records are on the disk
	idle       []*account  // that may have nothing to do any more
	sync       bool
	since      int64 // steady time of the first change, 0: none
}

// New returns a Core that is not running yet. Without a pusher it works over the
// channel alone.
func New(opts Options, out Outbox, pusher Pusher, log *slog.Logger) *Core {
	c := &Core{
		opts: opts, out: out, pusher: pusher, log: log,
		devices: map[string]*device{}, accounts: map[string]*account{}, accepting: map[string]*claimedID{}, holders: map[address]*device{},
		openings: map[string]*opening{}, withdraws: map[handle]func(){},
		kick: make(chan struct{}, 1), quit: make(chan struct{}), stopDone: make(chan struct{}), noPushing: make(chan struct{}),
		clock: newClock(opts.Floor, &opts),
	}
	if c.observers = opts.Observers; c.observers == nil {
		c.observers = &Observers{}
	}
	c.deadlines.slab = &c.slab
	c.results.New = func() any {
		r := &commitResult{core: c}
		r.whenDone, r.whenInDoubt = r.onDone, r.onDoubt
		return r
	}
	c.Reconfigure(opts.Settings())
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	out.OnGroupDone(c.onGroupDone)
	return c
}

// Start takes up every unfinished delivery where its Record says, then runs until
// Stop. When it has returned, the Core accepts. It returns ErrStopped after Stop.
func (c *Core) Start() error { return c.StartFrom(FromStore(c.out)) }

// FromStore returns the Backlog in a store that reads an account fast when it is needed.
func FromStore(r Reader) Backlog { return fromStore{r} }

type fromStore struct{ Reader }

// Accounts implements Backlog.
func (fromStore) Accounts(Shard, func(string, []Device)) {}

// StartFrom is Start with a Backlog that has been read already. Nothing that it holds may have
// changed since.
func (c *Core) StartFrom(b Backlog) error {
	last, err := b.LastSeq(c.opts.Shard)
	if err != nil {
		return fmt.Errorf("read the last number of the store: %w", err)
	}
	c.clock = newClock(max(last, c.opts.Floor), &c.opts)
	if err := c.recover(b); err != nil {
		return fmt.Errorf("recover unfinished deliveries: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped { // a Go after Stop's Wait has begun would be a race
		return ErrStopped
	}
	c.loops.Go(c.run)
	c.loops.Go(c.pushRecoveredDismissals)
	return nil
}

// Stop ends the windows and timers, waits until the pusher has answered the pushes
// under way, and commits the pending changes; on a store that fails it retries until
// ctx ends. It returns when everything has stopped; the Outbox may be closed
// afterwards. It is safe on a Core that was never started, twice, and twice at
// once: the second call waits for the first.
//
// If ctx ends before all pushes are answered, Stop logs it and goes on: they are asked
// for again after the next start.
func (c *Core) Stop(ctx context.Context) error {
	c.mu.Lock()
	first := !c.stopped
	if first {
		c.stopped = true
		if c.pushing == 0 {
			close(c.noPushing)
		}
	}
	c.mu.Unlock()
	if !first {
		select {
		case <-c.stopDone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("another stop goes on: %w", ctx.Err())
		}
	}
	defer close(c.stopDone)
	c.cancel(ErrStopped)
	close(c.quit)
	c.loops.Wait()
	select {
	case <-c.noPushing:
	case <-ctx.Done():
		c.mu.Lock()
		unanswered := c.pushing
		c.mu.Unlock()
		c.log.Info("stopping with unanswered pushes, asking for them again after the next start", "pushes", unanswered)
	}
	c.endObservers()
	return c.flushLast(ctx)
}

func (c *Core) endObservers() {
	if c.opts.Observers == nil {
		c.observers.Close()
	}
}

// Abandon ends the Core of accounts that another has taken over: nothing is written
// any more, pushes that have not begun are not sent, and nobody waits for those under
// way. Acceptances whose outcome is not known get the outbox's answer, or ErrStopped.
// It is safe to call twice, and while Stop waits, which it ends. It returns when the
// Core's goroutines have ended.
func (c *Core) Abandon() {
	c.mu.Lock()
	first := !c.stopped
	c.stopped, c.abandoned = true, true
	c.pending = pending{}
	select {
	case <-c.noPushing:
	default:
		close(c.noPushing)
	}
	c.mu.Unlock()
	if !first {
		<-c.stopDone
		return
	}
	defer close(c.stopDone)
	c.cancel(ErrStopped)
	close(c.quit)
	c.loops.Wait()
	c.endObservers()
}

// flushLast flushes until the store has everything, or ctx ends: an outbox that is
// closed while it fails drops its queue.
func (c *Core) flushLast(ctx context.Context) error {
	again := time.NewTicker(lingering)
	defer again.Stop()
	for {
		err := c.Flush(context.WithoutCancel(ctx)) // at least once, and for no longer than a write may take
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the latest changes are not on record: %w", err)
		}
	}
}

// Flush commits all changes so far and returns when the store shows them. While the
// store fails it does not wait: the error wraps ErrUnavailable, and the changes are
// written once they can be. A read that needs them gives that error rather than a
// timeline that lacks its latest lines: nobody could tell it from a whole one.
func (c *Core) Flush(ctx context.Context) error { return c.flush(ctx, false) }

// flush is Flush, and with sync what the store shows is on the disk.
func (c *Core) flush(ctx context.Context, sync bool) error {
	done := make(chan error, 1)
	c.mu.Lock()
	if c.abandoned {
		c.mu.Unlock()
		return ErrStopped
	}
	c.commitPending()
	c.out.Commit(&Batch{Sync: sync}, func(err error) { done <- err })
	c.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run is the one loop with the one timer: it elapses windows and commits what
// has lingered.
func (c *Core) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	forget := time.NewTicker(pick(c.opts.ForgetInterval > 0, c.opts.ForgetInterval, time.Hour))
	defer forget.Stop()
	for {
		c.mu.Lock()
		c.clock.resync()
		next := c.elapseDue()
		c.mu.Unlock()
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-c.kick:
		case <-forget.C:
			if !c.wallTrusted() {
				continue
			}
			if c.opts.Neighbours == nil {
				c.forgetDevices()
			}
			c.expireDismissals()
		case <-c.quit:
			return
		}
	}
}

// resync takes up a suspension of the machine. Deliveries that have expired meanwhile end before
// anything else happens. a is the account that the caller goes on with, nil for none: it stays in
// memory, also if its last delivery ends. The caller holds the mutex.
func (c *Core) resync(a *account) {
	if !c.clock.resync() {
		return
	}
	if a != nil {
		a.pins++
		defer func() { a.pins-- }()
	}
	c.elapseDue()
}

// elapseDue handles every deadline that has come and returns the time to the next.
func (c *Core) elapseDue() time.Duration {
	for {
		now := c.clock.steady()
		if c.pending.since != 0 && now-c.pending.since >= int64(lingering) {
			c.commitPending()
		}
		next := int64(time.Hour)
		if d := c.deadlines.first(); d != nil {
			if key := d.key(); key > now {
				next = key - now
			} else {
				c.elapse(d, now)
				continue
			}
		}
		if c.pending.since != 0 {
			next = min(next, c.pending.since+int64(lingering)-now)
		}
		return time.Duration(max(next, 0))
	}
}

// wake makes the loop look at the deadlines again; kicks coalesce.
func (c *Core) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// apply runs one transition and everything that follows from it. The caller
// holds the mutex.
func (c *Core) apply(d *delivery, in input, s situation) {
	dev := c.dev(d)
	s = c.around(d, s)
	before := d.progress
	var st step
	d.progress, st = transition(d.progress, in, s)
	for _, e := range st.events[:st.n] {
		attempt := before.attempts
		if e.kind == EventPublished || e.kind == EventRedelivered {
			attempt = d.attempts
			if p := dev.presence; p != nil && p.info.Via == ViaXMPP {
				e.detail = "via " + ViaXMPP
			}
		}
		c.record(d, attempt, e.kind, e.detail)
	}
	switch {
	case before.state == StatePublished && (in == inElapsed || in == inNacked):
		dev.missed(d, s.now)
	case in == inNacked:
		dev.refused(d, s.now)
	case st.publish && d.state == StatePushing: // no ack window runs: a heartbeat after one brings the next try
		dev.missed(d, s.now+ackWindow(&d.progress, s))
	}
	if d.state == StateWaiting && d.deadline == 0 {
		d.deadline = c.nextProbe(d)
	}
	if before != d.progress && !st.finished {
		c.markDirty(d)
	}
	if len(dev.Unread) > 0 && (d.displayed || d.state.Final() && d.state != StateAcked) {
		c.markRead(dev, d.seq)
	}
	if st.push {
		c.pending.pushes = append(c.pending.pushes, d)
		c.pending.sync = true
		d.recorded = false
		d.holds++
		c.probing(d)
	}
	if st.finished {
		c.finish(d)
	} else {
		c.deadlines.schedule(d)
		if c.deadlines.first() == d {
			c.wake()
		}
	}
	if d.state.Final() || st.publish && d.state != StatePushing {
		c.withdrawPush(d)
	}
	if before.state == StatePushing && !before.pushUnderway && len(dev.lanes) > 0 { // others may have waited for its next try
		if l := c.pushLane(d); !d.pushUnderway {
			c.feedPushes(dev, l)
		}
	}
	if p := dev.presence; p != nil && d.state == StateAcked && before.state != StateAcked {
		p.freeSlot(d.seq, false)
		dev.forgetMisses(d)
	}
	if st.publish {
		c.publish(d)
	}
}

// around completes the situation of d.
func (c *Core) around(d *delivery, s situation) situation {
	s.now, s.windows = c.clock.steady(), &c.settings.Load().Windows
	if s.up, s.hasToken = c.dev(d).presence != nil, c.canPush(d); !s.hasToken {
		s.noToken = c.whyNoPush(d)
	}
	return s
}

// record puts a line into the timeline and tells the observers.
func (c *Core) record(d *delivery, attempt uint16, kind EventKind, detail string) {
	dev := c.dev(d)
	c.event(Event{Seq: d.seq, Time: c.clock.wallNow(), Kind: kind, Device: dev.ID, Attempt: int(attempt), Detail: detail}, dev.Account)
}

func (c *Core) event(e Event, account string) {
	e.Number = c.clock.next()
	c.pending.events = append(c.pending.events, e)
	c.touchPending()
	c.observers.observe(account, e)
}

func (c *Core) markDirty(d *delivery) {
	if !d.dirty {
		d.dirty = true
		c.pending.dirty = append(c.pending.dirty, d)
		c.touchPending()
	}
}

// pendingBound is how many lines of timelines may linger before they are committed
// anyway. Of a delivery that is over within that time all lines share a value.
const pendingBound = 4096

func (c *Core) touchPending() {
	if c.pending.since == 0 {
		c.pending.since = c.clock.steady()
		c.wake()
	}
}

// settle commits at once what must not linger. Callers that have made changes
// call it before they give up the mutex, and use no delivery after it that is over.
func (c *Core) settle() {
	if len(c.over) > 0 {
		for _, d := range c.over {
			c.slab.release(d)
		}
		clear(c.over)
		c.over = c.over[:0]
	}
	if c.pending.sync || len(c.pending.events) >= pendingBound {
		c.commitPending()
	}
	// After the commit: it pins the accounts whose registry entries it changes.
	if idle := c.pending.idle; len(idle) > 0 {
		c.pending.idle = nil
		for _, a := range idle {
			c.release(a)
		}
	}
}

// commitPending hands every change to the outbox, in order with the accepts.
func (c *Core) commitPending() {
	p := c.pending
	if p.since == 0 {
		return
	}
	if c.abandoned {
		c.pending = pending{}
		return
	}
	b := &Batch{Events: slices.Clone(p.events), Finish: slices.Clone(p.finished), PutDevices: p.putDevices, RemoveDevices: p.removed, Assign: p.assign, PutDismissals: p.dismissals, RemoveDismissals: p.dismissed, Sync: p.sync}
	for _, d := range p.dirty {
		if d.dirty = false; d.over {
			c.over = append(c.over, d)
		} else {
			b.Update = append(b.Update, c.recordNow(d))
		}
	}
	pushes, changed, slots, claims := p.pushes, p.registry, p.slots, p.claims
	c.pending = pending{idle: p.idle, events: emptied(p.events), finished: emptied(p.finished), dirty: emptied(p.dirty)}
	for _, a := range changed {
		a.pins++
	}
	for _, i := range slots {
		c.versions[i]++
	}
	c.out.Commit(b, func(err error) {
		if err != nil {
			return // the store is being closed; what was asked is asked again after the next start
		}
		if len(changed) > 0 {
			c.mu.Lock()
			for _, i := range slots {
				c.versions[i]++
			}
			for _, a := range changed {
				a.pins--
				c.release(a)
			}
			c.mu.Unlock()
		}
		for _, claim := range claims {
			c.opts.Neighbours.Claimed(claim)
		}
		c.recorded.put(pushes...)
	})
}

// emptied returns s without elements for the next commit, which fills it again. Much
// room that was not used is given back.
func emptied[T any](s []T) []T {
	if cap(s) > maxSpare && len(s) < cap(s)/4 {
		return nil
	}
	clear(s)
	return s[:0]
}

// onGroupDone handles the results of one write of the outbox.
func (c *Core) onGroupDone() {
	c.committed.drain(c.onAccepted)
	c.recorded.drain(c.startPushes)
}
