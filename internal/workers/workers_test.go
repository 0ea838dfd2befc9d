package workers

import (
	"bytes"
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestWorkersAreUsedAgain: a task that comes once the one before is over is run by the
// same goroutine.
func TestWorkersAreUsedAgain(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		w := New()
		ran := map[string]int{}
		for range 100 {
			w.Start(context.Background(), func() { ran[goroutine()]++ })
			synctest.Wait()
		}
		if len(ran) != 1 {
			t.Errorf("goroutines and their tasks: %v", ran)
		}
		w.running.Wait() // the worker ends when it has been idle for long enough
	})
}

// TestTasksAreTakenInOrder: the workers take the oldest task, also where the queue is moved.
func TestTasksAreTakenInOrder(t *testing.T) {
	w := New()
	var ran []int
	for i := range 3 * maxWoken {
		w.queue = append(w.queue, func() { ran = append(ran, i) })
	}
	for range 3 * maxWoken {
		w.next()()
	}
	if !slices.IsSorted(ran) {
		t.Error("not in order")
	}
}

// TestTasksBeginInOrder: also where the scheduler runs the goroutine that was woken last
// first. A worker that is preempted between taking a task and running it is late, so that an
// attempt is repeated; with each task on the goroutine that was made or woken for it, every one fails.
func TestTasksBeginInOrder(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	testtool.Bubble(t, func(t *testing.T) {
		const attempts = 10
		for attempt := range attempts {
			if beginInOrder(t) {
				return
			}
			t.Logf("attempt %d: not in order", attempt)
		}
		t.Errorf("not in order in any of %d attempts", attempts)
	})
}

func beginInOrder(t *testing.T) bool {
	w := New()
	sorted := true
	for round := range 3 { // the workers are new, then idle
		var mu sync.Mutex
		var began []int
		for i := range 2000 {
			w.Start(t.Context(), func() {
				mu.Lock()
				began = append(began, i)
				mu.Unlock()
			})
		}
		synctest.Wait()
		if len(began) != 2000 {
			t.Errorf("round %d: %d tasks", round, len(began))
		}
		sorted = sorted && slices.IsSorted(began)
	}
	time.Sleep(2 * maxIdle)
	w.Stop()
	return sorted
}

// TestWorkersUnderLoad: each task runs once, while workers come and go and many goroutines
// start tasks.
func TestWorkersUnderLoad(t *testing.T) {
	w := New()
	ctx, cancel := context.WithCancel(t.Context())
	var ran atomic.Int64
	var starters sync.WaitGroup
	for range 8 {
		starters.Go(func() {
			for i := range 5000 {
				w.Start(ctx, func() { ran.Add(1) })
				if i%100 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	starters.Wait()
	cancel()
	w.Stop()
	if n := ran.Load(); n != 8*5000 {
		t.Errorf("%d of %d tasks ran", n, 8*5000)
	}
}

// goroutine is the name of the one that calls it, as in "goroutine 21".
func goroutine() string {
	var stack [64]byte
	name, _, _ := bytes.Cut(stack[:runtime.Stack(stack[:], false)], []byte(" ["))
	return string(name)
}
