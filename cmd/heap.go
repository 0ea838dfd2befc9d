package cmd

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// limitMemory has the collector keep the process within nine tenths of the memory that its
// control group may use (that of a container, or of a service of systemd): the kernel kills a
// process that uses more. The last tenth is for what the collector does not know, such as the
// buffers of sockets. The limit is read again each minute. GOMEMLIMIT sets another limit,
// AUTOMEMLIMIT another share, or none if it is "off".
func limitMemory(ctx context.Context, log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRefreshInterval(ctx, time.Minute))
	switch _, asked := os.LookupEnv("AUTOMEMLIMIT"); {
	case err != nil && asked:
		log.Warn("no memory limit for the garbage collector", "error", err)
	case err != nil:
		log.Debug("memory limit of the control group unknown", "error", err)
	case limit < math.MaxInt64:
		log.Info("the garbage collector keeps to a memory limit", "bytes", limit)
	}
}

const (
	heapFloorBytes = 64 << 20
	// heapFloorFrom is the least memory limit with a heap floor, which counts towards the limit.
	heapFloorFrom = 16 * heapFloorBytes
)

// heapFloor keeps the collector from running many times a second over a heap of a
// few megabytes, which is all that a server with some hundred devices has: it took
// a fifth of the CPU time under load. The block is never touched, so that it takes
// addresses and no memory; a large heap hardly notices it, as it would a higher
// GOGC. Who sets GOGC has decided.
func heapFloor() (release func()) {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) < heapFloorFrom {
		return func() {}
	}
	block := make([]byte, heapFloorBytes)
	return func() { runtime.KeepAlive(block) }
}
