package xmpp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestStopWaitsForTimers: what a timer has begun is over when Stop returns, and a timer
// that has not run never does.
func TestStopWaitsForTimers(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		g := New(nil, Options{MinInterval: time.Hour})
		release, stopped := make(chan struct{}), make(chan struct{})
		g.mu.Lock()
		g.held = g.afterLocked(time.Second, func() { <-release })
		g.bursts["phone"] = &burst{timer: g.afterLocked(time.Hour, func() { t.Error("the timer ran after Stop") })}
		g.mu.Unlock()
		time.Sleep(2 * time.Second)
		go func() { g.Stop(); close(stopped) }()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("Stop has returned while a timer's function runs")
		default:
		}
		close(release)
		<-stopped
		time.Sleep(2 * time.Hour)
	})
}

// TestStopAnswersBursts: a publish that waits for the end of an interval is refused for now.
func TestStopAnswersBursts(t *testing.T) {
	g := New(nil, Options{Domain: "push.example.org"})
	e := &element{}
	g.mu.Lock()
	g.link = &link{} // answers go over a link alone
	g.bursts["phone"] = &burst{timer: g.afterLocked(time.Hour, func() {}), waiting: []*element{e}}
	g.mu.Unlock()
	g.Stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) != 1 {
		t.Errorf("%d answers were queued, want 1", len(g.queue))
	}
}

// TestStartDuringStop: from its first step on, Stop keeps Start from starting anything.
func TestStartDuringStop(t *testing.T) {
	g := New(nil, Options{Domain: "push.example.org"})
	g.mu.Lock()
	g.stopped = true // Stop sets it first
	g.mu.Unlock()
	g.Start()
	if g.started {
		t.Error("started")
	}
	g.Stop()
}
