package cmd

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// trimInterval is how often the stacks are looked at.
const trimInterval = 5 * time.Second

// trimmer gives back the memory that a crowd of clients needed only to come in. A
// connection's two goroutines outgrow their stacks while it is established, and only
// the collector shrinks them, which in calm it may not do for two minutes.
type trimmer struct {
	kept uint64 // bytes of stacks that are in use for good, or were after the last trim
	last uint64 // at the last look
}

// run looks at the stacks until ctx ends.
func (t *trimmer) run(ctx context.Context) {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.look()
		case <-ctx.Done():
			return
		}
	}
}

// look trims if the stacks have grown much since the last trim, and no longer grow.
func (t *trimmer) look() {
	now := stacks()
	calm := now < t.last+t.last/32
	t.last, t.kept = now, min(t.kept, now)
	if calm && now > t.kept+t.kept/4+8<<20 {
		debug.FreeOSMemory()
		t.kept = stacks()
	}
}

// stacks are the bytes of all stacks.
func stacks() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
