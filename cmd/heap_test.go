package cmd

import (
	"runtime"
	"testing"
)

func TestHeapFloor(t *testing.T) {
	next := func() uint64 { // the heap at which the collector runs next
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NextGC
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "128MiB")
	release := heapFloor()
	if got := next(); got >= 64<<20 {
		t.Errorf("GOMEMLIMIT is set, and the collector waits for %d bytes", got)
	}
	release()
	t.Setenv("GOMEMLIMIT", "")
	release = heapFloor()
	if got := next(); got < 64<<20 {
		t.Errorf("the collector runs at %d bytes", got)
	}
	release()
}
