package xmpp

import (
	"net"
	"sync"
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

// TestStopDeaf: the server reads nothing, or little, while the writer has a backlog. Stop takes
// its grace, and no write timeout.
func TestStopDeaf(t *testing.T) {
	for name, server := range map[string]func(net.Conn){
		"reads nothing": func(net.Conn) {},
		"reads little": func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
				_, err = c.Read(make([]byte, 1))
			}
		},
	} {
		testtool.Bubble(t, func(t *testing.T) {
			g := New(nil, Options{Domain: "push.example", Hosts: []string{"example"}, Standby: true})
			_, theirs := attended(t, g)
			var reads sync.WaitGroup
			reads.Go(func() { server(theirs) })
			synctest.Wait()
			for range maxQueue {
				g.send([]byte("<presence/>"))
			}
			synctest.Wait() // the writer is at them
			begun := time.Now()
			g.Stop()
			if took := time.Since(begun); took > stopGrace { // of the bubble
				t.Errorf("%s: Stop took %s", name, took)
			}
			reads.Wait()
		})
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
