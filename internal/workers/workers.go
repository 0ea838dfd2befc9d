// Package workers runs short tasks on goroutines that are used again.
package workers

import (
	"context"
	"sync"
	"time"
)

// Workers run short tasks on goroutines that are reused: a new goroutine would grow
// its stack again for each task. There are as many as are busy at a time. Tasks begin in
// the order in which they were given, as far as the scheduler lets them: it runs the
// goroutine that was woken last first, and that one takes the oldest task. Make one with
// New; all methods are safe for concurrent use.
type Workers struct {
	wake chan struct{} // wakes an idle worker

	mu      sync.Mutex
	queue   []func() // for the workers that are about to look; from head on
	head    int
	idle    int // workers that wait and have not been woken
	stopped bool
	running sync.WaitGroup
}

// New returns Workers of which none runs yet.
func New() *Workers { return &Workers{wake: make(chan struct{}, maxWoken)} }

// maxWoken bounds the workers that have been woken and do not run yet. Further tasks get
// new goroutines.
const maxWoken = 1024

// maxIdle is how long a worker waits for another task.
const maxIdle = time.Second

// Start runs task on a worker and returns at once. When ctx ends, idle workers end.
// After Stop the task is dropped, and Start returns false.
func (w *Workers) Start(ctx context.Context, task func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped { // a Go after Stop's Wait has begun would be a race
		return false
	}
	w.queue = append(w.queue, task)
	if w.idle > 0 {
		select {
		case w.wake <- struct{}{}:
			w.idle--
			return true
		default:
		}
	}
	w.running.Go(func() { w.work(ctx) })
	return true
}

// Stop returns when no worker runs any more. The context given to Start must have
// ended.
func (w *Workers) Stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.running.Wait()
}

// work runs one task for each time that it is started or woken: there are never more
// tasks in the queue than workers on their way to it.
func (w *Workers) work(ctx context.Context) {
	idle := time.NewTimer(maxIdle)
	defer idle.Stop()
	for {
		w.next()()
		w.mu.Lock()
		w.idle++
		w.mu.Unlock()
		idle.Reset(maxIdle)
		select {
		case <-w.wake:
			continue
		case <-idle.C:
		case <-ctx.Done():
		}
		if w.leave() {
			return
		}
		<-w.wake // it has been woken meanwhile
	}
}

// next takes the oldest task.
func (w *Workers) next() func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	task := w.queue[w.head]
	w.queue[w.head] = nil
	if w.head++; w.head == len(w.queue) || w.head == maxWoken {
		rest := copy(w.queue, w.queue[w.head:])
		clear(w.queue[rest:])
		w.queue, w.head = w.queue[:rest], 0
	}
	return task
}

// leave reports whether an idle worker may end: nobody has woken it.
func (w *Workers) leave() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle == 0 {
		return false
	}
	w.idle--
	return true
}
