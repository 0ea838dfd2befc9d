package strict

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// codes is a set of reason codes.
type codes [4]uint64

func codesOf(list ...byte) (s codes) {
	for _, c := range list {
		s[c/64] |= 1 << (c % 64)
	}
	return s
}

func (s *codes) has(c byte) bool { return s[c/64]>>(c%64)&1 == 1 }

// What a client may say, by packet.
var (
	receivedCodes   = codesOf(0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99) // [MQTT-3.4.2-1] [MQTT-3.5.2-1]
	releasedCodes   = codesOf(0x00, 0x92)                                           // [MQTT-3.6.2-1] [MQTT-3.7.2-1]
	disconnectCodes = codesOf(0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99)
	authCodes       = codesOf(0x18, 0x19) // [MQTT-3.15.2-1]
)

// ack checks the body of a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (s *stream) ack(packet byte, b []byte) *rule {
	if len(b) < 2 {
		return &ruleTruncated
	}
	id := binary.BigEndian.Uint16(b)
	if id == 0 {
		return &rulePacketID // [MQTT-2.2.1-3]
	}
	var code byte
	if rest := b[2:]; len(rest) > 0 {
		if s.connect.version < 5 {
			return &ruleTrailing // 3.4.1 of 3.1.1: the remaining length is 2
		}
		code = rest[0]
		known := &receivedCodes
		if packet == packets.Pubrel || packet == packets.Pubcomp {
			known = &releasedCodes
		}
		if !known.has(code) {
			return &ruleReasonCode
		}
		if len(rest) > 1 {
			var p properties
			n, r := p.parse(rest[1:], ackProperties)
			if r != nil {
				return r
			}
			if 1+n < len(rest) {
				return &ruleTrailing
			}
		}
	}
	if packet != packets.Pubrel && !s.flow.received(packet, id, code) {
		return &ruleAckKind // [MQTT-4.3.2-2] [MQTT-4.3.3-4]
	}
	return nil
}

// disconnect checks the body of a DISCONNECT.
func (s *stream) disconnect(b []byte) *rule {
	if len(b) == 0 {
		return nil
	}
	if s.connect.version < 5 {
		return &ruleTrailing // 3.14.1 of 3.1.1: the remaining length is 0
	}
	if !disconnectCodes.has(b[0]) {
		return &ruleReasonCode // [MQTT-3.14.2-1]
	}
	if b = b[1:]; len(b) == 0 {
		return nil
	}
	var p properties
	n, r := p.parse(b, disconnectProperties)
	switch {
	case r != nil:
		return r
	case n < len(b):
		return &ruleTrailing
	case s.connect.expiryZero && p.sessionExpiry > 0:
		return &ruleExpiryRaised // 3.14.2.2.2: protocol error
	}
	return nil
}

// auth checks the body of an AUTH.
func (s *stream) auth(b []byte) *rule {
	if !s.connect.authMethod {
		return &ruleAuthPacket // 4.12: protocol error
	}
	if len(b) == 0 {
		return &ruleReasonCode // stands for Success, which only a server says
	}
	if !authCodes.has(b[0]) {
		return &ruleReasonCode // [MQTT-3.15.2-1]
	}
	var p properties
	n, r := p.parse(b[1:], authProperties)
	switch {
	case r != nil:
		return r
	case 1+n < len(b):
		return &ruleTrailing
	case !p.seen.has(packets.PropAuthenticationMethod):
		return &ruleAuthPacket // 3.15.2.2.2: protocol error
	}
	return nil
}
