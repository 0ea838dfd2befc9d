package broker

import (
	"log/slog"
	"net"
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

// TestNodeLeaves: nothing of a node is left when its Session has ended, also where Joined is
// called only then.
func TestNodeLeaves(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	mesh := func(name string) (*relay.Mesh, joins, string) {
		j := joins{newSharedTopics(ordinary.New(ordinary.Options{}), "heartline", time.Now, log), make(chan *relay.Session, 1)}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m := relay.NewMesh(relay.Options{Name: name, Address: l.Addr().String(), Local: noAccounts{}, Topics: j, Patience: time.Minute, Log: log})
		m.Serve(l)
		t.Cleanup(func() {
			m.Close()
			j.close()
		})
		return m, j, l.Addr().String()
	}
	a, one, addressA := mesh("a")
	b, two, addressB := mesh("b")
	members := []relay.Member{{ID: 1, Name: "a", Address: addressA}, {ID: 2, Name: "b", Address: addressB}}
	a.Begin(1)
	b.Begin(2)
	a.Update(members)
	b.Update(members)
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
	a.End()
	gone()
	one.sharedTopics.Joined(s)
	gone()
}
