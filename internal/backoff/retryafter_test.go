package backoff

import (
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)
	for field, want := range map[string]time.Duration{
		"": 0, "0": 0, "30": 30 * time.Second, "-1": 0, "soon": 0, "1e3": 0, "99999999999": 0,
		"Wed, 25 Nov 2026 09:01:00 GMT": time.Minute, "Wed, 25 Nov 2026 08:59:00 GMT": 0,
	} {
		if got := RetryAfter(field, now); got != want {
			t.Errorf("%q: got %s, want %s", field, got, want)
		}
	}
}
