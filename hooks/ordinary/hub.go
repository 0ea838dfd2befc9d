package ordinary

import (
	"container/heap"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
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

// LimitError is a message or a request over one of the server's limits.
type LimitError struct {
	Key    string // of the configuration
	Reason string
}

func (e *LimitError) Error() string { return e.Reason + " (" + e.Key + ")" }

// Journal hears of what a store is to keep. Its methods return at once, may be called
// with a session's lock held, and call nothing of the Hub: the Saved methods tell
// later what there is.
type Journal interface {
	Session(id string)
	Subscription(id, filter string)
	Outgoing(id string, packetID uint16)
	Incoming(id string, packetID uint16)
	Retained(topicName string)
}

type noJournal struct{}

func (noJournal) Session(string)              {}
func (noJournal) Subscription(string, string) {}
func (noJournal) Outgoing(string, uint16)     {}
func (noJournal) Incoming(string, uint16)     {}
func (noJournal) Retained(string)             {}

// Options configure a Hub. Every zero value is a default.
type Options struct {
	Budget           Budget        // of a session; default 4 MiB and 8,192 messages
	Limits           Limits        //
	MaxSessionExpiry time.Duration // of a session without a connection; default 30 days
	CacheBytes       int64         // of retained content that is on the disk, too; default 64 MiB
	// MayRead reports whether a session's client may have messages published to a topic.
	// It is asked for each delivery. nil: everybody may read everything.
	MayRead func(s *Session, topicName string) bool
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
	counters counters

	index     index
	retained  *retained
	replaying atomic.Int64 // replays that are under way
	order     atomic.Uint64

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
	if o.Budget.Bytes == 0 {
		o.Budget.Bytes = 4 << 20
	}
	if o.Budget.Messages == 0 {
		o.Budget.Messages = 8192
	}
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
		sessions: map[string]*Session{}, accounts: map[string]int{},
	}
	h.order.Store(uint64(o.Now().UnixNano())) // after all that a store has kept
	return h
}

// Keep has the Hub tell a journal of changes and read retained messages from a disk.
// Call it before anything else.
func (h *Hub) Keep(j Journal, d Disk) {
	h.opts.Journal = j
	h.retained.disk = d
}

// Guard sets Options.MayRead. Call it before anything else.
func (h *Hub) Guard(mayRead func(s *Session, topicName string) bool) { h.opts.MayRead = mayRead }

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

// delivery is the memory of one Publish, used again.
type delivery struct {
	lists   []*subscribers
	targets []target
	merge   map[*Session]int
}

var deliveries = sync.Pool{New: func() any { return &delivery{merge: map[*Session]int{}} }}

// Publish delivers a message, and retains it where it says so. It returns the receivers
// that the caller is to Wait for, nil for none. The error is a *LimitError; nothing has
// happened then.
func (h *Hub) Publish(m *Message) (pressed []*Session, err error) {
	l := h.topicLock(m.TopicName)
	l.Lock()
	defer l.Unlock()
	var old func() *Message
	if h.replaying.Load() > 0 {
		old = h.remembered(m.TopicName)
	}
	if m.Retain {
		if err := h.retained.admit(m, h.opts.Limits.RetainedBytes, h.opts.Room); err != nil {
			h.counters.overRetained.Add(1)
			return nil, err
		}
		if old != nil {
			old() // before it is replaced
		}
		h.retained.set(m)
		if !ofServer(m.TopicName) {
			h.opts.Journal.Retained(m.TopicName)
		}
	}
	d := deliveries.Get().(*delivery)
	defer d.recycle()
	h.collect(d, m)
	if old == nil {
		// A replay may have begun since: it is of a session that is not in the index yet,
		// or its held subscription has the retained message to come.
		old = h.remembered(m.TopicName)
		if m.Retain {
			old = func() *Message { return nil }
		}
	}
	for i := range d.targets {
		t := &d.targets[i]
		if h.mayRead(t.session, m.TopicName) && t.session.offer(t, m, old) {
			pressed = append(pressed, t.session)
		}
	}
	return pressed, nil
}

// remembered returns a function that reads the retained message of a topic once. The
// topic's lock is held.
func (h *Hub) remembered(topicName string) func() *Message {
	var m *Message
	read := false
	return func() *Message {
		if !read {
			read = true
			m = h.read(topicName)
		}
		return m
	}
}

// read returns the retained message of a topic, nil for none. The topic's lock is held.
func (h *Hub) read(topicName string) *Message {
	m, err := h.retained.get(topicName, h.opts.Now().Unix())
	if err != nil {
		h.opts.Logger.Error("retained message not read", "topic", topicName, "error", err)
	}
	return m
}

func (h *Hub) collect(d *delivery, m *Message) {
	d.lists = h.index.match(d.lists, m.TopicName)
	allowed := func(s *Session) bool { return h.mayRead(s, m.TopicName) }
	for _, l := range d.lists {
		merge := d.merge
		if len(d.lists) == 1 && !l.shared() {
			merge = nil // no session twice
		}
		d.targets = l.collect(d.targets, m, merge, allowed)
	}
}

func (l *subscribers) shared() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.groups) > 0
}

func (d *delivery) recycle() {
	clear(d.lists)
	clear(d.targets)
	clear(d.merge)
	d.lists, d.targets = d.lists[:0], d.targets[:0]
	deliveries.Put(d)
}

// Wait holds a publisher up while receivers of its message are over their budget, for
// as long as it takes them to catch up, and a quarter of a second at most. A receiver
// that does not catch up is not waited for again for some seconds.
func (h *Hub) Wait(ctx context.Context, pressed []*Session) {
	t := time.NewTimer(patience)
	defer t.Stop()
	h.counters.waited.Add(1)
	for i, s := range pressed {
		for moved := s.pressure(); moved != nil; moved = s.pressure() {
			select {
			case <-moved:
			case <-ctx.Done():
				return
			case <-t.C:
				for _, s := range pressed[i:] {
					s.distrustFor(distrustAfter)
				}
				return
			}
		}
	}
}

// replayOne queues the retained message of one topic for a replay.
func (h *Hub) replayOne(s *Session, link Link, r *replay, key string) {
	topicName := nameOf(key)
	l := h.topicLock(topicName)
	l.Lock()
	defer l.Unlock()
	var m *Message
	if h.mayRead(s, topicName) {
		m = h.read(topicName)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link || len(s.replays) == 0 || s.replays[0] != r {
		return
	}
	if r.pass(key, topicName) && m != nil {
		s.retainedLocked(r, m)
	}
}

// Arrival is a client that connects.
type Arrival struct {
	ID, Account string
	Service     bool
	Clean       bool   // [MQTT-3.1.2-4]
	Kept        bool   // the session outlives the connection
	Expiry      uint32 // by how many seconds
	Peer        Peer
	Link        Link
	Will        *Will
}

// Room returns a *LimitError where the account may not have a session more.
func (h *Hub) Room(id, account string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if limit := h.opts.Limits.Sessions; limit > 0 && h.accounts[account] >= limit && h.sessions[id] == nil {
		h.counters.overSessions.Add(1)
		return &LimitError{Key: "mqtt.limits.sessions", Reason: fmt.Sprintf("the account may have %d sessions", limit)}
	}
	return nil
}

// Holder returns whose session a client identifier is of.
func (h *Hub) Holder(id string) (account string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[id]; s != nil {
		return s.Account, true
	}
	return "", false
}

// Connect brings a client to its session, which it takes over from an earlier
// connection, whole and at once; present reports whether there was one to be continued
// [MQTT-3.2.2-2]. A session of another account ends. When Connect returns, nothing that
// the earlier connection publishes, its will included, is still to come.
func (h *Hub) Connect(a Arrival) (s *Session, present bool) {
	now := h.opts.Now().Unix()
	h.mu.Lock()
	old := h.sessions[a.ID]
	present = old != nil && !a.Clean && old.Account == a.Account && old.continues(now)
	if s = old; !present {
		if old != nil {
			h.lessLocked(old.Account)
		}
		s = newSession(h, a.ID, a.Account)
		h.sessions[a.ID] = s
		h.accounts[a.Account]++
	}
	h.mu.Unlock()
	if old != nil && !present {
		h.end(old)
	}
	h.leave(s)
	for s.mu.Lock(); s.link != nil; s.mu.Lock() { // another one connects in this very moment
		s.mu.Unlock()
		h.leave(s)
	}
	if s.ended { // it has just elapsed, or gone to another connection
		s.mu.Unlock()
		return h.Connect(a)
	}
	s.Service = a.Service
	was := s.kept
	s.kept, s.expiry, s.gone = a.Kept, a.Expiry, 0
	s.will, s.willAt = a.Will, 0
	s.attachLocked(a.Link, a.Peer)
	if s.kept && !was { // nothing of it is stored yet
		s.journalLocked()
	}
	s.mu.Unlock()
	h.counters.online.Add(1)
	h.deadlines.set(s, 0)
	if a.Kept || was {
		h.opts.Journal.Session(a.ID)
	}
	return s, present
}

// continues reports whether a session can be taken up.
func (s *Session) continues(now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil {
		return s.kept || s.peer.Version == 5 // 3.1.1: a clean session is never reused [MQTT-3.1.2-6]
	}
	return !s.ended && s.endsLocked() > now
}

// leave ends the earlier connection of a session that goes on. A will without delay is
// published; one with a delay is not, as the client is back [MQTT-3.1.3-9].
func (h *Hub) leave(s *Session) {
	s.subMu.Lock() // a SUBSCRIBE of the earlier connection is over
	s.mu.Lock()
	link, w := s.link, s.will
	s.detachLocked()
	s.will, s.willAt = nil, 0
	s.mu.Unlock()
	s.subMu.Unlock()
	if link == nil {
		return // a will that waited is gone
	}
	h.counters.online.Add(-1)
	h.counters.takeovers.Add(1)
	link.Close()
	if w != nil && w.Delay == 0 {
		h.publishWill(w)
	}
}

// lessLocked counts a session of an account less. h.mu is held.
func (h *Hub) lessLocked(account string) {
	if h.accounts[account]--; h.accounts[account] <= 0 {
		delete(h.accounts, account)
	}
}

// forget ends a session that is still its client's.
func (h *Hub) forget(s *Session) {
	h.mu.Lock()
	if h.sessions[s.ID] == s {
		delete(h.sessions, s.ID)
		h.lessLocked(s.Account)
	}
	h.mu.Unlock()
	h.end(s)
}

// End ends the session of a client and its connection, for whoever removes the client.
// It reports whether there was one.
func (h *Hub) End(id string) bool {
	s := h.session(id)
	if s != nil {
		h.forget(s)
	}
	return s != nil
}

// Connection returns the connection of a client, nil if it has none.
func (h *Hub) Connection(id string) Link {
	s := h.session(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

// end ends a session with all that it has; its will is published [MQTT-3.1.2-8].
func (h *Hub) end(s *Session) {
	s.subMu.Lock()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		s.subMu.Unlock()
		return
	}
	s.ended = true
	link, w, kept := s.link, s.will, s.kept
	s.will, s.willAt = nil, 0
	if kept {
		s.journalLocked()
	}
	s.detachLocked()
	s.kept = false
	h.counters.inflight.Add(-int64(len(s.byID)))
	s.queue, s.pubrels, s.unsent, s.byID, s.bytes, s.incoming = entries{}, entries{}, nil, nil, 0, nil
	s.endReplaysLocked(func(*replay) bool { return true })
	filters := s.subscriptions
	s.subscriptions = nil
	s.progressLocked()
	s.mu.Unlock()
	for f := range filters {
		if h.index.remove(f, s) {
			h.counters.subscriptions.Add(-1)
		}
	}
	s.subMu.Unlock()
	if h.deadlines.set(s, 0); kept {
		h.opts.Journal.Session(s.ID)
	}
	if link != nil {
		h.counters.online.Add(-1)
		link.Close()
	}
	h.publishWill(w)
}

// journalLocked tells the journal of everything that the session has.
func (s *Session) journalLocked() {
	j := s.hub.opts.Journal
	for f := range s.subscriptions {
		j.Subscription(s.ID, f)
	}
	for id := range s.byID {
		j.Outgoing(s.ID, id)
	}
	for id := range s.incoming {
		j.Incoming(s.ID, id)
	}
}

// Ask is one filter of a SUBSCRIBE. A Code of 0x80 and up refuses it.
type Ask struct {
	Filter string
	Subscription
	Code byte
}

// overQuota is Quota exceeded (MQTT 5 §3.9.3).
const overQuota = 0x97

// Subscribe makes the subscriptions of a SUBSCRIBE and returns its reason codes. Nothing
// is sent until Resume is called with the SUBACK, so that what the subscriptions bring
// comes after it. exempt: the client has no limit. false: the connection has its session
// no more.
func (h *Hub) Subscribe(s *Session, link Link, asks []Ask, exempt bool) (codes []byte, ok bool) {
	s.subMu.Lock()
	defer s.subMu.Unlock()
	codes = make([]byte, len(asks))
	isNew := make([]bool, len(asks))
	s.mu.Lock()
	if s.link != link || s.ended {
		s.mu.Unlock()
		return nil, false
	}
	s.held = true
	for i := range asks {
		a := &asks[i]
		if codes[i] = a.Code; a.Code >= 0x80 {
			continue
		}
		_, had := s.subscriptions[a.Filter]
		if limit := h.opts.Limits.Subscriptions; !had && !exempt && limit > 0 && len(s.subscriptions) >= limit {
			a.Code, codes[i] = overQuota, overQuota
			h.counters.overSubscriptions.Add(1)
			continue
		}
		codes[i], isNew[i] = a.QoS, !had
		s.subscriptions[strings.Clone(a.Filter)] = a.Subscription
		if s.kept {
			h.opts.Journal.Subscription(s.ID, a.Filter)
		}
	}
	var replays []*replay
	for i := range asks {
		a := &asks[i]
		if group, _ := SplitShare(a.Filter); a.Code >= 0x80 || group != "" || a.RetainHandling == 2 || a.RetainHandling == 1 && !isNew[i] {
			continue // [MQTT-3.3.1-10] [MQTT-3.3.1-11] §4.8.2
		}
		s.endReplaysLocked(func(r *replay) bool { return r.filter == a.Filter })
		r := &replay{filter: a.Filter, levels: strings.Split(a.Filter, "/"), sub: a.Subscription, held: true}
		s.replays, replays = append(s.replays, r), append(replays, r)
		h.replaying.Add(1)
	}
	s.mu.Unlock()
	for i := range asks {
		if asks[i].Code < 0x80 && h.index.add(asks[i].Filter, s, asks[i].Subscription) {
			h.counters.subscriptions.Add(1)
		}
	}
	// From here on every live message reaches the session, so that a replay may look at
	// a topic: a message published after that look comes behind it.
	s.mu.Lock()
	for _, r := range replays {
		r.held = false
	}
	s.mu.Unlock()
	return codes, true
}

// Resume sends the answer to a SUBSCRIBE or an UNSUBSCRIBE, and the messages held for it.
func (s *Session) Resume(link Link, packet []byte) {
	s.mu.Lock()
	if s.link != link {
		s.mu.Unlock()
		return
	}
	s.control = append(s.control, packet...)
	s.held = false
	s.mu.Unlock()
	link.Wake()
}

// Unsubscribe ends subscriptions and returns the reason codes. Nothing is sent until
// Resume is called with the UNSUBACK [MQTT-3.10.4-4].
func (h *Hub) Unsubscribe(s *Session, link Link, filters []string) (codes []byte, ok bool) {
	const noneExisted = 0x11 // MQTT 5 §3.11.3
	s.subMu.Lock()
	defer s.subMu.Unlock()
	codes = make([]byte, len(filters))
	s.mu.Lock()
	if s.link != link || s.ended {
		s.mu.Unlock()
		return nil, false
	}
	s.held = true
	s.mu.Unlock()
	for i, f := range filters {
		if h.index.remove(f, s) {
			h.counters.subscriptions.Add(-1)
		} else {
			codes[i] = noneExisted
		}
	}
	s.mu.Lock()
	for _, f := range filters {
		delete(s.subscriptions, f)
		s.endReplaysLocked(func(r *replay) bool { return r.filter == f })
		if s.kept {
			h.opts.Journal.Subscription(s.ID, f)
		}
	}
	s.mu.Unlock()
	return codes, true
}

// Run does the due work until ctx ends: wills with a delay, ends of sessions, retained
// messages that expire.
func (h *Hub) Run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			h.Elapse()
		}
	}
}

// Elapse does the work due now.
func (h *Hub) Elapse() {
	now := h.opts.Now().Unix()
	for s := h.deadlines.due(now); s != nil; s = h.deadlines.due(now) {
		h.elapse(s, now)
	}
	for _, topicName := range h.retained.expire(now, 4096) {
		h.expire(topicName, now)
	}
}

// expire removes a retained message whose time is over [MQTT-3.3.2-5].
func (h *Hub) expire(topicName string, now int64) {
	l := h.topicLock(topicName)
	l.Lock()
	defer l.Unlock()
	r := h.retained
	r.mu.Lock()
	k := r.entries[topicName]
	gone := k != nil && k.expiry > 0 && k.expiry <= now && r.removeLocked(topicName)
	r.mu.Unlock()
	if gone {
		h.opts.Journal.Retained(topicName)
	}
}

// deadlines is when sessions are to be looked at.
type deadlines struct {
	mu   sync.Mutex
	heap deadlineHeap
}

// deadline is a session's place among them.
type deadline struct {
	at    int64 // Unix seconds; 0: none
	place int   // in the heap
}

// set has a session looked at at a time, and not before; 0: not at all.
func (d *deadlines) set(s *Session, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.due.at > 0 {
		heap.Remove(&d.heap, s.due.place)
	}
	if s.due.at = at; at > 0 {
		heap.Push(&d.heap, s)
	}
}

// due returns a session whose time has come, nil if there is none.
func (d *deadlines) due(now int64) *Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 || d.heap[0].due.at > now {
		return nil
	}
	s := heap.Pop(&d.heap).(*Session)
	s.due.at = 0
	return s
}

type deadlineHeap []*Session

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].due.at < h[j].due.at }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due.place, h[j].due.place = i, j
}

func (h *deadlineHeap) Push(x any) {
	s := x.(*Session)
	s.due.place = len(*h)
	*h = append(*h, s)
}

func (h *deadlineHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
