package hooks_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// slowDisk has one retained message, which takes a while to read. It keeps nothing.
type slowDisk struct {
	message *ordinary.Message
	reading chan struct{} // gets one for each read
	goOn    chan struct{}
}

func (d *slowDisk) Load(string) (*ordinary.Message, error) {
	d.reading <- struct{}{}
	<-d.goOn
	return d.message, nil
}

func (*slowDisk) Session(string, string)              {}
func (*slowDisk) Subscription(string, string, string) {}
func (*slowDisk) Outgoing(string, string, uint16)     {}
func (*slowDisk) Incoming(string, string, uint16)     {}
func (*slowDisk) Retained(string, string)             {}
func (*slowDisk) Behind(string) bool                  { return false }

// TestReplayHoldsUpNobodyElse: a retained message that has to be read from the disk holds up
// its own connection alone.
func TestReplayHoldsUpNobodyElse(t *testing.T) {
	s := newSite(t)
	d := &slowDisk{
		&ordinary.Message{TopicName: "kept", Payload: []byte("x"), Retain: true},
		make(chan struct{}, 1), make(chan struct{}),
	}
	goOn := sync.OnceFunc(func() { close(d.goOn) })
	t.Cleanup(goOn)
	s.hub.Keep(d, d)
	s.hub.ImportRetained(d.message)
	reader := s.connect(5, rawmqtt.Connect{ID: "reader", Clean: true})
	others := make([]*rawmqtt.Client, 2*runtime.GOMAXPROCS(0)) // at every flusher
	for i := range others {
		others[i] = s.connect(5, rawmqtt.Connect{ID: fmt.Sprint("other", i), Clean: true})
	}
	_, err := reader.Subscribe(1, 0, "#")
	must(t, err)
	<-d.reading
	for _, other := range others {
		must(t, other.Ping())
		if pk := next(t, other); pk.FixedHeader.Type != packets.Pingresp {
			t.Errorf("got %+v, want PINGRESP", pk)
		}
	}
	goOn()
	if pk := next(t, reader); pk.TopicName != "kept" || !pk.FixedHeader.Retain {
		t.Errorf("got %+v, want the retained message", pk)
	}
}

// TestReplayGoesOnWhereNothingIsSent: a client gets the retained message that comes after many
// topics that it may not read, and after many filters without one. It says nothing meanwhile:
// no packet of its own gets the replay going again.
func TestReplayGoesOnWhereNothingIsSent(t *testing.T) {
	s := newSite(t, withRules(hooks.AccessRule{TopicFilter: "closed/#"}))
	const many = 600
	for i := range many {
		retain(t, s, fmt.Sprintf("closed/%d", i))
	}
	retain(t, s, "open")
	filters := make([]string, many, many+1)
	for i := range filters {
		filters[i] = fmt.Sprint("none/", i)
	}
	for name, filters := range map[string][]string{"topics": {"#"}, "filters": append(filters, "open")} {
		c := s.connect(5, rawmqtt.Connect{ID: name, Clean: true})
		if _, err := c.Subscribe(1, 0, filters...); err != nil {
			t.Fatal(err)
		}
		if pk := next(t, c); pk.TopicName != "open" || !pk.FixedHeader.Retain {
			t.Errorf("%s: got %+v, want the retained message", name, pk)
		}
	}
}

func retain(t *testing.T, s *site, topicName string) {
	t.Helper()
	if _, err := s.hub.Publish(&ordinary.Message{TopicName: topicName, Payload: []byte("x"), Retain: true}); err != nil {
		t.Fatal(err)
	}
}
