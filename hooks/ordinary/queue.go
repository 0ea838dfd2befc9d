package ordinary

import (
	"slices"
	"time"
)

// outcome is what became of an offer. Nothing has happened after the later ones.
type outcome int

const (
	taken   outcome = iota
	pressed         // taken, and the publisher is to wait for the receiver
	unknown         // the retained message before is to be read first
	unfit           // the client is away and the message is of QoS 0, or the session has ended
	refused         // there is no room
)

// offer queues a live message. old is the retained message that it follows: where a
// replay has not come to the topic yet, that one goes first. The topic's lock is held.
func (s *Session) offer(t *target, m *Message, old former) outcome {
	qos := min(m.QoS, t.qos)
	s.mu.Lock()
	if s.ended || s.ending || s.link == nil && qos == 0 {
		if s.ended || s.ending {
			s.refuses.Store(1)
		}
		s.mu.Unlock()
		return unfit
	}
	if !old.known && s.awaitsLocked(m.TopicName) {
		s.mu.Unlock()
		return unknown
	}
	if !s.admitLocked(m, qos) {
		s.refuseLocked(m)
		s.mu.Unlock()
		return refused
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
	e := &entry{msg: m, qos: qos, retain: m.Retain && t.asPublished, identifiers: t.identifiers}
	if t.group != nil {
		e.dealt = t.group.dealtAgain(t.deals)
	}
	s.pushLocked(e)
	over := s.overLocked() && (qos > 0 || s.waiting > s.hub.bounds.Load().Budget.Bytes)
	if over != s.full.Load() {
		s.full.Store(over)
	}
	link := s.link
	wait := over && link != nil && !time.Now().Before(s.distrust)
	s.mu.Unlock()
	if link != nil {
		link.Wake()
	}
	if wait {
		return pressed
	}
	return taken
}

// refuseLocked notes that there was no room for a message.
func (s *Session) refuseLocked(m *Message) {
	if old, size := s.refuses.Load(), int64(m.size()); old == 0 || size < old {
		s.refuses.Store(size)
	}
}

// awaitsLocked reports whether a replay is still to come to a topic.
func (s *Session) awaitsLocked(topicName string) bool {
	return slices.ContainsFunc(s.replays, func(r *replay) bool { return r.ahead(topicName) })
}

// admitLocked reports whether there is room for a message.
func (s *Session) admitLocked(m *Message, qos byte) bool {
	return s.fitsLocked(m, qos) || s.dropExpiredLocked() && s.fitsLocked(m, qos)
}

// drop counts a message for which there was no room.
func (s *Session) drop(qos byte) {
	if qos == 0 {
		s.hub.counters.droppedQoS0.Add(1)
	} else {
		s.hub.counters.dropped.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told {
		s.told = true
		s.hub.opts.Logger.Warn("messages for a client are dropped: it has too many waiting", "client", s.ID, "bytes", s.bytes, "messages", s.queue.len)
	}
}

// fitsLocked reports whether a message is within the budget. One alone has no bound.
func (s *Session) fitsLocked(m *Message, qos byte) bool {
	held := s.bytes
	if qos == 0 {
		held = s.waiting // what is acknowledged late does not hold it up
	}
	return s.roomLocked(held, m.size())
}

// roomLocked reports whether a message of a size is within the budget, where the session holds
// some bytes.
func (s *Session) roomLocked(held, size int) bool {
	b := s.hub.bounds.Load().Budget
	bytes, messages := b.Bytes, b.Messages
	if s.link != nil && !time.Now().Before(s.distrust) {
		bytes, messages = readerFactor*bytes, min(readerFactor*messages, lastOrdinaryID-1)
	}
	return held == 0 || held+size <= bytes && s.queue.len+s.pubrels.len < messages
}

// dropExpiredLocked drops messages that expired before they were sent [MQTT-3.3.2-5]. It
// reports whether it dropped any.
func (s *Session) dropExpiredLocked() bool {
	now, queued := s.now(), s.queue.len
	if s.expires == 0 || now < s.expires {
		return false
	}
	s.expires = 0
	for e := s.unsent; e != nil; {
		next := e.next
		switch {
		case e.sent:
		case e.msg.expired(now):
			s.dropLocked(e)
		default:
			s.expiresLocked(e)
		}
		e = next
	}
	if s.queue.len == queued {
		return false
	}
	s.progressLocked()
	return true
}

// expiresLocked notes when a message that was not sent expires.
func (s *Session) expiresLocked(e *entry) {
	if at := e.msg.Expiry; !e.sent && at > 0 && (s.expires == 0 || at < s.expires) {
		s.expires = at
	}
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
	s.expiresLocked(e)
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
	if size := s.refuses.Load(); size > 0 && s.roomLocked(s.bytes, int(size)) {
		s.refuses.Store(0)
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
