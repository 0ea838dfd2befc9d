// Package backoff computes how long to wait before the next attempt.
//
// The usual wait is Jitter(Doubled(initial, limit, failures)). The package keeps no
// state, starts nothing and imports nothing of ours.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Doubled returns initial, doubled n times, at most limit. It cannot overflow: it
// stops at limit.
func Doubled(initial, limit time.Duration, n int) time.Duration {
	d := initial
	for ; n > 0 && 0 < d && d < limit; n-- {
		if d > limit/2 {
			return limit
		}
		d *= 2
	}
	return min(d, limit)
}

// Jitter returns between half of d and d, at random, so that clients that failed
// together do not come back together.
func Jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d/2+1)
}

// Spread returns between 0 and d, at random.
func Spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d + 1)
}
