package h2pool

import (
	"context"
	"net/http/httptrace"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// WriteSlots bounds how many requests are built and written at the same time, however
// many are in flight: a slot is free again when its request is written. A read from a
// server that is near, or that had stalled, can bring hundreds of answers, and each
// lets a worker make the next request. Without the bound they keep everything else in
// the program from running, acks over the channel included.
type WriteSlots struct {
	mu       sync.Mutex
	free     int
	released time.Time          // when a slot was last released
	waiting  [2][]chan struct{} // urgent requests, then the others, each in order; a value is a slot
}

// NewWriteSlots makes as many slots as there are processors.
func NewWriteSlots() *WriteSlots {
	return &WriteSlots{free: min(runtime.GOMAXPROCS(0), runtime.NumCPU())}
}

// maxSlotWait is how long a request waits for a slot while none is released. A
// connection that accepts nothing holds up the others for no longer. While requests are
// written, however slowly, those that wait keep their order: they would otherwise all
// write at once when the processor is short, urgent ones among them.
const maxSlotWait = 100 * time.Millisecond

// Take waits for a slot; urgent requests get theirs before others. The slot is released
// when a request made with the returned context is written, or by release, which may be
// called more than once.
func (t *WriteSlots) Take(ctx context.Context, urgent bool) (_ context.Context, release func()) {
	if !t.wait(ctx, urgent) {
		return ctx, func() {}
	}
	var released atomic.Bool
	release = func() {
		if !released.Swap(true) {
			t.release()
		}
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { release() },
	}), release
}

// wait reports whether it got a slot.
func (t *WriteSlots) wait(ctx context.Context, urgent bool) bool {
	began := time.Now()
	line := 1
	if urgent {
		line = 0
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return true
	}
	granted := make(chan struct{}, 1)
	t.waiting[line] = append(t.waiting[line], granted)
	t.mu.Unlock()

	timer := time.NewTimer(maxSlotWait)
	defer timer.Stop()
	for {
		select {
		case <-granted:
			return true
		case <-timer.C:
		case <-ctx.Done():
		}
		t.mu.Lock()
		if stuck := time.Since(latest(began, t.released)); stuck < maxSlotWait && ctx.Err() == nil {
			timer.Reset(maxSlotWait - stuck)
			t.mu.Unlock()
			continue
		}
		t.waiting[line] = slices.DeleteFunc(t.waiting[line], func(c chan struct{}) bool { return c == granted })
		t.mu.Unlock()
		return len(granted) > 0 // it came meanwhile
	}
}

// release hands a slot to the next request in line.
func (t *WriteSlots) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.released = time.Now()
	for line := range t.waiting {
		if w := t.waiting[line]; len(w) > 0 {
			w[0] <- struct{}{} // has room
			t.waiting[line] = slices.Delete(w, 0, 1)
			return
		}
	}
	t.free++
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
