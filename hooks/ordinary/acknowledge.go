package ordinary

// maxControl bounds the answers that a client has not taken, in bytes.
const maxControl = 1 << 20

// Answer queues an encoded packet that is no message: an acknowledgement. It goes out
// before every message that is queued after it. False: the client takes no answers,
// and has too many.
func (s *Session) Answer(link Link, packet ...byte) bool {
	s.mu.Lock()
	here := s.link == link
	ok := !here || s.answerLocked(packet)
	s.mu.Unlock()
	if here && ok {
		link.Wake()
	}
	return ok
}

func (s *Session) answerLocked(packet []byte) bool {
	if len(s.control)+len(packet) > maxControl {
		return false
	}
	s.control = append(s.control, packet...)
	return true
}

// Acknowledge takes a PUBACK or a PUBCOMP of an ordinary message.
func (s *Session) Acknowledge(link Link, id uint16) {
	s.finish(link, id, func(*entry) bool { return true })
}

// Reject takes a PUBREC with a reason code of 0x80 and up, which ends the exchange
// [MQTT-4.3.3-4].
func (s *Session) Reject(link Link, id uint16) {
	s.finish(link, id, func(e *entry) bool { return !e.released })
}

func (s *Session) finish(link Link, id uint16, ends func(*entry) bool) {
	s.mu.Lock()
	e := s.byID[id]
	if s.link != link || e == nil || !e.sent || !ends(e) {
		s.mu.Unlock()
		return
	}
	s.dropLocked(e)
	s.progressLocked()
	wake := s.hungryLocked()
	s.mu.Unlock()
	if wake {
		link.Wake()
	}
}

// Received takes a PUBREC without an error. It reports whether there is a message
// under the identifier, whose answer is a PUBREL [MQTT-4.3.3-4].
func (s *Session) Received(link Link, id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byID[id]
	if s.link != link || e == nil || e.qos != 2 || !e.sent {
		return s.link != link
	}
	if !e.released {
		s.leaveQueueLocked(e)
		e.released, e.msg, e.identifiers, e.dealt = true, nil, nil, nil
		e.order = s.hub.order.Add(1) // PUBRELs go in the order of the PUBRECs [MQTT-4.6.0-3]
		s.pubrels.push(e)
		s.changedLocked(id)
	}
	return true
}

// Incoming reports whether a PUBLISH of QoS 2 has come from the client under an
// identifier whose PUBREL has not [MQTT-4.3.3-10], and how many such identifiers this connection has
// opened (MQTT 5 §4.9: those of an earlier one do not count).
func (s *Session) Incoming(id uint16) (known bool, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known = s.incoming[id]
	return known, s.opened
}

// Begin notes the packet identifier of a PUBLISH of QoS 2 from the client that is
// answered with PUBREC: the message is taken.
func (s *Session) Begin(link Link, id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != link {
		return
	}
	if s.incoming == nil {
		s.incoming = map[uint16]uint64{}
	}
	if s.incoming[id] != s.epoch {
		s.incoming[id] = s.epoch
		s.opened++
	}
	if s.kept {
		s.hub.opts.Journal.Incoming(s.Account, s.ID, id)
	}
}

// End forgets such an identifier: after a PUBREL, or a PUBREC with an error. It
// reports whether it was there.
func (s *Session) End(link Link, id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	epoch, ok := s.incoming[id]
	if s.link == link && ok {
		delete(s.incoming, id)
		if epoch == s.epoch {
			s.opened--
		}
		if s.kept {
			s.hub.opts.Journal.Incoming(s.Account, s.ID, id)
		}
	}
	return ok
}
