package strict

import (
	"github.com/mochi-mqtt/server/v2/packets"
)

// Options say how much is accepted. The zero value is strict and without limits
// beyond the protocol's.
type Options struct {
	// MaxPacketSize is the largest packet taken, in bytes with its fixed header;
	// 0 is the protocol's 268,435,460.
	MaxPacketSize int
	// MaxConnectSize is the same for a CONNECT, which costs the server memory
	// before anyone has been authenticated; 0 is MaxPacketSize.
	MaxConnectSize int
	// ExtendedAuth lets authentication methods and AUTH packets pass, for a server
	// with a hook that handles them. Without, CONNECT is refused with 0x8C.
	ExtendedAuth bool
	// AnyPayload leaves payloads that are said to be UTF-8 unchecked, as the
	// standard allows.
	AnyPayload bool
	// NoReasonString keeps answers at their reason code.
	NoReasonString bool
}

// stream is the state of one connection.
type stream struct {
	options *Options
	connect connect

	last      byte // type of the packet looked at last
	connected bool // the CONNECT has passed
	ended     bool // a DISCONNECT has passed
	// expand: the DISCONNECT that ended the stream is a reason code and no more,
	// which mochi does not read.
	expand bool
	code   byte

	need    int // how many bytes of the packet under way make another look worth it
	payload int // bytes of the PUBLISH under way that are still to come
	textual bool
	text    utf8Stream

	aliases []uint64 // set of the topic aliases that have a topic
	flow    flow
}

// flags by packet type that a client may send; 0xFF is a type it may not.
var fixedFlags = [16]byte{
	packets.Reserved:    0xFF,
	packets.Connect:     0,
	packets.Connack:     0xFF,
	packets.Publish:     0, // looked at apart
	packets.Puback:      0,
	packets.Pubrec:      0,
	packets.Pubrel:      2, // [MQTT-3.6.1-1]
	packets.Pubcomp:     0,
	packets.Subscribe:   2, // [MQTT-3.8.1-1]
	packets.Suback:      0xFF,
	packets.Unsubscribe: 2, // [MQTT-3.10.1-1]
	packets.Unsuback:    0xFF,
	packets.Pingreq:     0,
	packets.Pingresp:    0xFF,
	packets.Disconnect:  0,
	packets.Auth:        0,
}

// wait says that nothing can be said before the packet has n bytes.
func (s *stream) wait(n int) (int, *rule) {
	s.need = n
	return 0, nil
}

// scan looks at the bytes that follow those that have passed. The first pass
// bytes of b may be handed on; the others are the beginning of a packet and are
// to be shown again, with more. A violation is about the packet at b[pass].
func (s *stream) scan(b []byte) (pass int, v *Violation) {
	for !s.ended {
		if s.payload > 0 {
			n := min(s.payload, len(b)-pass)
			if r := s.passPayload(b[pass : pass+n]); r != nil {
				return pass, r.in(packets.Publish)
			}
			pass += n
		}
		rest := b[pass:]
		if len(rest) == 0 || len(rest) < s.need {
			break
		}
		s.need = 0
		n, r := s.packet(rest)
		if r != nil {
			return pass, r.in(rest[0] >> 4)
		}
		if n == 0 {
			break
		}
		pass += n
	}
	return pass, nil
}

// packet looks at the packet that b begins with. It returns how many of its
// bytes may pass, 0 where b does not hold enough of it.
func (s *stream) packet(b []byte) (pass int, r *rule) {
	packet := b[0] >> 4
	s.last = packet
	if !s.connected && packet != packets.Connect {
		if ProxyHeader(b) {
			return 0, &ruleProxyHeader
		}
		return 0, &ruleFirst // [MQTT-3.1.0-1]
	}
	flags := b[0] & 0x0F
	if packet == packets.Publish {
		switch {
		case flags&6 == 6:
			return 0, &ruleQoS // [MQTT-3.3.1-4]
		case flags&6 == 0 && flags&8 != 0:
			return 0, &ruleDup // [MQTT-3.3.1-2]
		}
	} else {
		switch want := fixedFlags[packet]; {
		case want == 0xFF, packet == packets.Auth && s.connect.version < 5:
			return 0, &ruleType // table 2-1
		case packet == packets.Auth && !s.connect.authMethod:
			return 0, &ruleAuthPacket // 4.12: protocol error
		case packet == packets.Connect && s.connected:
			return 0, &ruleSecond // [MQTT-3.1.0-2]
		case flags != want:
			return 0, &ruleFlags // [MQTT-2.1.3-1]
		}
	}

	var size int
	n := 1
	if len(b) > 1 && b[1] < 0x80 {
		size = int(b[1])
	} else {
		size, n = uvarint(b[1:])
		switch {
		case n < 0 && (s.connect.version == 5 || !overlong(b[1:])):
			return 0, &ruleLength // 2.1.4
		case n < 0:
			size, n = uvarintAnyLength(b[1:])
		case n == 0:
			return s.wait(len(b) + 1)
		}
	}
	head := 1 + n
	if limit := s.limit(packet); limit > 0 && head+size > limit {
		return 0, &ruleTooLarge // [MQTT-3.2.2-15]
	}

	switch packet {
	case packets.Publish:
		return s.publish(b, head, size)
	case packets.Pingreq:
		if size != 0 {
			return 0, &ruleTrailing // 3.12.1
		}
		return head, nil
	}
	if len(b) < head+size {
		return s.wait(head + size)
	}
	body := b[head : head+size]
	switch packet {
	case packets.Connect:
		if r = s.connect.parse(body, s.options); r == nil {
			s.connected = true
		}
	case packets.Subscribe:
		r = s.subscribe(body)
	case packets.Unsubscribe:
		r = s.unsubscribe(body)
	case packets.Disconnect:
		if r = s.disconnect(body); r == nil {
			s.ended = true // [MQTT-3.14.4-1]: what follows is not looked at
			if len(body) == 1 {
				s.expand, s.code = true, body[0]
				return 0, nil
			}
		}
	case packets.Auth:
		r = s.auth(body)
	default:
		r = s.ack(packet, body)
	}
	if r != nil {
		return 0, r
	}
	return head + size, nil
}

func (s *stream) limit(packet byte) int {
	if packet == packets.Connect && s.options.MaxConnectSize > 0 {
		return s.options.MaxConnectSize
	}
	return s.options.MaxPacketSize
}

// overlong reports whether b begins with a length of at most four bytes that is
// longer than it need be. MQTT 3.1.1 does not forbid it.
func overlong(b []byte) bool {
	_, n := uvarintAnyLength(b)
	return n > 0
}

func uvarintAnyLength(b []byte) (v, size int) {
	for i := 0; i < 4 && i < len(b); i++ {
		v |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, -1
}
