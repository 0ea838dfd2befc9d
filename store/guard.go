package store

import (
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// guardRoom is the guard: it looks at the free space until the outbox is closed.
func (o *Outbox) guardRoom() {
	if o.opts.FreeBytes == nil {
		return
	}
	t := time.NewTicker(o.opts.GuardInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			o.guard()
		case <-o.stop:
			return
		}
	}
}

// guard looks at the free space once.
func (o *Outbox) guard() {
	if o.opts.FreeBytes == nil {
		return
	}
	o.spaceMu.Lock()
	defer o.spaceMu.Unlock()
	free, err := o.opts.FreeBytes()
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		// The next write will soon show the fault of the disk.
		o.stats.LastError, o.stats.LastErrorAt = err.Error(), o.opts.Now()
		return
	}
	o.stats.FreeBytes = free
	was := o.low != nil
	o.low = nil
	o.full = free < o.opts.MinFreeBytes/4
	if free < o.opts.MinFreeBytes {
		o.low = fmt.Errorf("%w: the disk is nearly full: %s free, %s needed; free some space", delivery.ErrUnavailable, mebibytes(free), mebibytes(o.opts.MinFreeBytes))
	}
	switch {
	case o.low != nil && !was:
		o.opts.Logger.Error("notifications are refused until the store recovers", "error", o.low)
	case o.low == nil && was:
		o.opts.Logger.Info("store has room again", "free", mebibytes(free))
	}
}

// room looks at the free space once more, and reports whether it is below what the
// guard wants.
func (o *Outbox) room() (low bool, free uint64) {
	o.guard()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.low != nil, o.stats.FreeBytes
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
