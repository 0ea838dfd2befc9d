package hooks_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestNamesKeepNoPacket: what the server keeps of a packet does not keep the whole packet
// in memory: client identifiers, wills and topic aliases.
func TestNamesKeepNoPacket(t *testing.T) {
	s := newSite(t)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	watch := s.connect(5, rawmqtt.Connect{ID: "watch", Clean: true})
	_, err := watch.Subscribe(1, 1, "will")
	must(t, err)
	const clients = 200
	large := strings.Repeat("p", 60<<10)
	before := heap()
	for i := range clients {
		c := s.connect(5, rawmqtt.Connect{
			ID: fmt.Sprint("client", i), Password: large, SessionExpiry: 3600, WillTopic: "will", WillPayload: "gone",
		})
		must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: packets.CodeDisconnectWillMessage.Code}))
		if pk := next(t, watch); string(pk.Payload) != "gone" {
			t.Fatalf("got %+v, want the will", pk)
		}
		c.Close()
	}
	if got := s.hub.Stats().Sessions; got != clients+1 {
		t.Errorf("%d sessions", got)
	}
	if left := heap() - before; left > clients*int64(len(large))/4 {
		t.Errorf("%d MiB are left of %d packets of 60 KiB for sessions", left>>20, clients)
	}

	const aliases = 10
	body := make([]byte, 1<<20)
	c := s.connect(5, rawmqtt.Connect{ID: "aliases", Clean: true})
	before = heap()
	for i := range aliases {
		must(t, c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: fmt.Sprint("topic", i), Payload: body,
			Properties: packets.Properties{TopicAliasFlag: true, TopicAlias: uint16(i + 1)},
		}))
	}
	must(t, c.Ping())
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pingresp {
		t.Fatalf("got %+v, want PINGRESP", pk)
	}
	if left := heap() - before; left > aliases*int64(len(body))/2 {
		t.Errorf("%d MiB are left of %d packets of 1 MiB for topic aliases", left>>20, aliases)
	}
}
