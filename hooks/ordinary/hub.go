package ordinary

import (
	"cmp"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what clients may have; 0: no limit.
type Limits struct {
	Subscriptions int   // a session
	RetainedBytes int64 // an account, as Message.Account says
	Sessions      int   // an account
}

// Bounds can change while the Hub runs; see Hub.Reconfigure.
type Bounds struct {
	Budget Budget // of a session; default 4 MiB and 8,192 messages
	Limits Limits
}

// LimitError is a message or a request over one of the server's limits.
type LimitError struct {
	Key    string // of the configuration
	Reason string
}

func (e *LimitError) Error() string { return e.Reason + " (" + e.Key + ")" }

// Journal hears of what a store is to keep, and whose it is: the account's, "" where
// no account pays for it. Its methods return at once, may be called with a session's
// lock held, and call nothing of the Hub: the Saved methods tell later what there is.
type Journal interface {
	Session(account, id string)
	Subscription(account, id, filter string)
	Outgoing(account, id string, packetID uint16)
	Incoming(account, id string, packetID uint16)
	Retained(account, topicName string)
	// Behind reports whether so much of an account's waits to be kept that nothing is to be
	// added.
	Behind(account string) bool
}

type noJournal struct{}

func (noJournal) Session(string, string)              {}
func (noJournal) Subscription(string, string, string) {}
func (noJournal) Outgoing(string, string, uint16)     {}
func (noJournal) Incoming(string, string, uint16)     {}
func (noJournal) Retained(string, string)             {}
func (noJournal) Behind(string) bool                  { return false }

// Options configure a Hub. Every zero value is a default.
type Options struct {
	Bounds
	MaxSessionExpiry time.Duration // of a session without a connection; default 30 days
	CacheBytes       int64         // of retained content that is on the disk, too; default 64 MiB
	// MayRead reports whether a session's client may have messages published to a topic.
	// It is asked for each delivery. nil: everybody may read everything.
	MayRead func(s *Session, topicName string) bool
	// MayWrite reports whether a session's client may publish to a topic. It is asked for each
	// will when that is published. nil: everybody may write everything.
	MayWrite func(s *Session, topicName string) bool
	// Room says why the disk must not fill up further; nil: it may.
	Room    func() error
	Journal Journal // nil: nothing is kept
	Disk    Disk    // nil: retained messages stay in the memory
	Logger  *slog.Logger
	Now     func() time.Time
}

// Patience with a client over its budget, for one publish; and how long no publisher
// waits for that client again.
const (
	patience      = 250 * time.Millisecond
	distrustAfter = 10 * time.Second
)

const topicLocks = 1024

// Hub is all sessions, subscriptions and retained messages of a server. Its methods
// are safe for concurrent use.
type Hub struct {
	opts     Options
	bounds   atomic.Pointer[Bounds]
	counters counters

	index     index
	others    others
	retained  *retained
	replaying atomic.Int64 // replays that are under way
	order     atomic.Uint64

	began, beganWall time.Time // the same; the latter by the wall clock alone

	seed   maphash.Seed
	topics [topicLocks]sync.Mutex

	mu       sync.Mutex
	sessions map[string]*Session // by client identifier
	accounts map[string]int      // sessions by account

	deadlines deadlines
}

type counters struct {
	online, inflight                         atomic.Int64
	subscriptions                            atomic.Int64
	sent, dropped, droppedQoS0, tooLarge     atomic.Int64
	overSubscriptions, overSessions          atomic.Int64
	overRetained, takeovers, waited, expired atomic.Int64
}

// Stats are the present figures. The counts of sent, dropped and refused messages only grow.
type Stats struct {
	Sessions, Online    int64
	Subscriptions       int64
	Retained            int64
	RetainedBytes       int64
	Inflight            int64 // messages of QoS 1 and 2 that are queued or not acknowledged
	Sent                int64
	Dropped             int64 // of QoS 1 and 2: over a session's budget
	DroppedQoS0         int64
	TooLarge            int64 // over a client's Maximum Packet Size
	Takeovers           int64
	Waited              int64 // times that a publisher has waited for a receiver
	ExpiredSessions     int64
	RefusedRetained     int64
	RefusedSessions     int64
	RefusedSubscription int64
}

// New returns a Hub. Restore what a store keeps, and then run it.
func New(o Options) *Hub {
	if o.MaxSessionExpiry == 0 {
		o.MaxSessionExpiry = 30 * 24 * time.Hour
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Journal == nil {
		o.Journal = noJournal{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{
		opts: o, seed: maphash.MakeSeed(), retained: newRetained(o.Disk, o.CacheBytes),
		sessions: map[string]*Session{}, accounts: map[string]int{}, began: time.Now(), beganWall: o.Now().Round(0),
	}
	h.Reconfigure(o.Bounds)
	h.order.Store(uint64(o.Now().UnixNano())) // after what a store keeps, if the clock is right; see orderAfter
	return h
}

// Reconfigure replaces the bounds. Whatever is over a new one stays, and nothing is added
// to it.
func (h *Hub) Reconfigure(b Bounds) {
	b.Budget.Bytes = cmp.Or(b.Budget.Bytes, 4<<20)
	b.Budget.Messages = cmp.Or(b.Budget.Messages, 8192)
	h.bounds.Store(&b)
}

// Keep has the Hub tell a journal of changes and read retained messages from a disk.
// Call it before anything else.
func (h *Hub) Keep(j Journal, d Disk) {
	h.opts.Journal = j
	h.retained.disk = d
}

// Guard sets Options.MayRead and MayWrite. Call it before anything else.
func (h *Hub) Guard(mayRead, mayWrite func(s *Session, topicName string) bool) {
	h.opts.MayRead, h.opts.MayWrite = mayRead, mayWrite
}

// Stats returns the present figures.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	sessions := int64(len(h.sessions))
	h.mu.Unlock()
	messages, bytes := h.retained.figures()
	c := &h.counters
	return Stats{
		Sessions: sessions, Online: c.online.Load(), Subscriptions: c.subscriptions.Load(),
		Retained: int64(messages), RetainedBytes: bytes, Inflight: c.inflight.Load(),
		Sent: c.sent.Load(), Dropped: c.dropped.Load(), DroppedQoS0: c.droppedQoS0.Load(), TooLarge: c.tooLarge.Load(),
		Takeovers: c.takeovers.Load(), Waited: c.waited.Load(), ExpiredSessions: c.expired.Load(),
		RefusedRetained: c.overRetained.Load(), RefusedSessions: c.overSessions.Load(), RefusedSubscription: c.overSubscriptions.Load(),
	}
}

// Sent counts messages that were written.
func (h *Hub) Sent(n int) { h.counters.sent.Add(int64(n)) }

func (h *Hub) topicLock(topicName string) *sync.Mutex {
	return &h.topics[maphash.String(h.seed, topicName)%topicLocks]
}

func (h *Hub) mayRead(s *Session, topicName string) bool {
	return h.opts.MayRead == nil || h.opts.MayRead(s, topicName)
}
