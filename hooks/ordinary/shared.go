package ordinary

import "sync"

// group is the members of a shared subscription (MQTT 5 §4.8.2). Its own lock lets
// publishers deal while they hold the list for reading only.
type group struct {
	mu      sync.Mutex
	members []subscriber
	next    int // who is dealt to next
}

func (g *group) set(s *Session, sub Subscription) (isNew bool) {
	for i := range g.members {
		if g.members[i].session == s {
			g.members[i].sub = sub
			return false
		}
	}
	g.members = append(g.members, subscriber{s, sub})
	return true
}

func (g *group) remove(s *Session) bool {
	for i := range g.members {
		if g.members[i].session == s {
			g.members = append(g.members[:i], g.members[i+1:]...)
			if g.next > i {
				g.next--
			}
			return true
		}
	}
	return false
}

// pick deals a message to a member, in turns: to one that is connected, may read it
// and has room; else to one that is connected and may read it; else to one that is away
// and keeps it.
func (g *group) pick(m *Message, allowed func(*Session) bool) (subscriber, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	best, rank := -1, 0
	for i := range g.members {
		at := (g.next + i) % len(g.members)
		member := &g.members[at]
		r := 0
		switch s := member.session; {
		case s.online.Load() && !s.full.Load():
			r = 3
		case s.online.Load():
			r = 2
		case min(m.QoS, member.sub.QoS) > 0:
			r = 1
		}
		if r <= rank || !allowed(member.session) {
			continue
		}
		if best, rank = at, r; r == 3 {
			break
		}
	}
	if best < 0 {
		return subscriber{}, false
	}
	g.next = (best + 1) % len(g.members)
	return g.members[best], true
}
