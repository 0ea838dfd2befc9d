package hooks

import (
	"context"
	"sync"
	"time"
)

// workers run short tasks on goroutines that are reused: a new goroutine would grow
// its stack again for each task. There are as many as are busy at a time.
type workers struct {
	tasks chan func() // handed to an idle worker

	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

func newWorkers() *workers { return &workers{tasks: make(chan func())} }

// workerIdle is how long a worker waits for another task.
const workerIdle = time.Second

// start runs task on a worker and returns at once. When ctx ends, idle workers end.
// After stop the task is dropped.
func (w *workers) start(ctx context.Context, task func()) {
	select {
	case w.tasks <- task:
		return
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped { // a Go after stop's Wait has begun would be a race
		w.running.Go(func() { w.work(ctx, task) })
	}
}

// stop returns when no worker runs any more. The context given to start must have
// ended.
func (w *workers) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.running.Wait()
}

func (w *workers) work(ctx context.Context, task func()) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		task()
		idle.Reset(workerIdle)
		select {
		case task = <-w.tasks:
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
