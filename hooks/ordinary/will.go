package ordinary

import "time"

// Will is a client's will (MQTT 5 §3.1.2.5).
type Will struct {
	Message
	Delay    uint32 // seconds after the end of the connection [MQTT-3.1.3-9]
	Lifetime uint32 // Message Expiry Interval, seconds from its publication; 0: none
}

// message is the will as it is published now.
func (w *Will) message(now int64) *Message {
	m := w.Message
	m.Created = now
	if w.Lifetime > 0 {
		m.Expiry = now + int64(w.Lifetime)
	}
	return &m
}

// delay is how long a will waits after its connection: not longer than the session
// lives (MQTT 5 §3.1.3.2.2).
func (w *Will) delay(expiry uint32) int64 { return int64(min(w.Delay, expiry)) }

// Bye is how a connection ended.
type Bye struct {
	// Clean is true after a DISCONNECT with reason code 0x00: there is no will
	// [MQTT-3.14.4-3]. Any other reason code sends it.
	Clean bool
	// Kept and Expiry replace what the CONNECT said.
	Kept   bool
	Expiry uint32
}

// Disconnect ends a connection. A session that does not outlive it ends too. It does
// nothing for a connection whose session another one has taken over.
func (h *Hub) Disconnect(s *Session, link Link, bye Bye) {
	// Rounded up: a will must not come before its delay is over, nor a session end early.
	now, ahead := h.opts.Now().Add(time.Second-1).Unix(), h.wallAhead()
	s.mu.Lock()
	if s.link != link || s.ended {
		s.mu.Unlock()
		return
	}
	s.detachLocked()
	if bye.Clean {
		s.will = nil
	}
	s.expiry, s.gone, s.wallAhead, s.ending = bye.Expiry, now, ahead, !bye.Kept
	if bye.Kept && !s.kept {
		s.kept = true
		s.journalLocked()
	}
	if bye.Kept && len(s.replays) > 0 { // where it has come to; the others have not begun
		h.opts.Journal.Subscription(s.Account, s.ID, s.replays[0].filter)
	}
	var due *Will
	if w := s.will; w != nil && bye.Kept {
		if delay := w.delay(s.expiry); delay > 0 {
			s.willAt = now + delay
		} else {
			due, s.will = w, nil
		}
	}
	at := s.endsLocked()
	if s.willAt > 0 {
		at = min(at, s.willAt)
	}
	if bye.Kept {
		h.deadlines.set(s, at)
	}
	s.mu.Unlock()
	h.counters.online.Add(-1)
	if !bye.Kept {
		h.forget(s)
		return
	}
	h.opts.Journal.Session(s.Account, s.ID)
	h.publishWill(s, due)
}

// endsLocked is when the session of a client that is away ends, Unix seconds.
func (s *Session) endsLocked() int64 { return s.gone + int64(s.expiry) }

// publishWill publishes the will of a session's client, if there is one and the client may
// write its topic now: the rules may have changed since the CONNECT. A will that may not be
// retained goes to the subscribers that there are. The retained message before it is removed:
// it is not true any more, and nobody else would replace it.
func (h *Hub) publishWill(s *Session, w *Will) {
	if w == nil {
		return
	}
	if h.opts.MayWrite != nil && !h.opts.MayWrite(s, w.TopicName) {
		h.opts.Logger.Info("will not sent: its client may no longer publish to its topic", "client", s.ID, "account", s.Account, "topic", w.TopicName)
		return
	}
	m := w.message(h.opts.Now().Unix())
	l := h.topicLock(m.TopicName)
	l.Lock()
	defer l.Unlock()
	if err := h.admit(m); err != nil {
		h.opts.Logger.Info("will delivered but not retained", "client", w.Origin, "topic", w.TopicName, "error", err)
		h.removeRetained(m)
		m.Retain = false
	}
	h.publish(m)
}

// elapse does the due work for a client that is away: its will, and the end of its
// session.
func (h *Hub) elapse(s *Session, now int64) {
	s.mu.Lock()
	if s.ended || s.link != nil {
		s.mu.Unlock()
		return
	}
	ends := s.endsLocked()
	var next int64
	var due *Will
	switch {
	case ends <= now: // the will goes with the session
		s.ending = true
		s.mu.Unlock()
		h.counters.expired.Add(1)
		h.forget(s)
		return
	case s.willAt > 0 && s.willAt <= now:
		due, s.will, s.willAt = s.will, nil, 0
		next = ends
	case s.willAt > 0:
		next = min(ends, s.willAt)
	default:
		next = ends
	}
	h.deadlines.set(s, next)
	s.mu.Unlock()
	h.publishWill(s, due)
}
