package ordinary

// maxServed is how many messages of Serve a session holds for its client.
const maxServed = 256

// Serve queues a message that the server makes for this session alone, once, for all its
// subscriptions that match the topic name. Shared subscriptions get none. The session
// keeps bookmark with it, and with a nil message that alone.
//
// later is not nil where the client has enough of these messages to take first: nothing
// is queued, and the caller tries again when later is closed. false: the connection has
// its session no more.
func (s *Session) Serve(link Link, m *Message, bookmark any) (later <-chan struct{}, ok bool) {
	s.mu.Lock()
	if s.link != link || s.ended {
		s.mu.Unlock()
		return nil, false
	}
	var wake bool
	if t, wanted := s.targetLocked(m); wanted {
		b := s.hub.bounds.Load().Budget
		if s.served >= min(maxServed, max(1, b.Messages/8)) || t.qos > 0 && len(s.byID) >= lastOrdinaryID {
			if s.progress == nil {
				s.progress = make(chan struct{})
			}
			later = s.progress
			s.mu.Unlock()
			return later, true
		}
		s.served++
		s.pushLocked(&entry{msg: m, qos: min(m.QoS, t.qos), identifiers: t.identifiers, served: true})
		wake = true
	}
	s.bookmark = bookmark
	s.mu.Unlock()
	if wake {
		link.Wake()
	}
	return nil, true
}

// targetLocked joins the subscriptions that match a message, as gather does.
func (s *Session) targetLocked(m *Message) (t target, wanted bool) {
	if m == nil {
		return t, false
	}
	for filter, sub := range s.subscriptions {
		if group, _ := SplitShare(filter); group != "" || !Matches(filter, m.TopicName) {
			continue
		}
		wanted = true
		t.qos = max(t.qos, sub.QoS)
		if sub.Identifier > 0 {
			t.identifiers = append(t.identifiers, sub.Identifier)
		}
	}
	return t, wanted
}

// Bookmark returns what Serve or SetBookmark left last; nil: nothing.
func (s *Session) Bookmark() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bookmark
}

// SetBookmark replaces the bookmark, if the connection has its session still.
func (s *Session) SetBookmark(link Link, bookmark any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == link {
		s.bookmark = bookmark
	}
}
