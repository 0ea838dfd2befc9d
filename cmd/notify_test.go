package cmd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestServeNotifies: systemd hears READY=1 once the listeners are up and STOPPING=1 when
// the stop begins, not before.
func TestServeNotifies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	next := func() string {
		buf := make([]byte, 64)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	up := make(chan struct{})
	s := start(t, func(p *program) {
		p.serve = func(ctx context.Context, _ *config.Config, opts ServeOptions) error {
			<-up
			opts.Ready("127.0.0.1:1", "")
			<-ctx.Done()
			return nil
		}
	}, []string{"NOTIFY_SOCKET=" + path}, "serve")
	close(up)
	if got := next(); got != "READY=1" {
		t.Errorf("first %q, want READY=1", got)
	}
	s.cancel()
	if got := next(); got != "STOPPING=1" {
		t.Errorf("then %q, want STOPPING=1", got)
	}
	if code := expect(t, "the end", s.code); code != 0 {
		t.Errorf("exit code %d: %s", code, s.errs)
	}
}

// TestKeepNotified: systemd hears that the server takes longer to start and to stop, and a unit
// with WatchdogSec= hears from it until it has stopped.
func TestKeepNotified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	recovered, stopped := make(chan struct{}), make(chan struct{})
	s := start(t, func(p *program) {
		p.longerEvery = time.Millisecond
		p.serve = func(ctx context.Context, _ *config.Config, opts ServeOptions) error {
			<-recovered
			opts.Ready("127.0.0.1:1", "")
			<-ctx.Done()
			<-stopped
			return nil
		}
	}, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=2000", "WATCHDOG_PID=" + strconv.Itoa(os.Getpid())}, "serve")
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 64)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	until("EXTEND_TIMEOUT_USEC=60000000")
	close(recovered)
	until("READY=1")
	until("WATCHDOG=1")
	s.cancel()
	until("STOPPING=1")
	until("EXTEND_TIMEOUT_USEC=60000000")
	until("WATCHDOG=1")
	close(stopped)
	if code := expect(t, "the end", s.code); code != 0 {
		t.Errorf("exit code %d: %s", code, s.errs)
	}
	for _, environ := range [][]string{nil, {"WATCHDOG_USEC=2000", "WATCHDOG_PID=1"}, {"WATCHDOG_USEC=18446744073709551615"}, {"WATCHDOG_USEC=0"}, {"WATCHDOG_USEC=soon"}} {
		if every := newProgram(IO{Environ: environ}).watchdogEvery(); every != 0 {
			t.Errorf("%q: every %s, want never", environ, every)
		}
	}
}

// TestStopThatHangs: systemd ends a stop that takes longer than any should.
func TestStopThatHangs(t *testing.T) {
	testtool.Bubble(t, func(*testing.T) {
		p := newProgram(IO{})
		stopping, served := make(chan struct{}), make(chan struct{})
		asked := 0
		var done sync.WaitGroup
		done.Go(func() {
			p.keepNotified(func(string) { asked++ }, func() bool { return false }, stopping, served, 50*time.Second)
		})
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		start := asked
		close(stopping)
		time.Sleep(10 * time.Minute)
		close(served)
		done.Wait()
		if start != 30 || asked-start != 2 {
			t.Errorf("asked %d times for more time to start, and %d times to stop", start, asked-start)
		}
	})
}

// TestServeWithoutServiceManager: a socket that is gone is a warning, and the server goes on.
func TestServeWithoutServiceManager(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "missing"), "relative"} {
		s := start(t, func(p *program) {
			p.serve = func(_ context.Context, _ *config.Config, opts ServeOptions) error {
				opts.Ready("127.0.0.1:1", "")
				return nil
			}
		}, []string{"NOTIFY_SOCKET=" + address}, "serve")
		if code := expect(t, "the end", s.code); code != 0 || !strings.Contains(s.errs.String(), "NOTIFY_SOCKET") {
			t.Errorf("%s: exit code %d: %s", address, code, s.errs)
		}
	}
}
