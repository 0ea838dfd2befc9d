package hooks

import (
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// flow keeps a burst of messages from being lost: mochi drops what does not fit
// into a client's channel of outgoing packets, whatever its QoS, though the
// goroutine that empties it is only late. Whoever publishes waits for that, which
// is a matter of microseconds since no write of ours waits for the network.
type flow struct {
	begun   atomic.Int64 // messages on their way into the channel, or so it seemed
	sent    atomic.Int64 // messages that came out
	waiting atomic.Int32
	moved   chan struct{} // one slot: sent has grown
}

// patience is for a goroutine that does not run. After it the count is taken to be
// wrong: mochi tells of the beginning of each message, and not of the end of all.
const patience = 50 * time.Millisecond

// admit waits until the channel has room for one more.
func (f *flow) admit(limit int64) {
	if f.begun.Add(1)-f.sent.Load() <= limit {
		return
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	f.waiting.Add(1)
	defer f.waiting.Add(-1)
	for {
		seen := f.sent.Load()
		if f.begun.Load()-seen <= limit {
			return
		}
		select {
		case <-f.moved:
		case <-t.C:
			if f.sent.Load() == seen {
				f.begun.Store(seen)
				return
			}
			t.Reset(patience)
		}
	}
}

func (f *flow) wrote() {
	f.sent.Add(1)
	if f.waiting.Load() > 0 {
		select {
		case f.moved <- struct{}{}:
		default:
		}
	}
}

// admit is called for each message that mochi is about to give to a client.
func (h *Hook) admit(c *conn) {
	if slots := h.server.Options.Capabilities.MaximumClientWritesPending; slots > 4 && !c.client.Closed() {
		c.flow.admit(int64(slots) * 3 / 4) // the rest is for who comes in between
	}
}

// OnPacketSent implements mqtt.Hook.
func (h *Hook) OnPacketSent(cl *mqtt.Client, pk packets.Packet, _ []byte) {
	if pk.FixedHeader.Type == packets.Publish {
		if c := h.conn(cl); c != nil {
			c.flow.wrote()
			c.aliases.sent(&pk)
		}
	}
}
