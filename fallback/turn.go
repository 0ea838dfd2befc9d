package fallback

import (
	"context"
	"net/http/httptrace"
	"runtime"
	"sync/atomic"
	"time"
)

// turns lets few requests be made at a time, however many are under way: a turn
// ends when its request is written. An answer from a server that is far away
// comes alone; from one that is near, or after a stall, a read can bring hundreds,
// and each frees a worker that makes the next request. Together they would keep
// everything else in the program from running, acks over the channel among it.
type turns chan struct{}

func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

// maxTurn is how long to wait for a turn: a connection that takes nothing holds
// the others up no longer than that.
const maxTurn = 100 * time.Millisecond

// take waits for a turn. It ends when a request made with the context returned is
// written, or with end, which may be called more than once.
func (t turns) take(ctx context.Context) (_ context.Context, end func()) {
	select {
	case t <- struct{}{}:
	default:
		timer := time.NewTimer(maxTurn)
		defer timer.Stop()
		select {
		case t <- struct{}{}:
		case <-timer.C:
			return ctx, func() {}
		case <-ctx.Done():
			return ctx, func() {}
		}
	}
	var ended atomic.Bool
	end = func() {
		if !ended.Swap(true) {
			<-t
		}
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { end() },
	}), end
}
