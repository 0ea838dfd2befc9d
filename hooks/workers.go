package hooks

import (
	"context"
	"sync"
	"time"
)

// workers are goroutines that are used again: a new one would grow its stack anew
// for each task. There are as many as are busy at a time.
type workers struct {
	tasks   chan func() // taken by one that has nothing to do
	running sync.WaitGroup
}

func newWorkers() workers { return workers{tasks: make(chan func())} }

// workerIdle is how long a worker waits for another task.
const workerIdle = time.Second

// start has task run. ctx ends the waiting for more.
func (w *workers) start(ctx context.Context, task func()) {
	select {
	case w.tasks <- task:
	default:
		w.running.Go(func() { w.work(ctx, task) })
	}
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
