package ordinary

import (
	"strings"
	"sync"
)

// Subscription holds the options that a client sends with the filter (MQTT 5 §3.8.3.1).
type Subscription struct {
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	Identifier        int // 0: none

	replaying bool // a session's own: its replay is not over
}

// Levels is how many levels a topic name or filter has.
func Levels(name string) int { return strings.Count(name, "/") + 1 }

// SplitShare takes a shared subscription's filter apart (MQTT 5 §4.8.2); group is ""
// for any other filter.
func SplitShare(filter string) (group, inner string) {
	rest, ok := strings.CutPrefix(filter, "$share/")
	if !ok {
		return "", filter
	}
	group, inner, _ = strings.Cut(rest, "/")
	return group, inner
}

// Matches reports whether a topic name matches a filter, which is not a shared one
// (MQTT 5 §4.7). The index and the replay do the same for many at a time.
func Matches(filter, topicName string) bool {
	if strings.HasPrefix(topicName, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false // [MQTT-4.7.2-1]
	}
	for {
		level, filterRest, filterMore := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		name, topicRest, topicMore := strings.Cut(topicName, "/")
		if level != "+" && level != name {
			return false
		}
		switch {
		case !topicMore:
			return !filterMore || filterRest == "#" // the parent level, too: §4.7.1.2
		case !filterMore:
			return false
		}
		filter, topicName = filterRest, topicRest
	}
}

// index finds the subscriptions that match a topic name. It is a tree of the filters'
// levels. Its lock is held for the levels of one filter or topic name; the list of a
// filter's subscribers has a lock of its own.
type index struct {
	mu   sync.RWMutex
	root node
}

// node is one level of the filters that begin alike.
type node struct {
	children map[string]*node // "+" and "#" among them
	here     *subscribers     // of the filter that ends here; nil: none
}

// child returns the node below for a level, nil if there is none.
func (n *node) child(level string) *node { return n.children[level] }

// grow returns the node of a filter and makes missing nodes.
func (x *index) grow(filter string) *node {
	n := &x.root
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		next := n.children[level]
		if next == nil {
			if n.children == nil {
				n.children = make(map[string]*node, 1)
			}
			next = &node{}
			n.children[strings.Clone(level)] = next // not a part of a long filter
		}
		n = next
	}
	return n
}

// add makes a session a subscriber, or replaces its subscription. It reports whether
// the session had none to this filter, and whether nobody had.
func (x *index) add(filter string, s *Session, sub Subscription) (isNew, first bool) {
	group, inner := SplitShare(filter)
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.grow(inner)
	if first = n.here == nil; first {
		n.here = &subscribers{}
	}
	return n.here.set(group, filter, s, sub), first
}

// has reports whether a filter, without its group, has subscribers.
func (x *index) has(filter string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.findLocked(filter) != nil
}

// group returns the members of a shared subscription, nil if there are none.
func (x *index) group(filter string) *group {
	share, inner := SplitShare(filter)
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := x.findLocked(inner)
	if l == nil {
		return nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.groups[share]
}

// findLocked returns the subscribers of a filter, nil if there are none.
func (x *index) findLocked(filter string) *subscribers {
	n := &x.root
	for more := true; more; {
		var level string
		level, filter, more = strings.Cut(filter, "/")
		if n = n.child(level); n == nil {
			return nil
		}
	}
	return n.here
}

// remove ends a subscription and reports whether there was one, and whether it was the last
// to its filter. It removes the levels that nobody needs any more.
func (x *index) remove(filter string, s *Session) (had, last bool) {
	group, inner := SplitShare(filter)
	x.mu.Lock()
	defer x.mu.Unlock()
	var path []*node
	var levels []string
	n := &x.root
	for more := true; more; {
		var level string
		level, inner, more = strings.Cut(inner, "/")
		next := n.child(level)
		if next == nil {
			return false, false
		}
		path, levels = append(path, n), append(levels, level)
		n = next
	}
	if n.here == nil || !n.here.remove(group, s) {
		return false, false
	}
	if last = n.here.empty(); last {
		n.here = nil
	}
	for i := len(path) - 1; i >= 0 && n.here == nil && len(n.children) == 0; i-- {
		delete(path[i].children, levels[i])
		n = path[i]
	}
	return true, last
}

// match appends the subscriber lists of all filters that match a topic name.
func (x *index) match(into []*subscribers, topicName string) []*subscribers {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.root.match(into, topicName, !strings.HasPrefix(topicName, "$"))
}

// match walks along the levels; wild is false at the first level of a topic name that
// begins with $ [MQTT-4.7.2-1].
func (n *node) match(into []*subscribers, rest string, wild bool) []*subscribers {
	for {
		if len(n.children) == 0 {
			return into
		}
		level, below, more := strings.Cut(rest, "/")
		if wild {
			if all := n.children["#"]; all != nil && all.here != nil {
				into = append(into, all.here)
			}
			if plus := n.children["+"]; plus != nil {
				if into = plus.end(into, more); more {
					into = plus.match(into, below, true)
				}
			}
		}
		if level == "+" || level == "#" {
			return into // no topic name has these
		}
		n = n.children[level]
		if n == nil {
			return into
		}
		if into = n.end(into, more); !more {
			return into
		}
		rest, wild = below, true
	}
}

// end appends what matches where the topic name ends at n.
func (n *node) end(into []*subscribers, more bool) []*subscribers {
	if more {
		return into
	}
	if n.here != nil {
		into = append(into, n.here)
	}
	if parent := n.children["#"]; parent != nil && parent.here != nil {
		into = append(into, parent.here) // a/# matches a: §4.7.1.2
	}
	return into
}

// subscribers are the sessions subscribed to one filter.
type subscribers struct {
	mu     sync.RWMutex
	places map[*Session]int // in list
	list   []subscriber
	groups map[string]*group // shared subscriptions, by group
}

type subscriber struct {
	session *Session
	sub     Subscription
}

func (l *subscribers) set(share, filter string, s *Session, sub Subscription) (isNew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if share != "" {
		if l.groups == nil {
			l.groups = map[string]*group{}
		}
		g := l.groups[share]
		if g == nil {
			g = &group{dealt: dealt{filter: filter}}
			l.groups[share] = g
		}
		return g.set(s, sub)
	}
	if at, ok := l.places[s]; ok {
		l.list[at].sub = sub
		return false
	}
	if l.places == nil {
		l.places = make(map[*Session]int, 1)
	}
	l.places[s] = len(l.list)
	l.list = append(l.list, subscriber{s, sub})
	return true
}

func (l *subscribers) remove(share string, s *Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if share != "" {
		g := l.groups[share]
		if g == nil || !g.remove(s) {
			return false
		}
		if len(g.members) == 0 {
			delete(l.groups, share)
		}
		return true
	}
	at, ok := l.places[s]
	if !ok {
		return false
	}
	last := len(l.list) - 1
	l.list[at] = l.list[last]
	l.places[l.list[at].session] = at
	l.list[last] = subscriber{}
	l.list = l.list[:last]
	delete(l.places, s)
	return true
}

func (l *subscribers) empty() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.list)+len(l.groups) == 0
}

// target is a session that gets a message, with what its matching subscriptions make
// of it together.
type target struct {
	session     *Session
	qos         byte
	asPublished bool
	deals       byte // how often the message was dealt again
	identifiers []int
	group       *group // that it is dealt to; nil: none
}

// collect adds the subscribers of l that get m. allowed says whether a member of a
// group may read it.
func (l *subscribers) collect(into []target, m *Message, merge map[*Session]int, allowed func(*Session) bool) []target {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range l.list {
		into = gather(into, merge, m, l.list[i])
	}
	for _, g := range l.groups {
		if member, ok := g.pick(m, allowed); ok {
			// A copy of its own for each group, in addition to that of the session's other
			// subscriptions (MQTT 5 §4.8.2): a group that shares work out would lose an item.
			into = gather(into, nil, m, member)
			into[len(into)-1].group = g
		}
	}
	return into
}

// gather adds a subscriber, or joins it with an earlier subscription of its session:
// one copy with the highest QoS [MQTT-3.3.4-2], all identifiers [MQTT-3.3.4-3], and
// the RETAIN flag as published where one of them asks for that. A subscription with
// No Local has no part in what its own client publishes [MQTT-3.8.3-3]. merge is nil
// where no session can come twice.
func gather(into []target, merge map[*Session]int, m *Message, one subscriber) []target {
	s, sub := one.session, one.sub
	if sub.NoLocal && m.Origin == s.ID {
		return into
	}
	if merge != nil {
		if at, ok := merge[s]; ok {
			t := &into[at]
			t.qos = max(t.qos, sub.QoS)
			t.asPublished = t.asPublished || sub.RetainAsPublished
			if sub.Identifier > 0 {
				t.identifiers = append(t.identifiers, sub.Identifier)
			}
			return into
		}
		merge[s] = len(into)
	}
	t := target{session: s, qos: sub.QoS, asPublished: sub.RetainAsPublished}
	if sub.Identifier > 0 {
		t.identifiers = []int{sub.Identifier}
	}
	return append(into, t)
}
