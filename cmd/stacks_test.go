package cmd

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
)

// deep has a stack of 64 KiB and more grow.
func deep(n int) (sum int) {
	var frame [1 << 10]byte
	frame[n%len(frame)] = byte(n)
	if n > 0 {
		sum = deep(n - 1)
	}
	return sum + int(frame[n%len(frame)])
}

func TestTrimAfterACrowd(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection under way shrinks stacks, too
	runtime.GC()
	var came, gone sync.WaitGroup
	leave := make(chan struct{})
	var trim trimmer
	trim.look()
	trim.look() // what the tests before it left
	for range 500 {
		came.Add(1)
		gone.Go(func() {
			deep(64)
			came.Done()
			<-leave
		})
	}
	came.Wait()
	crowd := stacks()
	if trim.look(); stacks() < crowd {
		t.Errorf("trimmed while it may be growing: %d bytes, then %d", crowd, stacks())
	}
	if trim.look(); stacks() > crowd*3/4 { // a run of the collector halves a stack
		t.Errorf("the stacks have %d bytes, of %d", stacks(), crowd)
	}
	close(leave)
	gone.Wait()
}
