package hooks

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// flusher drains the outlets of connections whose writes do not wait, one after the other.
// A worker for each would cost a wake-up a notification.
type flusher struct {
	hook    *Hook
	mu      sync.Mutex
	dirty   []*conn // their outlets are busy
	running bool
}

// flushers are half as many as there are cores. A connection has the same one all the time.
type flushers struct {
	all  []*flusher
	last *atomic.Uint32
}

func newFlushers(h *Hook) flushers {
	f := flushers{last: new(atomic.Uint32)}
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		f.all = append(f.all, &flusher{hook: h})
	}
	return f
}

func (f *flushers) next() *flusher { return f.all[int(f.last.Add(1))%len(f.all)] }

// add has the outlet of a connection drained.
func (f *flusher) add(c *conn) {
	f.mu.Lock()
	f.dirty = append(f.dirty, c)
	start := !f.running
	f.running = true
	f.mu.Unlock()
	if start {
		f.hook.workers.Start(f.hook.ctx, f.run)
	}
}

const (
	flushTogether = 32 // connections are served before other goroutines may run
	flushRounds   = 4  // are taken from an outlet that gets more all the time
)

// run drains until there is no outlet left.
func (f *flusher) run() {
	var served []*conn
	for {
		f.mu.Lock()
		dirty := f.dirty
		f.dirty = served[:0]
		if f.running = len(dirty) > 0; !f.running {
			f.dirty = nil
		}
		f.mu.Unlock()
		if len(dirty) == 0 {
			return
		}
		for i, c := range dirty {
			if i > 0 && i%flushTogether == 0 {
				runtime.Gosched()
			}
			c.drainQueue(false)
		}
		clear(dirty)
		served = dirty
		runtime.Gosched()
	}
}
