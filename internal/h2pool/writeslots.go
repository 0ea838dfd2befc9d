package h2pool

import (
	"context"
	"net/http/httptrace"
	"runtime"
	"sync/atomic"
	"time"
)

// WriteSlots bounds how many requests are built and written at the same time, however
// many are in flight: a slot is free again when its request is written. A read from a
// server that is near, or that had stalled, can bring hundreds of answers, and each
// lets a worker make the next request. Without the bound they keep everything else in
// the program from running, acks over the channel included.
type WriteSlots chan struct{}

// NewWriteSlots makes as many slots as there are processors.
func NewWriteSlots() WriteSlots { return make(WriteSlots, runtime.GOMAXPROCS(0)) }

// maxSlotWait bounds the wait for a slot, so that a connection that accepts nothing
// does not hold up the others for longer.
const maxSlotWait = 100 * time.Millisecond

// Take waits for a slot. The slot is released when a request made with the returned
// context is written, or by release, which may be called more than once.
func (t WriteSlots) Take(ctx context.Context) (_ context.Context, release func()) {
	select {
	case t <- struct{}{}:
	default:
		timer := time.NewTimer(maxSlotWait)
		defer timer.Stop()
		select {
		case t <- struct{}{}:
		case <-timer.C:
			return ctx, func() {}
		case <-ctx.Done():
			return ctx, func() {}
		}
	}
	var released atomic.Bool
	release = func() {
		if !released.Swap(true) {
			<-t
		}
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { release() },
	}), release
}
