package wire

import (
	"bytes"
	"unicode/utf8"
)

// PlainNotification reads what most backends send: one object of known keys whose
// values are strings, not empty and without escapes. What it does not understand,
// be it wrong or only richer, it leaves to others (plain is false), which read all
// of it and cost several times as much.
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
		switch string(key) {
		case "account":
			if account == nil {
				return c, false
			}
			*account = string(value)
		case "title":
			c.Title = string(value)
		case "body":
			c.Body = string(value)
		case "id":
			c.ID = string(value)
		case "collapse_key":
			c.CollapseKey = string(value)
		case "ttl":
			c.TTL = string(value)
		case "ack":
			c.Ack = string(value)
		case "urgency":
			c.Urgency = string(value)
		case "sound":
			c.Sound = string(value)
		case "category":
			c.Category = string(value)
		default:
			return c, false
		}
	}
	return c, false
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
