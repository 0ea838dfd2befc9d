package workers

import (
	"bytes"
	"context"
	"runtime"
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

// TestTasksBeginInOrder: also where the scheduler runs the goroutine that was woken last
// first.
func TestTasksBeginInOrder(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	testtool.Bubble(t, func(t *testing.T) {
		w := New()
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
			late := 0 // tasks whose workers were preempted before they ran them
			for i := 1; i < len(began); i++ {
				if began[i-1] > began[i] {
					late++
				}
			}
			if len(began) != 2000 || late > 20 {
				t.Errorf("round %d: %d tasks, %d not in order", round, len(began), late)
			}
		}
		time.Sleep(2 * maxIdle)
		w.Stop()
	})
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
