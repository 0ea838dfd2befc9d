package ordinary

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) time() time.Time { return c.now }

func hubAt(o Options) (*Hub, *clock) {
	c := &clock{now: time.Unix(1_000_000, 900_000_000)}
	o.Now = c.time
	return New(o), c
}

func join(h *Hub, id string, with ...func(*Arrival)) (*Session, *testLink) {
	link := &testLink{}
	a := Arrival{ID: id, Account: id, Clean: true, Link: link, Peer: Peer{Version: 5, ReceiveMaximum: 100}}
	for _, change := range with {
		change(&a)
	}
	s, _ := h.Connect(a)
	return s, link
}

func keptFor(seconds uint32) func(*Arrival) {
	return func(a *Arrival) { a.Kept, a.Expiry = true, seconds }
}

func subscribeTo(t *testing.T, h *Hub, s *Session, link Link, filter string, qos byte) byte {
	t.Helper()
	codes, ok := h.Subscribe(s, link, []Ask{{Filter: filter, Subscription: Subscription{QoS: qos}}}, false)
	if !ok {
		t.Fatal("not subscribed")
	}
	s.Resume(link, nil)
	return codes[0]
}

func publishTo(t *testing.T, h *Hub, topicName string, qos byte) {
	t.Helper()
	if _, err := h.Publish(&Message{TopicName: topicName, QoS: qos, Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
}

// filled is all that comes for a session now.
func filled(s *Session, link Link) string {
	b, _ := s.Fill(link, nil, 1<<20)
	return string(b)
}

// TestNoWillBeforeItsDelay: a will and the end of a session are not early, whatever
// part of a second the connection ended in.
func TestNoWillBeforeItsDelay(t *testing.T) {
	t.Parallel()
	h, c := hubAt(Options{})
	watch, watchLink := join(h, "watch")
	subscribeTo(t, h, watch, watchLink, "will", 0)
	s, link := join(h, "c", keptFor(3), func(a *Arrival) {
		a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone")}, Delay: 2}
	})
	begun := c.now
	h.Disconnect(s, link, Bye{Kept: true, Expiry: 3})
	for _, step := range []struct {
		after   time.Duration
		will    bool
		session bool
	}{{1900 * time.Millisecond, false, true}, {2900 * time.Millisecond, true, true}, {4200 * time.Millisecond, true, false}} {
		c.now = begun.Add(step.after)
		h.Elapse()
		if _, ok := h.Holder("c"); ok != step.session {
			t.Errorf("after %v the session is there: %v", step.after, ok)
		}
		if got := strings.Contains(filled(watch, watchLink), "gone"); got != (step.will && step.session) {
			t.Errorf("after %v the will came: %v", step.after, got)
		}
	}
}

// noDisk is empty: the retained messages are still in the memory.
type noDisk struct{}

func (noDisk) Load(string) (*Message, error) { return nil, nil }

// TestLimits: a request over a limit is refused and counted under the limit's name. It
// changes nothing, and the client goes on with its earlier subscriptions and messages.
func TestLimits(t *testing.T) {
	t.Parallel()
	full := errors.New("the disk has less than store.min_free")
	var room error
	h, _ := hubAt(Options{
		Bounds: Bounds{Limits: Limits{Subscriptions: 2, RetainedBytes: 3000, Sessions: 2}},
		Room:   func() error { return room },
		Disk:   noDisk{},
	})
	account := func(a *Arrival) { a.Account = "bob" }
	s, link := join(h, "bob-1", account)
	retain := func(topicName, payload string) error {
		_, err := h.Publish(&Message{TopicName: topicName, Payload: []byte(payload), Retain: true, Account: "bob"})
		return err
	}
	wantKey := func(err error, key string) {
		t.Helper()
		var l *LimitError
		if !errors.As(err, &l) || l.Key != key {
			t.Errorf("%v, want a LimitError of %s", err, key)
		}
	}

	for i, f := range []string{"a", "b", "c", "a"} {
		code := subscribeTo(t, h, s, link, f, 1)
		if over := code == 0x97; over != (i == 2) {
			t.Errorf("SUBSCRIBE %d to %s: 0x%02x", i, f, code)
		}
	}
	if st := h.Stats(); st.RefusedSubscription != 1 || st.Subscriptions != 2 {
		t.Errorf("%+v", st)
	}

	join(h, "bob-2", account)
	wantKey(h.Room("bob-3", "bob", false), "mqtt.limits.sessions")
	if err := h.Room("bob-2", "bob", false); err != nil {
		t.Errorf("a session that is there: %v", err)
	}
	if err := h.Room("carol-1", "carol", false); err != nil {
		t.Errorf("another account: %v", err)
	}
	if st := h.Stats(); st.RefusedSessions != 1 {
		t.Errorf("%+v", st)
	}

	if err := retain("r/1", strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	wantKey(retain("r/2", strings.Repeat("x", 2000)), "mqtt.limits.retained_bytes")
	wantKey(retain(ConnectionTopics+"bridge/state", strings.Repeat("x", 2000)), "mqtt.limits.retained_bytes")
	if err := retain("r/1", "shorter"); err != nil {
		t.Errorf("a replacement: %v", err)
	}
	if st := h.Stats(); st.RefusedRetained != 2 || st.Retained != 1 {
		t.Errorf("%+v", st)
	}

	room = full
	if err := retain("r/3", "x"); !strings.Contains(errText(err), "store.min_free") {
		t.Errorf("with a full disk: %v", err)
	}
	if err := retain("r/1", ""); err != nil {
		t.Errorf("clearing a topic with a full disk: %v", err)
	}
	publishTo(t, h, "a", 1)
	if filled(s, link) == "" {
		t.Error("the client at its limits gets nothing more")
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestSharedPrefersAllowed: a message of a shared subscription goes to a member that may
// read its topic, though another is connected, too.
func TestSharedPrefersAllowed(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{MayRead: func(s *Session, topicName string) bool {
		return s.ID == "may" || !strings.HasPrefix(topicName, "closed/")
	}})
	may, mayLink := join(h, "may")
	not, notLink := join(h, "not")
	subscribeTo(t, h, not, notLink, "$share/g/#", 1)
	subscribeTo(t, h, may, mayLink, "$share/g/#", 1)
	for range 20 {
		publishTo(t, h, "closed/x", 1)
	}
	if n := strings.Count(filled(may, mayLink), "closed/x"); n != 20 {
		t.Errorf("the member that may read got %d of 20", n)
	}
	if got := filled(not, notLink); got != "" {
		t.Errorf("the member that may not read got %q", got)
	}
	for range 20 {
		publishTo(t, h, "open/x", 1)
	}
	a, b := strings.Count(filled(may, mayLink), "open/x"), strings.Count(filled(not, notLink), "open/x")
	if a != 10 || b != 10 {
		t.Errorf("dealt %d and %d of 20", a, b)
	}
}

// TestRetainedIsKeptBack: a new subscription gets no retained message whose topic its
// client may not read, whatever its filter matches.
func TestRetainedIsKeptBack(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{MayRead: func(_ *Session, topicName string) bool { return topicName != "closed" }})
	for _, topicName := range []string{"closed", "open"} {
		if _, err := h.Publish(&Message{TopicName: topicName, Payload: []byte("x"), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	s, link := join(h, "c")
	subscribeTo(t, h, s, link, "#", 1)
	var got string
	for s.Feed(link) {
		got += filled(s, link)
	}
	if !strings.Contains(got, "open") || strings.Contains(got, "closed") {
		t.Errorf("got %q", got)
	}
}

// TestSharedPrefersWhoKeepsUp: a message of a shared subscription goes to a member that
// has room, though another one's turn it is. Where nobody has any, it goes to one of those
// that are connected.
func TestSharedPrefersWhoKeepsUp(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 4}}})
	slow, slowLink := join(h, "slow")
	quick, quickLink := join(h, "quick")
	subscribeTo(t, h, slow, slowLink, "$share/g/work", 1)
	subscribeTo(t, h, quick, quickLink, "$share/g/work", 1)
	publish := func(n int) (forSlow, forQuick int) {
		for range n {
			publishTo(t, h, "work", 0)
			forQuick += strings.Count(filled(quick, quickLink), "work")
		}
		return slow.queue.len, forQuick
	}
	if a, b := publish(10); a != 5 || b != 5 {
		t.Fatalf("dealt %d and %d of 10", a, b)
	}
	// The slow one is over its budget once it has more than 4 waiting at QoS 1.
	subscribeTo(t, h, slow, slowLink, "fill", 1)
	for range 6 {
		publishTo(t, h, "fill", 1)
	}
	before := slow.queue.len
	if a, b := publish(10); a != before || b != 10 {
		t.Errorf("the slow member got %d of 10, the quick one %d", a-before, b)
	}
}

// TestPressure: a publisher waits for a receiver that is over its budget until that has
// read, and not again and again for one that does not read.
func TestPressure(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		h := New(Options{Bounds: Bounds{Budget: Budget{Bytes: 1 << 20, Messages: 4}}})
		s, link := join(h, "reader")
		subscribeTo(t, h, s, link, "#", 1)
		publish := func() []*Session {
			pressed, err := h.Publish(&Message{TopicName: "a", QoS: 1, Payload: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			return pressed
		}
		var pressed []*Session
		for range 5 {
			pressed = publish()
		}
		if len(pressed) == 0 {
			t.Fatal("a receiver with more messages than its budget presses nobody")
		}
		begun := time.Now()
		var waited sync.WaitGroup
		var took time.Duration
		waited.Go(func() {
			h.Wait(t.Context(), pressed)
			took = time.Since(begun)
		})
		time.Sleep(patience / 2)
		filled(s, link)
		for _, id := range slices.Collect(maps.Keys(s.byID)) {
			s.Acknowledge(link, id)
		}
		waited.Wait()
		if took != patience/2 {
			t.Errorf("the publisher waited %v, until the receiver had read: %v", took, patience/2)
		}

		for pressed = nil; len(pressed) == 0; {
			pressed = publish()
		}
		begun = time.Now()
		h.Wait(t.Context(), pressed)
		if took := time.Since(begun); took != patience {
			t.Errorf("the publisher waited %v for a receiver that does not read, want %v", took, patience)
		}
		if pressed := publish(); len(pressed) != 0 {
			t.Error("it is to wait for that receiver once more")
		}
	})
}

// TestManyLevels: what a topic name and a filter cost is linear in their bytes, in the
// index and among retained messages. It is not parallel: it counts allocations.
func TestManyLevels(t *testing.T) {
	h, _ := hubAt(Options{})
	s, link := join(h, "c")
	deep := strings.Repeat("/", 65_400)
	plus := strings.Repeat("+/", 32_700) + "#"
	for _, f := range []string{plus, plus[:len(plus)-1] + "x"} {
		levels, key := strings.Split(f, "/"), keyOf(deep)
		if n := testing.AllocsPerRun(1, func() { compare(levels, key) }); n > 1 {
			t.Errorf("a filter of %d levels is compared with a topic in %v allocations of the topic's size", len(levels), n)
		}
	}
	for range 3 {
		if _, err := h.Publish(&Message{TopicName: deep, Payload: []byte("x"), Retain: true}); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{deep, plus} {
			subscribeTo(t, h, s, link, f, 0)
			for s.Feed(link) {
			}
			if b, n := s.Fill(link, nil, 1<<20); n != 1 {
				t.Fatalf("%d retained messages, %d bytes", n, len(b))
			}
		}
		publishTo(t, h, deep, 0)
		if _, n := s.Fill(link, nil, 1<<20); n != 1 {
			t.Fatalf("%d live messages, want 1 for both subscriptions", n)
		}
		if codes, ok := h.Unsubscribe(s, link, []string{deep, plus}); !ok || codes[0]|codes[1] != 0 {
			t.Fatalf("UNSUBACK %x", codes)
		}
		s.Resume(link, nil)
	}
	if len(h.index.root.children) != 0 {
		t.Error("levels are left in the index")
	}
}

// TestFiguresDoNotDrift: whatever becomes of sessions and their messages, the figures
// of subscriptions and of messages in flight are those of the sessions that are left.
func TestFiguresDoNotDrift(t *testing.T) {
	t.Parallel()
	h, c := hubAt(Options{Bounds: Bounds{Budget: Budget{Bytes: 4000, Messages: 5}}})
	zero := func(when string) {
		t.Helper()
		if st := h.Stats(); st.Subscriptions != 0 || st.Inflight != 0 || st.Sessions != 0 || st.Online != 0 {
			t.Errorf("%s: %+v", when, st)
		}
	}
	for i, end := range []func(*Session, *testLink){
		func(s *Session, l *testLink) { h.Disconnect(s, l, Bye{}) }, // its session ends with it
		func(s *Session, l *testLink) { // its session elapses
			h.Disconnect(s, l, Bye{Kept: true, Expiry: 1})
			c.now = c.now.Add(5 * time.Second)
			h.Elapse()
		},
		func(*Session, *testLink) { h.End("c") },
		func(s *Session, l *testLink) { // a clean start, twice at one account, then another account
			n, nl := join(h, "c")
			subscribeTo(t, h, n, nl, "x", 1)
			n, nl = join(h, "c", func(a *Arrival) { a.Account = "other" })
			h.Disconnect(s, l, Bye{}) // late, and nothing to end
			h.Disconnect(n, nl, Bye{})
		},
		func(s *Session, l *testLink) { // moves as a value, and back
			h.Disconnect(s, l, Bye{Kept: true, Expiry: 100})
			st, _ := h.Export("c")
			h.End("c")
			zero("away")
			h.Import(st)
			if got := h.Stats(); got.Subscriptions != 3 || got.Inflight == 0 {
				t.Errorf("moved: %+v", got)
			}
			h.End("c")
		},
	} {
		s, link := join(h, "c", keptFor(100))
		for _, f := range []string{"x", "x", "y/#", "$share/g/x"} {
			subscribeTo(t, h, s, link, f, 2)
		}
		if n := h.Stats().Subscriptions; n != 3 {
			t.Errorf("%d: %d subscriptions, want 3", i, n)
		}
		h.Unsubscribe(s, link, []string{"nobody's"})
		s.Resume(link, nil)
		for range 20 { // more than the budget holds
			publishTo(t, h, "x", 1)
		}
		first := filled(s, link)
		id := uint16(first[5])<<8 | uint16(first[6]) // after the fixed header and the topic name
		s.Acknowledge(link, id)
		s.Acknowledge(link, id)    // again
		s.Acknowledge(link, 65000) // and one that nobody waits for
		end(s, link)
		zero([]string{"ended with its connection", "elapsed", "ended", "replaced", "moved"}[i])
	}
}

// TestSharedBringsItsOwnCopy: a session that has subscribed to a topic itself, and is a
// member of two groups, gets a copy for each of the three (MQTT 5 §4.8.2). A group would
// otherwise lose the message, which no other member has.
func TestSharedBringsItsOwnCopy(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	s, link := join(h, "c")
	for _, f := range []string{"work", "$share/g/work", "$share/h/work", "$share/g/#", "#"} {
		subscribeTo(t, h, s, link, f, 1)
	}
	publishTo(t, h, "work", 1)
	if n := strings.Count(filled(s, link), "work"); n != 4 {
		t.Errorf("%d copies, want one for the two subscriptions of its own and one for each of three groups", n)
	}
}

// TestSkippedIsBounded: a replay that is held up by a slow client remembers retained
// topics alone, whatever else is published meanwhile.
func TestSkippedIsBounded(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	retain := func(topicName, payload string) {
		t.Helper()
		if _, err := h.Publish(&Message{TopicName: topicName, Payload: []byte(payload), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	retain("kept", "x")
	s, link := join(h, "c")
	subscribeTo(t, h, s, link, "#", 1)
	for i := range 500 {
		publishTo(t, h, fmt.Sprint("live/", i), 0)
		retain(fmt.Sprint("brief/", i), "x")
		retain(fmt.Sprint("brief/", i), "")
	}
	retain("new", "x")
	publishTo(t, h, "kept", 0)
	s.mu.Lock()
	skipped := len(s.replays[0].skipped)
	s.mu.Unlock()
	if skipped != 2 {
		t.Errorf("the replay remembers %d topics, want kept and new", skipped)
	}
	got := filled(s, link)
	for s.Feed(link) {
		got += filled(s, link)
	}
	if kept, added := strings.Count(got, "kept"), strings.Count(got, "new"); kept != 2 || added != 1 {
		t.Errorf("kept came %d times, want its retained message and the live one; new came %d times, want 1", kept, added)
	}
}

// TestManyFiltersInOnePacket: what a SUBSCRIBE and an UNSUBSCRIBE cost is linear in their
// filters. A cost that grows with the square takes minutes here.
func TestManyFiltersInOnePacket(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	s, link := join(h, "c")
	const many = 100_000
	asks, filters := make([]Ask, 0, 2*many), make([]string, 0, 2*many)
	for range 2 {
		for i := range many {
			asks, filters = append(asks, Ask{Filter: fmt.Sprint(i)}), append(filters, fmt.Sprint(i))
		}
	}
	if _, ok := h.Subscribe(s, link, asks, true); !ok || len(s.replays) != many {
		t.Fatalf("%d replays, want one a filter", len(s.replays))
	}
	s.Resume(link, nil)
	for s.Feed(link) { // nothing is retained
	}
	if _, ok := h.Subscribe(s, link, asks, true); !ok {
		t.Fatal("not subscribed again")
	}
	codes, ok := h.Unsubscribe(s, link, filters)
	if st := h.Stats(); !ok || codes[0] != 0 || codes[2*many-1] != 0x11 || st.Subscriptions != 0 || h.replaying.Load() != 0 {
		t.Errorf("0x%02x then 0x%02x, %d subscriptions and %d replays left", codes[0], codes[2*many-1], st.Subscriptions, h.replaying.Load())
	}
}
