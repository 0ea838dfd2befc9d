package ordinary

import (
	"runtime"
	"sync"
)

// group is the members of a shared subscription (MQTT 5 §4.8.2). Its own lock lets
// publishers deal while they hold the list for reading only, or not at all.
type group struct {
	dealt   dealt // of messages that are dealt for the first time
	mu      sync.Mutex
	members []subscriber
	next    int // who is dealt to next
}

// dealt says by which shared subscription a message came to a session. Messages have it in common, so
// that one costs no more memory than another that is not shared.
type dealt struct {
	filter string
	again  byte // how often it was dealt again
}

// maxKeptFilter bounds the filters that go into a store, or to another server, with each message. A
// filter can have 64 KB, and its messages a few bytes.
const maxKeptFilter = 256

// kept is the filter as a store keeps it with a message; "": none.
func (d *dealt) kept() string {
	if d == nil || len(d.filter) > maxKeptFilter {
		return ""
	}
	return d.filter
}

// dealtAgain is group.dealt of a message that was dealt again some times.
func (g *group) dealtAgain(times byte) *dealt {
	if times == 0 {
		return &g.dealt
	}
	return &dealt{g.dealt.filter, times}
}

// maxDeals is how often a message is dealt again. One at which workers fail must not go through all
// of them, and where all of them go at the same time, their messages need not go round.
const maxDeals = 4

// leftLocked returns the messages of shared subscriptions that a session leaves when it ends, for
// other members: all of QoS 1, and of QoS 2 those that its client cannot have [MQTT-4.8.2-5].
func (s *Session) leftLocked() (left []*entry) {
	if s.moved {
		return nil
	}
	for e := s.queue.head; e != nil; e = e.next {
		switch {
		case e.dealt == nil || e.qos == 0 || e.qos == 2 && e.sent:
		case e.dealt.again >= maxDeals:
			s.hub.counters.dropped.Add(1)
		default:
			left = append(left, e)
		}
	}
	return left
}

// dealAgain gives messages that a session has left to other members of their groups (MQTT 5
// §4.8.2). Where a group has no member any more, they end with the session.
func (h *Hub) dealAgain(left []*entry) {
	now := h.opts.Now().Unix()
	for i, e := range left {
		if i%turnOf == turnOf-1 {
			runtime.Gosched()
		}
		if !e.msg.expired(now) {
			h.dealOne(e)
		}
	}
}

func (h *Hub) dealOne(e *entry) {
	m := e.msg
	if m.Retain { // a later one may be retained: a replay that is under way must not leave that out
		live := *m
		live.Retain = false
		m = &live
	}
	l := h.topicLock(m.TopicName)
	l.Lock()
	defer l.Unlock()
	g := h.index.group(e.dealt.filter)
	if g == nil {
		return
	}
	one, ok := g.pick(m, func(s *Session) bool { return h.mayRead(s, m.TopicName) })
	if !ok {
		return
	}
	t := gather(nil, nil, m, one)[0]
	t.group, t.deals = g, e.dealt.again+1
	h.give(&t, m, &former{known: true})
}

// size is how many members there are; of no group: none.
func (g *group) size() int {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members)
}

func (g *group) set(s *Session, sub Subscription) (isNew bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
	g.mu.Lock()
	defer g.mu.Unlock()
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

// Ranks of a member whose turn a message may be.
const (
	excluded   = iota
	crowded    // it has had no room for a message as large, and none has become free
	absent     // away, and has room
	overloaded // connected and over its budget: publishers wait for it
	ready      // connected, and has room
)

func rank(member *subscriber, m *Message) int {
	s := member.session
	online, full, refuses := s.online.Load(), s.full.Load(), s.refuses.Load()
	switch {
	case !online && min(m.QoS, member.sub.QoS) == 0:
		return excluded
	case !online && full, refuses > 0 && int64(m.size()) >= refuses:
		return crowded
	case !online:
		return absent
	case full:
		return overloaded
	}
	return ready
}

// pick deals a message to one of the members with the highest rank that may read it, in
// turns.
func (g *group) pick(m *Message, allowed func(*Session) bool) (subscriber, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pickLocked(m, allowed, excluded)
}

// pickAgain deals a message to another member, after one that did not take it and has
// noted so. ok is false where no member is left that has room.
func (g *group) pickAgain(m *Message, allowed func(*Session) bool) (one subscriber, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pickLocked(m, allowed, crowded)
}

// pickLocked picks among the members with more than the lowest rank.
func (g *group) pickLocked(m *Message, allowed func(*Session) bool, lowest int) (subscriber, bool) {
	best, most := -1, lowest
	for i := range g.members {
		at := (g.next + i) % len(g.members)
		member := &g.members[at]
		r := rank(member, m)
		if r <= most || !allowed(member.session) {
			continue
		}
		if best, most = at, r; r == ready {
			break
		}
	}
	if best < 0 {
		return subscriber{}, false
	}
	g.next = (best + 1) % len(g.members)
	return g.members[best], true
}
