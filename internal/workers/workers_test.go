package workers

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"testing/synctest"
)

// TestWorkersAreUsedAgain: a task that comes once the one before is over is run by the
// same goroutine.
func TestWorkersAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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

// goroutine is the name of the one that calls it, as in "goroutine 21".
func goroutine() string {
	var stack [64]byte
	name, _, _ := bytes.Cut(stack[:runtime.Stack(stack[:], false)], []byte(" ["))
	return string(name)
}
