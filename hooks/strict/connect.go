package strict

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// connect is what a CONNECT says that later checks and answers need.
type connect struct {
	version       byte   // 3, 4 or 5; 0 before it is known
	maxPacket     uint32 // what the client accepts at most; 0 is no limit
	noProblemInfo bool
	expiryZero    bool // the session is to end with the connection
	authMethod    bool
	bridge        bool // it has set the top bit of the protocol level
}

// bridgeBit in the protocol level is what a bridge sets that speaks MQTT 3.1 or 3.1.1.
const bridgeBit = 0x80

const (
	flagReserved   = 1 << 0
	flagCleanStart = 1 << 1
	flagWill       = 1 << 2
	flagsWillQoS   = 3 << 3
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUsername   = 1 << 7
)

// parse checks the variable header and the payload of a CONNECT. c.version is
// set as soon as it has been read, so that a refusal takes that version's form.
func (c *connect) parse(b []byte, o *Options) *rule {
	name, b := field(b)
	if name == nil {
		return &ruleProtocolName
	}
	if len(b) < 1 {
		if string(name) != "MQTT" && string(name) != "MQIsdp" {
			return &ruleProtocolName
		}
		return &ruleTruncated
	}
	level := b[0]
	if string(name) == "MQTT" && level == 4|bridgeBit || string(name) == "MQIsdp" && level == 3|bridgeBit {
		// Mosquitto's bridges, and others, tell by this bit that they are one. mochi
		// gets the level of the protocol that they speak.
		level &^= bridgeBit
		b[0], c.bridge = level, true
	}
	switch {
	case string(name) != "MQTT" && string(name) != "MQIsdp":
		return &ruleProtocolName // [MQTT-3.1.2-1]
	case string(name) == "MQTT" && (level == 4 || level == 5), string(name) == "MQIsdp" && level == 3:
		c.version = level
	default:
		// The answer takes the form of the version without the top bit, which a client
		// that marks itself as a bridge knows.
		if c.version = level & 0x7F; c.version < 3 || c.version > 5 {
			c.version = 5
		}
		return &ruleProtocolLevel // [MQTT-3.1.2-2]
	}
	if len(b) < 4 {
		return &ruleTruncated
	}
	flags := b[1]
	b = b[4:] // any keep alive is well formed

	will := flags&flagWill != 0
	switch {
	case flags&flagReserved != 0:
		return &ruleReservedFlag // [MQTT-3.1.2-3]
	case !will && flags&(flagsWillQoS|flagWillRetain) != 0:
		return &ruleWillFlags // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
	case flags&flagsWillQoS == flagsWillQoS:
		return &ruleWillQoS // [MQTT-3.1.2-12]
	case c.version < 5 && flags&flagPassword != 0 && flags&flagUsername == 0:
		return &rulePasswordAlone // [MQTT-3.1.2-22] of 3.1.1; 5.0 allows it
	}

	c.expiryZero = true
	if c.version == 5 {
		var p properties
		n, r := p.parse(b, connectProperties)
		c.maxPacket, c.noProblemInfo, c.expiryZero = p.maxPacket, p.noProblemInfo, p.sessionExpiry == 0
		if r != nil {
			return r
		}
		b = b[n:]
		c.authMethod = p.seen.has(packets.PropAuthenticationMethod)
		if p.seen.has(packets.PropAuthenticationData) && !c.authMethod {
			return &ruleAuthData // 3.1.2.11.10: protocol error
		}
	}

	id, b := field(b)
	switch {
	case id == nil:
		return &ruleTruncated // [MQTT-3.1.3-3]
	case !wellFormed(id):
		return &ruleClientIDText // [MQTT-3.1.3-4]
	case len(id) == 0 && (c.version == 3 || c.version == 4 && flags&flagCleanStart == 0):
		return &ruleClientIDEmpty // [MQTT-3.1.3-8] of 3.1.1
	}

	var value []byte
	if will {
		var p properties
		if c.version == 5 {
			n, r := p.parse(b, willProperties)
			if r != nil {
				return r
			}
			b = b[n:]
		}
		if value, b = field(b); value == nil {
			return &ruleTruncated // [MQTT-3.1.2-9]
		}
		if len(value) == 0 {
			return &ruleWillTopicEmpty // [MQTT-4.7.3-1]
		}
		if r := topicName(value); r != nil {
			return r // [MQTT-3.1.3-11]
		}
		if value, b = field(b); value == nil {
			return &ruleTruncated // [MQTT-3.1.2-9]
		}
		if r := p.payload(value); r != nil && !o.AnyPayload {
			return r
		}
	}
	if flags&flagUsername != 0 {
		if value, b = field(b); value == nil {
			return &ruleTruncated // [MQTT-3.1.2-17]
		}
		if !wellFormed(value) {
			return &ruleTextInvalid // [MQTT-3.1.3-12]
		}
	}
	if flags&flagPassword != 0 {
		if value, b = field(b); value == nil {
			return &ruleTruncated // [MQTT-3.1.2-19]
		}
	}
	if len(b) > 0 {
		return &ruleTrailing
	}
	if c.authMethod && !o.ExtendedAuth {
		return &ruleAuthMethod // [MQTT-4.12.0-1]
	}
	return nil
}

// refusal is the CONNACK that says why, nil where the standard wants the
// connection closed without one.
func (c *connect) refusal(v *Violation, withReason bool) []byte {
	switch {
	case v.silent || c.version == 0:
		return nil
	case c.version == 5:
		return c.respond(packets.Connack<<4, []byte{0, v.Code}, v.Detail, withReason)
	}
	switch v.Code {
	case codeUnsupportedVersion:
		return []byte{packets.Connack << 4, 2, 0, 1} // [MQTT-3.1.2-2]
	case codeClientID:
		if v.Rule == ruleClientIDEmpty.name {
			return []byte{packets.Connack << 4, 2, 0, 2} // [MQTT-3.1.3-8]
		}
	case codeServerBusy:
		return []byte{packets.Connack << 4, 2, 0, 3} // server unavailable
	}
	return nil // [MQTT-3.1.4-1]: closed without a CONNACK
}

// respond makes an MQTT 5 packet of a variable header that ends with a reason
// code, with a reason string if there may be one, within what the client takes.
func (c *connect) respond(first byte, header []byte, reason string, withReason bool) []byte {
	short := append([]byte{first, 0}, header...)
	if first == packets.Connack<<4 {
		short = append(short, 0) // CONNACK always has a property length; DISCONNECT may leave it out
	}
	short[1] = byte(len(short) - 2)
	if withReason && !c.noProblemInfo && len(reason) <= 100 {
		long := append([]byte{first, 0}, header...)
		long = append(long, byte(3+len(reason)), packets.PropReasonString)
		long = binary.BigEndian.AppendUint16(long, uint16(len(reason)))
		long = append(long, reason...)
		long[1] = byte(len(long) - 2)
		if c.maxPacket == 0 || len(long) <= int(c.maxPacket) {
			return long // [MQTT-3.2.2-19] [MQTT-3.14.2-3]
		}
	}
	if c.maxPacket > 0 && len(short) > int(c.maxPacket) {
		return nil // [MQTT-3.1.2-24]
	}
	return short
}
