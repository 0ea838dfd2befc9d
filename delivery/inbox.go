package delivery

import (
	"runtime"
	"slices"
	"sync"
)

// inbox queues inputs of the core, so that one goroutine handles many of them and
// takes the mutex once. In a storm hundreds of goroutines would otherwise queue for
// the mutex, and acks behind them.
type inbox[T any] struct {
	mu       sync.Mutex
	queue    []T
	draining bool
}

// maxSpare is the capacity up to which a handled queue is filled again.
const maxSpare = 1024

// put adds to the inbox. It reports true if no goroutine drains the inbox; the
// caller must then call drain.
func (b *inbox[T]) put(more ...T) (drain bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, more...)
	drain = !b.draining && len(b.queue) > 0
	b.draining = b.draining || drain
	return drain
}

// together is how many inputs are handled while the core's mutex is held once.
const together = 256

// drain calls fn with the queue, and with inputs added meanwhile, in order and a
// part at a time. It yields between two parts: goroutines that the first part has woken,
// such as a writer to a device or an ack that needs the mutex, would otherwise wait
// until the scheduler preempts this one.
func (b *inbox[T]) drain(fn func(part []T)) {
	var handled []T
	for first := true; ; {
		clear(handled)
		b.mu.Lock()
		queue := b.queue
		b.queue = nil
		if cap(handled) <= maxSpare {
			b.queue = handled[:0]
		}
		b.draining = len(queue) > 0
		b.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for part := range slices.Chunk(queue, together) {
			if !first {
				runtime.Gosched()
			}
			first = false
			fn(part)
		}
		handled = queue
	}
}
