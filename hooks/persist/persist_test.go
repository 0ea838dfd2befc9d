package persist_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/hooks/persist"
	"github.com/heartline-mqtt/heartline/store"
)

// testStore is an store.State in memory, whose writes can be made to fail.
type testStore struct {
	mu   sync.Mutex
	all  map[string][]byte
	fail error
	hang chan struct{} // a write waits for its end

	batches [][]store.StateChange // that have begun
}

// begun returns how many writes have begun.
func (s *testStore) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.batches)
}

func (s *testStore) ScanState(prefix string, fn func(string, []byte) error) error {
	s.mu.Lock()
	all := maps.Clone(s.all)
	s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k, all[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *testStore) ApplyState(changes []store.StateChange) error {
	s.mu.Lock()
	hang := s.hang
	s.batches = append(s.batches, changes)
	s.mu.Unlock()
	if hang != nil {
		<-hang
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, c := range changes {
		switch {
		case c.Remove && c.Prefix:
			maps.DeleteFunc(s.all, func(k string, _ []byte) bool { return strings.HasPrefix(k, c.Key) })
		case c.Remove:
			delete(s.all, c.Key)
		default:
			s.all[c.Key] = c.Value
		}
	}
	return nil
}

func (s *testStore) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, s *testStore) (*ordinary.Hub, *persist.Keeper) {
	t.Helper()
	hub := ordinary.New(ordinary.Options{CacheBytes: 1})
	keeper := persist.New(hub, persist.Options{Store: s, Gather: time.Millisecond, RetryInitial: time.Millisecond, RetryMax: time.Millisecond, StallAfter: 10 * time.Millisecond})
	if err := keeper.Restore(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keeper.Stop)
	return hub, keeper
}

func retain(t *testing.T, hub *ordinary.Hub, topicName, payload string) {
	t.Helper()
	if _, err := hub.Publish(&ordinary.Message{TopicName: topicName, Payload: []byte(payload), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
}

// link is a connection that acknowledges nothing.
type link struct{ closed bool }

func (*link) Wake()    {}
func (l *link) Close() { l.closed = true }

// read is what a client gets that subscribes to everything.
func read(t *testing.T, hub *ordinary.Hub) (all []string) {
	t.Helper()
	l := &link{}
	s, _ := hub.Connect(ordinary.Arrival{ID: "reader", Clean: true, Peer: ordinary.Peer{Version: 4, ReceiveMaximum: 1000}, Link: l})
	defer hub.Disconnect(s, l, ordinary.Bye{Clean: true})
	if _, ok := hub.Subscribe(s, l, []ordinary.Ask{{Filter: "#"}}, false); !ok {
		t.Fatal("not subscribed")
	}
	s.Resume(l, nil)
	for s.Feed(l) {
	}
	b, _ := s.Fill(l, nil, 1<<20)
	for len(b) > 0 {
		pk := packets.Packet{ProtocolVersion: 4, FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: b[0]&1 > 0}}
		if err := pk.PublishDecode(b[2 : 2+b[1]]); err != nil {
			t.Fatal(err)
		}
		all = append(all, pk.TopicName+"="+string(pk.Payload))
		b = b[2+b[1]:]
	}
	return all
}

// TestStoreThatFails: a store that does not take a write for a while holds nobody
// up, and has everything when it is back.
func TestStoreThatFails(t *testing.T) {
	s := &testStore{all: map[string][]byte{"rdamaged": {0xff}}}
	hub, keeper := start(t, s)
	if d := keeper.Stats().Damaged; d != 1 {
		t.Errorf("%d damaged values", d)
	}
	s.failing(errors.New("disk full"))
	retain(t, hub, "a", "1")
	retain(t, hub, "b", "1")
	retain(t, hub, "b", "")
	for keeper.Stats().Failed == 0 {
		time.Sleep(time.Millisecond)
	}
	s.failing(nil)
	for keeper.Stats().Waiting > 0 || keeper.Stats().Writes == 0 {
		time.Sleep(time.Millisecond)
	}
	keeper.Stop()

	hub, _ = start(t, s)
	if got := read(t, hub); !slices.Equal(got, []string{"a=1"}) {
		t.Errorf("retained: %q", got)
	}
}

// TestStoreThatHangs: a write that does not return is reported, and holds nobody
// up; the remaining changes are written once it returns.
func TestStoreThatHangs(t *testing.T) {
	s := &testStore{all: map[string][]byte{}}
	hub, keeper := start(t, s)
	hang := make(chan struct{})
	s.mu.Lock()
	s.hang = hang
	s.mu.Unlock()
	retain(t, hub, "a", "1")
	for !keeper.Stats().Stalled {
		time.Sleep(time.Millisecond)
	}
	if err := keeper.Ready(); err == nil || !strings.Contains(err.Error(), "has not returned") {
		t.Errorf("Ready: %v", err)
	}
	retain(t, hub, "b", "1") // goes on in memory
	if n := keeper.Stats().Waiting; n != 2 {
		t.Errorf("%d changes wait, want the one being written and the one after it", n)
	}
	s.mu.Lock()
	s.hang = nil
	s.mu.Unlock()
	close(hang)
	for keeper.Stats().Waiting > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := keeper.Ready(); err != nil || keeper.Stats().Stalled {
		t.Errorf("the store is back: %v", err)
	}
	// Their content is on the disk alone: the cache has room for none.
	if got := read(t, hub); !slices.Equal(got, []string{"a=1", "b=1"}) {
		t.Errorf("retained: %q", got)
	}
	keeper.Stop()

	hub, _ = start(t, s)
	if got := read(t, hub); !slices.Equal(got, []string{"a=1", "b=1"}) {
		t.Errorf("retained after a restart: %q", got)
	}
}

// TestSessionIsKept: subscriptions, messages in flight both ways, with identifiers,
// order, expiry and properties.
func TestSessionIsKept(t *testing.T) {
	s := &testStore{all: map[string][]byte{}}
	hub, keeper := start(t, s)
	l := &link{}
	arrival := ordinary.Arrival{
		ID: "phone", Account: "alice", Service: true, Kept: true, Expiry: 100, Link: l,
		Peer: ordinary.Peer{Version: 5, ReceiveMaximum: 2},
	}
	c, _ := hub.Connect(arrival)
	hub.Subscribe(c, l, []ordinary.Ask{
		{Filter: "x/#", Subscription: ordinary.Subscription{QoS: 2, NoLocal: true, Identifier: 3}}, {Filter: "$share/g/work", Subscription: ordinary.Subscription{QoS: 1}},
	}, false)
	c.Resume(l, nil)
	c.Begin(l, 7)
	c.Begin(l, 8)
	c.End(l, 8)
	for i, qos := range []byte{2, 1, 2} {
		_, err := hub.Publish(&ordinary.Message{
			TopicName: "x/1", Payload: []byte{byte(i)}, QoS: qos, Created: 5, Expiry: time.Now().Unix() + 1000, Origin: "p",
			Properties: ordinary.Properties{ContentType: "text/plain", User: []ordinary.UserProperty{{Key: "k", Value: "v"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := hub.Publish(&ordinary.Message{TopicName: "work", Payload: []byte("x"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	c.Fill(l, nil, 1<<20) // two of them, then the window is full
	c.Received(l, 1)
	hub.Disconnect(c, l, ordinary.Bye{Kept: true, Expiry: 100})
	want, ok := hub.Export("phone")
	if !ok || len(want.Outgoing) != 4 || len(want.Incoming) != 1 || want.Outgoing[2].Share != "$share/g/work" {
		t.Fatalf("exported %+v", want)
	}
	keeper.Stop()

	hub, keeper = start(t, s)
	got, _ := hub.Export("phone")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart:\n%+v, want\n%+v", got, want)
	}
	arrival.Clean = true // nothing is left of it
	hub.Connect(arrival)
	keeper.Stop()
	for key := range s.all {
		if key != "cphone" {
			t.Errorf("left after a clean start: %q", key)
		}
	}
}

// value is what the store has for a header of less than 128 bytes.
func value(header string) []byte { return append([]byte{1, byte(len(header))}, header...) }

// TestSentIdentifiersAreKept: a message that was sent keeps its packet identifier over a
// restart, though it has expired: the client may hold it. One that was not sent is gone.
func TestSentIdentifiersAreKept(t *testing.T) {
	s := &testStore{all: map[string][]byte{
		"cphone":             value(`{"v":5,"e":100}`),
		"iphone\x00\x00\x05": value(`{"t":3,"q":2,"n":"x","e":1,"d":true}`),
		"iphone\x00\x00\x06": value(`{"t":3,"q":2,"n":"x","e":1}`),
	}}
	hub, keeper := start(t, s)
	got, _ := hub.Export("phone")
	if len(got.Outgoing) != 1 || got.Outgoing[0].PacketID != 5 {
		t.Errorf("restored %+v, want the message that was sent", got.Outgoing)
	}
	keeper.Stop()
	if s.all["iphone\x00\x00\x05"] == nil || s.all["iphone\x00\x00\x06"] != nil {
		t.Errorf("the store has %q", slices.Collect(maps.Keys(s.all)))
	}
}

// TestStateOfAnOlderVersion: both directions were under one kind.
func TestStateOfAnOlderVersion(t *testing.T) {
	s := &testStore{all: map[string][]byte{
		"cphone":             value(`{"u":"YWxpY2U=","v":5,"e":100}`),
		"iphone\x00\x00\x05": value(`{"t":5,"i":5,"k":9}`),
		"iphone\x00\x00\x06": append(value(`{"t":3,"q":1,"n":"x","o":"p","i":6}`), "hello"...),
	}}
	hub, keeper := start(t, s)
	got, _ := hub.Export("phone")
	if len(got.Incoming) != 1 || got.Incoming[0] != 9 || len(got.Outgoing) != 1 || string(got.Outgoing[0].Message.Payload) != "hello" || got.Account != "alice" {
		t.Errorf("restored %+v", got)
	}
	keeper.Stop()
	if _, old := s.all["iphone\x00\x00\x05"]; old || s.all["pphone\x00\x00\x09"] == nil {
		t.Error("not written in the new form")
	}
}

// TestAccountsTakeTurns: an account that changes a lot delays its own changes alone, and
// no write is larger than a notification can wait for.
func TestAccountsTakeTurns(t *testing.T) {
	s := &testStore{all: map[string][]byte{}, hang: make(chan struct{})}
	hub, keeper := start(t, s)
	publish := func(account, topicName string, bytes int) {
		t.Helper()
		if _, err := hub.Publish(&ordinary.Message{TopicName: topicName, Account: account, Payload: make([]byte, bytes), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	publish("bob", "bob/first", 1)
	for s.begun() == 0 { // its write hangs until everything else is there
		time.Sleep(time.Millisecond)
	}
	for i := range 300 {
		publish("bob", fmt.Sprint("bob/", i), 10_000)
	}
	for i := range 20 {
		publish("alice", fmt.Sprint("alice/", i), 100)
	}
	s.mu.Lock()
	close(s.hang)
	s.hang = nil
	s.mu.Unlock()
	for keeper.Stats().Waiting > 0 {
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	others := 0
	for i, batch := range s.batches {
		bytes, alice := 0, 0
		for _, c := range batch {
			if bytes += len(c.Value); strings.HasPrefix(c.Key, "ralice/") {
				alice++
			}
		}
		if bytes > 300_000 {
			t.Errorf("write %d has %d bytes", i, bytes)
		}
		if i <= 1 {
			others += alice
		}
	}
	if others != 20 {
		t.Errorf("%d of alice's 20 changes are in the first write after the one that hung, behind bob's 3 MB", others)
	}
}

// drain reads what there is for a client, retained messages included, acknowledges it, and
// returns the topics.
func drain(t *testing.T, c *ordinary.Session, l *link) (topics []string) {
	t.Helper()
	b, _ := c.Fill(l, nil, 1<<20)
	for len(b) > 0 {
		size, n := binary.Uvarint(b[1:])
		pk := packets.Packet{ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: b[0] >> 1 & 3, Retain: b[0]&1 > 0}}
		end := 1 + n + int(size)
		if err := pk.PublishDecode(b[1+n : end]); err != nil {
			t.Fatal(err)
		}
		c.Acknowledge(l, pk.PacketID)
		topics = append(topics, pk.TopicName)
		b = b[end:]
	}
	return topics
}

// TestReplayGoesOn: a new subscription gets all retained messages, each once, also where its
// client goes away and the server starts again before they have all been sent.
func TestReplayGoesOn(t *testing.T) {
	s := &testStore{all: map[string][]byte{}}
	hub, keeper := start(t, s)
	const many = 300
	for i := range many {
		retain(t, hub, fmt.Sprintf("r/%03d", i), strings.Repeat("x", 1000))
	}
	arrival := ordinary.Arrival{ID: "phone", Account: "alice", Kept: true, Expiry: 100, Peer: ordinary.Peer{Version: 5, ReceiveMaximum: 1000}}
	var got []string
	for i := range 3 {
		l := &link{}
		arrival.Link = l
		c, present := hub.Connect(arrival)
		if present != (i > 0) {
			t.Fatalf("connection %d: session present %v", i, present)
		}
		if i == 0 {
			hub.Subscribe(c, l, []ordinary.Ask{{Filter: "r/#", Subscription: ordinary.Subscription{QoS: 1}}, {Filter: "none/+"}}, false)
			c.Resume(l, nil)
		}
		for c.Feed(l) {
			got = append(got, drain(t, c, l)...)
			if i < 2 {
				break
			}
		}
		hub.Disconnect(c, l, ordinary.Bye{Kept: true, Expiry: 100})
		if i < 2 && len(got) >= many {
			t.Fatal("all came at once: the test needs more")
		}
		keeper.Stop()
		hub, keeper = start(t, s)
	}
	if unique := len(slices.Compact(slices.Sorted(slices.Values(got)))); len(got) != many || unique != many {
		t.Errorf("%d messages of %d topics, want %d", len(got), unique, many)
	}
	if st, _ := hub.Export("phone"); len(st.Replays) > 0 {
		t.Errorf("not over: %v", st.Replays)
	}
}

// TestChangesThatWaitAreBounded: an account that comes up with names faster than the disk takes
// them may add nothing more after a while. It can still change and remove its own things, others
// are not concerned, and all goes on when the disk does.
func TestChangesThatWaitAreBounded(t *testing.T) {
	hang := make(chan struct{})
	s := &testStore{all: map[string][]byte{}, hang: hang}
	hub, _ := start(t, s)
	publish := func(account, topicName, payload string) error {
		_, err := hub.Publish(&ordinary.Message{TopicName: topicName, Payload: []byte(payload), Retain: true, Account: account})
		return err
	}
	const long, enough = 60_000, 2000 // about twice the bound
	name := func(i int) string { return fmt.Sprintf("%06d", i) + strings.Repeat("n", long) }
	if err := publish("mallory", "hers", "x"); err != nil {
		t.Fatal(err)
	}
	added := 0
	for ; added < enough; added++ {
		if publish("mallory", name(added), "x") != nil {
			break
		}
		if err := publish("mallory", name(added), ""); err != nil {
			t.Fatal("a removal:", err)
		}
	}
	if added == enough {
		t.Errorf("%d names of %d bytes wait, and one more may come", added, long)
	}
	l := &link{}
	c, _ := hub.Connect(ordinary.Arrival{ID: "her phone", Account: "mallory", Kept: true, Expiry: 100, Link: l, Peer: ordinary.Peer{Version: 5, ReceiveMaximum: 10}})
	if codes, _ := hub.Subscribe(c, l, []ordinary.Ask{{Filter: "f"}}, false); codes[0] != 0x97 {
		t.Errorf("a subscription more: 0x%02x", codes[0])
	}
	for _, room := range []struct {
		id, account string
		kept, want  bool
	}{
		{"another of hers", "mallory", true, false}, {"another of hers", "mallory", false, true}, {"her phone", "mallory", true, true},
		{"his phone", "bob", true, true},
	} {
		if err := hub.Room(room.id, room.account, room.kept); (err == nil) != room.want {
			t.Errorf("a session %+v: %v", room, err)
		}
	}
	if err := errors.Join(publish("mallory", "hers", "y"), publish("mallory", "hers", ""), publish("bob", "his", "x")); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	s.hang = nil
	s.mu.Unlock()
	close(hang)
	for end := time.Now().Add(time.Minute); publish("mallory", "new", "x") != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never again")
		}
	}
}
