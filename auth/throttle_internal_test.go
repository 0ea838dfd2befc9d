package auth

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestFailuresKeepNoNames: whoever has no credentials can send a long username with each
// of many failures. The memory of a failure does not depend on its length.
func TestFailuresKeepNoNames(t *testing.T) {
	const names, length = 1000, 60_000
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	th, now := newThrottle(), time.Now()
	before := heap()
	for i := range names {
		th.onFailure("192.0.2.1", fmt.Sprint(i, strings.Repeat("x", length)), now)
	}
	if grown := (heap() - before) / names; grown > length/10 {
		t.Errorf("each failure with a username of %d bytes takes %d bytes", length, grown)
	}
	runtime.KeepAlive(th)
}
