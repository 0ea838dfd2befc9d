package cmd

import (
	"os"
	"runtime"
)

// heapFloor keeps the collector from running many times a second over a heap of a
// few megabytes, which is all that a server with some hundred devices has: it took
// a fifth of the CPU time under load. The block is never touched, so that it takes
// addresses and no memory; a large heap hardly notices it, as it would a higher
// GOGC. Who sets GOGC or GOMEMLIMIT has decided.
func heapFloor() (release func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	block := make([]byte, 64<<20)
	return func() { runtime.KeepAlive(block) }
}
