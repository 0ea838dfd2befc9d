package hooks

import (
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// TestLoad: what is in flight is counted whoever has put it there, and however it
// ends; of a connection that is over with nothing left nothing is kept.
func TestLoad(t *testing.T) {
	c := ordinaryConn()
	h, cl := c.hook, c.client
	h.log = slog.New(slog.DiscardHandler)
	message := func(id uint16, size int) packets.Packet {
		pk := packet(packets.Publish, id, 2)
		pk.Payload = make([]byte, size)
		return pk
	}
	publish := func(id uint16, size int) (kept bool) {
		pk := message(id, size)
		cl.State.Inflight.Set(pk)
		h.OnQosPublish(cl, pk, 0, 0)
		_, kept = cl.State.Inflight.Get(id)
		return kept
	}
	total := func() int {
		l := h.loadOf(cl)
		defer l.mu.Unlock()
		return l.total
	}
	const quarter = maxInflightBytes/4 - 1<<10
	cl.State.Inflight.Set(message(1, quarter)) // of a store
	for id := uint16(2); id <= 5; id++ {
		if kept := publish(id, quarter); kept != (id <= 4) {
			t.Errorf("message %d kept: %v", id, kept)
		}
	}
	if n := atomic.LoadInt64(&h.server.Info.InflightDropped); n != 1 || !c.shed.Load() {
		t.Errorf("%d counted", n)
	}
	for id, end := range map[uint16]func(){
		1: func() {
			cl.State.Inflight.Delete(1)
			h.OnPacketProcessed(cl, packet(packets.Puback, 1, 0), nil)
		},
		2: func() {
			cl.State.Inflight.Set(packet(packets.Pubrel, 2, 1))
			h.OnPacketProcessed(cl, packet(packets.Pubrec, 2, 0), nil)
		},
		3: func() {
			cl.State.Inflight.Delete(3)
			h.OnQosDropped(cl, message(3, quarter))
		},
		4: func() { c.discard(4) },
	} {
		before := total()
		end()
		if freed := before - total(); freed < quarter {
			t.Errorf("message %d: %d bytes freed", id, freed)
		}
	}
	if n := total(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	for id := range uint16(4) { // mochi drops them without a word
		publish(id+10, quarter)
		cl.State.Inflight.Delete(id + 10)
	}
	var kept bool
	for id := range uint16(4) { // which is seen after as many as there seem to be
		kept = publish(id+20, quarter)
	}
	if !kept {
		t.Error("what mochi has dropped still counts")
	}
	cl.ClearInflights()
	cl.Stop(nil)
	h.unload(cl)
	h.loads.Range(func(any, any) bool {
		t.Error("the load is still there")
		return false
	})
}
