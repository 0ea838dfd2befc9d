package ordinary

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// away makes a kept session without a connection that has a number of messages of its own
// waiting, and is a member of $share/g/work.
func away(t *testing.T, h *Hub, id string, waiting int) *Session {
	t.Helper()
	s, link := join(h, id, keptFor(1000))
	subscribeTo(t, h, s, link, "$share/g/work", 1)
	subscribeTo(t, h, s, link, "own"+id, 1)
	h.Disconnect(s, link, Bye{Kept: true, Expiry: 1000})
	for range waiting {
		publishTo(t, h, "own"+id, 1)
	}
	return s
}

// TestSharedFillsMembersThatAreAway: a message of a shared subscription is dropped only
// when no member that is away has room for it, whether the first bound that a member meets
// is that of messages or that of bytes.
func TestSharedFillsMembersThatAreAway(t *testing.T) {
	t.Parallel()
	for bound, budget := range map[string]Budget{
		"messages": {Bytes: 1 << 20, Messages: 10},
		"bytes":    {Bytes: 10 * (&Message{TopicName: "work", Payload: []byte("x")}).size(), Messages: 1000},
	} {
		h, _ := hubAt(Options{Bounds: Bounds{Budget: budget}})
		a, b, c := away(t, h, "a", 9), away(t, h, "b", 0), away(t, h, "c", 4)
		room := 30 - a.queue.len - b.queue.len - c.queue.len
		for range room {
			publishTo(t, h, "work", 1)
		}
		if st := h.Stats(); st.Dropped != 0 {
			t.Errorf("%s: %d are dropped, while the members have %d, %d and %d", bound, st.Dropped, a.queue.len, b.queue.len, c.queue.len)
		}
		for range 5 {
			publishTo(t, h, "work", 1)
		}
		if st := h.Stats(); st.Dropped != 5 || a.queue.len+b.queue.len+c.queue.len != 30 {
			t.Errorf("%s: %d of 5 are dropped, the members have %d, %d and %d", bound, st.Dropped, a.queue.len, b.queue.len, c.queue.len)
		}
	}
}

// TestSharedGoesOnAfterALargeMessage: a member that had no room for a large message gets
// smaller ones again, once no other member has room.
func TestSharedGoesOnAfterALargeMessage(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 100_000, Messages: 10}}})
	a, b := away(t, h, "a", 1), away(t, h, "b", 1)
	large := &Message{TopicName: "work", QoS: 1, Payload: []byte(strings.Repeat("x", 100_000))}
	if _, err := h.Publish(large); err != nil {
		t.Fatal(err)
	}
	if n := h.Stats().Dropped; n != 1 {
		t.Fatalf("%d dropped, want the large one", n)
	}
	for range 18 {
		publishTo(t, h, "work", 1)
	}
	if n := h.Stats().Dropped; n != 1 || a.queue.len != 10 || b.queue.len != 10 {
		t.Errorf("%d dropped, the members have %d and %d", n, a.queue.len, b.queue.len)
	}
}

// TestSharedSparesWhoDoesNotRead: a member that is connected, but for which nobody waits
// any more, has no precedence over one that is away and has room. When it reads again it
// gets its share.
func TestSharedSparesWhoDoesNotRead(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		h := New(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 4}}})
		s, link := join(h, "stuck")
		subscribeTo(t, h, s, link, "$share/g/work", 1)
		subscribeTo(t, h, s, link, "own", 1)
		for range 5 {
			publishTo(t, h, "own", 1)
		}
		s.distrustFor(time.Hour)
		b := away(t, h, "away", 0)
		for range 4 {
			publishTo(t, h, "work", 1)
		}
		if n := h.Stats().Dropped; n != 0 || b.queue.len != 4 {
			t.Errorf("%d are dropped, the member that is away has %d of 4", n, b.queue.len)
		}
		publishTo(t, h, "work", 1)
		if n := h.Stats().Dropped; n != 1 {
			t.Errorf("%d are dropped, want 1: no member has room", n)
		}
		filled(s, link)
		for id := range s.byID {
			s.Acknowledge(link, id)
		}
		publishTo(t, h, "work", 1)
		if got := filled(s, link); !strings.Contains(got, "work") {
			t.Error("a member that reads again gets nothing")
		}
	})
}

// TestSharedMissesNoOtherMember: a message that is dealt to a member in the moment in which
// that goes away or ends is another member's.
func TestSharedMissesNoOtherMember(t *testing.T) {
	t.Parallel()
	for what, leave := range map[string]func(*Session){
		"ends":      func(s *Session) { s.ending = true },
		"has ended": func(s *Session) { s.ended = true },
		"goes away": func(s *Session) { s.link = nil }, // and is not known to be away yet
	} {
		h, _ := hubAt(Options{})
		a, aLink := join(h, "a")
		subscribeTo(t, h, a, aLink, "$share/g/work", 0)
		b, bLink := join(h, "b")
		subscribeTo(t, h, b, bLink, "$share/g/work", 0)
		leave(a)
		for range 4 {
			publishTo(t, h, "work", 0)
		}
		if n := strings.Count(filled(b, bLink), "work"); n != 4 {
			t.Errorf("a member %s: the other one has %d of 4 messages", what, n)
		}
	}
}

// TestSharedMembersComeAndGo: members of a group come and end while a full one refuses its
// messages. The race detector looks.
func TestSharedMembersComeAndGo(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 1}}})
	away(t, h, "full", 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 300 {
			s, link := join(h, "passing")
			subscribeTo(t, h, s, link, "$share/g/work", 1)
			h.End("passing")
		}
	}()
	for going := true; going; {
		publishTo(t, h, "work", 1)
		select {
		case <-ended:
			going = false
		default:
		}
	}
}

// TestSharedReaderHasRoomAgain: a member that reads gets messages again as soon as it has room,
// which is more than a member that is away has.
func TestSharedReaderHasRoomAgain(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 4}}})
	var links [2]*testLink
	var members [2]*Session
	for i, id := range []string{"a", "b"} {
		members[i], links[i] = join(h, id)
		subscribeTo(t, h, members[i], links[i], "$share/g/work", 1)
	}
	for range 2*readerFactor*4 + 1 {
		publishTo(t, h, "work", 1)
	}
	if n := h.Stats().Dropped; n != 1 {
		t.Fatalf("%d are dropped, want 1: both members are full", n)
	}
	a := members[0]
	filled(a, links[0])
	id := a.queue.head.id
	a.Acknowledge(links[0], id)
	publishTo(t, h, "work", 1)
	if n := h.Stats().Dropped; n != 1 {
		t.Errorf("%d are dropped, though a member has room", n)
	}
}

// TestSharedOfAnEndedSession: what a member has not acknowledged when its session ends goes to
// another member, whether the client was connected, away, or asks for a new session. A message of
// QoS 2 that the client may have does not [MQTT-4.8.2-5], nor do its own messages.
func TestSharedOfAnEndedSession(t *testing.T) {
	t.Parallel()
	retained := func(topicName string, qos byte) *Message {
		return &Message{TopicName: topicName, QoS: qos, Payload: []byte(topicName), Retain: true}
	}
	for name, end := range map[string]func(h *Hub, c *clock, s *Session, link Link){
		"connection lost": func(h *Hub, _ *clock, s *Session, link Link) { h.Disconnect(s, link, Bye{}) },
		"expiry": func(h *Hub, c *clock, s *Session, link Link) {
			h.Disconnect(s, link, Bye{Kept: true, Expiry: 10})
			c.now = c.now.Add(time.Minute)
			h.Elapse()
		},
		"clean start": func(h *Hub, _ *clock, _ *Session, _ Link) { join(h, "a") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := hubAt(Options{})
			a, link := join(h, "a", keptFor(100), func(a *Arrival) { a.Peer.ReceiveMaximum = 2 })
			subscribeTo(t, h, a, link, "$share/g/+", 2)
			subscribeTo(t, h, a, link, "own", 1)
			publishTo(t, h, "sent2", 2)
			publishTo(t, h, "sent1", 1)
			filled(a, link)
			for _, m := range []*Message{retained("waits2", 2), retained("waits1", 1), {TopicName: "own", QoS: 1}, {TopicName: "late", QoS: 1, Payload: []byte("x"), Expiry: c.now.Unix()}} {
				if _, err := h.Publish(m); err != nil {
					t.Fatal(err)
				}
			}
			b, linkB := join(h, "b")
			subscribeTo(t, h, b, linkB, "$share/g/+", 1)
			end(h, c, a, link)
			got := filled(b, linkB)
			for topicName, want := range map[string]bool{"sent2": false, "sent1": true, "waits2": true, "waits1": true, "late": false} {
				if n := strings.Count(got, "\x00"+string(rune(len(topicName)))+topicName); n != 1 && want || n > 0 && !want {
					t.Errorf("%s came %d times", topicName, n)
				}
			}
			if n := strings.Count(got, "own"); n != 1 { // as one of the group's
				t.Errorf("own came %d times", n)
			}
		})
	}
}

// TestSharedOfAMovedSession: a session that moves to another server takes its group's messages
// along.
func TestSharedOfAMovedSession(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, 2)
	a, link := join(w.hubs[0], "a", keptFor(100))
	subscribeTo(t, w.hubs[0], a, link, "$share/g/work", 1)
	publishTo(t, w.hubs[0], "work", 1)
	b, linkB := join(w.hubs[0], "b")
	subscribeTo(t, w.hubs[0], b, linkB, "$share/g/work", 1)
	st, ok := w.hubs[0].Release("a", "a", w.hubs[0].sharedNow(), false)
	if got := filled(b, linkB); !ok || len(st.Outgoing) != 1 || got != "" {
		t.Errorf("released %v with %d messages, the other member got %q", ok, len(st.Outgoing), got)
	}
}

// TestSharedGoesRoundNotForEver: a message whose receivers end one after the other is dealt again
// some times, and then dropped and counted.
func TestSharedGoesRoundNotForEver(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	member := func(i int) (*Session, Link) {
		s, link := join(h, fmt.Sprint("m", i))
		subscribeTo(t, h, s, link, "$share/g/work", 1)
		return s, link
	}
	s, link := member(0)
	publishTo(t, h, "work", 1)
	got := 0
	for i := 1; i < 10; i++ {
		got += strings.Count(filled(s, link), "work")
		next, nextLink := member(i)
		h.Disconnect(s, link, Bye{})
		s, link = next, nextLink
	}
	if st := h.Stats(); got != 1+maxDeals || st.Dropped != 1 {
		t.Errorf("%d members got the message, want %d; %d are dropped", got, 1+maxDeals, st.Dropped)
	}
}

// TestSharedFilterIsKeptOnce: a long filter does not go into the store with each message. The
// messages go to other members all the same. Many messages have one copy of a filter in the memory.
func TestSharedFilterIsKeptOnce(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(entry{}); size > 80 { // the next size that the runtime has is 96
		t.Errorf("a queued message takes %d bytes in addition to its content", size)
	}
	for name, tt := range map[string]struct {
		group string
		kept  bool
	}{"short": {"g", true}, "long": {strings.Repeat("g", 60_000), false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := hubAt(Options{})
			filter := "$share/" + tt.group + "/work"
			a, link := join(h, "a", keptFor(100))
			subscribeTo(t, h, a, link, filter, 1)
			publishTo(t, h, "work", 1)
			publishTo(t, h, "work", 1)
			st, ok := h.Export("a")
			if !ok || len(st.Outgoing) != 2 || (st.Outgoing[0].Share == filter) != tt.kept || !tt.kept && st.Outgoing[0].Share != "" {
				t.Errorf("exported %v with %d messages", ok, len(st.Outgoing))
			}
			b, linkB := join(h, "b")
			subscribeTo(t, h, b, linkB, filter, 1)
			h.Disconnect(a, link, Bye{})
			if n := strings.Count(filled(b, linkB), "work"); n != 2 {
				t.Errorf("the other member got %d of 2", n)
			}
			other, _ := hubAt(Options{})
			st.Gone = c.now.Unix()
			other.Import(st)
			s := other.session("a")
			if first := s.queue.head; tt.kept != (first.dealt != nil) || first.dealt != first.next.dealt {
				t.Errorf("imported with %+v and %+v", first.dealt, first.next.dealt)
			}
		})
	}
}
