package integration

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// demoNodes starts `heartline demo --nodes`. dir is its directory for temporary files, which
// the user of its PostgreSQL can read, too.
func demoNodes(t *testing.T, args ...string) (p *process, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "heartline-test-") //nolint:usetesting // only this user can enter those of t.TempDir
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command(binary, append([]string{"demo", "--nodes"}, args...)...)
	// A variable that would configure the nodes does not reach them.
	cmd.Env = environ(t, "TMPDIR="+dir, "HEARTLINE_CLUSTER_LEASE=no duration")
	return launch(t, cmd), dir
}

// nothingLeft checks that the demo has removed its files and ended its nodes.
func nothingLeft(t *testing.T, p *process, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	nodes := regexp.MustCompile(`process (\d+)`).FindAllStringSubmatch(p.stdout.String(), -1)
	if len(nodes) < 3 {
		t.Errorf("%d nodes have run", len(nodes))
	}
	for _, m := range nodes {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("node %d still runs: %v", pid, err)
		}
	}
}

// TestDemoNodes: the demo starts its own PostgreSQL, kills a node in mid-delivery, loses
// nothing and leaves nothing.
func TestDemoNodes(t *testing.T) {
	t.Parallel()
	testtool.NeedPostgres(t)
	p, dir := demoNodes(t)
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code %d: %s\n%s", code, p.stderr, p.stdout)
	}
	nothingLeft(t, p, dir)
	if text := p.stdout.String(); !strings.Contains(text, "13 notifications accepted, all acknowledged by their devices, none lost") {
		t.Error(text)
	}
}

// TestDemoNodesInterrupted: on somebody's database, and interrupted while a node is dead, the
// demo leaves no process, no file and no schema.
func TestDemoNodesInterrupted(t *testing.T) {
	pg, _ := database(t)
	p, dir := demoNodes(t, "--postgres", pg.URL("admin", "postgres", ""))
	p.stdout.until(t, "kill -9 of node a")
	p.signal(t, os.Interrupt)
	if code := p.wait(t); code == 0 {
		t.Errorf("exit code 0, although it was interrupted:\n%s", p.stdout)
	}
	nothingLeft(t, p, dir)
	if schemas, err := pg.SQL("postgres", "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'heartline%'"); err != nil || schemas != "" {
		t.Errorf("it leaves the schemas %q, %v", schemas, err)
	}
}
