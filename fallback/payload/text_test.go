package payload

import "testing"

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		in   string
		room int
		want string
	}{
		{"hello", 5, "hello"},
		{"hello!", 5, "he…"},
		{"hello", 3, ""},
		{"hello", 4, "h…"},
		{"héllo wörld", 6, "hé…"},
		{"a\u0301bc\u0301de", 8, "a\u0301b…"},     // not between c and its accent
		{"x👍🏽y12345", 8, "x…"},                    // not before the skin tone
		{"x👨‍👩‍👧‍👦yy", 20, "x…"},                  // not within a family
		{"🇩🇪🇫🇷🇮🇹", 15, "🇩🇪…"},                     // not within a flag
		{`""""""`, 8, `""…`},                      // sizes are those of the JSON
		{"\u200d\u200d\u200d\u200d\u200d", 9, ""}, // nothing that could stand alone
	} {
		got := Shorten(c.in, c.room)
		if got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.in, c.room, got, c.want)
		}
		if EscapedSize(got) > c.room {
			t.Errorf("%q in %d: takes %d", c.in, c.room, EscapedSize(got))
		}
	}
}
