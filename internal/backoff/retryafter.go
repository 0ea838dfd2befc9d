package backoff

import (
	"net/http"
	"strconv"
	"time"
)

// RetryAfter reads the header field Retry-After in both its forms, seconds and a date
// (RFC 9110 §10.2.3). It returns 0 for a field that is absent, malformed or over.
func RetryAfter(field string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(field, 10, 32); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if t, err := http.ParseTime(field); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
