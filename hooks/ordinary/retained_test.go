package ordinary

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// slowDisk has one retained message, which takes a while to read.
type slowDisk struct {
	message *Message
	reading chan struct{} // gets one for each read
	goOn    chan struct{}
}

func (d *slowDisk) Load(string) (*Message, error) {
	d.reading <- struct{}{}
	<-d.goOn
	return d.message, nil
}

// TestAnswersWhileTheDiskIsRead: a message to a topic whose retained message has to be read
// first, for a replay that has not come to it, holds up no answers to its receivers.
func TestAnswersWhileTheDiskIsRead(t *testing.T) {
	t.Parallel()
	for _, retain := range []bool{false, true} {
		d := &slowDisk{&Message{TopicName: "t", Payload: []byte("old"), QoS: 1, Retain: true}, make(chan struct{}, 1), make(chan struct{})}
		h, _ := hubAt(Options{Disk: d})
		h.ImportRetained(d.message)
		s, link := join(h, "c")
		subscribeTo(t, h, s, link, "t", 1)
		published := make(chan error)
		go func() {
			_, err := h.Publish(&Message{TopicName: "t", Payload: []byte("new"), QoS: 1, Retain: retain})
			published <- err
		}()
		<-d.reading
		answered := make(chan bool, 1)
		go func() { answered <- s.Answer(link, 0xd0, 0) }()
		select {
		case <-answered:
		case <-time.After(20 * time.Second):
			t.Error("a PINGREQ is not answered while the disk is read")
		}
		close(d.goOn)
		if err := <-published; err != nil {
			t.Fatal(err)
		}
		got := filled(s, link)
		if first, second := strings.Index(got, "old"), strings.Index(got, "new"); first < 0 || second < first {
			t.Errorf("got %q, want the retained message and then the live one", got)
		}
		if s.Feed(link); filled(s, link) != "" {
			t.Error("the replay sends the topic's message once more")
		}
	}
}

// TestNamesKeepNoPacket: a topic name is a part of a packet, which it keeps in memory. What
// outlives the packet keeps its own name. It is not parallel: it measures the heap.
func TestNamesKeepNoPacket(t *testing.T) {
	const most, packet = 50, 1 << 20
	name := func(i int) string { return (fmt.Sprintf("%08d", i) + strings.Repeat("t", packet))[:8] }
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	aliases := func(a *Arrival) { a.Peer.TopicAliasMaximum = most }
	for what, keep := range map[string]func(*Hub){
		"retained messages": func(h *Hub) {
			for i := range most {
				m := &Message{TopicName: name(i), Payload: []byte("x"), Retain: true}
				if _, err := h.Publish(m); err != nil {
					t.Fatal(err)
				}
				h.Written(m)
			}
		},
		"retained messages that a publish has read": func(h *Hub) {
			s, link := join(h, "c")
			for i := range most {
				topicName := fmt.Sprintf("%08d", i)
				h.ImportRetained(&Message{TopicName: topicName})
				subscribeTo(t, h, s, link, topicName, 1)
				publishTo(t, h, name(i), 0)
			}
			s.Fill(link, nil, 1<<20)
		},
		"topics that a replay need not visit": func(h *Hub) {
			s, link := join(h, "c")
			subscribeTo(t, h, s, link, "#", 1)
			for i := range most {
				h.ImportRetained(&Message{TopicName: fmt.Sprintf("%08d", i)})
				publishTo(t, h, name(i), 0)
			}
			s.Fill(link, nil, 1<<20)
		},
		"topic aliases": func(h *Hub) {
			s, link := join(h, "c", aliases)
			subscribeTo(t, h, s, link, "#", 0)
			for i := range most {
				publishTo(t, h, name(i), 0)
			}
			s.Fill(link, nil, 1<<20)
		},
		"subscriptions": func(h *Hub) {
			s, link := join(h, "c")
			for i := range most {
				subscribeTo(t, h, s, link, name(i), 0)
			}
		},
	} {
		h, _ := hubAt(Options{Disk: anyDisk{}, CacheBytes: 1 << 10})
		before := heap()
		keep(h)
		if after := heap(); after > before+5*packet {
			t.Errorf("%s: %d MiB are left of %d packets of 1 MiB", what, (after-before)>>20, most)
		}
		runtime.KeepAlive(h)
	}
}

// anyDisk has a message for every topic.
type anyDisk struct{}

func (anyDisk) Load(topicName string) (*Message, error) {
	return &Message{TopicName: topicName, Payload: []byte("x"), Retain: true}, nil
}

// TestSearchesAreShort: where many topics are to be looked at and none matches, the caller that
// others wait for looks at a few of them, and no look is made twice.
func TestSearchesAreShort(t *testing.T) {
	t.Parallel()
	h, _ := hubAt(Options{})
	const many = 20 * looksAtOnce
	for i := range many {
		retain(t, h, fmt.Sprintf("t/%d/x", i), "x")
	}
	s, link := join(h, "c")
	subscribeTo(t, h, s, link, "t/+/y", 1)
	subscribeTo(t, h, s, link, "t/7/x", 1)
	if !s.Feeds(link) || len(s.replays) != 2 || s.replays[0].after == "" {
		t.Fatalf("%d replays are left after one short search, the first behind %q", len(s.replays), s.replays[0].after)
	}
	steps := 0
	for ; len(s.replays) == 2; steps++ {
		looks := looksAtOnce
		s.upcoming(link, &looks)
	}
	if most := 3 * many / looksAtOnce; steps < 10 || steps > most {
		t.Errorf("%d steps, want %d at most", steps, most)
	}
	for s.Feed(link) {
	}
	if got := filled(s, link); !strings.Contains(got, "t/7/x") {
		t.Errorf("got %q", got)
	}
}

// TestReplayThatHasBegunIsFirst: a store keeps where the first replay has come to. The one that has
// begun is the first again after a start, in whatever order the store has them.
func TestReplayThatHasBegunIsFirst(t *testing.T) {
	t.Parallel()
	h, c := hubAt(Options{})
	h.Import(State{
		Header:        Header{ID: "c", Account: "c", Version: 5, Expiry: 1000, Gone: c.now.Unix()},
		Subscriptions: map[string]Subscription{"a/#": {QoS: 1}, "z/#": {QoS: 1}},
		Replays:       []Replay{{Filter: "a/#"}, {Filter: "z/#", After: keyOf("z/5")}},
	})
	for range 2 { // before and after a connection
		for filter, want := range map[string]string{"a/#": "", "z/#": keyOf("z/5")} {
			if _, r, ok := h.SavedSubscription("c", filter); !ok || r == nil || r.After != want {
				t.Errorf("%s: %v, replay %+v", filter, ok, r)
			}
		}
		s, link := join(h, "c", keptFor(1000), func(a *Arrival) { a.Clean = false })
		h.Disconnect(s, link, Bye{Kept: true, Expiry: 1000})
	}
}
