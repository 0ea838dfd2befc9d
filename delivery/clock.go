package delivery

import (
	"sync/atomic"
	"time"
)

// clock gives the three times that the core needs.
type clock struct {
	start time.Time
	last  atomic.Uint64 // the highest number given out
}

func newClock(last uint64) *clock {
	c := &clock{start: time.Now()}
	c.last.Store(last)
	return c
}

// steady is the time since the start, in nanoseconds, from 1. Deadlines run on
// it: a step of the wall clock neither elapses nor stretches a window.
func (c *clock) steady() int64 { return int64(time.Since(c.start)) + 1 }

// at turns a wall-clock time from the store into a reading of the steady clock.
// The zero time becomes 0, one in the past becomes now.
func (c *clock) at(wall time.Time) int64 {
	if wall.IsZero() {
		return 0
	}
	now := c.steady()
	// Round(0) drops the monotonic reading: across runs only the wall counts.
	return max(now, now+int64(wall.Round(0).Sub(time.Now().Round(0))))
}

// wall is the inverse of at, for the store.
func (c *clock) wall(steady int64) time.Time {
	if steady == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(steady - c.steady()))
}

// next returns a number above every one before it, near the wall clock in
// nanoseconds: a Seq or an event's Number.
func (c *clock) next() uint64 {
	now := uint64(time.Now().UnixNano())
	for {
		last := c.last.Load()
		n := max(now, last+1)
		if c.last.CompareAndSwap(last, n) {
			return n
		}
	}
}
