package delivery

import (
	"sync/atomic"
	"time"
)

// clock gives the three times that the core needs.
type clock struct {
	start     time.Time
	boot      func() time.Duration // CLOCK_BOOTTIME
	bootStart time.Duration
	asleep    atomic.Int64  // how long the machine has been suspended since the start
	last      atomic.Uint64 // the highest number given out
	offset    int64         // of the wall clock to the steady one; guarded by the core's mutex
	shard     Shard
	now       func() time.Time // that numbers are taken from
	wallNow   func() time.Time // that the times in the store are taken from
}

func newClock(last uint64, opts *Options) *clock {
	boot := opts.Boottime
	if boot == nil {
		boot = boottime
	}
	now := opts.Now
	if now == nil {
		now = time.Now
	}
	wall := opts.Wall
	if wall == nil {
		wall = time.Now
	}
	c := &clock{start: time.Now(), boot: boot, bootStart: boot(), shard: opts.Shard, now: now, wallNow: wall}
	c.last.Store(last)
	c.offset = c.wallOffset()
	return c
}

// steady is the time since the start, in nanoseconds, from 1. Deadlines run on
// it: a step of the wall clock neither elapses nor stretches a window.
func (c *clock) steady() int64 { return int64(time.Since(c.start)) + c.asleep.Load() + 1 }

// sleepResolution is the shortest suspension that counts. Below it the two system
// clocks, which are read one after the other, may differ by chance.
const sleepResolution = 2 * time.Second

// resync adds a suspension of the machine to the steady time, and reports whether
// there was one since the last call.
func (c *clock) resync() bool {
	asleep := int64(c.boot()-c.bootStart) - int64(time.Since(c.start))
	if asleep-c.asleep.Load() < int64(sleepResolution) {
		return false
	}
	c.asleep.Store(asleep)
	return true
}

func (c *clock) wallOffset() int64 { return c.wallNow().UnixNano() - c.steady() }

// wallStep returns how far the wall clock has been set forward (or back, below 0)
// since the last call of takeStep.
func (c *clock) wallStep() time.Duration { return time.Duration(c.wallOffset() - c.offset) }

// takeStep makes wallStep count from now on.
func (c *clock) takeStep() { c.offset = c.wallOffset() }

// at turns a wall-clock time from the store into a reading of the steady clock.
// The zero time becomes 0, one in the past becomes now.
func (c *clock) at(wall time.Time) int64 {
	if wall.IsZero() {
		return 0
	}
	now := c.steady()
	// Round(0) drops the monotonic reading: across runs only the wall counts.
	return max(now, now+int64(wall.Round(0).Sub(c.wallNow().Round(0))))
}

// wall is the inverse of at, for the store.
func (c *clock) wall(steady int64) time.Time {
	if steady == 0 {
		return time.Time{}
	}
	return c.wallNow().Add(time.Duration(steady - c.steady()))
}

// local is what wall is for this process: its monotonic reading outlives a step of the wall
// clock.
func (c *clock) local(steady int64) time.Time {
	return time.Now().Add(time.Duration(steady - c.steady()))
}

// next returns a number of the shard above every one before it, near the wall clock in
// nanoseconds: a Seq or an event's Number.
func (c *clock) next() uint64 {
	now := uint64(c.now().UnixNano())
	for {
		last := c.last.Load()
		n := c.shard.from(max(now, last+1))
		if c.last.CompareAndSwap(last, n) {
			return n
		}
	}
}
