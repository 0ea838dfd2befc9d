package ordinary

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// withWill has a client of account bob publish `online` to status/x, retained, and leave a
// will there that takes some bytes more.
func withWill(t *testing.T, h *Hub) (*Session, *testLink) {
	t.Helper()
	status := func(payload string) Message {
		return Message{TopicName: "status/x", Payload: []byte(payload), QoS: 1, Retain: true, Account: "bob"}
	}
	m := status("online")
	if _, err := h.Publish(&m); err != nil {
		t.Fatal(err)
	}
	return join(h, "x", func(a *Arrival) { a.Account, a.Will = "bob", &Will{Message: status("offline")} })
}

// TestWillWithoutRoom: a will that may not be retained reaches the subscribers that there are.
// Whoever subscribes later gets no state that is over.
func TestWillWithoutRoom(t *testing.T) {
	t.Parallel()
	size := int64((&Message{TopicName: "status/x", Payload: []byte("online")}).size())
	full := errors.New("less than store.min_free")
	var room error
	for bound, o := range map[string]Options{
		"retained_bytes": {Bounds: Bounds{Limits: Limits{RetainedBytes: size}}},
		"min_free":       {Room: func() error { return room }, Disk: noDisk{}},
	} {
		journal := &retainedJournal{}
		o.Journal = journal
		room = nil
		h, _ := hubAt(o)
		s, link := withWill(t, h)
		watch, watchLink := join(h, "watch")
		subscribeTo(t, h, watch, watchLink, "status/#", 1)
		for watch.Feed(watchLink) {
		}
		if got := filled(watch, watchLink); !strings.Contains(got, "online") {
			t.Fatalf("%s: got %q", bound, got)
		}
		room, journal.topics = full, nil
		h.Disconnect(s, link, Bye{})
		if got := filled(watch, watchLink); !strings.Contains(got, "offline") || strings.Count(got, "status/x") != 1 {
			t.Errorf("%s: got %q, want the will alone", bound, got)
		}
		late, lateLink := join(h, "late")
		subscribeTo(t, h, late, lateLink, "status/#", 1)
		for late.Feed(lateLink) {
		}
		if got := filled(late, lateLink); got != "" {
			t.Errorf("%s: a later subscriber got %q", bound, got)
		}
		if st := h.Stats(); st.Retained != 0 || st.RefusedRetained != 1 {
			t.Errorf("%s: %d retained, %d refused", bound, st.Retained, st.RefusedRetained)
		}
		if got := strings.Join(journal.topics, ","); got != "status/x" {
			t.Errorf("%s: the journal heard of %q", bound, got)
		}
	}
}

// retainedJournal notes topics whose retained message changes.
type retainedJournal struct {
	noJournal
	topics []string
}

func (j *retainedJournal) Retained(_, topicName string) { j.topics = append(j.topics, topicName) }

// TestWillWithoutRoomAtOtherNodes: it is so at each node.
func TestWillWithoutRoomAtOtherNodes(t *testing.T) {
	t.Parallel()
	w := newNetwork(t, 2)
	s, link := withWill(t, w.hubs[0])
	other := Message{TopicName: "other", Payload: []byte(strings.Repeat("x", 100)), Retain: true, Account: "bob"}
	if _, err := w.hubs[0].Publish(&other); err != nil {
		t.Fatal(err)
	}
	far, farLink := join(w.hubs[1], "far")
	subscribeTo(t, w.hubs[1], far, farLink, "status/#", 1)
	for far.Feed(farLink) {
	}
	filled(far, farLink)
	w.hubs[0].Reconfigure(Bounds{Limits: Limits{RetainedBytes: 1}})
	w.hubs[0].Disconnect(s, link, Bye{})
	if got := filled(far, farLink); !strings.Contains(got, "offline") || strings.Count(got, "status/x") != 1 {
		t.Errorf("the subscriber at the other node got %q, want the will alone", got)
	}
	for i, h := range w.hubs {
		if all := retainedOf(h); len(all) != 1 || all["other"] == "" {
			t.Errorf("node %d: retained are %v", i, all)
		}
	}
}

// TestWillWithoutRight: a will is published with the rights that its client has then, however
// its connection or its session ends.
func TestWillWithoutRight(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(*Hub, *clock, *Session, *testLink){
		"its connection ends":        func(h *Hub, _ *clock, s *Session, link *testLink) { h.Disconnect(s, link, Bye{Kept: true, Expiry: 9}) },
		"its session ends with that": func(h *Hub, _ *clock, s *Session, link *testLink) { h.Disconnect(s, link, Bye{}) },
		"the delay is over": func(h *Hub, c *clock, s *Session, link *testLink) {
			s.will.Delay = 2
			h.Disconnect(s, link, Bye{Kept: true, Expiry: 9})
			c.now = c.now.Add(4 * time.Second)
			h.Elapse()
		},
		"its session elapses": func(h *Hub, c *clock, s *Session, link *testLink) {
			s.will.Delay = 100
			h.Disconnect(s, link, Bye{Kept: true, Expiry: 9})
			c.now = c.now.Add(20 * time.Second)
			h.Elapse()
		},
		"its session is ended":        func(h *Hub, _ *clock, s *Session, _ *testLink) { h.End(s.ID) },
		"its session is taken over":   func(h *Hub, _ *clock, s *Session, _ *testLink) { join(h, s.ID, func(a *Arrival) { a.Clean = false }) },
		"its identifier is another's": func(h *Hub, _ *clock, s *Session, _ *testLink) { join(h, s.ID, func(a *Arrival) { a.Account = "b" }) },
		"it goes to another node":     func(h *Hub, c *clock, s *Session, _ *testLink) { h.Release(s.ID, s.Account, c.now, false) },
	} {
		for _, may := range []bool{true, false} {
			allowed := true
			h, c := hubAt(Options{MayWrite: func(s *Session, topicName string) bool {
				if s.ID != "c" || s.Account != "c" || topicName != "will" {
					t.Errorf("%s: asked for %s of %s: %s", how, s.ID, s.Account, topicName)
				}
				return allowed
			}})
			watch, watchLink := join(h, "watch")
			subscribeTo(t, h, watch, watchLink, "#", 1)
			s, link := join(h, "c", keptFor(9), func(a *Arrival) {
				a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone"), Retain: true}}
			})
			allowed = may
			end(h, c, s, link)
			got, retained := strings.Contains(filled(watch, watchLink), "gone"), h.Stats().Retained
			if got != may || (retained == 1) != may {
				t.Errorf("%s, allowed %v: the will came: %v, %d messages are retained", how, may, got, retained)
			}
		}
	}
}

// TestEndService: a client that is no service any more has no rights of one, also after a
// restart, until it connects as one again.
func TestEndService(t *testing.T) {
	t.Parallel()
	asService := func(a *Arrival) { a.Service, a.Clean = true, false }
	h, _ := hubAt(Options{})
	s, link := join(h, "c", keptFor(9), asService)
	s.EndService(&testLink{})
	if !s.Service() {
		t.Error("an earlier connection has ended it")
	}
	s.EndService(link)
	h.Disconnect(s, link, Bye{Kept: true, Expiry: 9})
	if header, ok := h.SavedSession("c"); s.Service() || !ok || header.Service {
		t.Errorf("it is still a service: %v %+v", s.Service(), header)
	}
	if s, _ := join(h, "c", keptFor(9), asService); !s.Service() {
		t.Error("it is no service again")
	}
}

// TestWallClockIsSet: neither a will nor the end of a session comes early or late because the
// wall clock was set meanwhile.
func TestWallClockIsSet(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		var ahead atomic.Int64
		h := New(Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go h.Run(ctx)
		watch, watchLink := join(h, "watch")
		subscribeTo(t, h, watch, watchLink, "will", 0)
		s, link := join(h, "c", keptFor(100), func(a *Arrival) {
			a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone")}, Delay: 50}
		})
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 100})
		for _, step := range []struct {
			seconds int
			hours   int  // by which the clock is set before that
			will    bool // has come meanwhile
			session bool // is there after it
		}{{10, 0, false, true}, {35, 24 * 365, false, true}, {15, 0, true, true}, {35, -48 * 365, false, true}, {10, 0, false, false}} {
			ahead.Add(int64(time.Duration(step.hours) * time.Hour))
			time.Sleep(time.Duration(step.seconds) * time.Second)
			synctest.Wait()
			if got := strings.Contains(filled(watch, watchLink), "gone"); got != step.will {
				t.Errorf("%+v: the will came: %v", step, got)
			}
			if _, ok := h.Holder("c"); ok != step.session {
				t.Errorf("%+v: the session is there: %v", step, ok)
			}
		}
	})
}

// TestWallClockIsSetRight: a session that a store has kept, and whose server starts with a clock that
// is behind, lives no longer than from the time at which that is set. Neither a session nor a will
// whose client leaves just after the clock was set moves with it.
func TestWallClockIsSetRight(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		const behind, back = 400 * 24 * time.Hour, -time.Hour
		var ahead atomic.Int64
		h := New(Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		h.Import(State{Header: Header{ID: "kept", Account: "kept", Version: 5, Expiry: 100, Gone: time.Now().Add(behind - 10*time.Second).Unix()}})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go h.Run(ctx)
		watch, watchLink := join(h, "watch")
		subscribeTo(t, h, watch, watchLink, "will", 0)
		s, link := join(h, "late", keptFor(100), func(a *Arrival) {
			a.Will = &Will{Message: Message{TopicName: "will", Payload: []byte("gone")}, Delay: 50}
		})
		there := func(id string, want bool) {
			t.Helper()
			if _, ok := h.Holder(id); ok != want {
				t.Errorf("session %s is there: %v", id, ok)
			}
		}
		time.Sleep(500 * time.Millisecond) // the clock is looked at once a second
		ahead.Add(int64(behind))
		time.Sleep(50 * time.Second)
		there("kept", true)
		time.Sleep(60 * time.Second)
		there("kept", false)
		ahead.Add(int64(back))
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 100})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		there("late", true)
		if strings.Contains(filled(watch, watchLink), "gone") {
			t.Error("the will came early")
		}
		time.Sleep(100 * time.Second)
		synctest.Wait()
		there("late", false)
		if !strings.Contains(filled(watch, watchLink), "gone") {
			t.Error("the will did not come")
		}
	})
}
