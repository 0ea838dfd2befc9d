package hooks_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// heavy is the payload of a message of which four are in flight at most.
func heavy(name string) string { return name + string(bytes.Repeat([]byte{'.'}, 1_000_000)) }

func (s *site) inflightDropped() int64 { return s.hub.Stats().Dropped }

// TestInflightBytesAway: a session whose client is away keeps 4 MiB of messages; what
// is too much is dropped and counted, and there is room again when the client has
// taken something.
func TestInflightBytesAway(t *testing.T) {
	for _, how := range []string{"once", "twice"} { // QoS 1, QoS 2
		s := newSite(t)
		c := s.session()
		must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}}))
		s.away("c")
		p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
		for i := range 6 {
			s.publish(p, "n", heavy(fmt.Sprint(i, how)))
		}
		s.publish(p, "n", "small "+how)
		if n := s.inflightDropped(); n != 2 {
			t.Errorf("%s: %d dropped, want 2", how, n)
		}
		l := &limited{Client: s.again(rawmqtt.Connect{ReceiveMaximum: 100}), t: t, maximum: 5}
		l.fill()
		var got []string
		for range 5 {
			got = append(got, string(bytes.Trim(l.finish().Payload, ".")))
		}
		if want := []string{"0" + how, "1" + how, "2" + how, "3" + how, "small " + how}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		silent(t, l.Client) // its acknowledgements have been read
		s.publish(p, "n", heavy("new "+how))
		if pk := next(t, l.Client); pk.FixedHeader.Type != packets.Publish {
			t.Errorf("%s: got %+v", how, pk.FixedHeader)
		}
		if n := s.inflightDropped(); n != 2 {
			t.Errorf("%s: %d dropped, want 2", how, n)
		}
	}
}

// TestInflightBytesDeaf: a client that acknowledges nothing gets no more than that and
// the message that its publisher waits for once, and still what needs no acknowledgement.
func TestInflightBytesDeaf(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		c := s.connect(version, rawmqtt.Connect{ID: "c", Clean: true})
		_, err := c.Subscribe(1, 1, "n")
		must(t, err)
		p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
		read := func(want string) packets.Packet {
			t.Helper()
			pk := next(t, c)
			if got := string(bytes.Trim(pk.Payload, ".")); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			return pk
		}
		for i := range 6 { // one by one: the bound is on what is in flight, not in the network
			s.publish(p, "n", heavy(fmt.Sprint(i)))
			if i < 5 {
				read(fmt.Sprint(i))
			}
		}
		must(t, p.Publish(0, 0, "n", []byte("at most once")))
		read("at most once")
		if n := s.inflightDropped(); n != 1 {
			t.Errorf("%d dropped, want 1", n)
		}
	}
}

// TestInflightBytesOfOne: a message alone is never too large.
func TestInflightBytesOfOne(t *testing.T) {
	s := newSite(t)
	c := s.session()
	p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
	s.publish(p, "n", string(make([]byte, 5<<20)), "another")
	if pk := next(t, c); len(pk.Payload) != 5<<20 {
		t.Errorf("got %d bytes", len(pk.Payload))
	}
	silent(t, c)
	if n := s.inflightDropped(); n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
}
