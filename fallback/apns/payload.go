package apns

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

const (
	// maxPayload is Apple's limit for the body of a request.
	maxPayload = 4096
	// shortPayload is what is tried once where Apple finds the first one too large
	// all the same: enough to wake the app, which gets the rest over its channel.
	shortPayload = 1024
	ellipsis     = "…"
)

// background reports whether n shows nothing, so that it may only wake the app.
// Apple takes a background push with the key content-available alone: one with a
// badge or a sound is an alert without text.
func background(n *delivery.Notification) bool {
	return n.Title == "" && n.Body == "" && n.Badge == nil && n.Sound == ""
}

// payload is the body of n's request, of at most limit bytes: the notification
// body is shortened until it fits, then the title; the ID never. An error wraps
// ErrTooLarge: what is left is still too long.
//
//	{"aps":{"alert":{"title":…,"body":…},"badge":…,"sound":…,"category":…,
//	        "thread-id":<account>,"mutable-content":1,"interruption-level":"active"},
//	 "heartline":{"id":…,"account":…,"has_message":…,"accepted_at":…}}
//
// thread-id is the account, so that a phone with several of them groups by it.
// mutable-content lets the app's service extension acknowledge, and drop what the
// channel has already shown. interruption-level is `active`, which needs no
// entitlement; time-sensitive would be ignored, or worse, without one.
//
// The JSON is written here and not by encoding/json, which would spend six bytes
// on each <, > and &, and whose size would have to be guessed while shortening.
func payload(n *delivery.Notification, limit int) ([]byte, error) {
	whole := appendPayload(make([]byte, 0, 384+len(n.Title)+len(n.Body)), n, n.Title, n.Body)
	if len(whole) <= limit {
		return whole, nil
	}
	fixed := len(appendPayload(nil, n, "", ""))
	room := limit - fixed
	if room < 0 {
		return nil, fmt.Errorf("%w: without title and body it takes %d bytes of %d: shorten category, sound, account or id", fallback.ErrTooLarge, fixed, limit)
	}
	title, body := n.Title, n.Body
	titleSize := escapedSize(title)
	switch {
	case titleSize+len(ellipsis) <= room || (body == "" && titleSize <= room):
		body = shorten(body, room-titleSize)
	default:
		// Not even an ellipsis of the body fits beside the title.
		body = ""
		if titleSize > room {
			title = shorten(title, room)
			if title == "" {
				return nil, fmt.Errorf("%w: no room for the title beside %d bytes of category, sound, account and id", fallback.ErrTooLarge, fixed)
			}
		}
	}
	return appendPayload(whole[:0], n, title, body), nil
}

func appendPayload(b []byte, n *delivery.Notification, title, body string) []byte {
	b = append(b, `{"aps":{`...)
	if background(n) {
		b = append(b, `"content-available":1`...)
	} else {
		// Decided by the notification's text, not by what is left of it, so that
		// the fixed part has one size.
		if n.Title != "" || n.Body != "" {
			b = append(b, `"alert":{`...)
			if n.Title != "" {
				b = append(b, `"title":`...)
				b = appendString(b, title)
			}
			if n.Body != "" {
				if n.Title != "" {
					b = append(b, ',')
				}
				b = append(b, `"body":`...)
				b = appendString(b, body)
			}
			b = append(b, `},`...)
		}
		if n.Badge != nil {
			b = append(b, `"badge":`...)
			b = strconv.AppendInt(b, int64(*n.Badge), 10)
			b = append(b, ',')
		}
		if n.Sound != "" {
			b = append(b, `"sound":`...)
			b = append(appendString(b, n.Sound), ',')
		}
		if n.Category != "" {
			b = append(b, `"category":`...)
			b = append(appendString(b, n.Category), ',')
		}
		b = append(b, `"thread-id":`...)
		b = appendString(b, n.Account)
		b = append(b, `,"mutable-content":1,"interruption-level":"active"`...)
	}
	b = append(b, `},"heartline":{"id":`...)
	b = appendString(b, n.ID)
	b = append(b, `,"account":`...)
	b = appendString(b, n.Account)
	b = append(b, `,"has_message":`...)
	b = strconv.AppendBool(b, n.HasMessage)
	b = append(b, `,"accepted_at":"`...)
	b = n.AcceptedAt.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, `"}}`...)
}

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		b = appendRune(b, r)
		i += size
	}
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

func appendRune(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	if r < 0x20 {
		return append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
	}
	return utf8.AppendRune(b, r)
}

func runeSize(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\n', r == '\r', r == '\t':
		return 2
	case r < 0x20:
		return 6
	}
	return utf8.RuneLen(r)
}

func escapedSize(s string) int {
	n := 0
	for _, r := range s {
		n += runeSize(r)
	}
	return n
}

// shorten cuts s so that with an ellipsis it takes at most room bytes once it is
// escaped; "" where nothing of it would be left. It cuts between characters as a
// reader counts them: not before what belongs to the one before (an accent, a
// skin tone, the rest of a family or a flag).
func shorten(s string, room int) string {
	if escapedSize(s) <= room {
		return s
	}
	room -= len(ellipsis)
	if room < 0 {
		return ""
	}
	cut, size := 0, 0 // the last boundary that fits, and the size up to where we are
	var before rune
	flags := 0 // regional indicators in a row up to here; two make a flag
	for i, r := range s {
		if !joined(before, r, flags) {
			cut = i
		}
		if size += runeSize(r); size > room {
			break
		}
		if isFlag(r) {
			flags++
		} else {
			flags = 0
		}
		before = r
	}
	if cut == 0 {
		return ""
	}
	return s[:cut] + ellipsis
}

const zeroWidthJoiner = '\u200d'

// joined reports whether r continues the character that before ends.
func joined(before, r rune, flags int) bool {
	return r == zeroWidthJoiner || before == zeroWidthJoiner ||
		unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc, unicode.Variation_Selector) ||
		(r >= 0x1f3fb && r <= 0x1f3ff) || // skin tones
		(r >= 0xe0020 && r <= 0xe007f) || // tags, as in the flag of Wales
		(before == '\r' && r == '\n') ||
		(isFlag(r) && flags%2 == 1)
}

func isFlag(r rune) bool { return r >= 0x1f1e6 && r <= 0x1f1ff }
