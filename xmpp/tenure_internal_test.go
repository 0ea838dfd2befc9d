package xmpp

import (
	"net"
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

// attended has a gate attend a link of a test, which is the server at the other end. A write waits
// for a read.
func attended(t *testing.T, g *Gate) (l *link, server net.Conn) {
	t.Helper()
	g.started = true
	g.tasks.Go(g.write)
	g.TakeUp()
	ours, theirs := net.Pipe()
	l = newLink(ours, 1000, time.Hour)
	l.in.head = []byte("<stream:stream xmlns='" + nsAccept + "' xmlns:stream='" + nsStream + "'>")
	held := g.tenure
	held.kept, g.begun = true, true // no device is to be brought up
	g.tasks.Go(func() {
		_ = g.attend(held, l) // cut off
		close(held.over)
	})
	t.Cleanup(func() {
		_ = theirs.Close()
		g.Stop()
	})
	return l, theirs
}

// TestGiveUpDeaf: the server has stopped reading, and the writer waits for it. GiveUp closes
// the link all the same.
func TestGiveUpDeaf(t *testing.T) {
	g := New(nil, Options{Domain: "push.example", Hosts: []string{"example"}, Standby: true, PingInterval: time.Millisecond, PingTimeout: time.Hour})
	_, server := attended(t, g)
	if _, err := server.Read(make([]byte, 1)); err != nil { // of a ping; the writer is at the rest
		t.Fatal(err)
	}
	returns(t, "GiveUp", g.GiveUp)
}
