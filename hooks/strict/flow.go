package strict

import (
	"encoding/binary"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

// flow knows which acknowledgement the client owes for each packet identifier
// that was sent to it on this connection. It lets unknown identifiers pass: a
// client may still answer what an earlier connection of the session brought.
type flow struct {
	mu   sync.Mutex
	owed map[uint16]byte // packet identifier → Puback, Pubrec or Pubcomp
}

func (f *flow) sent(id uint16, owed byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owed == nil {
		f.owed = make(map[uint16]byte)
	}
	f.owed[id] = owed
}

// received takes an acknowledgement and reports whether it may come.
func (f *flow) received(packet byte, id uint16, code byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	owed, ok := f.owed[id]
	switch {
	case !ok:
		return true
	case owed == packet:
		if packet != packets.Pubrec || code >= 0x80 {
			delete(f.owed, id)
		}
		return true
	case owed == packets.Pubcomp && packet == packets.Pubrec:
		return true // sent again before our PUBREL reached it
	}
	return false
}

// outbound looks at packets on their way to the client and returns what may be
// sent of them: b, but for a DISCONNECT to a client that knows none from a
// server. final: it is the last that may be.
func (s *stream) outbound(b []byte) (out []byte, final bool) {
	for at := 0; at < len(b); {
		size, n := uvarint(b[at+1:])
		end := at + 1 + n + size
		if n <= 0 || end > len(b) {
			return b, false // no packet of ours; not for us to judge
		}
		body := b[at+1+n : end]
		switch b[at] >> 4 {
		case packets.Publish:
			if qos := b[at] >> 1 & 3; qos > 0 && len(body) > 2 {
				if i := 2 + int(binary.BigEndian.Uint16(body)); i+2 <= len(body) {
					owed := packets.Puback
					if qos == 2 {
						owed = packets.Pubrec
					}
					s.flow.sent(binary.BigEndian.Uint16(body[i:]), owed)
				}
			}
		case packets.Pubrel:
			if len(body) >= 2 {
				s.flow.sent(binary.BigEndian.Uint16(body), packets.Pubcomp)
			}
		case packets.Disconnect:
			if s.connect.version < 5 {
				// 3.14 of 3.1.1: from the client to the server. mochi sends one at
				// a take-over and when it shuts down.
				return b[:at], true
			}
			return b[:end], true // [MQTT-3.14.4-1]
		}
		at = end
	}
	return b, false
}

// Shed takes the messages of QoS 0 out of b, whole packets to a client of that
// version, for a connection that does not keep up. One with properties and a topic
// name stays: it may be what gives a topic alias its topic. b itself is not changed.
func Shed(b []byte, version byte) (kept []byte, dropped int) {
	from := 0 // of what is kept and not copied yet
	for at := 0; at < len(b); {
		size, n := uvarint(b[at+1:])
		end := at + 1 + n + size
		if n <= 0 || end > len(b) {
			break // no packet of ours; not for us to judge
		}
		if b[at]>>4 == packets.Publish && b[at]>>1&3 == 0 && (version < 5 || definesNothing(b[at+1+n:end])) {
			kept = append(kept, b[from:at]...)
			from = end
			dropped++
		}
		at = end
	}
	if dropped == 0 {
		return b, 0
	}
	return append(kept, b[from:]...), dropped
}

// definesNothing reports whether a PUBLISH of QoS 0, told by its body, has no
// properties, or a topic alias in place of its topic name.
func definesNothing(body []byte) bool {
	topic, rest := field(body)
	return topic != nil && len(rest) > 0 && (rest[0] == 0 || len(topic) == 0)
}
