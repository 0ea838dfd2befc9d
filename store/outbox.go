package store

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Options say how an Outbox is made. Only Open is required.
type Options struct {
	// Open opens the engine: at first, and again after it had to be abandoned.
	// readOnly asks for one that changes nothing on the disk; it is asked for
	// after a failure, while none can be opened for writing, so that reads still
	// work and the outcome of in-flight commits can be read. An error is an answer to it. One
	// for writing that wraps syscall.ENOSPC is asked for again once there is more
	// room, any other after a while.
	Open func(readOnly bool) (Engine, error)
	// FreeBytes returns the room that is left to the store. Nil: not watched.
	FreeBytes func() (uint64, error)
	// MinFreeBytes is the room below which acceptances are refused (default
	// 64 MiB). All other changes are still written, to end deliveries that have
	// begun, if need be into a reopened engine.
	MinFreeBytes uint64
	// GuardInterval is how often the room is looked at (default 1s). It is also
	// looked at after each MinFreeBytes/8 written.
	GuardInterval time.Duration
	// CommitTimeout is how long a write may take before acceptances are refused
	// and Ready says so (default 5s).
	CommitTimeout time.Duration
	// AbandonAfter is how long it may take before the engine is abandoned and
	// reopened (default 4 * CommitTimeout). A write that is overdue on a full
	// disk waits for nothing else, and is abandoned at CommitTimeout.
	AbandonAfter time.Duration
	// Doubt is how long an acceptance whose write has failed may be without an answer
	// before its Batch.InDoubt is called. 0: it never is: the engine can always be opened
	// for reading soon, which tells what became of the write.
	Doubt time.Duration
	// History is how long finished notifications are kept (default 72h).
	History time.Duration
	// Unread returns the time of the oldest event that somebody still has to read, if
	// there is one. Housekeeping keeps that event and everything newer, however old it is,
	// and goes on for History before it: a finished notification has events of its
	// dismissal for that long. Nil: nobody. It runs on the housekeeper's goroutine.
	Unread func() (oldest time.Time, ok bool)
	// KeepsHouse reports whether this Outbox prunes and audits, of several on one store.
	// Nil: it does.
	KeepsHouse func() bool
	// HousekeepingInterval is the time between two rounds of pruning (default 1m).
	HousekeepingInterval time.Duration
	// AuditInterval is the time between two rounds of accounting (default 1h).
	AuditInterval time.Duration
	// ScrubDelay is how long after an erasure it is taken off the disk, with all that
	// were erased by then, at the next audit (default 12h).
	ScrubDelay time.Duration
	// CacheBytes bounds the notifications that are kept in memory, the latest accepted
	// (default 8 MiB; negative: none). They are read again when they are published or
	// pushed.
	CacheBytes int
	// Gathering is how long after a write has begun the next one begins, where that
	// holds no acceptance and nothing that waits for those before it: more comes to
	// share it (default 5 ms; negative: none). It is what an engine whose disk syncs
	// in less than that saves its CPU time by.
	Gathering time.Duration
	// MaxGroup and MaxGroupBytes bound what shares one write (default 512
	// batches, 4 MiB).
	MaxGroup      int
	MaxGroupBytes int
	// MaxQueuedBytes bounds what may wait to be written; beyond it acceptances
	// are refused (default 64 MiB).
	MaxQueuedBytes int
	// RetryInitial and RetryMax are the backoff of writing and of opening
	// (default 100ms, 5s).
	RetryInitial, RetryMax time.Duration
	// Now replaces the wall clock that History is counted by.
	Now func() time.Time
	// Logger gets what an operator should know; default: nothing.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	orDefault(&o.MinFreeBytes, 64<<20)
	orDefault(&o.GuardInterval, time.Second)
	orDefault(&o.CommitTimeout, 5*time.Second)
	orDefault(&o.AbandonAfter, 4*o.CommitTimeout)
	orDefault(&o.History, 72*time.Hour)
	orDefault(&o.HousekeepingInterval, time.Minute)
	orDefault(&o.AuditInterval, time.Hour)
	orDefault(&o.ScrubDelay, 12*time.Hour)
	orDefault(&o.CacheBytes, 8<<20)
	orDefault(&o.MaxGroup, 512)
	orDefault(&o.Gathering, 5*time.Millisecond)
	orDefault(&o.MaxGroupBytes, 4<<20)
	orDefault(&o.MaxQueuedBytes, 64<<20)
	orDefault(&o.RetryInitial, 100*time.Millisecond)
	orDefault(&o.RetryMax, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Outbox is a delivery.Outbox on an Engine. All methods are safe for concurrent
// use.
type Outbox struct {
	opts Options

	engine   atomic.Pointer[handle] // nil while there is none to read from
	applying chan struct{}          // one slot, taken during Apply and by the audit's first look

	mu          sync.Mutex
	queue       []*commit
	queuedBytes int
	refusing    error // why acceptances and fences are refused: trouble; nil: they are not
	announced   bool  // in the log: acceptances are refused
	low         error // why they are refused, too: too little room
	lost        error // wraps ErrFenced; nil: the engine is still ours
	full        bool  // less than a quarter of that
	closing     bool
	stats       Stats

	untried bool // a write was refused, and no acceptance has been written since; the committer's

	wake   chan struct{} // one slot: the queue has grown, or the end has come
	stop   chan struct{} // closed by Close
	fenced chan struct{} // closed when lost is set
	teller teller
	recent recent

	groupDone groupDone

	spaceMu sync.Mutex // one look at the room at a time

	// The committer's own.
	began         time.Time // the latest write
	gather        *time.Timer
	merged        delivery.Batch
	sinceGuard    int       // bytes written since it last had the room looked at
	unsynced      []*commit // written, and told, but not known to be on the disk
	unsyncedBytes int

	background  sync.WaitGroup // the guard and the housekeeper
	committer   sync.WaitGroup
	burials     sync.WaitGroup // engines being closed aside
	closeOnce   sync.Once
	closeResult error
}

var _ delivery.Outbox = (*Outbox)(nil)

// commit is one batch on its way.
type commit struct {
	batch   *delivery.Batch
	done    func(error)
	bytes   int
	told    bool // the committer's own, and of those that it waits for
	doubted bool // likewise
	then    *groupDone
}

func (c *commit) accepts() bool { return len(c.batch.Accept) > 0 }

// fences reports whether c changes nothing, and only waits for the commits before it.
func (c *commit) fences() bool { return c.batch.Empty() }

// urgent reports whether somebody waits for the outcome of c and for nothing else.
func (c *commit) urgent() bool { return c.accepts() || c.fences() }

// New opens the engine and starts the outbox. Close stops it.
func New(opts Options) (*Outbox, error) {
	o := &Outbox{gather: time.NewTimer(0), opts: opts.withDefaults(), applying: make(chan struct{}, 1), wake: make(chan struct{}, 1), stop: make(chan struct{}), fenced: make(chan struct{})}
	o.recent.limit = o.opts.CacheBytes
	if o.opts.Open == nil {
		return nil, errors.New("open the store: no engine given")
	}
	e, err := o.opts.Open(false)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	o.engine.Store(newHandle(e))
	o.guard()
	o.teller.start()
	o.committer.Go(o.commitAll)
	o.background.Go(o.guardRoom)
	o.background.Go(o.keepHouse)
	return o, nil
}

// Commit implements delivery.Outbox. b must not be changed any more. A refusal may come sooner than the outcome
// of batches committed before it: what cannot be stored is refused at once, even
// while an earlier write hangs.
//
// So is an empty batch, which waits for those before it. Within CommitTimeout its
// caller learns that the store does not show everything (delivery.ErrUnavailable). The
// caller does not wait for as long as the store fails. An empty batch is not refused for
// too little room alone: changes that end begun deliveries are still written then.
//
// After Close, done gets an error that wraps delivery.ErrStopped.
func (o *Outbox) Commit(b *delivery.Batch, done func(error)) { o.commitFor(&o.groupDone, b, done) }

func (o *Outbox) commitFor(then *groupDone, b *delivery.Batch, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	c := &commit{batch: b, done: done, bytes: size(b), then: then}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch err := o.refusal(); {
	case o.closing:
		o.teller.tell([]*commit{c}, fmt.Errorf("commit after close: %w", delivery.ErrStopped))
		return
	case o.lost != nil:
		o.teller.tell([]*commit{c}, o.lost)
		return
	case c.accepts() && err != nil:
		o.refuse(c, err)
		return
	case c.fences() && o.refusing != nil:
		o.refuse(c, o.refusing)
		return
	}
	o.queue = append(o.queue, c)
	o.queuedBytes += c.bytes
	o.signal()
}

// OnGroupDone implements delivery.Outbox. Commits through a View have their own.
func (o *Outbox) OnGroupDone(fn func()) { o.groupDone.fn.Store(&fn) }

// groupDone holds the function that OnGroupDone sets.
type groupDone struct{ fn atomic.Pointer[func()] }

// View is an Outbox as one of several Cores uses it: OnGroupDone sets a function that
// runs after the writes that hold commits of this View. All else is the Outbox's.
type View struct {
	*Outbox
	groupDone groupDone
}

var _ delivery.Outbox = (*View)(nil)

// View returns a View for one more Core.
func (o *Outbox) View() *View { return &View{Outbox: o} }

// Commit implements delivery.Outbox. See Outbox.Commit.
func (v *View) Commit(b *delivery.Batch, done func(error)) {
	v.commitFor(&v.groupDone, b, done)
}

// OnGroupDone implements delivery.Outbox.
func (v *View) OnGroupDone(fn func()) { v.groupDone.fn.Store(&fn) }

// Fenced is closed when another process has taken over what this one owned (ErrFenced).
// From then on every commit is refused with that error, and reads may be.
func (o *Outbox) Fenced() <-chan struct{} { return o.fenced }

// refusal says why an acceptance cannot be taken now; nil: it can. mu is held.
func (o *Outbox) refusal() error {
	switch {
	case o.refusing != nil:
		return o.refusing
	case o.low != nil:
		return o.low
	case o.queuedBytes > o.opts.MaxQueuedBytes:
		return fmt.Errorf("%w: %d bytes wait to be written already, the disk does not keep up", delivery.ErrOverloaded, o.queuedBytes)
	}
	return nil
}

// refuse has c's caller told that nothing of it will ever take effect. mu is held.
func (o *Outbox) refuse(c *commit, err error) {
	if c.told = true; c.accepts() {
		o.stats.Refused++
	}
	o.teller.tell([]*commit{c}, err)
}

func (o *Outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Ready returns nil while the store works and has room, and otherwise the fault;
// acceptances are then refused.
func (o *Outbox) Ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closing {
		return fmt.Errorf("outbox closed: %w", delivery.ErrStopped)
	}
	if o.lost != nil {
		return o.lost
	}
	if o.refusing != nil {
		return o.refusing
	}
	return o.low // a long queue is no fault of the store
}

// Close writes the queue, closes the engine and returns when all has stopped: every
// goroutine has ended, and every done function of a Commit before it has returned.
// Commits that cannot be written get delivery.ErrStopped. It is safe to call twice,
// also at once, and concurrently with every other method; each call returns when all
// has stopped. The done of a Commit after Close has a goroutine of its own; a further
// Close returns when those have ended, too.
func (o *Outbox) Close() error {
	o.closeOnce.Do(func() {
		o.mu.Lock()
		o.closing = true
		close(o.stop)
		o.signal()
		o.mu.Unlock()
		o.background.Wait()
		o.committer.Wait()
		o.teller.stop()
		o.burials.Wait()
		if h := o.engine.Swap(nil); h != nil {
			h.drain()
			if err := h.engine.Close(); err != nil {
				o.closeResult = fmt.Errorf("close the store: %w", err)
			}
		}
	})
	o.teller.awaitLate()
	return o.closeResult
}

// handle counts who reads from an engine, so that it is closed under nobody.
type handle struct {
	engine Engine
	mu     sync.Mutex
	users  int
	closed bool
	idle   chan struct{} // closed when closed and without users
}

func newHandle(e Engine) *handle { return &handle{engine: e, idle: make(chan struct{})} }

func (h *handle) acquire() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.users++
	return true
}

func (h *handle) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.closed && h.users == 0 {
		close(h.idle)
	}
}

// drain admits no more readers and waits for the admitted ones to leave.
func (h *handle) drain() {
	h.mu.Lock()
	h.closed = true
	if h.users == 0 {
		close(h.idle)
	}
	h.mu.Unlock()
	<-h.idle
}

// teller calls the done functions, one at a time, concurrently with the committer.
type teller struct {
	mu      sync.Mutex
	told    sync.Cond
	waiting []outcome
	ending  bool
	ended   bool
	late    int // calls for commits after the end that go on
	running sync.WaitGroup
}

type outcome struct {
	commits []*commit
	err     error
	inDoubt bool // there is none yet
}

func (t *teller) start() {
	t.told.L = &t.mu
	t.running.Go(t.run)
}

func (t *teller) tell(commits []*commit, err error) {
	t.add(outcome{commits: commits, err: err})
}

func (t *teller) add(o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		// Not from here: the caller may hold a lock that done takes.
		t.late++
		go func() {
			t.call(o)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.late--
			t.told.Broadcast()
		}()
		return
	}
	t.waiting = append(t.waiting, o)
	t.told.Signal()
}

func (t *teller) run() {
	for {
		t.mu.Lock()
		for len(t.waiting) == 0 {
			if t.ending {
				t.ended = true
				t.mu.Unlock()
				return
			}
			t.told.Wait()
		}
		waiting := t.waiting
		t.waiting = nil
		t.mu.Unlock()
		for _, w := range waiting {
			t.call(w)
		}
	}
}

func (t *teller) call(w outcome) {
	if w.inDoubt {
		for _, c := range w.commits {
			c.batch.InDoubt()
		}
		return
	}
	var first *groupDone
	var others map[*groupDone]struct{} // of more Views than one
	for _, c := range w.commits {
		c.done(w.err)
		if first == nil {
			first = c.then
		} else if c.then != first {
			if others == nil {
				others = map[*groupDone]struct{}{}
			}
			others[c.then] = struct{}{}
		}
	}
	first.call()
	for then := range others {
		then.call()
	}
}

func (g *groupDone) call() {
	if g == nil {
		return
	}
	if fn := g.fn.Load(); fn != nil {
		(*fn)()
	}
}

// stop returns when all have been told.
func (t *teller) stop() {
	t.mu.Lock()
	t.ending = true
	t.told.Broadcast()
	t.mu.Unlock()
	t.running.Wait()
	t.awaitLate()
}

// awaitLate returns when the done functions of the commits after the end have returned.
func (t *teller) awaitLate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.late > 0 {
		t.told.Wait()
	}
}
