package testtool

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Bubble is synctest.Test. Under the race detector one processor runs Go code meanwhile:
// two processors can run timers of one bubble at the same time, with one state of the
// detector for both, and the detector then crashes (https://go.dev/issue/78156).
func Bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if raceDetector {
		defer oneProcessor()()
	}
	synctest.Test(t, test)
}

// processors counts the bubbles that want one processor, and keeps how many there were
// before.
var processors struct {
	sync.Mutex
	bubbles, before int
}

// oneProcessor limits Go code to one processor until all of its callers have called end.
func oneProcessor() (end func()) {
	p := &processors
	p.Lock()
	defer p.Unlock()
	if p.bubbles == 0 {
		p.before = runtime.GOMAXPROCS(1)
	}
	p.bubbles++
	return func() {
		p.Lock()
		defer p.Unlock()
		p.bubbles--
		if p.bubbles == 0 {
			runtime.GOMAXPROCS(p.before)
		}
	}
}
