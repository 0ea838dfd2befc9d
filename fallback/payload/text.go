package payload

import (
	"unicode"
	"unicode/utf8"
)

// Ellipsis ends a text that was cut.
const Ellipsis = "…"

// EscapedSize is how many bytes s takes in a JSON string that Marshal writes, without
// its quotes.
func EscapedSize(s string) int {
	n := 0
	for _, r := range s {
		n += runeSize(r)
	}
	return n
}

func runeSize(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\n', r == '\r', r == '\t', r == '\b', r == '\f':
		return 2
	case r < 0x20, r == '\u2028', r == '\u2029':
		return 6
	}
	return utf8.RuneLen(r)
}

// Shorten cuts s so that it takes at most room bytes in JSON, ellipsis included. It
// returns "" where nothing of s fits. It cuts between characters as a reader counts
// them: never inside an accented letter, a skin tone, a family or a flag.
func Shorten(s string, room int) string {
	if EscapedSize(s) <= room {
		return s
	}
	room -= len(Ellipsis)
	if room < 0 {
		return ""
	}
	cut, size := 0, 0 // the last boundary that fits; the size so far
	var before rune
	flags := 0 // consecutive regional indicators; two make a flag
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
	return s[:cut] + Ellipsis
}

const zeroWidthJoiner = '\u200d'

// joined reports whether r continues the character that before belongs to.
func joined(before, r rune, flags int) bool {
	return r == zeroWidthJoiner || before == zeroWidthJoiner ||
		unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc, unicode.Variation_Selector) ||
		(r >= 0x1f3fb && r <= 0x1f3ff) || // skin tones
		(r >= 0xe0020 && r <= 0xe007f) || // tags, as in the flag of Wales
		(before == '\r' && r == '\n') ||
		(isFlag(r) && flags%2 == 1)
}

func isFlag(r rune) bool { return r >= 0x1f1e6 && r <= 0x1f1ff }
