package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestMemoryLimit: a server whose control group has a memory limit, as in a container, keeps to
// nine tenths of it. GOMEMLIMIT is obeyed.
func TestMemoryLimit(t *testing.T) {
	for _, c := range []struct{ name, env, want string }{
		{"by default", "TZ=UTC", "9.437184e+08"},
		{"as told", "GOMEMLIMIT=500000000", "5e+08"},
	} {
		t.Run(c.name, func(t *testing.T) {
			group := controlGroup(t, 1000<<20)
			s := &server{t: t}
			cmd := exec.Command("sh", "-ec", `echo $$ >"$0"; exec "$@"`, group,
				binary, "serve", "--data-dir", filepath.Join(t.TempDir(), "data"), "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json")
			cmd.Env = environ(t, c.env)
			s.process = launch(t, cmd)
			s.awaitReady()
			_, metrics := s.call(http.MethodGet, "/metrics", "")
			if want := "\ngo_gc_gomemlimit_bytes " + c.want; !strings.Contains(string(metrics), want) {
				t.Errorf("the metrics lack %q:\n%s", want, metrics)
			}
			s.stop()
		})
	}
}

// controlGroup makes a control group with a memory limit in bytes. It returns the file that takes the
// processes.
func controlGroup(t *testing.T, bytes int) (procs string) {
	t.Helper()
	var err error
	for root, limit := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		dir := filepath.Join(root, fmt.Sprintf("heartline-test-%d", os.Getpid()))
		if err = os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		var f *os.File
		if f, err = os.OpenFile(filepath.Join(dir, limit), os.O_WRONLY, 0); err != nil { // not a control group with memory
			continue
		}
		_, err = f.Write(fmt.Append(nil, bytes))
		if err = errors.Join(err, f.Close()); err == nil {
			return filepath.Join(dir, "cgroup.procs")
		}
	}
	testtool.LeaveOut(t, fmt.Sprint("no control group can be made: ", err), "run the tests as root where /sys/fs/cgroup is writable")
	return ""
}
