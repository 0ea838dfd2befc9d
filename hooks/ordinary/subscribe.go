package ordinary

import "strings"

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
		old, had := s.subscriptions[a.Filter]
		if !had && !exempt && !s.mayAddLocked(a.Filter) {
			a.Code, codes[i] = overQuota, overQuota
			h.counters.overSubscriptions.Add(1)
			continue
		}
		codes[i], isNew[i] = a.QoS, !had
		if !had {
			s.filterCost += filterCost(a.Filter)
		}
		a.Filter = strings.Clone(a.Filter) // not a part of the packet: subscriptions and replays outlive it
		a.replaying = old.replaying
		s.subscriptions[a.Filter] = a.Subscription
		if s.kept {
			h.opts.Journal.Subscription(s.Account, s.ID, a.Filter)
		}
	}
	replays := s.beginReplaysLocked(asks, isNew)
	s.mu.Unlock()
	for i := range asks {
		if asks[i].Code < 0x80 {
			h.subscribe(asks[i].Filter, s, asks[i].Subscription)
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

// minFilterBudget is what a client's filters may cost together. A filter can have 65,535 bytes,
// and a session that is kept holds them for weeks. A limit of more than 1,000 subscriptions
// allows 256 for each.
const minFilterBudget = 256 << 10

// filterCost is the bytes of a filter, and 16 for each of its levels, which take memory in the index
// however short they are.
func filterCost(filter string) int { return len(filter) + 16*(1+strings.Count(filter, "/")) }

// mayAddLocked reports whether the limits allow one more subscription.
func (s *Session) mayAddLocked(filter string) bool {
	if s.kept && s.hub.opts.Journal.Behind(s.Account) {
		return false
	}
	limit := s.hub.bounds.Load().Limits.Subscriptions
	return limit <= 0 || len(s.subscriptions) < limit && s.filterCost+filterCost(filter) <= max(minFilterBudget, 256*limit)
}

// beginReplaysLocked makes the replays of a SUBSCRIBE, in the place of those that the
// session has to the same filters. A filter that is named several times has one, at its
// last place: the cost is linear in the number of filters.
func (s *Session) beginReplaysLocked(asks []Ask, isNew []bool) (begun []*replay) {
	wanted := map[string]int{} // the place of a filter that has a replay
	for i := range asks {
		a := &asks[i]
		if group, _ := SplitShare(a.Filter); a.Code >= 0x80 || group != "" || a.RetainHandling == 2 || a.RetainHandling == 1 && !isNew[i] {
			continue // [MQTT-3.3.1-10] [MQTT-3.3.1-11] §4.8.2
		}
		wanted[a.Filter] = i
	}
	if len(wanted) == 0 {
		return nil
	}
	s.endReplaysLocked(func(r *replay) bool { _, again := wanted[r.filter]; return again })
	for i := range asks {
		a := &asks[i]
		if at, ok := wanted[a.Filter]; !ok || at != i {
			continue
		}
		r := s.beginReplayLocked(a.Filter, a.Subscription)
		r.held = true
		begun = append(begun, r)
	}
	return begun
}

func (s *Session) beginReplayLocked(filter string, sub Subscription) *replay {
	r := &replay{filter: filter, levels: strings.Split(filter, "/"), sub: sub}
	s.replays = append(s.replays, r)
	s.replayingLocked(filter, true)
	return r
}

// replayingLocked notes that the replay for a subscription begins or ends.
func (s *Session) replayingLocked(filter string, begins bool) {
	if begins {
		s.hub.replaying.Add(1)
	} else {
		s.hub.replaying.Add(-1)
	}
	if sub, ok := s.subscriptions[filter]; ok {
		sub.replaying = begins
		s.subscriptions[filter] = sub
	}
}

// Resume sends the answer to a SUBSCRIBE or an UNSUBSCRIBE, and the messages held for it.
// False: as of Answer.
func (s *Session) Resume(link Link, packet []byte) bool {
	s.mu.Lock()
	here, ok := s.link == link, true
	if here {
		s.held, ok = false, s.answerLocked(packet)
	}
	s.mu.Unlock()
	if here && ok {
		link.Wake()
	}
	return ok
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
		if !h.unsubscribe(f, s) {
			codes[i] = noneExisted
		}
	}
	s.mu.Lock()
	gone := make(map[string]struct{}, len(filters))
	for _, f := range filters {
		gone[f] = struct{}{}
		if _, had := s.subscriptions[f]; !had {
			continue
		}
		delete(s.subscriptions, f)
		s.filterCost -= filterCost(f)
		if s.kept {
			h.opts.Journal.Subscription(s.Account, s.ID, strings.Clone(f)) // not a part of the packet
		}
	}
	s.endReplaysLocked(func(r *replay) bool { _, ok := gone[r.filter]; return ok })
	s.mu.Unlock()
	return codes, true
}
