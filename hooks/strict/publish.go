package strict

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// publish checks the fixed and variable header of a PUBLISH, of which b holds
// the first bytes; the body begins at head and has size bytes. It returns how
// many bytes may pass, 0 where more are needed. The bytes after them are payload.
func (s *stream) publish(b []byte, head, size int) (pass int, r *rule) {
	qos := b[0] >> 1 & 3
	fixed := 2
	if qos > 0 {
		fixed = 4
	}
	if size < fixed {
		return 0, &ruleTruncated
	}
	if len(b) < head+2 {
		return s.wait(head + 2)
	}
	topicLength := int(binary.BigEndian.Uint16(b[head:]))
	if topicLength+fixed > size {
		return 0, &ruleTruncated
	}
	at := head + 2 + topicLength
	if len(b) < head+fixed+topicLength {
		return s.wait(head + fixed + topicLength)
	}
	topic := b[head+2 : at]
	if r := topicName(topic); r != nil {
		return 0, r // [MQTT-3.3.2-1] [MQTT-3.3.2-2]
	}
	if qos > 0 {
		if b[at]|b[at+1] == 0 {
			return 0, &rulePublishID // [MQTT-2.2.1-3]
		}
		at += 2
	}
	if s.connect.version < 5 {
		if topicLength == 0 {
			return 0, &ruleTopicEmpty // [MQTT-4.7.3-1]
		}
	} else {
		end := head + size
		if at == end {
			return 0, &rulePropertyLength
		}
		if at == len(b) {
			return s.wait(at + 1)
		}
		if b[at] == 0 { // no properties, as with most
			at++
			if topicLength == 0 {
				return 0, &ruleTopicEmpty // [MQTT-3.3.2-8]
			}
		} else {
			length, n := uvarint(b[at:min(len(b), end)])
			switch {
			case n < 0, n == 0 && len(b) >= end, n > 0 && at+n+length > end:
				return 0, &rulePropertyLength
			case n == 0:
				return s.wait(len(b) + 1)
			case at+n+length > len(b):
				return s.wait(at + n + length)
			}
			at += n
			var p properties
			if r := p.check(b[at:at+length], publishProperties); r != nil {
				return 0, r
			}
			at += length
			switch {
			case p.seen.has(packets.PropSubscriptionIdentifier):
				return 0, &ruleSubIDFromClient // [MQTT-3.3.4-6]
			case p.alias == 0 && topicLength == 0:
				return 0, &ruleTopicEmpty // [MQTT-3.3.2-8]
			case p.alias != 0 && topicLength == 0 && !s.aliased(p.alias):
				return 0, &ruleAliasUnknown // 3.3.2.3.4: protocol error. mochi would publish to "".
			case p.alias != 0 && topicLength > 0:
				s.alias(p.alias)
			}
			s.textual = p.payloadText && !s.options.AnyPayload
		}
	}
	s.payload = head + size - at
	if s.payload == 0 {
		s.textual = false
	}
	return at, nil
}

// passPayload takes the next bytes of the payload under way.
func (s *stream) passPayload(b []byte) *rule {
	s.payload -= len(b)
	if !s.textual {
		return nil
	}
	if !s.text.push(b) || s.payload == 0 && !s.text.end() {
		return &rulePayloadFormat // 3.3.2.3.2
	}
	if s.payload == 0 {
		s.textual = false
	}
	return nil
}

func (s *stream) aliased(a uint16) bool {
	i := int(a) / 64
	return i < len(s.aliases) && s.aliases[i]>>(a%64)&1 == 1
}

func (s *stream) alias(a uint16) {
	if i := int(a) / 64; i >= len(s.aliases) {
		s.aliases = append(s.aliases, make([]uint64, i+1-len(s.aliases))...)
	}
	s.aliases[a/64] |= 1 << (a % 64)
}
