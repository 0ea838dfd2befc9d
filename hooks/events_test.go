package hooks_test

import (
	"context"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// eventsOf is a source of the events that a test sends.
type eventsOf chan delivery.AccountEvent

func (eventsOf) EventsEnd() (delivery.Place, error) { return delivery.Place{{}}, nil }

func (s eventsOf) Follow(ctx context.Context, _ delivery.Place, fn func(*delivery.AccountEvent, delivery.Place) error) error {
	for {
		select {
		case e := <-s:
			if err := fn(&e, delivery.Place{{}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestEventWaitsForItsNotification: an event whose notification cannot be read at the moment is sent
// later, with its ID. One whose notification is gone or damaged is sent without.
func TestEventWaitsForItsNotification(t *testing.T) {
	events := make(eventsOf)
	s := newSite(t, func(o *hooks.Options) { o.Events = events })
	must(t, s.core.Register("phone", "alice"))
	_, err := s.core.Accept(t.Context(), delivery.Request{Account: "alice", ID: "n-1", Title: "t"})
	must(t, err)
	seq, err := s.store.Lookup("n-1")
	must(t, err)
	c := s.connect(5, rawmqtt.Connect{ID: "backend", Clean: true})
	_, err = c.Subscribe(1, 1, "heartline/accounts/+/events")
	must(t, err)
	s.store.unreadable.Store(true)
	events <- delivery.AccountEvent{Account: "alice", Event: delivery.Event{Seq: seq, Kind: delivery.EventAccepted}}
	s.triedToRead(2)
	s.store.unreadable.Store(false)
	if pk := next(t, c); !strings.Contains(string(pk.Payload), `"n-1"`) {
		t.Errorf("got %s", pk.Payload)
	}
	events <- delivery.AccountEvent{Account: "alice", Event: delivery.Event{Seq: seq + 1000, Kind: delivery.EventAccepted}}
	if pk := next(t, c); !strings.HasSuffix(pk.TopicName, "/events") || strings.Contains(string(pk.Payload), `"n-1"`) {
		t.Errorf("got %s", pk.Payload)
	}
	s.store.damaged.Store(true)
	events <- delivery.AccountEvent{Account: "alice", Event: delivery.Event{Seq: seq, Kind: delivery.EventAccepted}}
	if pk := next(t, c); !strings.HasSuffix(pk.TopicName, "/events") || strings.Contains(string(pk.Payload), `"n-1"`) {
		t.Errorf("got %s", pk.Payload)
	}
}
