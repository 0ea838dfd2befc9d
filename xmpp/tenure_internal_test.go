package xmpp

import (
	"testing"
	"time"
)

// returns waits for fn, however busy the machine is.
func returns(t *testing.T, what string, fn func()) {
	t.Helper()
	over := make(chan struct{})
	go func() {
		fn()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(time.Minute):
		t.Fatal(what, "does not return")
	}
}

// TestGiveUpAtOnce: GiveUp comes before run has seen the tenure, and ends it all the same.
func TestGiveUpAtOnce(t *testing.T) {
	g := New(nil, Options{Domain: "push.example", Standby: true})
	g.started = true
	g.tasks.Go(g.write)
	defer g.Stop()
	g.TakeUp()
	returns(t, "GiveUp", g.GiveUp) // run runs later
	g.tasks.Go(g.run)
}
