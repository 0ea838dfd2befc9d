package ordinary

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Link is a connection as its session sees it. Its methods return at once and call
// nothing of the session. No lock is held when they are called, but Close may wait for
// the packet that the connection is processing.
type Link interface {
	// Wake says that Fill has something to send.
	Wake()
	// Close ends the connection: another one has taken the session over (MQTT 5
	// §3.14.2.1, 0x8E). When it returns, nothing that the connection publishes is
	// routed any more.
	Close()
}

// Peer is what a client says in its CONNECT.
type Peer struct {
	Version           byte // 3, 4 or 5
	ReceiveMaximum    int  // MQTT 5 §3.1.2.11.3; 65,535 where it says nothing
	MaximumPacketSize int  // MQTT 5 §3.1.2.11.4; 0: no limit
	TopicAliasMaximum int  // MQTT 5 §3.1.2.11.5
	// Taken reports a packet identifier as in use outside of the session, by a host's
	// own flow. May be nil.
	Taken func(id uint16) bool
}

// A session's own packet identifiers. Ordinary messages have the lower half, so that
// an acknowledgement tells by its identifier which flow it is of.
const (
	firstOrdinaryID     = 1
	lastOrdinaryID      = 0x7FFF
	FirstNotificationID = 0x8000
	lastNotificationID  = 0xFFFF
)

// maxAliases bounds a connection's topic aliases, which go to the topics that come
// first.
const maxAliases = 10

// aliasBytes is what the property takes: a topic name that is no longer gains nothing.
const aliasBytes = 3

// Budget bounds what a session holds for its client.
type Budget struct {
	Bytes    int // of messages that are queued or not acknowledged
	Messages int
}

// A client that reads may get this many times its budget before anything is dropped:
// publishers wait for it meanwhile.
const readerFactor = 4

// Session is what the server keeps for a client: subscriptions, and the messages on
// their way to it.
type Session struct {
	ID      string // client identifier
	Account string

	hub    *Hub  // nil: of a connection in a foreign server, which has a window only
	node   *Node // it stands for another server; nothing else of it is used then
	online atomic.Bool
	// service: its client may do what a service may.
	service atomic.Bool
	full    atomic.Bool // over its budget
	// refuses is the least size of a message that has found no room, since there was more; 0: none has.
	refuses atomic.Int64

	// subMu serializes what changes the subscriptions, in the index too.
	subMu sync.Mutex

	mu            sync.Mutex
	subscriptions map[string]Subscription // by filter
	filterCost    int                     // of all filters
	link          Link                    // nil: away
	peer          Peer
	epoch         uint64    // counts connections
	arrival       uint64    // of the last CONNECT that has come for it
	begun         time.Time // when the last one began, in the time of all servers
	ended         bool
	ending        bool // it is to be ended, and nobody takes it up
	moved         bool // another server has it with its messages

	held    bool    // nothing is sent: a SUBACK is to go first
	control []byte  // packets that go before any message, encoded
	queue   entries // every PUBLISH that is not acknowledged, in its order
	unsent  *entry  // nothing before it in queue waits to be sent on this connection
	waiting int     // bytes from unsent on, about
	pubrels entries // exchanges of QoS 2 past their PUBREC, in the order of the PUBRECs
	byID    map[uint16]*entry
	bytes   int
	lastID  uint16 // of ordinary messages
	replays []*replay

	served   int // messages of Serve in queue or not acknowledged
	bookmark any // how far Serve's caller has come

	notifications      map[uint16]struct{} // their packet identifiers on this connection
	lastNotificationID uint16
	used               int     // places of the Receive Maximum
	wants              [2]bool // a flow waits for a place: 0 ordinary, 1 notifications
	last               int     // the flow that got the last place

	incoming map[uint16]uint64 // QoS 2 from the client between PUBLISH and PUBREL, and the epoch that it came in
	opened   int               // of them on this connection

	aliases map[string]uint16 // topic aliases of this connection, by topic name

	progress chan struct{} // closed when something is sent; nil: nobody waits
	distrust time.Time     // until when no publisher waits for this client
	told     bool          // that it is over its budget
	expires  int64         // no message that was not sent expires before, Unix seconds; 0: none does

	kept   bool   // it outlives its connection
	expiry uint32 // seconds after gone
	gone   int64  // when its connection ended, Unix seconds; 0: connected
	will   *Will
	willAt int64 // when a delayed will is due, Unix seconds; 0: none waits

	wallAhead time.Duration // the Hub's at gone

	due deadline // deadlines.mu
}

// entry is a message on its way to the client.
type entry struct {
	previous, next *entry
	msg            *Message // nil: released
	identifiers    []int
	dealt          *dealt // by a shared subscription; nil: by none
	order          uint64 // over all sessions, so that a store keeps it
	epoch          uint64 // connection that it was last sent on
	id             uint16
	qos            byte
	retain         bool
	sent           bool // at least once: DUP from now on [MQTT-3.3.1-1]
	placed         bool // it has a place of the Receive Maximum
	released       bool // past its PUBREC: a PUBREL is sent in its place
	served         bool // by Serve
}

// entries is a list of them.
type entries struct {
	head, tail *entry
	len        int
}

func (l *entries) push(e *entry) {
	e.previous, e.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = e
	} else {
		l.head = e
	}
	l.tail = e
	l.len++
}

func (l *entries) remove(e *entry) {
	if e.previous != nil {
		e.previous.next = e.next
	} else {
		l.head = e.next
	}
	if e.next != nil {
		e.next.previous = e.previous
	} else {
		l.tail = e.previous
	}
	e.previous, e.next = nil, nil
	l.len--
}

func newSession(h *Hub, id, account string) *Session {
	return &Session{hub: h, ID: id, Account: account, byID: map[uint16]*entry{}, subscriptions: map[string]Subscription{}}
}

// NewWindow returns the session of a connection whose ordinary messages are not ours:
// it has packet identifiers for notifications, and their part of the Receive Maximum.
func NewWindow(link Link, p Peer) *Session {
	s := newSession(nil, "", "")
	s.attachLocked(link, p)
	return s
}

// attachLocked begins a connection: everything that is not acknowledged is to be sent
// again, in its order [MQTT-4.6.0-1], PUBRELs first.
func (s *Session) attachLocked(link Link, p Peer) {
	s.link, s.peer, s.held = link, p, false
	s.epoch++
	s.online.Store(link != nil)
	s.control, s.aliases, s.notifications = nil, nil, nil
	s.used, s.wants, s.last, s.opened = 0, [2]bool{}, 0, 0
	s.unsent, s.waiting = s.queue.head, 0
	for e := s.queue.head; e != nil; e = e.next {
		e.placed = false
		s.waiting += e.msg.size()
	}
	for e := s.pubrels.head; e != nil; e = e.next {
		e.placed = false
		s.control = append(s.control, typePubrel, 2, byte(e.id>>8), byte(e.id))
	}
	s.distrust = time.Time{}
	s.refuses.Store(0) // a client that reads has more room than one that is away
}

// detachLocked ends a connection. Messages of QoS 0 end with it.
func (s *Session) detachLocked() {
	s.link = nil
	s.online.Store(false)
	s.control, s.aliases, s.notifications = nil, nil, nil
	for e := s.queue.head; e != nil; {
		next := e.next
		if e.qos == 0 {
			s.dropLocked(e)
		}
		e = next
	}
}

// Service reports whether the session's client may do what a service may.
func (s *Session) Service() bool { return s.service.Load() }

// EndService takes the rights of a service from the client of a connection, from its will
// and from its kept session.
func (s *Session) EndService(link Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == link && s.service.Swap(false) && s.kept {
		s.hub.opts.Journal.Session(s.Account, s.ID)
	}
}

// Subscriptions returns the session's subscriptions by filter.
func (s *Session) Subscriptions() map[string]Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Subscription, len(s.subscriptions))
	maps.Copy(out, s.subscriptions)
	return out
}

// Subscribed reports whether the session has a subscription to exactly that filter.
func (s *Session) Subscribed(filter string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.subscriptions[filter]
	return ok
}

// progressLocked tells publishers that something was sent or acknowledged.
func (s *Session) progressLocked() {
	if s.progress != nil {
		close(s.progress)
		s.progress = nil
	}
}

// pressure returns what to wait for while the session is over its budget; nil: it is
// not, or there is nobody to wait for.
func (s *Session) pressure() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil || !s.overLocked() || time.Now().Before(s.distrust) {
		return nil
	}
	if s.progress == nil {
		s.progress = make(chan struct{})
	}
	return s.progress
}

// distrustFor has publishers not wait for the client for d.
func (s *Session) distrustFor(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overLocked() {
		s.distrust = time.Now().Add(d)
	}
}

// changedLocked tells the journal about a packet identifier of a session that is kept.
func (s *Session) changedLocked(id uint16) {
	if s.kept {
		s.hub.opts.Journal.Outgoing(s.Account, s.ID, id)
	}
}

func (s *Session) count(add func(*counters)) {
	if s.hub != nil {
		add(&s.hub.counters)
	}
}

func (s *Session) now() int64 {
	if s.hub == nil {
		return time.Now().Unix()
	}
	return s.hub.opts.Now().Unix()
}
