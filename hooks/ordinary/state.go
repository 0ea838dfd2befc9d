package ordinary

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
)

// State is a session as one value: what a store keeps, and what moves where a session
// moves.
type State struct {
	Header
	Subscriptions map[string]Subscription // by filter
	Replays       []Replay                // of retained messages for new subscriptions, that are not over
	Outgoing      []Outgoing              // in their order
	Incoming      []uint16                // QoS 2 from the client between PUBLISH and PUBREL
}

// Header is the part of a State that is there once.
type Header struct {
	ID, Account string
	Service     bool
	Version     byte   // of MQTT, at the last connection
	Expiry      uint32 // seconds that it lives without a connection
	Gone        int64  // since when it has none, Unix seconds; 0: it has one
}

// Replay is how far the retained messages for a subscription have come.
type Replay struct {
	Filter string
	After  string // the place of the last one in the order of topics, as of NextRetained; "": before all
}

// Outgoing is a message of QoS 1 or 2 that the client has not acknowledged.
type Outgoing struct {
	PacketID    uint16
	Order       uint64 // greater than that of all before it; 0: it comes from another server
	QoS         byte
	Retain      bool
	Sent        bool // at least once: it is a duplicate from now on
	Identifiers []int
	Share       string   // the shared subscription that it was dealt to, as a filter; "": none, or one with a long filter
	Message     *Message // nil: the client has it, and a PUBREL is to be acknowledged
}

func (s *Session) headerLocked() Header {
	return Header{ID: s.ID, Account: s.Account, Service: s.service.Load(), Version: s.peer.Version, Expiry: s.expiry, Gone: s.gone}
}

func (e *entry) outgoing() Outgoing {
	return Outgoing{PacketID: e.id, Order: e.order, QoS: e.qos, Retain: e.retain, Sent: e.sent, Identifiers: e.identifiers, Share: e.dealt.kept(), Message: e.msg}
}

// Export returns a session as a value; false: there is none, or it does not outlive its
// connection.
func (h *Hub) Export(id string) (State, bool) {
	s := h.session(id)
	if s == nil {
		return State{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kept || s.ending {
		return State{}, false
	}
	st := State{Header: s.headerLocked(), Subscriptions: make(map[string]Subscription, len(s.subscriptions))}
	maps.Copy(st.Subscriptions, s.subscriptions)
	for _, r := range s.replays {
		st.Replays = append(st.Replays, Replay{r.filter, r.after})
	}
	for _, e := range s.byID {
		st.Outgoing = append(st.Outgoing, e.outgoing())
	}
	slices.SortFunc(st.Outgoing, func(a, b Outgoing) int { return cmp.Compare(a.Order, b.Order) })
	for id := range s.incoming {
		st.Incoming = append(st.Incoming, id)
	}
	slices.Sort(st.Incoming)
	return st, true
}

// Import takes a session in whose client is away. The Hub has none of that identifier.
func (h *Hub) Import(st State) {
	s := newSession(h, st.ID, st.Account)
	s.subMu.Lock() // a SUBSCRIBE, and the end of the session, come after this
	defer s.subMu.Unlock()
	s.kept, s.expiry, s.gone, s.wallAhead = true, st.Expiry, st.Gone, h.wallAhead()
	s.service.Store(st.Service)
	s.peer.Version = st.Version
	// Not the first one: the client may hold low identifiers of messages that a crash lost.
	s.lastID = uint16(rand.UintN(lastOrdinaryID))
	for f, sub := range st.Subscriptions {
		s.subscriptions[f] = sub
		s.filterCost += filterCost(f)
	}
	// One that has begun goes on first: only of the first is the place kept.
	slices.SortStableFunc(st.Replays, func(a, b Replay) int { return cmp.Compare(min(1, len(b.After)), min(1, len(a.After))) })
	for _, r := range st.Replays {
		if sub, ok := s.subscriptions[r.Filter]; ok {
			s.beginReplayLocked(r.Filter, sub).after = r.After
		}
	}
	shared := map[string]*dealt{}
	for _, o := range st.Outgoing {
		if o.Order == 0 {
			o.Order = h.order.Add(1)
		}
		h.orderAfter(o.Order)
		e := &entry{msg: o.Message, identifiers: o.Identifiers, order: o.Order, id: o.PacketID, qos: o.QoS, retain: o.Retain, sent: o.Sent}
		if s.byID[e.id] != nil {
			continue
		}
		if o.Share != "" {
			if shared[o.Share] == nil {
				shared[o.Share] = &dealt{filter: o.Share}
			}
			e.dealt = shared[o.Share]
		}
		s.byID[e.id] = e
		h.counters.inflight.Add(1)
		if e.msg == nil {
			e.released, e.sent, e.qos = true, true, 2
			s.pubrels.push(e)
			continue
		}
		s.queue.push(e)
		s.expiresLocked(e)
		s.bytes += e.msg.size()
		s.waiting += e.msg.size()
	}
	s.unsent = s.queue.head
	for _, id := range st.Incoming {
		if s.incoming == nil {
			s.incoming = map[uint16]uint64{}
		}
		s.incoming[id] = 0
	}
	h.mu.Lock()
	h.sessions[s.ID] = s
	h.accounts[s.Account]++
	h.deadlines.set(s, s.gone+int64(s.expiry)) // nobody has found the session yet
	h.mu.Unlock()
	for f, sub := range st.Subscriptions { // last: publishers find the session, with all that comes before
		h.subscribe(f, s, sub)
	}
}

// orderAfter has messages that come from now on follow one that a store has kept. Their order
// begins with the time, and the clock may have been set back since.
func (h *Hub) orderAfter(order uint64) {
	for {
		now := h.order.Load()
		if now >= order || h.order.CompareAndSwap(now, order) {
			return
		}
	}
}

// ImportRetained takes a retained message in that the disk has; its content stays
// there.
func (h *Hub) ImportRetained(m *Message) {
	r := h.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeLocked(m.TopicName)
	r.addLocked(&kept{topicName: m.TopicName, size: int64(m.size()), account: m.Account, expiry: m.Expiry, stamp: m.Stamp})
}

func (h *Hub) session(id string) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// SavedSession returns what a journal is to keep of a session now; false: nothing.
func (h *Hub) SavedSession(id string) (Header, bool) {
	s := h.session(id)
	if s == nil {
		return Header{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headerLocked(), s.kept
}

// SavedSubscription is SavedSession for a subscription and its replay, nil for none.
func (h *Hub) SavedSubscription(id, filter string) (sub Subscription, replay *Replay, ok bool) {
	s := h.session(id)
	if s == nil {
		return sub, nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub, ok = s.subscriptions[filter]; sub.replaying {
		replay = &Replay{Filter: filter}
		// The others have not begun. While the client is connected, a store does not have all that
		// comes before.
		if first := s.replays[0]; first.filter == filter && s.link == nil {
			replay.After = first.after
		}
	}
	return sub, replay, ok && s.kept
}

// SavedOutgoing is SavedSession for a message to the client.
func (h *Hub) SavedOutgoing(id string, packetID uint16) (Outgoing, bool) {
	s := h.session(id)
	if s == nil {
		return Outgoing{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byID[packetID]
	if e == nil || !s.kept {
		return Outgoing{}, false
	}
	return e.outgoing(), true
}

// SavedIncoming is SavedSession for an exchange of QoS 2 that the client has begun.
func (h *Hub) SavedIncoming(id string, packetID uint16) bool {
	s := h.session(id)
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.incoming[packetID]
	return ok && s.kept
}

// SavedRetained returns a retained message that the disk may not have; nil: it has it.
// false: there is none.
func (h *Hub) SavedRetained(topicName string) (*Message, bool) {
	h.retained.mu.Lock()
	defer h.retained.mu.Unlock()
	k := h.retained.entries[topicName]
	if k == nil {
		return nil, false
	}
	return k.msg, true
}

// Written says that the disk has a retained message.
func (h *Hub) Written(m *Message) { h.retained.written(m) }
