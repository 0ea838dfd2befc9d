package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Protocol versions, as CONNECT has them.
const (
	version311 = 4
	version5   = 5
)

// Packet types, in the upper half of the first byte. MQTT 5 §2.1.2.
const (
	typeConnect    = 1
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typeSubscribe  = 8
	typeSuback     = 9
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
)

// maxPacket is above everything that a load run sends or is sent.
const maxPacket = 16 << 20

var errMalformed = errors.New("the broker sent a packet that is not MQTT")

// connect is what a CONNECT says.
type connect struct {
	version       byte
	clientID      string
	username      string
	password      []byte
	keepalive     uint16 // seconds
	clean         bool
	sessionExpiry uint32 // seconds, MQTT 5; 0 leaves it out
}

func appendConnect(b []byte, c connect) []byte {
	var flags byte
	length := 10 + 2 + len(c.clientID)
	if c.clean {
		flags |= 0x02
	}
	if c.username != "" {
		flags |= 0x80
		length += 2 + len(c.username)
	}
	if len(c.password) > 0 {
		flags |= 0x40
		length += 2 + len(c.password)
	}
	properties := 0
	if c.version == version5 {
		if c.sessionExpiry > 0 {
			properties = 5
		}
		length += 1 + properties
	}
	b = append(b, typeConnect<<4)
	b = binary.AppendUvarint(b, uint64(length))
	b = append(b, 0, 4, 'M', 'Q', 'T', 'T', c.version, flags)
	b = binary.BigEndian.AppendUint16(b, c.keepalive)
	if c.version == version5 {
		b = append(b, byte(properties))
		if properties > 0 {
			b = binary.BigEndian.AppendUint32(append(b, 0x11), c.sessionExpiry)
		}
	}
	b = appendString(b, c.clientID)
	if c.username != "" {
		b = appendString(b, c.username)
	}
	if len(c.password) > 0 {
		b = appendString(b, c.password)
	}
	return b
}

// appendSubscribe asks for one filter at QoS 1.
func appendSubscribe(b []byte, version byte, packetID uint16, filter string) []byte {
	length := 2 + 2 + len(filter) + 1
	if version == version5 {
		length++
	}
	b = append(b, typeSubscribe<<4|2)
	b = binary.AppendUvarint(b, uint64(length))
	b = binary.BigEndian.AppendUint16(b, packetID)
	if version == version5 {
		b = append(b, 0)
	}
	return append(appendString(b, filter), 1)
}

// appendPublishHead is a QoS 1 PUBLISH up to its payload, which the caller appends.
func appendPublishHead(b []byte, version byte, packetID uint16, topicName string, payload int) []byte {
	length := 2 + len(topicName) + 2 + payload
	if version == version5 {
		length++
	}
	b = append(b, typePublish<<4|2)
	b = binary.AppendUvarint(b, uint64(length))
	b = appendString(b, topicName)
	b = binary.BigEndian.AppendUint16(b, packetID)
	if version == version5 {
		b = append(b, 0)
	}
	return b
}

// appendPuback is the short form of success, which both versions have (MQTT 5
// §3.4.2.1).
func appendPuback(b []byte, packetID uint16) []byte {
	return append(b, typePuback<<4, 2, byte(packetID>>8), byte(packetID))
}

func appendString[S string | []byte](b []byte, s S) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// packet is one that came; body is part of the buffer it was read into.
type packet struct {
	first byte
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }

// split takes the first packet off b; size is 0 where b does not hold all of it.
func split(b []byte) (p packet, size int, err error) {
	var length uint32
	for i := 1; ; i++ {
		if i >= len(b) {
			return packet{}, 0, nil
		}
		length |= uint32(b[i]&0x7f) << (7 * (i - 1))
		if b[i] < 0x80 {
			size = i + 1 + int(length)
			if size > maxPacket {
				return packet{}, 0, fmt.Errorf("%w: one of %d bytes", errMalformed, size)
			}
			if size > len(b) {
				return packet{}, 0, nil
			}
			return packet{b[0], b[i+1 : size]}, size, nil
		}
		if i == 4 { // MQTT 5 §1.5.5: four bytes at most
			return packet{}, 0, fmt.Errorf("%w: its length has no end", errMalformed)
		}
	}
}

// parsePublish returns what a device looks at; id is 0 at QoS 0.
func parsePublish(p packet, version byte) (id uint16, payload []byte, err error) {
	b := p.body
	if len(b) < 2 {
		return 0, nil, fmt.Errorf("%w: a PUBLISH without a topic name", errMalformed)
	}
	topic := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < topic {
		return 0, nil, fmt.Errorf("%w: a PUBLISH shorter than its topic name", errMalformed)
	}
	b = b[topic:]
	if p.first&0x06 != 0 {
		if len(b) < 2 {
			return 0, nil, fmt.Errorf("%w: a PUBLISH without a packet identifier", errMalformed)
		}
		if id, b = binary.BigEndian.Uint16(b), b[2:]; id == 0 { // [MQTT-2.2.1-3]
			return 0, nil, fmt.Errorf("%w: a PUBLISH with packet identifier 0", errMalformed)
		}
	}
	if version == version5 {
		if b, err = skipProperties(b); err != nil {
			return 0, nil, err
		}
	}
	return id, b, nil
}

func skipProperties(b []byte) ([]byte, error) {
	length, n := binary.Uvarint(b)
	if n <= 0 || n > 4 || length > uint64(len(b)-n) {
		return nil, fmt.Errorf("%w: properties longer than their packet", errMalformed)
	}
	return b[n+int(length):], nil
}

// parsePuback returns the packet acknowledged, and the reason: 0x80 and up is a
// refusal. MQTT 3.1.1 knows none, and so does the short form of 5.
func parsePuback(p packet) (id uint16, reason byte, err error) {
	if len(p.body) < 2 {
		return 0, 0, fmt.Errorf("%w: a PUBACK without a packet identifier", errMalformed)
	}
	if len(p.body) > 2 {
		reason = p.body[2]
	}
	return binary.BigEndian.Uint16(p.body), reason, nil
}

// parseConnack returns the reason code, which is 0 for success.
func parseConnack(p packet) (reason byte, err error) {
	if p.kind() != typeConnack || len(p.body) < 2 {
		return 0, fmt.Errorf("%w: a CONNACK was due", errMalformed)
	}
	return p.body[1], nil
}

// parseSuback returns the code of the one filter asked for.
func parseSuback(p packet, version byte) (code byte, err error) {
	if p.kind() != typeSuback || len(p.body) < 3 {
		return 0, fmt.Errorf("%w: a SUBACK was due", errMalformed)
	}
	b := p.body[2:]
	if version == version5 {
		if b, err = skipProperties(b); err != nil {
			return 0, err
		}
	}
	if len(b) != 1 {
		return 0, fmt.Errorf("%w: a SUBACK with %d codes for one filter", errMalformed, len(b))
	}
	return b[0], nil
}

// reasonText is for people: what a broker meant by a code of CONNACK or DISCONNECT.
func reasonText(version, reason byte) string {
	texts := map[byte]string{
		0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x83: "implementation specific error",
		0x84: "protocol version not supported", 0x85: "client identifier not valid", 0x86: "bad user name or password",
		0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy", 0x8a: "banned", 0x8b: "server shutting down",
		0x8d: "keep alive timeout", 0x8e: "session taken over", 0x8f: "topic filter invalid", 0x90: "topic name invalid",
		0x93: "receive maximum exceeded", 0x95: "packet too large", 0x96: "message rate too high", 0x97: "quota exceeded",
		0x99: "payload format invalid", 0x9f: "connection rate exceeded",
	}
	if version == version311 {
		texts = map[byte]string{1: "protocol version not supported", 2: "client identifier not valid", 3: "server unavailable", 4: "bad user name or password", 5: "not authorized"}
	}
	if text, ok := texts[reason]; ok {
		return fmt.Sprintf("%s (0x%02x)", text, reason)
	}
	return fmt.Sprintf("reason 0x%02x", reason)
}
