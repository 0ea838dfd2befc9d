package cmd

import (
	"runtime"
	"runtime/debug"
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
	limit := debug.SetMemoryLimit(heapFloorFrom - 1)
	defer debug.SetMemoryLimit(limit)
	release := heapFloor()
	if got := next(); got >= 64<<20 {
		t.Errorf("there is little memory, and the collector waits for %d bytes", got)
	}
	release()
	debug.SetMemoryLimit(heapFloorFrom)
	release = heapFloor()
	if got := next(); got < 64<<20 {
		t.Errorf("the collector runs at %d bytes", got)
	}
	release()
}
