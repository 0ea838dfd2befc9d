package ordinary

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// This file is for several servers that share the topics of ordinary MQTT. Each knows the
// filters that clients of the others have, and passes each message once to every server with
// a filter that matches. Retained messages go to all servers, so that each has all of them. Of
// two for one topic the later one stays, at every server.

// Node is another server that shares the topics with this one.
type Node struct {
	hub  *Hub
	send func(encoded []byte)
	in   *Session // its place in the index of the filters of other nodes

	mu      sync.Mutex
	filters map[string]struct{}
	left    bool
}

// Sharing is what a server needs to be one of several. Its functions return at once and call
// nothing of the Hub.
type Sharing struct {
	// Wanted hears of each filter that the first client subscribes to, or that the last has
	// left.
	Wanted func(filter string, wanted bool)
	// Encode returns a message as Node.send gets it. It is called once for all servers.
	Encode func(*Message) []byte
	// Now is a time that all servers have in common, about.
	Now func() time.Time
}

// others are the other servers.
type others struct {
	sharing *Sharing // nil: this server is alone
	filters index
	count   atomic.Int64

	mu  sync.RWMutex
	all map[*Node]struct{}
}

// Share makes this one of several servers. Call it before anything else.
func (h *Hub) Share(s Sharing) {
	h.others.sharing, h.others.all = &s, map[*Node]struct{}{}
	h.retained.removed, h.retained.server = &removals{}, rand.Int64N(stampStep)
}

// subscribe adds a subscription to the index, and reports whether it is new.
func (h *Hub) subscribe(filter string, s *Session, sub Subscription) bool {
	isNew, first := h.index.add(filter, s, sub)
	if isNew {
		h.counters.subscriptions.Add(1)
	}
	if first {
		h.tellWanted(filter)
	}
	return isNew
}

// unsubscribe removes a subscription from the index, and reports whether there was one.
func (h *Hub) unsubscribe(filter string, s *Session) bool {
	had, last := h.index.remove(filter, s)
	if had {
		h.counters.subscriptions.Add(-1)
	}
	if last {
		h.tellWanted(filter)
	}
	return had
}

// tellWanted tells whether a filter has subscribers. The index is asked under the lock of
// the telling: of two that change it at once, the last one tells how it is.
func (h *Hub) tellWanted(filter string) {
	if h.others.sharing == nil {
		return
	}
	_, inner := SplitShare(filter)
	h.others.mu.Lock()
	defer h.others.mu.Unlock()
	h.others.sharing.Wanted(inner, h.index.has(inner))
}

// Join takes in another server. send gets each message for it, in the order of each topic, as
// Sharing.Encode returns it; it returns at once, calls nothing of the Hub, and does not change
// its argument.
func (h *Hub) Join(send func(encoded []byte)) *Node {
	n := &Node{hub: h, send: send, filters: map[string]struct{}{}}
	n.in = &Session{node: n}
	h.others.mu.Lock()
	h.others.all[n] = struct{}{}
	h.others.mu.Unlock()
	h.others.count.Add(1)
	return n
}

// Want says which filters clients of the server have now, and which nobody there has any
// more.
func (n *Node) Want(filters, gone []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left {
		return
	}
	for _, f := range filters {
		if _, had := n.filters[f]; !had {
			n.filters[f] = struct{}{}
			n.hub.others.filters.add(f, n.in, Subscription{})
		}
	}
	for _, f := range gone {
		if _, had := n.filters[f]; had {
			delete(n.filters, f)
			n.hub.others.filters.remove(f, n.in)
		}
	}
}

// Leave ends it: the server gets nothing any more.
func (n *Node) Leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left {
		return
	}
	n.left = true
	for f := range n.filters {
		n.hub.others.filters.remove(f, n.in)
	}
	n.filters = nil
	o := &n.hub.others
	o.mu.Lock()
	delete(o.all, n)
	o.mu.Unlock()
	o.count.Add(-1)
}

// Relayed publishes a message that has been published at another server, to this server's
// clients. It waits for no receiver.
func (h *Hub) Relayed(m *Message) {
	m.relayed = true
	_, _ = h.Publish(m) // what bounds messages was asked where it was published
}

// Learn takes in a retained message that another server has had for a while, or a removal,
// unless there is a later one. Clients that have subscribed already do not get it.
func (h *Hub) Learn(m *Message) {
	m.relayed = true
	l := h.topicLock(m.TopicName)
	l.Lock()
	defer l.Unlock()
	if _, changed := h.retained.set(m, h.sharedNow()); changed {
		h.opts.Journal.Retained(m.Account, m.TopicName)
	}
}

// NextRetained returns the retained message of the first topic behind a place in the order of
// topics, and its place, for a server that has just joined; "" is before all. A nil message: of
// that topic there is none any more. at "": it was the last.
func (h *Hub) NextRetained(after string) (m *Message, at string) {
	looks := looksAtOnce
	key, ok := h.retained.next(allTopics, after, &looks)
	if !ok {
		return nil, ""
	}
	topicName := nameOf(key)
	l := h.topicLock(topicName)
	l.Lock()
	defer l.Unlock()
	return h.read(topicName), key
}

// Removed returns the removals of retained messages of the last hour that are remembered, for a
// server that has just joined and may have the messages.
func (h *Hub) Removed() []*Message {
	r := h.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed.messages()
}

// sharedNow is the time that orders what several servers do.
func (h *Hub) sharedNow() time.Time {
	if h.others.sharing == nil {
		return h.opts.Now()
	}
	return h.others.sharing.Now()
}

// after reports whether the session's last connection began after a time.
func (s *Session) after(at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun.After(at)
}

// forward passes a message on to the other servers. The topic's lock is held.
func (h *Hub) forward(m *Message) {
	o := &h.others
	if m.relayed || ofServer(m.TopicName) || o.count.Load() == 0 {
		return
	}
	if m.Retain {
		encoded := o.sharing.Encode(m)
		o.mu.RLock()
		defer o.mu.RUnlock()
		for n := range o.all {
			n.send(encoded)
		}
		return
	}
	d := deliveries.Get().(*delivery)
	defer d.recycle()
	d.lists = o.filters.match(d.lists, m.TopicName)
	for _, l := range d.lists {
		d.targets = l.collect(d.targets, m, d.merge, nil)
	}
	if len(d.targets) == 0 {
		return
	}
	encoded := o.sharing.Encode(m)
	for i := range d.targets {
		d.targets[i].session.node.send(encoded)
	}
}

// clockSlack is how much the times of two servers may differ.
const clockSlack = 2 * time.Second

// Release takes the session of a client out that connected at another server at a time, and
// ends its connection here as a connection at this server would. clean: the client does not
// continue it (Clean Start), so that it ends. ok: there was one that is to be continued there.
// A session of another account stays, and so does one whose client connected here later by
// more than clockSlack: the other server has asked long ago.
func (h *Hub) Release(id, account string, at time.Time, clean bool) (st State, ok bool) {
	s := h.session(id)
	if s == nil || s.Account != account || s.after(at.Add(clockSlack)) {
		return State{}, false
	}
	now := h.opts.Now().Unix()
	if clean || !s.continues(now) { // its will is sent, also one with a delay: MQTT 5 §3.1.4
		h.forget(s)
		return State{}, false
	}
	h.leave(s, math.MaxUint64)
	if st, ok = h.Export(id); ok {
		s.mu.Lock()
		s.moved = true
		s.mu.Unlock()
	}
	h.forget(s)
	if st.Gone == 0 {
		st.Gone = now
	}
	return st, ok
}
