package broker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/seldom"
)

// sharedTopics shares ordinary MQTT with the other nodes of a cluster. It runs two goroutines
// for each node until the Session with it ends; close waits for them.
type sharedTopics struct {
	hub    *ordinary.Hub
	prefix string           // topics below it are no ordinary ones
	now    func() time.Time // the same at all nodes, about
	log    *slog.Logger
	logs   seldom.Log // of each client that connects

	forwarded, received, dropped, moved atomic.Int64

	mu     sync.Mutex
	wanted map[string]struct{} // filters of this node's clients
	nodes  map[*relay.Session]*topicNode
	ended  bool
	tasks  sync.WaitGroup
}

var _ relay.Topics = (*sharedTopics)(nil)

// topicNode is another node.
type topicNode struct {
	t    *sharedTopics
	s    *relay.Session
	node *ordinary.Node
	wake chan struct{} // there is something to send
	news chan struct{} // there is something in inbox

	// changes is what the other node does not know of the filters: whether they are wanted.
	changes map[string]bool // topics.mu

	mu    sync.Mutex
	inbox []*relay.Message
	bytes int

	publishing sync.Mutex // held while messages of the inbox are published
}

// maxInbox bounds the messages of another node that wait to be published here, in bytes.
const maxInbox = 16 << 20

func newSharedTopics(hub *ordinary.Hub, prefix string, now func() time.Time, log *slog.Logger) *sharedTopics {
	t := &sharedTopics{hub: hub, prefix: prefix + "/", now: now, log: log, wanted: map[string]struct{}{}, nodes: map[*relay.Session]*topicNode{}}
	hub.Share(ordinary.Sharing{Wanted: t.want, Now: now, Encode: func(m *ordinary.Message) []byte { return relayMessage(m).Encode() }})
	return t
}

// want hears of a filter that clients of this node want, or do not want any more.
func (t *sharedTopics) want(filter string, wanted bool) {
	if strings.HasPrefix(filter, t.prefix) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if wanted {
		t.wanted[strings.Clone(filter)] = struct{}{}
	} else {
		delete(t.wanted, filter)
	}
	for _, n := range t.nodes {
		n.changes[filter] = wanted
		n.poke()
	}
}

// Joined implements relay.Topics.
func (t *sharedTopics) Joined(s *relay.Session) {
	n := &topicNode{t: t, s: s, wake: make(chan struct{}, 1), news: make(chan struct{}, 1), changes: map[string]bool{}}
	n.node = t.hub.Join(n.send)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		n.node.Leave()
		return
	}
	for filter := range t.wanted {
		n.changes[filter] = true
	}
	t.nodes[s] = n
	t.tasks.Go(n.tell)
	t.tasks.Go(n.publish)
}

// leave forgets a node whose Session has ended.
func (n *topicNode) leave() {
	n.t.mu.Lock()
	delete(n.t.nodes, n.s)
	n.t.mu.Unlock()
	n.node.Leave()
}

// close waits for the goroutines, after the relays have ended.
func (t *sharedTopics) close() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.tasks.Wait()
}

func (t *sharedTopics) of(s *relay.Session) *topicNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[s]
}

// OnFilters implements relay.Topics.
func (t *sharedTopics) OnFilters(s *relay.Session, f *relay.Filters) {
	if n := t.of(s); n != nil {
		n.node.Want(f.Wanted, f.Gone)
	}
}

// OnMessage implements relay.Topics. Publishing may read a retained message from a disk, so
// that the relay does not wait for it.
func (t *sharedTopics) OnMessage(s *relay.Session, m *relay.Message) {
	n := t.of(s)
	if n == nil {
		return
	}
	size := len(m.TopicName) + len(m.Payload)
	n.mu.Lock()
	full := n.bytes+size > maxInbox
	if !full {
		n.inbox = append(n.inbox, m)
		n.bytes += size
	}
	n.mu.Unlock()
	if full {
		t.dropped.Add(1)
		return
	}
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// publish takes messages from the inbox until the Session ends.
func (n *topicNode) publish() {
	for {
		select {
		case <-n.news:
		case <-n.s.Ended():
			return
		}
		n.publishInbox()
	}
}

func (n *topicNode) publishInbox() {
	n.publishing.Lock()
	defer n.publishing.Unlock()
	n.mu.Lock()
	inbox := n.inbox
	n.inbox, n.bytes = nil, 0
	n.mu.Unlock()
	for _, m := range inbox {
		n.t.received.Add(1)
		if m.Known {
			n.t.hub.Learn(ordinaryMessage(m))
		} else {
			n.t.hub.Relayed(ordinaryMessage(m))
		}
	}
}

// send passes a message on to the node. One that does not fit is lost to its clients, as
// between two brokers and a bridge.
func (n *topicNode) send(encoded []byte) {
	if n.s.Message(encoded) == nil {
		n.t.forwarded.Add(1)
	} else {
		n.t.dropped.Add(1)
	}
}

func (n *topicNode) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

const (
	// filtersAtOnce and filterBytesAtOnce bound one frame: a filter can have 64 KB, and a frame that is
	// larger than a relay's queue is never sent.
	filtersAtOnce     = 1000
	filterBytesAtOnce = 1 << 20
	// fullPause is the pause where too much waits to be sent to a node.
	fullPause = 50 * time.Millisecond
)

// tell tells the node of the filters here, first of all, of retained messages that were
// removed and of those that there are. It goes on with changes of the filters until the
// Session ends, and then leaves.
func (n *topicNode) tell() {
	defer n.leave()
	place, told := "", false
	removed := n.t.hub.Removed()
	for {
		wait := false
		f := n.take()
		switch {
		case f != nil:
			if wait = n.s.Filters(f) != nil; wait {
				n.putBack(f)
			}
		case len(removed) > 0:
			if wait = !n.sendKnown(removed[0]); !wait {
				removed = removed[1:]
			}
		case !told:
			m, next := n.t.hub.NextRetained(place)
			if wait = m != nil && !n.sendKnown(m); !wait {
				place, told = next, next == ""
			}
		default:
			select {
			case <-n.wake:
			case <-n.s.Ended():
				return
			}
		}
		if !wait {
			select {
			case <-n.s.Ended():
				return
			default:
				continue
			}
		}
		select {
		case <-time.After(fullPause):
		case <-n.s.Ended():
			return
		}
	}
}

// sendKnown sends a retained message, or a removal, from before the Session, and reports whether
// it fits now. One that can never fit stays at this node.
func (n *topicNode) sendKnown(m *ordinary.Message) bool {
	x := relayMessage(m)
	x.Known = true
	encoded := x.Encode()
	if relay.TooLarge(encoded) {
		n.t.dropped.Add(1)
		return true
	}
	return n.s.Message(encoded) == nil
}

// take returns changes that the node does not know of; nil: it knows all.
func (n *topicNode) take() *relay.Filters {
	n.t.mu.Lock()
	defer n.t.mu.Unlock()
	if len(n.changes) == 0 {
		return nil
	}
	f := &relay.Filters{}
	bytes := 0
	for filter, wanted := range n.changes {
		if len(f.Wanted)+len(f.Gone) == filtersAtOnce || bytes >= filterBytesAtOnce {
			break
		}
		bytes += len(filter)
		if delete(n.changes, filter); wanted {
			f.Wanted = append(f.Wanted, filter)
		} else {
			f.Gone = append(f.Gone, filter)
		}
	}
	return f
}

// putBack makes changes that could not be sent known again, as they are now.
func (n *topicNode) putBack(f *relay.Filters) {
	n.t.mu.Lock()
	defer n.t.mu.Unlock()
	for _, all := range [][]string{f.Wanted, f.Gone} {
		for _, filter := range all {
			_, n.changes[filter] = n.t.wanted[filter]
		}
	}
}

// takePatience bounds how long a CONNECT waits for other nodes to give a session up. A session whose
// node answers later is lost: its client has been told that there is none.
const takePatience = 5 * time.Second

// takeSession brings the session of a client that connects here from whichever node has it, and
// ends the connection that the client has there. keep: it is to be continued.
func (t *sharedTopics) takeSession(client, account string, keep bool) {
	t.mu.Lock()
	var all []*relay.Session
	for s := range t.nodes {
		all = append(all, s)
	}
	t.mu.Unlock()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), takePatience)
	defer cancel()
	at := t.now()
	states := make(chan *relay.SessionState, len(all))
	for _, s := range all {
		go func() {
			state, err := s.TakeSession(ctx, client, account, at, !keep)
			if err != nil {
				t.logs.Warn(t.log, "another node was not heard to give up a client's session, its client may have two connections", "client", client, "node", s.Peer().Name, "error", err)
			}
			states <- state
		}()
	}
	for range all {
		state := <-states
		if state == nil || !keep {
			continue
		}
		if _, here := t.hub.Holder(client); !here {
			t.hub.Import(sessionOf(client, account, state))
			t.moved.Add(1)
		}
	}
}

// OnTakeSession implements relay.Topics. What the node has published before is in the session
// when it goes.
func (t *sharedTopics) OnTakeSession(s *relay.Session, client, account string, at time.Time, clean bool) *relay.SessionState {
	if n := t.of(s); n != nil {
		n.publishInbox()
	}
	state, ok := t.hub.Release(client, account, at, clean)
	if !ok {
		return nil
	}
	return stateOf(&state)
}
