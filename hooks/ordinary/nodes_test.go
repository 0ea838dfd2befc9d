package ordinary

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// network connects Hubs as the nodes of a cluster do, without a wire.
type network struct {
	hubs    []*Hub
	nodes   map[[2]int]*Node // of the first as the second has it
	sent    []string
	encoded []Message // what is encoded is a place in it
}

func newNetwork(t *testing.T, n int) *network {
	t.Helper()
	w := &network{nodes: map[[2]int]*Node{}}
	for i := range n {
		h, c := hubAt(Options{})
		h.Share(Sharing{Now: c.time, Encode: w.encode, Wanted: func(filter string, wanted bool) {
			for j := range n {
				node := w.nodes[[2]int{i, j}]
				switch {
				case node == nil:
				case wanted:
					node.Want([]string{filter}, nil)
				default:
					node.Want(nil, []string{filter})
				}
			}
		}})
		w.hubs = append(w.hubs, h)
	}
	for i := range n {
		for j := range n {
			if i != j {
				w.connect(i, j)
			}
		}
	}
	return w
}

func (w *network) encode(m *Message) []byte {
	w.encoded = append(w.encoded, *m)
	return fmt.Append(nil, len(w.encoded)-1)
}

// connect makes hub i known to hub j.
func (w *network) connect(i, j int) {
	w.nodes[[2]int{i, j}] = w.hubs[j].Join(func(encoded []byte) {
		place, err := strconv.Atoi(string(encoded))
		if err != nil {
			panic(err)
		}
		m := w.encoded[place]
		w.sent = append(w.sent, fmt.Sprintf("%d→%d %s", j, i, m.TopicName))
		if m.Quiet {
			w.hubs[i].Learn(&m)
			return
		}
		w.hubs[i].Relayed(&m)
	})
}

func retain(t *testing.T, h *Hub, topicName, payload string) {
	t.Helper()
	if _, err := h.Publish(&Message{TopicName: topicName, Payload: []byte(payload), Retain: true}); err != nil {
		t.Fatal(err)
	}
}

func retainedOf(h *Hub) map[string]string {
	all := map[string]string{}
	for m, at := h.NextRetained(""); at != ""; m, at = h.NextRetained(at) {
		if m != nil {
			all[m.TopicName] = string(m.Payload)
		}
	}
	return all
}

// TestMessageToOtherNodes: a message goes once to each node with a client that wants it, and
// from there to nobody else.
func TestMessageToOtherNodes(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, 3)
	near, nearLink := join(w.hubs[0], "near")
	far, farLink := join(w.hubs[1], "far")
	subscribeTo(t, w.hubs[0], near, nearLink, "a/b", 0)
	for _, f := range []string{"a/#", "a/+", "a/b", "$share/g/a/b"} {
		subscribeTo(t, w.hubs[1], far, farLink, f, 0)
	}
	publishTo(t, w.hubs[0], "a/b", 0)
	if got := strings.Join(w.sent, ", "); got != "0→1 a/b" {
		t.Errorf("sent: %s", got)
	}
	if n := strings.Count(filled(far, farLink), "a/b"); n != 2 { // one of its own subscriptions, one of the group
		t.Errorf("%d copies at the other node", n)
	}
	if n := strings.Count(filled(near, nearLink), "a/b"); n != 1 {
		t.Errorf("%d copies at the node itself", n)
	}
	publishTo(t, w.hubs[0], "$SYS/broker/uptime", 0)
	publishTo(t, w.hubs[0], "c", 0)
	for _, f := range []string{"a/#", "a/+", "a/b"} {
		w.hubs[1].Unsubscribe(far, farLink, []string{f})
	}
	publishTo(t, w.hubs[0], "a/b", 0) // the group still wants it
	w.hubs[1].End("far")
	publishTo(t, w.hubs[0], "a/b", 0)
	if len(w.sent) != 2 {
		t.Errorf("sent: %v", w.sent)
	}
	if x := w.hubs[0].others.filters.root; len(x.children) > 0 {
		t.Error("a filter that nobody wants any more is left")
	}
}

// TestRetainedAtAllNodes: every node has every retained message, and of two for a topic the
// later one, in whatever order they come.
func TestRetainedAtAllNodes(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, 2)
	retain(t, w.hubs[0], "a", "1")
	retain(t, w.hubs[1], "b", "1")
	retain(t, w.hubs[1], "a", "2") // at the clock's same moment, and after the other has been seen
	retain(t, w.hubs[0], "c", "1")
	retain(t, w.hubs[1], "c", "")
	for i, h := range w.hubs {
		if got := fmt.Sprint(retainedOf(h)); got != "map[a:2 b:1]" {
			t.Errorf("node %d: %s", i, got)
		}
	}

	// The nodes are cut off from each other, and meet again.
	for _, n := range w.nodes {
		n.Leave()
	}
	retain(t, w.hubs[0], "a", "")
	retain(t, w.hubs[1], "b", "2")
	retain(t, w.hubs[1], "d", "1")
	for _, pair := range [][2]int{{0, 1}, {1, 0}} {
		for _, m := range w.hubs[pair[0]].Removed() {
			w.hubs[pair[1]].Learn(m)
		}
		for m, at := w.hubs[pair[0]].NextRetained(""); at != ""; m, at = w.hubs[pair[0]].NextRetained(at) {
			if m != nil {
				x := *m
				w.hubs[pair[1]].Learn(&x)
			}
		}
	}
	for i, h := range w.hubs {
		if got := fmt.Sprint(retainedOf(h)); got != "map[b:2 d:1]" {
			t.Errorf("node %d after the cut: %s", i, got)
		}
	}
	w.connect(0, 1)
	w.connect(1, 0)
	retain(t, w.hubs[1], "a", "3")
	if got := fmt.Sprint(retainedOf(w.hubs[0])); got != "map[a:3 b:2 d:1]" {
		t.Errorf("after another: %s", got)
	}
}

// TestSessionMoves: a client that connects at another node finds its session there, with its
// subscriptions and all that waits, in order; the former node has nothing of it any more.
func TestSessionMoves(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, 2)
	s, link := join(w.hubs[0], "c", keptFor(100))
	subscribeTo(t, w.hubs[0], s, link, "t/+", 1)
	for i := range 3 {
		publishTo(t, w.hubs[0], fmt.Sprint("t/", i), 1)
	}
	now := w.hubs[0].sharedNow()
	if _, ok := w.hubs[0].Release("c", "another account", now, false); ok || link.closed {
		t.Fatal("another account has taken the session")
	}
	if _, ok := w.hubs[0].Release("c", "c", now.Add(-clockSlack-1), false); ok || link.closed {
		t.Fatal("a much earlier connection has taken the session")
	}
	st, ok := w.hubs[0].Release("c", "c", now, false)
	if !ok || !link.closed {
		t.Fatalf("released %v, closed %v", ok, link.closed)
	}
	if _, again := w.hubs[0].Release("c", "c", now, false); again {
		t.Error("a session that has gone is there")
	}
	for i := range st.Outgoing {
		st.Outgoing[i].Order = 0
	}
	w.hubs[1].Import(st)
	link = &testLink{}
	s, present := w.hubs[1].Connect(Arrival{ID: "c", Account: "c", Kept: true, Expiry: 100, Link: link, Peer: Peer{Version: 5, ReceiveMaximum: 100}})
	if !present {
		t.Fatal("no session")
	}
	publishTo(t, w.hubs[0], "t/3", 1)
	got := filled(s, link)
	var places []int
	for i := range 4 {
		places = append(places, strings.Index(got, fmt.Sprint("t/", i)))
	}
	if places[0] < 0 || !slices.IsSorted(places) {
		t.Errorf("the messages are at %v of what comes", places)
	}
	if st, ok := w.hubs[1].Export("c"); !ok || len(st.Outgoing) != 4 || st.Outgoing[0].Message.TopicName != "t/0" || st.Outgoing[3].Message.TopicName != "t/3" {
		t.Errorf("the next move would take %+v", st.Outgoing)
	}
	if n := w.hubs[0].Stats().Sessions; n != 0 {
		t.Errorf("%d sessions at the former node", n)
	}
}

// TestPublishDuringImport: a message that is published while a session comes from another server
// follows the messages that the session had there. Publishers find the session when it is whole.
func TestPublishDuringImport(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	h.Share(Sharing{Now: h.opts.Now, Wanted: func(string, bool) { publishTo(t, h, "t/after", 1) }})
	h.Import(State{
		Header:        Header{ID: "c", Account: "c", Version: 5, Expiry: 1000, Gone: h.opts.Now().Unix()},
		Subscriptions: map[string]Subscription{"t/#": {QoS: 1}},
		Outgoing:      []Outgoing{{PacketID: 7, QoS: 1, Message: &Message{TopicName: "t/before", QoS: 1}}},
	})
	s, link := join(h, "c", keptFor(1000), func(a *Arrival) { a.Clean = false })
	got := filled(s, link)
	if before, after := strings.Index(got, "t/before"), strings.Index(got, "t/after"); before < 0 || after < before {
		t.Errorf("got %q", got)
	}
}
