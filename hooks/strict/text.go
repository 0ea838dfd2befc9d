package strict

import (
	"bytes"
	"unicode/utf8"
)

// plain tells the bytes that need no second look in a topic name: ASCII but for
// control characters and the two wildcards.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x7F; c++ {
		t[c] = c != '+' && c != '#'
	}
	return t
}()

// topicName checks what every topic name must be but for its being empty. It is
// on the path of every PUBLISH, so what nearly every topic is made of is passed
// by one look-up a byte.
func topicName(b []byte) *rule {
	for _, c := range b {
		if !plain[c] {
			return unusualTopic(b, true)
		}
	}
	return nil
}

// unusualTopic looks at a topic name or filter rune by rune.
func unusualTopic(b []byte, name bool) *rule {
	if !wellFormed(b) {
		return &ruleTopicText // [MQTT-1.5.4-1] [MQTT-1.5.4-2]
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		i += n
		switch {
		case name && (r == '+' || r == '#'):
			return &ruleTopicWildcard // [MQTT-3.3.2-2] [MQTT-4.7.1-1]
		case r < 0x20, r >= 0x7F && r <= 0x9F, r&0xFFFE == 0xFFFE, r >= 0xFDD0 && r <= 0xFDEF:
			// 1.5.4: such a packet MAY be treated as malformed. In a topic they
			// break what shows it, a terminal or a log; Mosquitto refuses them.
			return &ruleTopicControl
		}
	}
	return nil
}

// wellFormed reports whether b may be the content of a UTF-8 encoded string.
// Go's decoder refuses surrogates, as the standard asks.
func wellFormed(b []byte) bool {
	return bytes.IndexByte(b, 0) < 0 && utf8.Valid(b) // [MQTT-1.5.4-1] [MQTT-1.5.4-2]
}

var sharePrefix = []byte("$share/")

// topicFilter checks a filter of a SUBSCRIBE or UNSUBSCRIBE.
func topicFilter(b []byte, version byte) *rule {
	if len(b) == 0 {
		return &ruleFilterEmpty // [MQTT-4.7.3-1]
	}
	start := 0 // of the level
	odd := false
	for i, c := range b {
		switch {
		case c == '/':
			start = i + 1
		case c == '#':
			if i != start || i != len(b)-1 {
				return &ruleFilterWildcard // [MQTT-4.7.1-1]
			}
		case c == '+':
			if i != start || i+1 < len(b) && b[i+1] != '/' {
				return &ruleFilterWildcard // [MQTT-4.7.1-2]
			}
		case !plain[c]:
			odd = true
		}
	}
	if odd {
		if r := unusualTopic(b, false); r != nil {
			return r
		}
	}
	// In 3.1.1 the prefix means nothing to the standard: mochi answers those.
	if version == 5 && bytes.HasPrefix(b, sharePrefix) {
		name, filter, ok := bytes.Cut(b[len(sharePrefix):], []byte{'/'})
		if !ok || len(name) == 0 || len(filter) == 0 || bytes.ContainsAny(name, "+#") {
			return &ruleFilterShare // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
		}
	}
	return nil
}

func shared(filter []byte) bool { return bytes.HasPrefix(filter, sharePrefix) }

// utf8Stream checks a text that comes in pieces.
type utf8Stream struct {
	part [utf8.UTFMax]byte // beginning of a rune that the next piece goes on with
	n    int
}

// push takes the next piece and reports whether the text can still be UTF-8.
func (u *utf8Stream) push(b []byte) bool {
	for u.n > 0 && len(b) > 0 {
		u.part[u.n] = b[0]
		u.n++
		b = b[1:]
		if utf8.FullRune(u.part[:u.n]) {
			if !utf8.Valid(u.part[:u.n]) {
				return false
			}
			u.n = 0
		}
	}
	if len(b) == 0 {
		return true
	}
	// What the last bytes begin may be a rune that the next piece completes.
	end := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				end = len(b) - i
			}
			break
		}
	}
	if !utf8.Valid(b[:end]) {
		return false
	}
	u.n = copy(u.part[:], b[end:])
	return true
}

// end reports whether the text may end here, and makes u ready for another.
func (u *utf8Stream) end() bool {
	whole := u.n == 0
	u.n = 0
	return whole
}
