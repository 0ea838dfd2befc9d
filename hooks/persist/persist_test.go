package persist_test

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/hooks/persist"
	"github.com/heartline-mqtt/heartline/store"
)

// testStore is an store.State in memory, whose writes can be made to fail.
type testStore struct {
	mu   sync.Mutex
	all  map[string][]byte
	fail error
	hang chan struct{} // a write waits for its end
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

func TestMain(m *testing.M) {
	// mochi's event loop ends at Close without being waited for.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/mochi-mqtt/server/v2.(*Server).eventLoop"))
}

func start(t *testing.T, s *testStore) (*mqtt.Server, *persist.Hook) {
	t.Helper()
	caps := mqtt.NewDefaultServerCapabilities()
	caps.MaximumMessageExpiryInterval = 0
	server := mqtt.New(&mqtt.Options{InlineClient: true, Capabilities: caps, Logger: slog.New(slog.DiscardHandler)})
	hook := persist.New(server, persist.Options{Store: s, Gather: time.Millisecond, RetryInitial: time.Millisecond, RetryMax: time.Millisecond, StallAfter: 10 * time.Millisecond})
	if err := server.AddHook(hook, nil); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	return server, hook
}

func retain(t *testing.T, server *mqtt.Server, topicName, payload string) {
	t.Helper()
	if err := server.Publish(topicName, []byte(payload), true, 1); err != nil {
		t.Fatal(err)
	}
}

// TestStoreThatFails: a store that does not take a write for a while holds nobody
// up, and has everything when it is back.
func TestStoreThatFails(t *testing.T) {
	s := &testStore{all: map[string][]byte{"rdamaged": {0xff}}}
	server, hook := start(t, s)
	if d := hook.Stats().Damaged; d != 1 {
		t.Errorf("%d damaged values", d)
	}
	s.failing(errors.New("disk full"))
	retain(t, server, "a", "1")
	retain(t, server, "b", "1")
	retain(t, server, "b", "")
	for hook.Stats().Failed == 0 {
		time.Sleep(time.Millisecond)
	}
	s.failing(nil)
	for hook.Stats().Waiting > 0 || hook.Stats().Writes == 0 {
		time.Sleep(time.Millisecond)
	}
	_ = server.Close()

	server, _ = start(t, s)
	defer server.Close()
	if pk, ok := server.Topics.Retained.Get("a"); !ok || string(pk.Payload) != "1" || !pk.FixedHeader.Retain {
		t.Errorf("a: %+v", pk)
	}
	if _, ok := server.Topics.Retained.Get("b"); ok {
		t.Error("b was cleared, and is back")
	}
}

// TestStoreThatHangs: a write that does not come back is told of, and holds nobody
// up; what it leaves out is written when it has.
func TestStoreThatHangs(t *testing.T) {
	s := &testStore{all: map[string][]byte{}}
	server, hook := start(t, s)
	hang := make(chan struct{})
	s.mu.Lock()
	s.hang = hang
	s.mu.Unlock()
	retain(t, server, "a", "1")
	for !hook.Stats().Stalled {
		time.Sleep(time.Millisecond)
	}
	if err := hook.Ready(); err == nil || !strings.Contains(err.Error(), "has not come back") {
		t.Errorf("Ready: %v", err)
	}
	retain(t, server, "b", "1") // goes on in memory
	if n := hook.Stats().Waiting; n != 2 {
		t.Errorf("%d changes wait, want the one being written and the one after it", n)
	}
	s.mu.Lock()
	s.hang = nil
	s.mu.Unlock()
	close(hang)
	for hook.Stats().Waiting > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := hook.Ready(); err != nil || hook.Stats().Stalled {
		t.Errorf("the store is back: %v", err)
	}
	_ = server.Close()

	server, _ = start(t, s)
	defer server.Close()
	for _, topicName := range []string{"a", "b"} {
		if _, ok := server.Topics.Retained.Get(topicName); !ok {
			t.Errorf("%s is gone", topicName)
		}
	}
}

// TestWhatIsKeptOfAPacket: the identifier, the place in the order, the expiry and
// the version, which mochi's own storage loses; and a session's expiry.
func TestWhatIsKeptOfAPacket(t *testing.T) {
	s := &testStore{all: map[string][]byte{}}
	server, hook := start(t, s)
	cl := server.NewClient(nil, "t", "phone", false)
	cl.Properties.ProtocolVersion, cl.Properties.Props.SessionExpiryInterval = 5, 100
	cl.Properties.Username = []byte("alice")
	server.Clients.Add(cl)
	hook.OnSessionEstablished(cl, packets.Packet{})
	cl.State.Subscriptions.Add("x/#", packets.Subscription{Filter: "x/#", Qos: 2, NoLocal: true})
	hook.OnSubscribed(cl, packets.Packet{Filters: packets.Subscriptions{{Filter: "x/#"}}}, nil)
	want := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 2}, TopicName: "x/1", Payload: []byte("hello"),
		PacketID: 77, ProtocolVersion: 5, Created: 5, Expiry: time.Now().Unix() + 1000, ReasonCodes: []byte("0123456789abcdef"),
		Properties: packets.Properties{ContentType: "text/plain", User: []packets.UserProperty{{Key: "k", Val: "v"}}},
	}
	over := want
	over.PacketID, over.Expiry = 78, 1
	for _, pk := range []packets.Packet{want, over} {
		cl.State.Inflight.Set(pk)
		hook.OnQosPublish(cl, pk, 0, 0)
	}
	hook.OnDisconnect(cl, nil, false)
	_ = server.Close()

	server, _ = start(t, s)
	defer server.Close()
	back, ok := server.Clients.Get("phone")
	if !ok {
		t.Fatal("the session is gone")
	}
	if e := back.Properties.Props.SessionExpiryInterval; e == 0 || e > 100 || string(back.Properties.Username) != "alice" {
		t.Errorf("session: expiry %d, user %s", e, back.Properties.Username)
	}
	if sub, ok := back.State.Subscriptions.Get("x/#"); !ok || sub.Qos != 2 || !sub.NoLocal {
		t.Errorf("subscription: %+v", sub)
	}
	got, ok := back.State.Inflight.Get(77)
	if !ok || got.Expiry != want.Expiry || got.ProtocolVersion != 5 || got.Created != 5 || string(got.ReasonCodes) != string(want.ReasonCodes) ||
		string(got.Payload) != "hello" || got.Properties.ContentType != "text/plain" || len(got.Properties.User) != 1 {
		t.Errorf("in flight: %+v", got)
	}
	if _, ok := back.State.Inflight.Get(78); ok {
		t.Error("an expired message is back")
	}
}
