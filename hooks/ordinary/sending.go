package ordinary

import (
	"strings"
)

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
