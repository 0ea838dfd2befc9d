package delivery

import (
	"runtime"
	"slices"
	"sync"
)

// inbox gathers what comes to the core, to be dealt with by one goroutine and with
// the mutex taken once for many. In a storm hundreds would otherwise queue for it,
// and acks behind them.
type inbox[T any] struct {
	mu       sync.Mutex
	queue    []T
	attended bool
}

// put adds to the inbox. The caller sees to it that somebody attends if nobody does.
func (b *inbox[T]) put(more ...T) (unattended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, more...)
	unattended = !b.attended && len(b.queue) > 0
	b.attended = b.attended || unattended
	return unattended
}

// together is how many are dealt with while the core's mutex is held once.
const together = 256

// attend calls fn with what has come and comes meanwhile, in order, a part at a
// time. It lets others run between two parts: whom the first has woken, a writer to
// a device or an ack that waits for the mutex, would else wait until Go takes the
// processor away.
func (b *inbox[T]) attend(fn func(part []T)) {
	for first := true; ; {
		b.mu.Lock()
		queue := b.queue
		b.queue = nil
		b.attended = len(queue) > 0
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
	}
}
