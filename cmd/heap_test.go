package cmd

import (
	"bytes"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// TestBadMemoryShare: a share of the memory that cannot be read is not passed over in silence.
func TestBadMemoryShare(t *testing.T) {
	t.Setenv("AUTOMEMLIMIT", "most")
	before := debug.SetMemoryLimit(-1)
	var log bytes.Buffer
	limitMemory(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	if s := log.String(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, "AUTOMEMLIMIT: most") {
		t.Errorf("logged %q", s)
	}
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("the limit is %d, and was %d", got, before)
	}
}

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
