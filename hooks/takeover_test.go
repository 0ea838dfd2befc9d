package hooks_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// session connects a client whose session stays, subscribed to n.
func (s *site) session() *rawmqtt.Client {
	s.Helper()
	c := s.connect(5, rawmqtt.Connect{ID: "c", SessionExpiry: 3600})
	_, err := c.Subscribe(1, 2, "n")
	must(s.T, err)
	return c
}

func (s *site) again(o rawmqtt.Connect) *rawmqtt.Client {
	s.Helper()
	o.ID, o.SessionExpiry = "c", 3600
	return s.connect(5, o)
}

// silent says that nothing is on its way to c.
func silent(t *testing.T, c *rawmqtt.Client) {
	t.Helper()
	must(t, c.Ping())
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("got %+v %q", pk.FixedHeader, pk.Payload)
	}
}

// TestTakeoverOrder: in-flight messages come in the order in which they came first,
// and the PUBRELs in that of the PUBRECs [MQTT-4.6.0-3] [MQTT-4.6.0-6]. mochi knows
// the second of each alone.
func TestTakeoverOrder(t *testing.T) {
	s := newSite(t)
	c := s.session()
	var all []string
	for i := range 20 {
		all = append(all, fmt.Sprintf("%d twice", i))
	}
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", all...)
	ids := map[string]uint16{}
	for range all {
		pk := next(t, c)
		ids[string(pk.Payload)] = pk.PacketID
	}
	var wantRel, gotRel []uint16
	for _, i := range []int{7, 3, 5, 1} {
		wantRel = append(wantRel, ids[all[i]])
		must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: ids[all[i]]}))
		next(t, c) // PUBREL
	}
	c = s.again(rawmqtt.Connect{})
	var want, got []string
	for i, p := range all {
		if !slices.Contains([]int{7, 3, 5, 1}, i) {
			want = append(want, p)
		}
	}
	for range all {
		switch pk := next(t, c); pk.FixedHeader.Type {
		case packets.Publish:
			got = append(got, string(pk.Payload))
		case packets.Pubrel:
			gotRel = append(gotRel, pk.PacketID)
		}
	}
	if !slices.Equal(got, want) || !slices.Equal(gotRel, wantRel) {
		t.Errorf("got %q and PUBRELs %v, want %q and %v", got, gotRel, want, wantRel)
	}
}

// TestTakeoverCleanStart: a new session gets nothing of the old one.
func TestTakeoverCleanStart(t *testing.T) {
	s := newSite(t)
	s.session()
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", "0")
	c := s.again(rawmqtt.Connect{Clean: true})
	silent(t, c)
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", "1")
	silent(t, c)
	if st := s.hub.Stats(); st.Inflight != 0 || st.Subscriptions != 0 {
		t.Errorf("left of the old session: %+v", st)
	}
}

// TestTakeoverTooLarge: a message that the client does not take any more does not
// keep it from connecting, and is over.
func TestTakeoverTooLarge(t *testing.T) {
	s := newSite(t)
	s.session()
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", strings.Repeat("x", 200), "small")
	if n := s.hub.Stats().Inflight; n != 2 {
		t.Fatalf("%d in flight", n)
	}
	c := s.again(rawmqtt.Connect{MaximumPacketSize: 100})
	if pk := next(t, c); string(pk.Payload) != "small" {
		t.Errorf("got %q", pk.Payload)
	}
	silent(t, c)
	if n := s.hub.Stats().TooLarge; n != 1 {
		t.Errorf("%d counted", n)
	}
}

// TestLost: a connection that ended in a panic takes its device's channel down.
func TestLost(t *testing.T) {
	s := newSite(t)
	s.connect(5, rawmqtt.Connect{ID: "other", Clean: true})
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	events := s.subscribe()
	s.notify(delivery.Request{Account: "anna"})
	next(t, c)
	cl, _ := s.server.Clients.Get("phone")
	var calls sync.WaitGroup // mochi's own goroutine ends the connection, too
	for range 4 {
		calls.Go(func() { s.hook.Lost(cl.Net.Conn) })
	}
	calls.Wait()
	if e := s.until(events, delivery.EventChannelLost); !strings.Contains(e.Detail, "a fault of the server") {
		t.Errorf("detail %q", e.Detail)
	}
	if n := s.hook.Connections(); n != 1 || !cl.Closed() {
		t.Errorf("%d connections, closed: %v", n, cl.Closed())
	}
}

// TestLateSubscribeOfTheOldConnection: a SUBSCRIBE that is still being handled when
// its connection has been taken over does not take the channel from the new one.
func TestLateSubscribeOfTheOldConnection(t *testing.T) {
	s := newSite(t)
	goOn := make(chan struct{})
	old := s.connect(5, rawmqtt.Connect{ID: "phone", Username: "anna", SessionExpiry: 60})
	s.store.slow.Store(&goOn)
	must(t, old.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: topicOf("phone", "notifications"), Qos: 1}},
	}))
	<-s.store.held

	dev := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", SessionExpiry: 60})
	close(goOn)
	for s.hook.Connections() > 1 {
		runtime.Gosched()
	}
	n := s.notify(delivery.Request{Account: "anna"})
	if p := pseudo(t, next(t, dev)); p.ID != n.ID {
		t.Errorf("got %s, want %s", p.ID, n.ID)
	}
}

// A device that has connected to another node loses its connection here: MQTT 5 says why,
// and nothing more is published on it.
func TestReplacedByAnotherNode(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		c := s.device(version, rawmqtt.Connect{ID: "phone", Username: "ann", Clean: true})
		elsewhere := &elsewhere{}
		_, err := s.core.Online(delivery.OnlineInfo{Device: "phone", Account: "ann", Channel: elsewhere})
		must(t, err)
		pk, err := c.Read(5 * time.Second)
		if version == 5 {
			must(t, err)
			if pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrSessionTakenOver.Code {
				t.Errorf("got %+v 0x%02x, want a DISCONNECT 0x8E", pk.FixedHeader, pk.ReasonCode)
			}
			_, err = c.Read(5 * time.Second)
		}
		if err == nil {
			t.Error("the connection goes on")
		}
	}
}

// elsewhere is a channel at another node.
type elsewhere struct{}

func (*elsewhere) Publish(delivery.Publication) error { return nil }
func (*elsewhere) Closed() bool                       { return false }

// TestLateConnect: where logins take long, the session goes to the CONNECT that came last,
// whichever login ends last.
func TestLateConnect(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	s := newSite(t, func(o *hooks.Options) {
		o.Authenticate = func(_ context.Context, c auth.Credentials) (auth.Identity, error) {
			if string(c.Password) == "slow" {
				close(asked)
				<-release
			}
			return auth.Identity{Account: c.Username}, nil
		}
	})
	watch := s.connect(5, rawmqtt.Connect{ID: "watch", Username: "anna", Clean: true})
	_, err := watch.Subscribe(1, 0, "will")
	must(t, err)
	earlier := dial(t, s.address, 5)
	refused := make(chan packets.Packet, 1)
	go func() {
		pk, _ := earlier.Connect(rawmqtt.Connect{ID: "c", Username: "anna", Password: "slow", Clean: true, Keepalive: 60})
		refused <- pk
	}()
	<-asked
	later := s.connect(5, rawmqtt.Connect{ID: "c", Username: "anna", Clean: true, WillTopic: "will", WillPayload: "gone"})
	close(release)
	if pk := <-refused; pk.ReasonCode != packets.ErrServerUnavailable.Code {
		t.Errorf("the earlier CONNECT was answered with 0x%02x", pk.ReasonCode)
	}
	silent(t, later)
	silent(t, watch)
}
