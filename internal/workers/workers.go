// Package workers runs short tasks on goroutines that are used again.
package workers

import (
	"context"
	"sync"
	"time"
)

// Workers run short tasks on goroutines that are reused: a new goroutine would grow
// its stack again for each task. There are as many as are busy at a time. Make one with
// New; all methods are safe for concurrent use.
type Workers struct {
	tasks chan func() // handed to an idle worker

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

// New returns Workers of which none runs yet.
func New() *Workers { return &Workers{tasks: make(chan func())} }

// maxIdle is how long a worker waits for another task.
const maxIdle = time.Second

// Start runs task on a worker and returns at once. When ctx ends, idle workers end.
// After Stop the task is dropped.
func (w *Workers) Start(ctx context.Context, task func()) {
	select {
	case w.tasks <- task:
		return
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped { // a Go after Stop's Wait has begun would be a race
		w.running.Go(func() { w.work(ctx, task) })
	}
}

// Stop returns when no worker runs any more. The context given to Start must have
// ended.
func (w *Workers) Stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.running.Wait()
}

func (w *Workers) work(ctx context.Context, task func()) {
	idle := time.NewTimer(maxIdle)
	defer idle.Stop()
	for {
		task()
		idle.Reset(maxIdle)
		select {
		case task = <-w.tasks:
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
