package credentials

import "testing"

func TestHostPattern(t *testing.T) {
	for _, pattern := range []string{"", "https://push.example", "push.example/x", "push.example:443", "[a"} {
		if CheckHostPattern(pattern) == nil {
			t.Errorf("the pattern %q was taken", pattern)
		}
	}
}
