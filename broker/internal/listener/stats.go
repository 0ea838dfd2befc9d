package listener

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/hooks/strict"
)

// Stats is what a front has seen since it was made, for /metrics. All but Open
// and Pending only grow.
type Stats struct {
	Open    int // connections at present
	Pending int // of these, before their CONNECT

	Accepted          uint64 // connections let in
	Established       uint64 // of these, handed to mochi
	RefusedFull       uint64 // closed at once: as many connections as are allowed
	RefusedAddress    uint64 // closed at once: as many as are allowed from one address
	Evicted           uint64 // closed before their CONNECT to make room
	AcceptErrors      uint64 // failures of accept, such as too many open files
	ConnectTimeouts   uint64 // no complete CONNECT in time
	HandshakeFailures uint64 // TLS or WebSocket handshakes that failed
	HandshakeTimeouts uint64 // TLS handshakes not done in time
	TextFrames        uint64 // WebSocket connections closed for a frame that is not binary
	WriteTimeouts     uint64 // cut: took nothing for the write timeout
	SlowConsumers     uint64 // cut: write queue full
	DroppedQoS0       uint64 // messages of QoS 0 not sent to a peer that does not keep up
	Kicked            uint64 // closed by Conn.Kick

	Panics    map[string]uint64    // recovered, by the type of the packet being processed; every type is there
	Malformed map[Malformed]uint64 // closed for a packet that MQTT forbids
}

// Malformed is a kind of packet that is refused.
type Malformed struct {
	Packet string // as the standard spells it: PUBLISH
	Rule   string // strict.Violation.Rule
}

// stats are the counters behind Stats.
type stats struct {
	accepted, established, refusedFull, refusedAddress, evicted, acceptErrors atomic.Uint64
	connectTimeouts, handshakeFailures, handshakeTimeouts, textFrames         atomic.Uint64
	writeTimeouts, slowConsumers, droppedQoS0, kicked                         atomic.Uint64
	pending                                                                   atomic.Int64

	fullTold, acceptTold everyMinute

	panics [16]atomic.Uint64 // by the type of the packet

	mu        sync.Mutex
	malformed map[Malformed]uint64
}

// everyMinute is for a log record that a client can cause as often as it likes.
type everyMinute struct{ last atomic.Int64 }

// due reports whether the last time that it was is a minute ago.
func (s *everyMinute) due() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last >= int64(time.Minute) && s.last.CompareAndSwap(last, now)
}

// panicked counts one and reports whether it is the first with that type of packet.
func (s *stats) panicked(packet byte) (first bool) {
	return s.panics[packet&15].Add(1) == 1
}

func (s *stats) violated(v *strict.Violation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.malformed == nil {
		s.malformed = make(map[Malformed]uint64)
	}
	s.malformed[Malformed{strict.PacketName(v.Packet), v.Rule}]++
}

// Stats returns the counters as they stand.
func (f *front) Stats() Stats {
	s := &f.stats
	f.mu.Lock()
	open := len(f.conns)
	f.mu.Unlock()
	panics := make(map[string]uint64, len(s.panics))
	for packet := range s.panics {
		panics[strict.PacketName(byte(packet))] = s.panics[packet].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Open:              open,
		Pending:           int(s.pending.Load()),
		Accepted:          s.accepted.Load(),
		Established:       s.established.Load(),
		RefusedFull:       s.refusedFull.Load(),
		RefusedAddress:    s.refusedAddress.Load(),
		Evicted:           s.evicted.Load(),
		AcceptErrors:      s.acceptErrors.Load(),
		ConnectTimeouts:   s.connectTimeouts.Load(),
		HandshakeFailures: s.handshakeFailures.Load(),
		HandshakeTimeouts: s.handshakeTimeouts.Load(),
		TextFrames:        s.textFrames.Load(),
		WriteTimeouts:     s.writeTimeouts.Load(),
		SlowConsumers:     s.slowConsumers.Load(),
		DroppedQoS0:       s.droppedQoS0.Load(),
		Kicked:            s.kicked.Load(),
		Panics:            panics,
		Malformed:         maps.Clone(s.malformed),
	}
}
