package integration

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOneProcessor: a server that may run on one processor only has two threads that run
// Go code, so that goroutines go on while one waits for the disk. GOMAXPROCS is obeyed.
func TestOneProcessor(t *testing.T) {
	for _, c := range []struct{ name, env, want string }{
		{"by default", "TZ=UTC", "2"},
		{"as told", "GOMAXPROCS=1", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{t: t}
			cmd := exec.Command(binary, "serve", "--data-dir", filepath.Join(t.TempDir(), "data"), "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json")
			cmd.Env = environ(t, c.env)
			onOneProcessor(t, func() { s.process = launch(t, cmd) })
			s.awaitReady()
			_, metrics := s.call(http.MethodGet, "/metrics", "")
			if want := "\ngo_sched_gomaxprocs_threads " + c.want + "\n"; !strings.Contains(string(metrics), want) {
				t.Errorf("the metrics lack %q:\n%s", want, metrics)
			}
			s.stop()
		})
	}
}

// onOneProcessor calls start, whose process inherits that it may use one processor. The thread
// must not end: PostgreSQL, if this thread has started it, would end with it (Pdeathsig).
func onOneProcessor(t *testing.T, start func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if all.IsSet(i) {
			one.Set(i)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			t.Error(err)
		}
	}()
	start()
}
