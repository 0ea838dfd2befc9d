package broker

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// noAccounts is a node that serves no accounts.
type noAccounts struct{ relay.Local }

func (noAccounts) OnUp(*relay.Session)   {}
func (noAccounts) OnDown(*relay.Session) {}

// joins passes on to sharedTopics, and tells of the Sessions.
type joins struct {
	*sharedTopics
	sessions chan *relay.Session
}

func (j joins) Joined(s *relay.Session) {
	j.sharedTopics.Joined(s)
	j.sessions <- s
}

// meshed is a node with ordinary MQTT, as the tests see it.
type meshed struct {
	joins
	mesh *relay.Mesh
}

// twoNodes makes two nodes that meet after prepare has been called.
func twoNodes(t *testing.T, prepare func(a, b *ordinary.Hub)) (a, b meshed) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	make1 := func(name string) (n meshed, address string) {
		n.joins = joins{newSharedTopics(ordinary.New(ordinary.Options{}), "heartline", time.Now, log), make(chan *relay.Session, 1)}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.mesh = relay.NewMesh(relay.Options{Name: name, Address: l.Addr().String(), Local: noAccounts{}, Topics: n.joins, Patience: time.Minute, Log: log})
		n.mesh.Serve(l)
		t.Cleanup(func() {
			n.mesh.Close()
			n.close()
		})
		return n, l.Addr().String()
	}
	a, addressA := make1("a")
	b, addressB := make1("b")
	prepare(a.hub, b.hub)
	members := []relay.Member{{ID: 1, Name: "a", Address: addressA}, {ID: 2, Name: "b", Address: addressB}}
	a.mesh.Begin(1)
	b.mesh.Begin(2)
	a.mesh.Update(members)
	b.mesh.Update(members)
	return a, b
}

// TestNodeLeaves: nothing of a node is left when its Session has ended, also where Joined is
// called only then.
func TestNodeLeaves(t *testing.T) {
	one, two := twoNodes(t, func(_, _ *ordinary.Hub) {})
	s := <-one.sessions
	<-two.sessions
	if n := one.of(s); n == nil {
		t.Fatal("the node is not known")
	}
	gone := func() {
		t.Helper()
		for one.of(s) != nil {
			time.Sleep(time.Millisecond)
		}
	}
	one.mesh.End()
	gone()
	one.sharedTopics.Joined(s)
	gone()
}

// nowhere is a connection that takes nothing.
type nowhere struct{}

func (nowhere) Wake()  {}
func (nowhere) Close() {}

// TestNodesTellAllFilters: nodes that meet tell each other of all their clients' filters and
// retained messages, also where the filters together are more than waits for a node at a time,
// and where one message alone is.
func TestNodesTellAllFilters(t *testing.T) {
	const filters, more = 300, 17 << 20 // than the 16 MiB that wait at a time
	filter := func(i int) string { return fmt.Sprintf("%03d", i) + strings.Repeat("f", 60_000) }
	one, two := twoNodes(t, func(a, b *ordinary.Hub) {
		link := nowhere{}
		s, _ := a.Connect(ordinary.Arrival{ID: "c", Account: "mallory", Clean: true, Link: link, Peer: ordinary.Peer{Version: 5, ReceiveMaximum: 10}})
		for i := range filters {
			a.Subscribe(s, link, []ordinary.Ask{{Filter: filter(i), Subscription: ordinary.Subscription{QoS: 1, RetainHandling: 2}}}, true)
		}
		for topicName, size := range map[string]int{"a": more, "b": 1} {
			if _, err := b.Publish(&ordinary.Message{TopicName: topicName, Payload: make([]byte, size), Retain: true}); err != nil {
				t.Fatal(err)
			}
		}
	})
	<-one.sessions
	<-two.sessions
	patience := time.After(time.Minute)
	wait := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-patience:
				t.Fatal("never: ", what)
			case <-time.After(time.Millisecond):
			}
		}
	}
	for i := range filters {
		wait(fmt.Sprint("filter ", i), func() bool {
			before := two.forwarded.Load()
			if _, err := two.hub.Publish(&ordinary.Message{TopicName: filter(i), QoS: 1}); err != nil {
				t.Fatal(err)
			}
			return two.forwarded.Load() > before
		})
	}
	wait("the small retained message", func() bool { return one.hub.Stats().Retained == 1 })
}
