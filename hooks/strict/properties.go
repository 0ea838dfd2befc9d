package strict

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// kind is the type of a property's value (section 2.2.2.2).
type kind byte

const (
	unknown kind = iota
	flag         // a byte that is 0 or 1
	octet
	uint16be
	uint32be
	varint
	text
	binaryData
	textPair
)

const lastProperty = packets.PropSharedSubAvailable // 42: a set of them is one word

var kinds = [lastProperty + 1]kind{
	packets.PropPayloadFormat:          flag,
	packets.PropMessageExpiryInterval:  uint32be,
	packets.PropContentType:            text,
	packets.PropResponseTopic:          text,
	packets.PropCorrelationData:        binaryData,
	packets.PropSubscriptionIdentifier: varint,
	packets.PropSessionExpiryInterval:  uint32be,
	packets.PropAssignedClientID:       text,
	packets.PropServerKeepAlive:        uint16be,
	packets.PropAuthenticationMethod:   text,
	packets.PropAuthenticationData:     binaryData,
	packets.PropRequestProblemInfo:     flag,
	packets.PropWillDelayInterval:      uint32be,
	packets.PropRequestResponseInfo:    flag,
	packets.PropResponseInfo:           text,
	packets.PropServerReference:        text,
	packets.PropReasonString:           text,
	packets.PropReceiveMaximum:         uint16be,
	packets.PropTopicAliasMaximum:      uint16be,
	packets.PropTopicAlias:             uint16be,
	packets.PropMaximumQos:             flag,
	packets.PropRetainAvailable:        flag,
	packets.PropUser:                   textPair,
	packets.PropMaximumPacketSize:      uint32be,
	packets.PropWildcardSubAvailable:   flag,
	packets.PropSubIDAvailable:         flag,
	packets.PropSharedSubAvailable:     flag,
}

type propertySet uint64

func setOf(ids ...byte) (s propertySet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

func (s propertySet) has(id byte) bool { return s>>id&1 == 1 }

// What a client may send, by packet (table 2-4).
var (
	connectProperties = setOf(packets.PropSessionExpiryInterval, packets.PropAuthenticationMethod,
		packets.PropAuthenticationData, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo,
		packets.PropReceiveMaximum, packets.PropTopicAliasMaximum, packets.PropUser, packets.PropMaximumPacketSize)
	willProperties = setOf(packets.PropPayloadFormat, packets.PropMessageExpiryInterval, packets.PropContentType,
		packets.PropResponseTopic, packets.PropCorrelationData, packets.PropWillDelayInterval, packets.PropUser)
	publishProperties = setOf(packets.PropPayloadFormat, packets.PropMessageExpiryInterval, packets.PropContentType,
		packets.PropResponseTopic, packets.PropCorrelationData, packets.PropSubscriptionIdentifier,
		packets.PropTopicAlias, packets.PropUser)
	ackProperties         = setOf(packets.PropReasonString, packets.PropUser)
	subscribeProperties   = setOf(packets.PropSubscriptionIdentifier, packets.PropUser)
	unsubscribeProperties = setOf(packets.PropUser)
	disconnectProperties  = setOf(packets.PropSessionExpiryInterval, packets.PropReasonString, packets.PropUser)
	authProperties        = setOf(packets.PropAuthenticationMethod, packets.PropAuthenticationData,
		packets.PropReasonString, packets.PropUser)
)

// properties are the values that a later check needs.
type properties struct {
	seen          propertySet
	sessionExpiry uint32
	maxPacket     uint32
	alias         uint16
	payloadText   bool // payload format indicator 1
	noProblemInfo bool // request problem information 0
}

// uvarint decodes a variable byte integer. size is 0 where b ends within it, and
// -1 where it is longer than four bytes or than it need be.
func uvarint(b []byte) (v, size int) {
	for i := range 4 {
		if i == len(b) {
			return 0, 0
		}
		v |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			if i > 0 && b[i] == 0 {
				return 0, -1 // [MQTT-1.5.5-1]
			}
			return v, i + 1
		}
	}
	return 0, -1
}

// parse checks a property section: its length and its content. b is the rest
// of the packet; n is the size of the section within it.
func (p *properties) parse(b []byte, allowed propertySet) (n int, r *rule) {
	length, n := uvarint(b)
	if n <= 0 || length > len(b)-n {
		return 0, &rulePropertyLength
	}
	return n + length, p.check(b[n:n+length], allowed)
}

// check goes through the properties in b, which is all of them.
func (p *properties) check(b []byte, allowed propertySet) *rule {
	for len(b) > 0 {
		id := b[0]
		// The identifier is a variable byte integer, and all that exist fit one byte.
		if id > lastProperty || kinds[id] == unknown {
			return &rulePropertyUnknown // 2.2.2.2: malformed
		}
		if !allowed.has(id) {
			return &rulePropertyForbidden // 2.2.2.2: malformed
		}
		if id != packets.PropUser {
			if p.seen.has(id) {
				return &rulePropertyTwice // "It is a Protocol Error to include … more than once"
			}
			p.seen |= 1 << id
		}
		b = b[1:]
		var value []byte
		switch kinds[id] {
		case flag:
			if len(b) < 1 {
				return &rulePropertyLength
			}
			if b[0] > 1 {
				return &rulePropertyValue
			}
			switch id {
			case packets.PropPayloadFormat:
				p.payloadText = b[0] == 1
			case packets.PropRequestProblemInfo:
				p.noProblemInfo = b[0] == 0
			}
			b = b[1:]
		case uint16be:
			if len(b) < 2 {
				return &rulePropertyLength
			}
			v := binary.BigEndian.Uint16(b)
			switch id {
			case packets.PropReceiveMaximum:
				if v == 0 {
					return &rulePropertyValue // 3.1.2.11.3: protocol error
				}
			case packets.PropTopicAlias:
				if v == 0 {
					return &ruleTopicAlias // [MQTT-3.3.2-8]
				}
				p.alias = v
			}
			b = b[2:]
		case uint32be:
			if len(b) < 4 {
				return &rulePropertyLength
			}
			v := binary.BigEndian.Uint32(b)
			switch id {
			case packets.PropMaximumPacketSize:
				if v == 0 {
					return &rulePropertyValue // 3.1.2.11.4: protocol error
				}
				p.maxPacket = v
			case packets.PropSessionExpiryInterval:
				p.sessionExpiry = v
			}
			b = b[4:]
		case varint:
			v, n := uvarint(b)
			if n <= 0 {
				return &rulePropertyLength
			}
			if v == 0 {
				return &rulePropertyValue // 3.8.2.1.2: protocol error
			}
			b = b[n:]
		case text:
			if value, b = field(b); value == nil {
				return &rulePropertyLength
			}
			if !wellFormed(value) {
				return &ruleTextInvalid
			}
			if id == packets.PropResponseTopic {
				if len(value) == 0 {
					return &ruleResponseTopic // [MQTT-4.7.3-1]
				}
				if r := topicName(value); r == &ruleTopicWildcard {
					return &ruleResponseTopic // [MQTT-3.3.2-14]
				} else if r != nil {
					return r
				}
			}
		case binaryData:
			if value, b = field(b); value == nil {
				return &rulePropertyLength
			}
		case textPair:
			for range 2 {
				if value, b = field(b); value == nil {
					return &rulePropertyLength
				}
				if !wellFormed(value) {
					return &ruleTextInvalid // [MQTT-1.5.7-1]
				}
			}
		}
	}
	return nil
}

// field cuts a value with a two-byte length from b. It returns nil where b ends
// within it; an empty value is not nil.
func field(b []byte) (value, rest []byte) {
	if len(b) < 2 {
		return nil, nil
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if n > len(b) {
		return nil, nil
	}
	return b[2:n:n], b[n:]
}

// payload checks one that is said to be UTF-8 and is there in one piece.
func (p *properties) payload(b []byte) *rule {
	if p.payloadText && !utf8.Valid(b) {
		return &rulePayloadFormat // 3.3.2.3.2
	}
	return nil
}
