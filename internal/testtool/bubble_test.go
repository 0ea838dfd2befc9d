package testtool

import (
	"sync"
	"testing"
	"time"
)

// TestBubbleWithTimers: under the race detector the process dies in most runs if two
// processors run these timers.
func TestBubbleWithTimers(t *testing.T) {
	Bubble(t, func(*testing.T) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20_000 {
					time.AfterFunc(0, func() {})
				}
			})
		}
		wg.Wait()
	})
}
