package listener

import (
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/listeners"
	"go.uber.org/goleak"
)

// TestCloseAtAnyTime: before Init, before, during and after Serve, twice and twice at
// once; Serve runs once. No goroutine is left, and no socket stays open.
func TestCloseAtAnyTime(t *testing.T) {
	for name, open := range map[string]func() listeners.Listener{
		"tcp":       func() listeners.Listener { return New(Options{Address: "127.0.0.1:0"}) },
		"websocket": func() listeners.Listener { return NewWebSocket(Options{}) },
	} {
		none := goleak.IgnoreCurrent()
		establish := func(string, net.Conn) error { return nil }
		closeAll := func(t *testing.T, l listeners.Listener) {
			t.Helper()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { l.Close(nil) })
			}
			all.Wait()
			l.Close(nil)
		}
		t.Run(name, func(t *testing.T) {
			t.Run("before Init", func(t *testing.T) {
				closeAll(t, open())
			})
			t.Run("before Serve", func(t *testing.T) {
				l := open()
				if err := l.Init(slog.New(slog.DiscardHandler)); err != nil {
					t.Fatal(err)
				}
				closeAll(t, l)
				l.Serve(establish) // returns at once
				closeAll(t, l)
			})
			t.Run("during Serve", func(t *testing.T) {
				for range 50 {
					l := open()
					if err := l.Init(slog.New(slog.DiscardHandler)); err != nil {
						t.Fatal(err)
					}
					var serving sync.WaitGroup
					serving.Go(func() { l.Serve(establish) })
					serving.Go(func() { l.Serve(establish) }) // returns at once
					closeAll(t, l)
					serving.Wait()
				}
			})
			goleak.VerifyNone(t, none)
		})
	}
}

// TestInitFails: a Listener whose address is taken says so, and can be closed.
func TestInitFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	l := New(Options{Address: taken.Addr().String()})
	if err := l.Init(slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
	l.Close(nil)
}
