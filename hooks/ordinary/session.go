package ordinary

import (
	"maps"
	"slices"
	"strings"
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
	Service bool // its client may do what a service may

	hub    *Hub  // nil: of a connection in a foreign server, which has a window only
	node   *Node // it stands for another server; nothing else of it is used then
	online atomic.Bool
	full   atomic.Bool // over its budget

	// subMu serializes what changes the subscriptions, in the index too.
	subMu sync.Mutex

	mu            sync.Mutex
	subscriptions map[string]Subscription // by filter
	link          Link                    // nil: away
	peer          Peer
	epoch         uint64    // counts connections
	begun         time.Time // when the last one began, in the time of all servers
	ended         bool

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

	incoming map[uint16]struct{} // QoS 2 from the client between PUBLISH and PUBREL

	aliases map[string]uint16 // topic aliases of this connection, by topic name

	progress chan struct{} // closed when something is sent; nil: nobody waits
	distrust time.Time     // until when no publisher waits for this client
	told     bool          // that it is over its budget

	kept   bool   // it outlives its connection
	expiry uint32 // seconds after gone
	gone   int64  // when its connection ended, Unix seconds; 0: connected
	will   *Will
	willAt int64 // when a delayed will is due, Unix seconds; 0: none waits

	due deadline // deadlines.mu
}

// entry is a message on its way to the client.
type entry struct {
	previous, next *entry
	msg            *Message // nil: released
	identifiers    []int
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
	s.used, s.wants, s.last = 0, [2]bool{}, 0
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

// Fill appends packets to b, for link to write, until b has limit bytes or more. It
// returns b as it is when there is nothing to send now. Each byte it returns is to be
// written, in order, before Fill is called again. sent counts the messages.
func (s *Session) Fill(link Link, b []byte, limit int) (_ []byte, sent int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link || s.held {
		return b, 0
	}
	if len(s.control) > 0 {
		b = append(b, s.control...)
		if s.control = s.control[:0]; cap(s.control) > 1<<10 {
			s.control = nil
		}
	}
	before, queued := len(b), s.queue.len
	now := s.now()
	for e := s.unsent; e != nil && len(b) < limit; e = s.unsent {
		if e.epoch == s.epoch {
			s.unsent = e.next
			continue
		}
		if !e.sent && e.msg.expired(now) {
			s.dropLocked(e) // [MQTT-3.3.2-5]
			continue
		}
		out := outgoing{Message: e.msg, qos: e.qos, dup: e.sent, retain: e.retain, packetID: e.id, identifiers: e.identifiers}
		if limit := s.peer.MaximumPacketSize; limit > 0 && out.encodedSize(s.peer.Version) > limit {
			s.dropLocked(e) // as if it had been sent [MQTT-3.1.2-25]
			s.count(func(c *counters) { c.tooLarge.Add(1) })
			continue
		}
		if e.qos > 0 && !s.placeLocked(flowOrdinary) {
			break
		}
		s.aliasLocked(&out)
		b = out.appendTo(b, s.peer.Version, now)
		sent++
		if e.qos == 0 {
			s.dropLocked(e)
			continue
		}
		s.unsent, s.waiting = e.next, s.waiting-e.msg.size()
		e.epoch, e.placed = s.epoch, true
		if !e.sent {
			e.sent = true
			s.changedLocked(e.id)
		}
	}
	if s.unsent == nil {
		s.wants[flowOrdinary] = false
	}
	if len(b) > before || s.queue.len < queued {
		s.progressLocked()
	}
	return b, sent
}

// aliasLocked gives a PUBLISH its topic alias, and leaves the topic name out where the
// client has had both on this connection [MQTT-3.3.2-8].
func (s *Session) aliasLocked(o *outgoing) {
	limit := min(s.peer.TopicAliasMaximum, maxAliases)
	if limit == 0 || s.peer.Version < 5 || len(o.TopicName) <= aliasBytes {
		return
	}
	if n, ok := s.aliases[o.TopicName]; ok {
		o.alias, o.aliasOnly = n, true
		return
	}
	if len(s.aliases) >= limit {
		return
	}
	o.alias = uint16(len(s.aliases) + 1)
	if most := s.peer.MaximumPacketSize; most > 0 && o.encodedSize(5) > most { // by these bytes
		o.alias = 0
		return
	}
	if s.aliases == nil {
		s.aliases = map[string]uint16{}
	}
	s.aliases[strings.Clone(o.TopicName)] = o.alias // not a part of a packet
}

const (
	flowOrdinary      = 0
	flowNotifications = 1
)

// placeLocked takes a place of the client's Receive Maximum (MQTT 5 §4.9) for a flow.
// Of two flows that wait, each gets every second place.
func (s *Session) placeLocked(flow int) bool {
	free := s.peer.ReceiveMaximum - s.used
	other := 1 - flow
	if free <= 0 || free == 1 && s.wants[other] && s.last == flow {
		s.wants[flow] = true
		return false
	}
	s.used++
	s.last, s.wants[flow] = flow, false
	return true
}

// Claim takes a packet identifier and a place of the Receive Maximum for a
// notification. False: there is none now, and Wake follows when there is.
func (s *Session) Claim(link Link) (id uint16, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link || !s.placeLocked(flowNotifications) {
		return 0, false
	}
	id = s.lastNotificationID
	for range lastNotificationID - FirstNotificationID + 1 {
		if id++; id < FirstNotificationID {
			id = FirstNotificationID
		}
		_, open := s.notifications[id]
		if open || s.byID[id] != nil || s.peer.Taken != nil && s.peer.Taken(id) {
			continue
		}
		if s.notifications == nil {
			s.notifications = map[uint16]struct{}{}
		}
		s.notifications[id] = struct{}{}
		s.lastNotificationID = id
		return id, true
	}
	s.used--
	return 0, false
}

// Release gives a notification's packet identifier and place back.
func (s *Session) Release(link Link, id uint16) {
	s.mu.Lock()
	_, ok := s.notifications[id]
	if ok = ok && s.link == link; ok {
		delete(s.notifications, id)
		s.used--
	}
	wake := ok && s.hungryLocked()
	s.mu.Unlock()
	if wake {
		link.Wake()
	}
}

// Unwanted says that no notification waits for a place.
func (s *Session) Unwanted(link Link) {
	s.mu.Lock()
	wake := s.link == link && s.wants[flowNotifications] && s.wants[flowOrdinary]
	if s.link == link {
		s.wants[flowNotifications] = false
	}
	s.mu.Unlock()
	if wake {
		link.Wake()
	}
}

// hungryLocked reports whether a place that is free now is of use.
func (s *Session) hungryLocked() bool {
	return s.unsent != nil || s.wants[flowNotifications] || len(s.replays) > 0
}

// offer queues a live message. old is the retained message that it follows: where a
// replay has not come to the topic yet, that one goes first. unknown: it is to be read, and
// nothing has happened. The topic's lock is held.
func (s *Session) offer(t *target, m *Message, old former) (pressed, unknown bool) {
	qos := min(m.QoS, t.qos)
	s.mu.Lock()
	if s.ended || s.link == nil && qos == 0 {
		s.mu.Unlock()
		return false, false
	}
	if !old.known && s.awaitsLocked(m.TopicName) {
		s.mu.Unlock()
		return false, true
	}
	if !s.admitLocked(m, qos) {
		s.mu.Unlock()
		return false, false
	}
	for _, r := range s.replays {
		if r.ahead(m.TopicName) {
			if old.msg != nil {
				s.retainedLocked(r, old.msg)
			}
			if old.msg != nil || m.Retain {
				r.skip(m.TopicName)
			}
		}
		if m.Retain && len(m.Payload) == 0 {
			r.visit(m.TopicName)
		}
	}
	s.pushLocked(&entry{msg: m, qos: qos, retain: m.Retain && t.asPublished, identifiers: t.identifiers})
	over := s.overLocked() && (qos > 0 || s.waiting > s.hub.bounds.Load().Budget.Bytes)
	if over != s.full.Load() {
		s.full.Store(over)
	}
	link := s.link
	pressed = over && link != nil && !time.Now().Before(s.distrust)
	s.mu.Unlock()
	if link != nil {
		link.Wake()
	}
	return pressed, false
}

// awaitsLocked reports whether a replay is still to come to a topic.
func (s *Session) awaitsLocked(topicName string) bool {
	return slices.ContainsFunc(s.replays, func(r *replay) bool { return r.ahead(topicName) })
}

// admitLocked reports whether there is room for a message. One alone has no bound.
func (s *Session) admitLocked(m *Message, qos byte) bool {
	b := s.hub.bounds.Load().Budget
	bytes, messages := b.Bytes, b.Messages
	if s.link != nil && !time.Now().Before(s.distrust) {
		bytes, messages = readerFactor*bytes, min(readerFactor*messages, lastOrdinaryID-1)
	}
	held := s.bytes
	if qos == 0 {
		held = s.waiting // what is acknowledged late does not hold it up
	}
	if n := s.queue.len + s.pubrels.len; held == 0 || held+m.size() <= bytes && n < messages {
		return true
	}
	s.count(func(c *counters) {
		if qos == 0 {
			c.droppedQoS0.Add(1)
		} else {
			c.dropped.Add(1)
		}
	})
	if !s.told {
		s.told = true
		s.hub.opts.Logger.Warn("messages for a client are dropped: it has too many waiting", "client", s.ID, "bytes", s.bytes, "messages", s.queue.len)
	}
	return false
}

func (s *Session) overLocked() bool {
	b := s.hub.bounds.Load().Budget
	return s.bytes > b.Bytes || s.queue.len > b.Messages
}

// pushLocked appends to the queue.
func (s *Session) pushLocked(e *entry) {
	if e.qos > 0 {
		if e.id = s.ordinaryIDLocked(); e.id == 0 {
			s.count(func(c *counters) { c.dropped.Add(1) })
			return
		}
		e.order = s.hub.order.Add(1)
		s.byID[e.id] = e
	}
	s.queue.push(e)
	if s.unsent == nil {
		s.unsent = e
	}
	size := e.msg.size()
	s.bytes += size
	s.waiting += size
	if e.qos > 0 {
		s.count(func(c *counters) { c.inflight.Add(1) })
		s.changedLocked(e.id)
	}
}

// ordinaryIDLocked returns a packet identifier that is free, 0 if none is.
func (s *Session) ordinaryIDLocked() uint16 {
	if len(s.byID) >= lastOrdinaryID {
		return 0
	}
	for range lastOrdinaryID {
		if s.lastID++; s.lastID > lastOrdinaryID {
			s.lastID = firstOrdinaryID
		}
		if s.byID[s.lastID] == nil {
			return s.lastID
		}
	}
	return 0
}

// dropLocked forgets an entry, whatever its state. Its place is free again.
func (s *Session) dropLocked(e *entry) {
	if e.released {
		s.pubrels.remove(e)
	} else {
		s.leaveQueueLocked(e)
	}
	if e.placed {
		s.used--
		e.placed = false
	}
	if e.served {
		s.served--
	}
	if e.qos > 0 {
		delete(s.byID, e.id)
		s.count(func(c *counters) { c.inflight.Add(-1) })
		s.changedLocked(e.id)
	}
	if s.hub == nil {
		return
	}
	b := s.hub.bounds.Load().Budget
	if s.full.Load() && !s.overLocked() {
		s.full.Store(false)
	}
	if s.bytes <= b.Bytes/2 && s.queue.len <= b.Messages/2 {
		s.distrust, s.told = time.Time{}, false
	}
}

// leaveQueueLocked takes an entry out of the queue.
func (s *Session) leaveQueueLocked(e *entry) {
	if s.unsent == e {
		s.unsent = e.next
	}
	size := e.msg.size()
	s.bytes -= size
	if e.epoch != s.epoch {
		s.waiting -= size
	}
	s.queue.remove(e)
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
