package hooks

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestAnAccountRoutesInTurns: many publishers of one account are routed a few at a time
// and none is left out; another account does not wait for them.
func TestAnAccountRoutesInTurns(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		turns := newTurns()
		turns.slots = 1
		first := turns.take("bob")
		var all sync.WaitGroup
		atOnce, routed := 0, 0
		for range 20 {
			all.Go(func() {
				done := turns.take("bob")
				if atOnce++; atOnce > 1 {
					t.Error("two publishes of one account are routed at once")
				}
				routed++
				time.Sleep(time.Millisecond) // of the bubble: the others wait
				atOnce--
				done()
			})
		}
		synctest.Wait()
		if routed != 0 {
			t.Errorf("%d publishes were routed beside the first", routed)
		}
		turns.take("alice")()
		first()
		all.Wait()
		if routed != 20 || len(turns.accounts) != 0 {
			t.Errorf("%d of 20 publishes were routed, %d accounts are remembered", routed, len(turns.accounts))
		}
	})
}
