package nodes

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

var full = flag.Bool("nodes", false, "run the tests with three processes")

func TestMain(m *testing.M) {
	if file := os.Getenv("NODE_CLOCK"); file != "" {
		if err := setClock(file); err != nil {
			fmt.Fprintln(os.Stderr, "set the clock:", err)
			os.Exit(1)
		}
	}
	if os.Getenv("NODE_SERVES") != "" {
		os.Exit(serveHeartline())
	}
	if crowd := os.Getenv("NODE_CROWD"); crowd != "" {
		if err := runCrowd(crowd); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if name := os.Getenv("NODE_NAME"); name != "" {
		if err := run(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// process is a node's.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // closed when it has ended and everything that it said is read
}

// rig is three nodes, devices, a backend, and the ledger of all that they say.
type rig struct {
	*testing.T
	db    *pgstore.DB
	nodes []*process

	mu       sync.Mutex
	changed  chan struct{} // closed at each change
	next     int
	asked    map[int]time.Time // by notification
	slowest  time.Duration
	accepted map[int]bool
	refused  []string
	got      map[int]int // by notification: how often without redelivery
	any      map[int]bool
	last     map[string]uint64 // by account: the last Seq that came for the first time
	online   map[string]bool
	faults   []string
}

func newRig(t *testing.T) *rig {
	postgres := testtool.StartPostgres(t)
	url := postgres.URL("admin", "postgres", "")
	r := &rig{
		T: t, changed: make(chan struct{}), asked: map[int]time.Time{}, accepted: map[int]bool{}, got: map[int]int{}, any: map[int]bool{},
		last: map[string]uint64{}, online: map[string]bool{},
	}
	var err error
	if r.db, err = pgstore.Open(t.Context(), pgstore.Options{URL: url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.db.Close)
	for _, name := range []string{"one", "two", "three"} {
		r.nodes = append(r.nodes, r.start(name, url))
	}
	r.balanced(3)
	return r
}

func (r *rig) start(name, url string) *process {
	p := &process{name: name, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), os.Args[0])
	p.cmd.Env = append(os.Environ(), "NODE_NAME="+name, "NODE_URL="+url)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		r.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.Fatal(err)
	}
	log, err := os.Create(r.TempDir() + "/" + name + ".log")
	if err != nil {
		r.Fatal(err)
	}
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		r.Fatal(err)
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.hear(strings.Fields(lines.Text()))
		}
		_ = p.cmd.Wait() // most are killed
	}()
	r.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
		<-p.done
		if text, err := os.ReadFile(log.Name()); err == nil && r.Failed() {
			r.Logf("log of %s:\n%s", name, text[max(0, len(text)-6000):])
		}
	})
	return p
}

// hear takes a line of a node.
func (r *rig) hear(f []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch f[0] {
	case "accepted":
		n, _ := strconv.Atoi(f[1])
		r.accepted[n] = true
		r.slowest = max(r.slowest, time.Since(r.asked[n]))
	case "refused":
		r.refused = append(r.refused, strings.Join(f, " "))
	case "got":
		n, _ := strconv.Atoi(f[2])
		seq, _ := strconv.ParseUint(f[3], 10, 64)
		if f[4] == "false" {
			if r.got[n]++; r.got[n] > 1 {
				r.faults = append(r.faults, "twice without saying so: "+strings.Join(f, " "))
			}
		}
		if !r.any[n] {
			r.any[n] = true
			if seq < r.last[f[1]] {
				r.faults = append(r.faults, "out of order: "+strings.Join(f, " "))
			}
			r.last[f[1]] = max(r.last[f[1]], seq)
		}
	case "online":
		r.online[f[1]] = true
	case "offline":
		r.faults = append(r.faults, strings.Join(f, " "))
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// until waits for a change after which ok is true.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	patience := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-patience:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.Fatalf("%s: not within 2 min; accepted %d of %d, delivered %d, refused %v", what, len(r.accepted), r.next, len(r.any), r.refused)
		}
	}
}

// balanced waits until n nodes share all partitions.
func (r *rig) balanced(n int) {
	r.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !sharedBy(r.T, r.db, n); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("%d nodes do not have equal shares", n)
		}
	}
}

// sharedBy reports whether n nodes share all partitions.
func sharedBy(t *testing.T, db *pgstore.DB, n int) bool {
	t.Helper()
	parts, err := db.Parts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	owned := map[int64]int{}
	for _, p := range parts {
		owned[p.Node]++
	}
	least := cluster.Parts
	for _, k := range owned {
		least = min(least, k)
	}
	return owned[0] == 0 && len(owned) == n && least >= cluster.Parts/n-n
}

func (r *rig) tell(p *process, format string, args ...any) {
	_, _ = fmt.Fprintf(p.in, format+"\n", args...) // one that is killed hears nothing
}

func (r *rig) connect(p *process, accounts ...string) {
	r.Helper()
	r.mu.Lock()
	for _, a := range accounts {
		delete(r.online, a)
	}
	r.mu.Unlock()
	for _, a := range accounts {
		r.tell(p, "online %s", a)
	}
	r.until("online at "+p.name, func() bool {
		return !slices.ContainsFunc(accounts, func(a string) bool { return !r.online[a] })
	})
}

// load asks for notifications, one each 2 ms, at the given nodes in turn.
func (r *rig) load(accounts []string, n int, at ...*process) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := range n {
		<-tick.C
		r.mu.Lock()
		r.next++
		id := r.next
		r.asked[id] = time.Now()
		r.mu.Unlock()
		r.tell(at[i%len(at)], "accept %d %s", id, accounts[i%len(accounts)])
	}
}

// settled waits until everything is accepted and delivered, and judges the ledger.
func (r *rig) settled(fault string) {
	r.Helper()
	r.until(fault+": accepted", func() bool { return len(r.accepted)+len(r.refused) == r.next })
	r.until(fault+": delivered", func() bool { return len(r.any) >= len(r.accepted) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Logf("%s: accepted %d, refused %d, unaccounted for 0, order violations and duplicates %d, slowest answer %v", fault, len(r.accepted), len(r.refused), len(r.faults), r.slowest.Round(10*time.Millisecond))
	if len(r.refused) > 0 || len(r.faults) > 0 {
		r.Errorf("%s: refused %v, faults %v", fault, r.refused, r.faults)
	}
	r.slowest, r.faults, r.refused = 0, nil, nil
}

// Devices at one node get notifications of backends at the others, whichever owns the
// accounts, while an owner is paused, comes back, and another is killed.
func TestThreeNodes(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take one to three minutes: make nodes runs them")
	}
	r := newRig(t)
	one, two, three := r.nodes[0], r.nodes[1], r.nodes[2]
	var accounts []string
	for i := range 60 {
		accounts = append(accounts, fmt.Sprint("account", i))
	}
	r.connect(two, accounts...)
	r.load(accounts, 1000, one, two, three)
	r.settled("no fault")

	// The owner of a third is paused for longer than its lease.
	if err := one.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.load(accounts, 1000, two, three)
	r.settled("owner paused")
	if err := one.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.load(accounts, 1000, two, three)
	r.settled("owner back")
	r.balanced(3)

	// It is killed.
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.load(accounts, 1000, two, three)
	r.settled("owner killed")
	r.balanced(2)

	// A node leaves.
	r.tell(three, "stop")
	r.load(accounts, 1000, two)
	r.settled("owner left")
	r.balanced(1)
}
