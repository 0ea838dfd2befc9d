package ordinary

import (
	"runtime"
	"strings"
	"sync"
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
		clean         bool // the later CONNECT
		present, will bool
	}{
		{"MQTT 5, an expiry", 5, 60, 30, false, true, false},
		{"MQTT 5, an expiry, a will without delay", 5, 60, 0, false, true, true},
		{"MQTT 5, no expiry", 5, 0, 30, false, false, true},
		{"MQTT 5, no expiry, a will without delay", 5, 0, 0, false, false, true},
		{"MQTT 5, an expiry, Clean Start", 5, 60, 30, true, false, true}, // §3.1.4
		{"MQTT 3.1.1, kept", 4, 60, 0, false, true, true},
		{"MQTT 3.1.1, clean", 4, 0, 0, false, false, true},
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
		a.Clean = c.clean
		s, present := h.Connect(a)
		if present != c.present || s.Subscribed("x") != c.present || (filled(s, a.Link) != "") != c.present {
			t.Errorf("%s: session present %v, subscribed %v, want %v", c.name, present, s.Subscribed("x"), c.present)
		}
		if got := gone(); got != c.will {
			t.Errorf("%s: the will came: %v", c.name, got)
		}

		h, clock := hubAt(Options{})
		gone = begin(h)
		if _, ok := h.Release("c", "c", clock.now, c.clean); ok != c.present {
			t.Errorf("%s: the session moves: %v", c.name, ok)
		}
		if got := gone(); got != c.will {
			t.Errorf("%s: the will came when the session moved: %v", c.name, got)
		}
	}
}

// TestEndWithConnection: a session that is to end with its connection is taken up neither here
// nor at another server, also before the connection is closed.
func TestEndWithConnection(t *testing.T) {
	t.Parallel()
	h, clock := hubAt(Options{})
	_, link := join(h, "c", keptFor(60))
	h.EndWithConnection("c", &testLink{}) // not its connection
	h.EndWithConnection("nobody", link)
	if s := h.session("c"); !s.continues(clock.now.Unix()) {
		t.Error("the session ends with another connection")
	}
	h.EndWithConnection("c", link)
	if _, ok := h.Release("c", "c", clock.now, false); ok {
		t.Error("it moves to another server")
	}
	_, link = join(h, "c", keptFor(60))
	h.EndWithConnection("c", link)
	if _, present := h.Connect(Arrival{ID: "c", Account: "c", Link: &testLink{}, Kept: true, Expiry: 60, Peer: Peer{ReceiveMaximum: 100}}); present {
		t.Error("it is taken up")
	}
}

// TestCleanStartElsewhere: the delayed will of a client that is away is sent once it begins a
// session at another server (MQTT 5 §3.1.3.2.2). One that it continues there takes the will along.
func TestCleanStartElsewhere(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		h, clock := hubAt(Options{})
		watch, watchLink := join(h, "watch")
		subscribeTo(t, h, watch, watchLink, "will", 0)
		s, link := join(h, "c", keptFor(60), func(a *Arrival) {
			a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone")}, Delay: 30}
		})
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 60})
		if _, ok := h.Release("c", "c", clock.now, clean); ok == clean {
			t.Errorf("clean %v: the session moves: %v", clean, ok)
		}
		if got := strings.Contains(filled(watch, watchLink), "gone"); got != clean {
			t.Errorf("clean %v: the will came: %v", clean, got)
		}
	}
}

// TestConnectMeetsAnEnd: a client that connects while its earlier connection ends, and its session
// with it, has a session of its own. The earlier will is sent, and the later one is not.
func TestConnectMeetsAnEnd(t *testing.T) {
	t.Parallel()
	for range 50 {
		h, clock := hubAt(Options{})
		clock.now = clock.now.Add(time.Second / 2)
		watch, watchLink := join(h, "watch")
		subscribeTo(t, h, watch, watchLink, "will", 0)
		will := func(text string) func(*Arrival) {
			return func(a *Arrival) {
				a.Clean, a.Will = false, &Will{Message: Message{TopicName: "will", Payload: []byte(text)}}
			}
		}
		s, link := join(h, "c", will("first"))
		var later *Session
		var laterLink *testLink
		var both sync.WaitGroup
		h.mu.Lock() // Connect waits here, then the second half of Disconnect
		both.Go(func() { later, laterLink = join(h, "c", will("second")) })
		for range 1000 { // Connect most likely waits now
			runtime.Gosched()
		}
		both.Go(func() { h.Disconnect(s, link, Bye{}) })
		for s.online.Load() {
			runtime.Gosched()
		}
		h.mu.Unlock()
		both.Wait()
		if later == s || laterLink.closed {
			t.Fatalf("the later connection has the session that ended: %v, and was closed: %v", later == s, laterLink.closed)
		}
		if got := filled(watch, watchLink); !strings.Contains(got, "first") || strings.Contains(got, "second") {
			t.Fatalf("wills: %q", got)
		}
	}
}

// TestReceiveMaximumOfAConnection: exchanges of an earlier connection do not count (MQTT 5 §4.9).
func TestReceiveMaximumOfAConnection(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	s, link := join(h, "c", keptFor(60))
	s.Begin(link, 1)
	s.Begin(link, 2)
	if _, open := s.Incoming(3); open != 2 {
		t.Errorf("%d exchanges, want 2", open)
	}
	s, link = join(h, "c", keptFor(60), func(a *Arrival) { a.Clean = false })
	if known, open := s.Incoming(1); !known || open != 0 {
		t.Errorf("on the next connection the identifier is known: %v, and %d exchanges are open, want none", known, open)
	}
	s.Begin(link, 3)
	s.End(link, 1)
	if _, open := s.Incoming(4); open != 1 {
		t.Errorf("%d exchanges of this connection, want 1", open)
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

// TestConnectsOutOfOrder: a session stays with the CONNECT that came last.
func TestConnectsOutOfOrder(t *testing.T) {
	for _, clean := range []bool{false, true} {
		h, _ := hubAt(Options{})
		number := func(n uint64) func(*Arrival) {
			return func(a *Arrival) { a.Number, a.Clean = n, clean }
		}
		s, link := join(h, "c", keptFor(60), number(5))
		if late, _ := join(h, "c", keptFor(60), number(4)); late != nil || link.closed || h.Connection("c") != link {
			t.Errorf("clean %v: an earlier CONNECT took the session", clean)
		}
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 60})
		if next, _ := join(h, "c", keptFor(60), number(6)); next == nil || (next == s) == clean {
			t.Errorf("clean %v: the next connection got %v", clean, next)
		}
	}
}
