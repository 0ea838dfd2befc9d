package ordinary

import (
	"strings"
	"testing"
	"time"
)

// TestTakeover: a connection takes over a session that outlives the earlier connection. A
// session without an expiry ends with the earlier connection, and its delayed will is sent.
// It is the same where the client connects at another server.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		version       byte
		expiry        uint32
		delay         uint32
		present, will bool
	}{
		{"MQTT 5, an expiry", 5, 60, 30, true, false},
		{"MQTT 5, an expiry, a will without delay", 5, 60, 0, true, true},
		{"MQTT 5, no expiry", 5, 0, 30, false, true},
		{"MQTT 5, no expiry, a will without delay", 5, 0, 0, false, true},
		{"MQTT 3.1.1, kept", 4, 60, 0, true, true},
		{"MQTT 3.1.1, clean", 4, 0, 0, false, true},
	} {
		arrival := func(a *Arrival) {
			a.Clean, a.Kept, a.Expiry, a.Peer.Version = false, c.expiry > 0, c.expiry, c.version
		}
		begin := func(h *Hub) (gone func() bool) {
			watch, watchLink := join(h, "watch")
			subscribeTo(t, h, watch, watchLink, "will", 0)
			s, link := join(h, "c", arrival, func(a *Arrival) {
				a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone")}, Delay: c.delay}
			})
			subscribeTo(t, h, s, link, "x", 1)
			publishTo(t, h, "x", 1)
			return func() bool {
				if !link.closed {
					t.Errorf("%s: the earlier connection goes on", c.name)
				}
				return strings.Contains(filled(watch, watchLink), "gone")
			}
		}

		h, _ := hubAt(Options{})
		gone := begin(h)
		a := Arrival{ID: "c", Account: "c", Link: &testLink{}, Peer: Peer{ReceiveMaximum: 100}}
		arrival(&a)
		s, present := h.Connect(a)
		if present != c.present || s.Subscribed("x") != c.present || (filled(s, a.Link) != "") != c.present {
			t.Errorf("%s: session present %v, subscribed %v, want %v", c.name, present, s.Subscribed("x"), c.present)
		}
		if got := gone(); got != c.will {
			t.Errorf("%s: the will came: %v", c.name, got)
		}

		h, clock := hubAt(Options{})
		gone = begin(h)
		if _, ok := h.Release("c", "c", clock.now); ok != c.present {
			t.Errorf("%s: the session moves: %v", c.name, ok)
		}
		if got := gone(); got != c.will {
			t.Errorf("%s: the will came when the session moved: %v", c.name, got)
		}
	}
}

// hookedJournal calls a function when a session has changed.
type hookedJournal struct {
	noJournal
	session func()
}

func (j *hookedJournal) Session(string, string) { j.session() }

// TestLaterDisconnectSetsDeadline: the deadline of a session is that of its last connection,
// though the end of the connection before is still being processed.
func TestLaterDisconnectSetsDeadline(t *testing.T) {
	t.Parallel()
	j := &hookedJournal{session: func() {}}
	h, c := hubAt(Options{Journal: j})
	s, link := join(h, "c", keptFor(1000))
	j.session = func() {
		j.session = func() {}
		s, link := join(h, "c", keptFor(1000), func(a *Arrival) { a.Clean = false })
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 10})
	}
	h.Disconnect(s, link, Bye{Kept: true, Expiry: 1000})
	c.now = c.now.Add(20 * time.Second)
	h.Elapse()
	if n := h.Stats().Sessions; n != 0 {
		t.Error("the session outlives its last expiry")
	}
}
