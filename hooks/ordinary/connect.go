package ordinary

import "fmt"

// Arrival is a client that connects.
type Arrival struct {
	ID, Account string
	Number      uint64 // of its CONNECT, in the order in which these came
	Service     bool
	Clean       bool   // [MQTT-3.1.2-4]
	Kept        bool   // the session outlives the connection
	Expiry      uint32 // by how many seconds
	Peer        Peer
	Link        Link
	Will        *Will
}

// errBehind refuses additions of an account. Changes and removals cost no more marks than it has
// entries.
var errBehind = &LimitError{Key: "mqtt.persistence", Reason: "too many changes of the account wait for the disk"}

// Room returns a *LimitError where the account may not have a session more. kept: it is to
// outlive its connection.
func (h *Hub) Room(id, account string, kept bool) error {
	if kept && h.session(id) == nil && h.opts.Journal.Behind(account) {
		h.counters.overSessions.Add(1)
		return errBehind
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if limit := h.bounds.Load().Limits.Sessions; limit > 0 && h.accounts[account] >= limit && h.sessions[id] == nil {
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
// the earlier connection publishes, its will included, is still to come. A nil session: a
// later CONNECT of the client was served first, and keeps the session.
func (h *Hub) Connect(a Arrival) (s *Session, present bool) {
	now := h.opts.Now().Unix()
	h.mu.Lock()
	old := h.sessions[a.ID]
	if old != nil && !old.arrives(a.Number) {
		h.mu.Unlock()
		return nil, false
	}
	present = old != nil && !a.Clean && old.Account == a.Account && old.continues(now)
	if s = old; !present {
		if old != nil {
			h.lessLocked(old.Account)
		}
		s = newSession(h, a.ID, a.Account)
		s.arrival = a.Number
		h.sessions[a.ID] = s
		h.accounts[a.Account]++
	}
	h.mu.Unlock()
	if old != nil && !present {
		h.end(old)
	}
	h.leave(s, a.Number)
	for s.mu.Lock(); s.link != nil && s.arrival == a.Number; s.mu.Lock() { // an earlier one connects in this very moment
		s.mu.Unlock()
		h.leave(s, a.Number)
	}
	if s.arrival != a.Number {
		s.mu.Unlock()
		return nil, false
	}
	if s.ended || s.ending { // it has just elapsed, or ended with its connection, or gone to another one
		s.mu.Unlock()
		h.forget(s)
		return h.Connect(a)
	}
	s.service.Store(a.Service)
	was := s.kept
	s.kept, s.expiry, s.gone = a.Kept, a.Expiry, 0
	s.will, s.willAt = a.Will, 0
	s.attachLocked(a.Link, a.Peer)
	s.begun = h.sharedNow()
	if s.kept != was { // nothing of it is stored yet, or nothing is to be any more
		s.journalLocked()
	}
	h.deadlines.set(s, 0)
	s.mu.Unlock()
	h.counters.online.Add(1)
	if a.Kept || was {
		h.opts.Journal.Session(s.Account, s.ID)
	}
	return s, present
}

// arrives reports whether a CONNECT is the last of the session's client so far.
func (s *Session) arrives(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < s.arrival {
		return false
	}
	s.arrival = number
	return true
}

// continues reports whether a session can be taken up.
func (s *Session) continues(now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.ending {
		return false
	}
	if s.link != nil {
		return s.kept // without an expiry it ends with its connection: MQTT 5 §3.1.2.11.2, 3.1.1 [MQTT-3.1.2-6]
	}
	return s.endsLocked() > now
}

// EndWithConnection has the session of a client end with its connection link. No other
// connection takes it up from now on, as one that comes before link is closed would.
func (h *Hub) EndWithConnection(id string, link Link) {
	s := h.session(id)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = s.ending || s.link == link
}

// leave ends the earlier connection of a session that goes on, or moves. A will without
// delay is published; one with a delay is not, as the client is back [MQTT-3.1.3-9]. No will
// waits longer than its session. A session that is to be ended keeps its will, and one that
// a later CONNECT has is left to it.
func (h *Hub) leave(s *Session, number uint64) {
	s.subMu.Lock() // a SUBSCRIBE of the earlier connection is over
	s.mu.Lock()
	if s.ending || s.arrival > number {
		s.mu.Unlock()
		s.subMu.Unlock()
		return
	}
	link, w, expiry := s.link, s.will, s.expiry
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
	if w != nil && w.delay(expiry) == 0 {
		h.publishWill(s, w)
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

// end ends a session with all that it has; its will is published [MQTT-3.1.2-8]. Messages of
// shared subscriptions go to other members.
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
	left := s.leftLocked()
	h.counters.inflight.Add(-int64(len(s.byID)))
	s.queue, s.pubrels, s.unsent, s.byID, s.bytes, s.served, s.incoming = entries{}, entries{}, nil, nil, 0, 0, nil
	s.endReplaysLocked(func(*replay) bool { return true })
	filters := s.subscriptions
	s.subscriptions, s.filterCost = nil, 0
	s.progressLocked()
	h.deadlines.set(s, 0)
	s.mu.Unlock()
	for f := range filters {
		h.unsubscribe(f, s)
	}
	s.subMu.Unlock()
	if kept {
		h.opts.Journal.Session(s.Account, s.ID)
	}
	if link != nil {
		h.counters.online.Add(-1)
		link.Close()
	}
	h.dealAgain(left)
	h.publishWill(s, w)
}

// journalLocked tells the journal of everything that the session has.
func (s *Session) journalLocked() {
	j := s.hub.opts.Journal
	for f := range s.subscriptions {
		j.Subscription(s.Account, s.ID, f)
	}
	for id := range s.byID {
		j.Outgoing(s.Account, s.ID, id)
	}
	for id := range s.incoming {
		j.Incoming(s.Account, s.ID, id)
	}
}
