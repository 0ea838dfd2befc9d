package wire

import (
	"bytes"
	"unicode/utf8"
)

// PlainNotification reads the body that most backends send: one object of known keys,
// each once, whose values are strings, not empty and without escapes. For any other
// body plain is false: Decode reads all of JSON, and costs several times as much.
func PlainNotification(body []byte) (n Notification, plain bool) {
	n.Content, plain = plainContent(body, &n.Account)
	return n, plain && n.Account != ""
}

// plainContent is PlainNotification for content; account is nil where the key is
// not expected.
func plainContent(b []byte, account *string) (c Content, ok bool) {
	if !utf8.Valid(b) {
		return c, false
	}
	b, ok = cutByte(b, '{')
	for first := true; ok; first = false {
		if !first {
			if rest, end := cutByte(b, '}'); end {
				return c, len(bytes.TrimLeft(rest, space)) == 0
			}
			if b, ok = cutByte(b, ','); !ok {
				break
			}
		}
		var key, value []byte
		if key, b, ok = cutString(b); !ok {
			break
		}
		if b, ok = cutByte(b, ':'); !ok {
			break
		}
		if value, b, ok = cutString(b); !ok || len(value) == 0 {
			break
		}
		target := plainMember(&c, account, string(key))
		if target == nil || *target != "" { // unknown, or given twice
			return c, false
		}
		*target = string(value)
	}
	return c, false
}

// plainMember returns where the value of a key goes; nil for one that is not plain.
func plainMember(c *Content, account *string, key string) *string {
	switch key {
	case "account":
		return account
	case "title":
		return &c.Title
	case "body":
		return &c.Body
	case "id":
		return &c.ID
	case "collapse_key":
		return &c.CollapseKey
	case "ttl":
		return (*string)(&c.TTL)
	case "ack":
		return &c.Ack
	case "urgency":
		return &c.Urgency
	case "sound":
		return &c.Sound
	case "category":
		return &c.Category
	case "subtitle":
		return &c.Subtitle
	case "thread":
		return &c.Thread
	case "link":
		return &c.Link
	case "level":
		return &c.Level
	case "ack_window":
		return (*string)(&c.AckWindow)
	}
	return nil
}

const space = " \t\r\n" // RFC 8259 §2

func cutByte(b []byte, want byte) (rest []byte, ok bool) {
	b = bytes.TrimLeft(b, space)
	if len(b) == 0 || b[0] != want {
		return b, false
	}
	return b[1:], true
}

// cutString takes a string without escapes off b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	b, ok = cutByte(b, '"')
	if !ok {
		return nil, b, false
	}
	end := bytes.IndexByte(b, '"')
	if end < 0 {
		return nil, b, false
	}
	for _, x := range b[:end] {
		if x == '\\' || x < 0x20 {
			return nil, b, false
		}
	}
	return b[:end], b[end+1:], true
}
