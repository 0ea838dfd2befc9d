package nodes

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var oldProgram = flag.String("old", "", "with -nodes: the program of an earlier version, to run beside this one: make nodes-versions builds it")

// storeStatus is what a program says of the database.
func (f *fleet) storeStatus(program string) string {
	f.Helper()
	cmd := exec.CommandContext(f.Context(), program, "store", "status")
	cmd.Env = append(slices.Clone(f.env), "HEARTLINE_FALLBACK_APNS_KEY_ID="+keyID("status"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.Errorf("store status of %s: %v\n%s", program, err, out)
	}
	return string(out)
}

// exchange stops a node under load and starts a program in its place.
func (f *fleet) exchange(n *served, program string) {
	f.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.Fatal(err)
	}
	select {
	case <-n.ended:
	case <-time.After(2 * time.Minute):
		f.Fatal("the stop of", n.name, "does not end")
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		f.Errorf("exit code %d of %s", code, n.name)
	}
	f.program = program
	f.replace(n, f.start(n.name))
	f.balanced(3)
}

// Three nodes of an earlier version are upgraded one after the other, and go back, under
// load: versions work together on one database, whichever made its tables.
func TestVersionsTogether(t *testing.T) {
	if !*full || *oldProgram == "" {
		t.Skip("a program of an earlier version is needed: make nodes-versions builds it")
	}
	old, err := filepath.Abs(*oldProgram)
	if err != nil {
		t.Fatal(err)
	}
	version := func(program string) string {
		cmd := exec.CommandContext(context.Background(), program, "version")
		cmd.Env = append(os.Environ(), "NODE_SERVES=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	this := os.Args[0]
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	f.program = old
	f.begin("one", "two", "three")
	t.Logf("old: %s; new: %s", version(old), version(this))
	before := f.storeStatus(old)
	f.devices(60)
	for _, way := range []struct{ what, program string }{{"upgraded", this}, {"back", old}} {
		for i, n := range slices.Clone(f.nodes) {
			stop := f.load()
			f.until(100)
			began := time.Now()
			f.exchange(n, way.program)
			took := time.Since(began)
			f.mu.Lock()
			enough := len(f.accepted) + 200
			f.mu.Unlock()
			f.until(enough)
			stop()
			f.judge(strings.Join([]string{way.what, n.name}, " "), 0, 0)
			t.Logf("%s: %d of 3 nodes, this one in %v", way.what, i+1, took.Round(10*time.Millisecond))
			hopping, land := context.WithTimeout(t.Context(), 3*time.Second)
			for hop := 0; hopping.Err() == nil; hop++ { // between old and new
				here, leave := context.WithTimeout(hopping, 100*time.Millisecond)
				_ = f.connection(here, "account0", f.node(hop)) // it is cut off by the test
				leave()
			}
			land()
		}
	}
	format := func(status string) string {
		for line := range strings.Lines(status) {
			if strings.Contains(line, "format") {
				return strings.TrimSpace(line)
			}
		}
		return "no format in: " + status
	}
	if was, is := format(before), format(f.storeStatus(this)); was != is {
		t.Errorf("the tables were %q, and are %q", was, is)
	} else {
		t.Log("the tables: ", is)
	}
}
