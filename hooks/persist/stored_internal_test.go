package persist

import (
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/store"
)

// nothing is a store that keeps nothing.
type nothing struct{}

func (nothing) ApplyState([]store.StateChange) error               { return nil }
func (nothing) ScanState(string, func(string, []byte) error) error { return nil }

type idle struct{}

func (idle) Wake()  {}
func (idle) Close() {}

// TestStoredIsForgotten: the Keeper holds no key of a session that is stored no more, whichever
// way that came about.
func TestStoredIsForgotten(t *testing.T) {
	hub := ordinary.New(ordinary.Options{})
	h := New(hub, Options{Store: nothing{}})
	flush := func() {
		t.Helper()
		for more := true; more; {
			var err error
			if more, err = h.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := idle{}
	kept := ordinary.Arrival{ID: "phone", Account: "alice", Kept: true, Expiry: 100, Link: link, Peer: ordinary.Peer{Version: 5, ReceiveMaximum: 10}}
	notKept := kept
	notKept.Kept, notKept.Expiry = false, 0
	clean := kept
	clean.Clean = true
	for name, end := range map[string]func(s *ordinary.Session){
		"clean start":           func(*ordinary.Session) { hub.Connect(clean) },
		"no expiry":             func(*ordinary.Session) { hub.Connect(notKept) },
		"DISCONNECT without":    func(s *ordinary.Session) { hub.Disconnect(s, link, ordinary.Bye{Clean: true}) },
		"ended by somebody":     func(*ordinary.Session) { hub.End("phone") },
		"moved to another node": func(*ordinary.Session) { hub.Release("phone", "alice", time.Now(), false) },
	} {
		s, _ := hub.Connect(kept)
		hub.Subscribe(s, link, []ordinary.Ask{{Filter: "t", Subscription: ordinary.Subscription{QoS: 1}}}, false)
		s.Resume(link, nil)
		for range 5 {
			if _, err := hub.Publish(&ordinary.Message{TopicName: "t", QoS: 1, Payload: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		s.Begin(link, 7)
		flush()
		if len(h.stored) != 6 {
			t.Errorf("%s: %d packets are stored, want 6", name, len(h.stored))
		}
		end(s)
		flush()
		if len(h.stored) != 0 {
			t.Errorf("%s: %d keys are left", name, len(h.stored))
		}
		hub.End("phone")
		flush()
	}
}
