package hooks

import (
	"sync"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// maxInflightBytes bounds the ordinary messages of QoS 1 and 2 that a session has in
// flight, whether its client takes nothing or is away: mochi bounds their number
// alone, which is gigabytes. What goes beyond is dropped and counted, as Mosquitto
// does with max_queued_bytes. One message has no bound but mqtt.max_packet_size.
const maxInflightBytes = 4 << 20

// load is what a session has in flight, in bytes.
type load struct {
	mu      sync.Mutex
	sizes   map[uint16]int // by packet identifier
	total   int
	dropped int  // messages, since sizes were last held against what is there
	told    bool // that it is full
	gone    bool // nobody finds it any more: make another
}

// bytesOf is about what a message takes of the memory.
func bytesOf(pk *packets.Packet) int {
	const itself = 1 << 9
	n := itself + len(pk.TopicName) + len(pk.Payload) + len(pk.Properties.CorrelationData)
	for _, u := range pk.Properties.User {
		n += len(u.Key) + len(u.Val)
	}
	return n
}

// loadOf returns the load of cl, locked.
func (h *Hook) loadOf(cl *mqtt.Client) *load {
	for {
		v, ok := h.loads.Load(cl)
		if !ok {
			l := &load{sizes: map[uint16]int{}}
			l.mu.Lock()
			if v, ok = h.loads.LoadOrStore(cl, l); !ok {
				for _, pk := range cl.State.Inflight.GetAll(false) { // of the session's last client, or a store's
					if pk.FixedHeader.Type == packets.Publish {
						l.set(pk.PacketID, bytesOf(&pk))
					}
				}
				return l
			}
		}
		l := v.(*load)
		l.mu.Lock()
		if !l.gone {
			return l
		}
		l.mu.Unlock()
	}
}

func (l *load) set(id uint16, size int) {
	l.total += size - l.sizes[id]
	if size == 0 {
		delete(l.sizes, id)
		return
	}
	l.sizes[id] = size
}

// keep reports whether a message that has just been put in flight may stay there.
func (h *Hook) keep(cl *mqtt.Client, pk *packets.Packet) bool {
	l := h.loadOf(cl)
	defer l.mu.Unlock()
	l.set(pk.PacketID, 0)
	size := bytesOf(pk)
	if l.total > 0 && l.total+size > maxInflightBytes {
		if l.dropped++; l.dropped >= len(l.sizes) { // so that it costs each message little
			l.recount(cl)
		}
	}
	if l.total > 0 && l.total+size > maxInflightBytes {
		if cl.State.Inflight.Delete(pk.PacketID) {
			atomic.AddInt64(&h.server.Info.Inflight, -1)
		}
		atomic.AddInt64(&h.server.Info.InflightDropped, 1)
		if !l.told {
			h.log.Warn("messages for a client are dropped: too many bytes in flight", "client", cl.ID, "bytes", l.total, "limit", maxInflightBytes)
			l.told = true
		}
		return false
	}
	if isInFlight(cl, pk.PacketID) { // a take-over may have been faster
		l.set(pk.PacketID, size)
	}
	return true
}

// recount forgets what mochi has taken out of what is in flight without a word: it
// does so where a message does not fit into the channel of outgoing packets.
func (l *load) recount(cl *mqtt.Client) {
	l.dropped = 0
	for id := range l.sizes {
		if !isInFlight(cl, id) {
			l.set(id, 0)
		}
	}
}

func isInFlight(cl *mqtt.Client, id uint16) bool {
	return inFlightType(cl, id) == packets.Publish
}

// inFlightType is the type of what is in flight under id; 0: nothing. Inlined, the
// packet would be on the stack of every connection.
//
//go:noinline
func inFlightType(cl *mqtt.Client, id uint16) byte {
	pk, _ := cl.State.Inflight.Get(id)
	return pk.FixedHeader.Type
}

// relieve takes a message off cl's load that may be over. What became a PUBREL has
// no content.
func (h *Hook) relieve(cl *mqtt.Client, id uint16) {
	v, ok := h.loads.Load(cl)
	if !ok {
		return
	}
	l := v.(*load)
	l.mu.Lock()
	defer l.mu.Unlock()
	if isInFlight(cl, id) {
		return // another one
	}
	l.set(id, 0)
	l.told = l.told && l.total > maxInflightBytes/2
	h.forgetEmpty(cl, l)
}

// unload ends the counting for a connection that is over, where nothing is left.
func (h *Hook) unload(cl *mqtt.Client) {
	v, ok := h.loads.Load(cl)
	if !ok {
		return
	}
	l := v.(*load)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recount(cl)
	h.forgetEmpty(cl, l)
}

func (h *Hook) forgetEmpty(cl *mqtt.Client, l *load) {
	if len(l.sizes) == 0 && cl.Closed() {
		l.gone = true
		h.loads.CompareAndDelete(cl, l)
	}
}
