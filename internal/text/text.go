// Package text shortens and joins text of strangers for error messages and logs. It
// imports nothing of Heartline.
package text

import (
	"strings"
	"unicode/utf8"
)

// Clip returns s, or if it has more than limit bytes its first ones and an ellipsis, limit bytes
// together. Where the ellipsis has no room, it is left out. It does not cut a UTF-8 sequence.
func Clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := "…"
	if limit < len(end) {
		end = ""
	}
	limit -= len(end)
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + end
}

// OneLine returns s without line breaks and other control characters: several lines,
// as errors.Join makes them, are separated by "; ".
func OneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.Join(lines, "; "))
}
