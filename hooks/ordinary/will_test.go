package ordinary

import (
	"errors"
	"strings"
	"testing"
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
