package cmd

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
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
