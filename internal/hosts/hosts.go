// Package hosts matches host names with the patterns of the configuration. It imports
// nothing of Heartline.
package hosts

import (
	"errors"
	"path"
	"strings"
)

// Check checks a pattern for Match that has no port.
func Check(pattern string) error {
	if pattern == "" || strings.ContainsAny(pattern, `/:@?#[]\ `) {
		return errors.New("must be a host name such as *.push.example.com, without scheme, port and path")
	}
	return nil
}

// brackets are those of an IPv6 address, and no class of characters.
var brackets = strings.NewReplacer("[", `\[`, "]", `\]`)

// Match reports whether host, with or without a port, fits pattern. A * stands for any
// characters of one label, between two dots. At the beginning of the pattern it stands for
// those of one label or more: ntfy.* must not fit ntfy.evil.example.
func Match(pattern, host string) bool {
	pattern, host = strings.ToLower(pattern), strings.ToLower(host)
	if pattern == host {
		return true
	}
	want, got := strings.Split(pattern, "."), strings.Split(host, ".")
	if more := len(got) - len(want); more > 0 && strings.HasPrefix(pattern, "*") {
		got = append([]string{strings.Join(got[:more+1], ".")}, got[more+1:]...)
	}
	if len(got) != len(want) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(brackets.Replace(want[i]), got[i]); !ok || err != nil {
			return false
		}
	}
	return true
}
