package text_test

import (
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/text"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		s     string
		limit int
		want  string
	}{{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "…"}, {"abcde", 4, "a…"}, {"aébcd", 5, "a…"}, {"abcd", 2, "ab"}, {"aéb", 2, "a"}, {"é", 1, ""}, {"abc", 0, ""}, {"\xa0\xa0", 1, ""}} {
		if got := text.Clip(c.s, c.limit); got != c.want {
			t.Errorf("%q at %d: %q, want %q", c.s, c.limit, got, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	err := errors.Join(errors.New("title: too long"), errors.New("ttl:\ttoo\x00 long\r\n"))
	if got, want := text.OneLine(err.Error()), "title: too long; ttl:too long"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
