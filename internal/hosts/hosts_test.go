package hosts_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/internal/hosts"
)

func TestMatch(t *testing.T) {
	for pattern, want := range map[string]map[string]bool{
		"push.example.org": {"push.example.org": true, "PUSH.example.org": true, "push.example.org.evil.example": false, "push.example": false, "": false},
		"ntfy.*":           {"ntfy.sh": true, "ntfy.evil.example": false, "ntfy": false},
		"p*.example.net":   {"p1.example.net": true, "p.example.net": true, "p1.evil.example.net": false, "x1.example.net": false},
		"a.*.example":      {"a.b.example": true, "a.b.c.example": false},
		"*.push.example":   {"a.push.example": true, "a.b.push.example": true, "push.example": false, "evilpush.example": false},
		"*push.example":    {"push.example": true, "a.xpush.example": true, "push.example.evil.example": false},
		"*":                {"a": true, "a.b.c:443": true},
		"localhost:*":      {"localhost:8080": true, "localhost": false, "localhost:8080.evil.example": false},
		"*:8080":           {"a.b:8080": true, "a.b": false},
		"[::1]:8080":       {"[::1]:8080": true},
		"[::1]:*":          {"[::1]:8080": true, "[::1]": false, "::8080": false},
		"[a":               {"a": false},
	} {
		for host, fits := range want {
			if got := hosts.Match(pattern, host); got != fits {
				t.Errorf("%q, %q: got %v, want %v", pattern, host, got, fits)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for _, pattern := range []string{"", "https://push.example", "push.example/x", "push.example:443", "[a", `push\`} {
		if hosts.Check(pattern) == nil {
			t.Errorf("the pattern %q was taken", pattern)
		}
	}
	if err := hosts.Check("*.push.example"); err != nil {
		t.Error(err)
	}
}
