package nodes

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// site is machines of their own for nodes, as network namespaces: on one network they reach each
// other, on a second one the database. Clients and Apple are connected by no network that is cut.
type site struct {
	*testing.T
	id string // begins the names of its namespaces, bridges and interfaces
}

// The networks of a site, and the addresses on each: the n-th node has .n, this machine .254.
const (
	relayNet    = "r"
	databaseNet = "d"
	relayIP     = "10.77.1."
	databaseIP  = "10.77.2."
)

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t, fmt.Sprintf("hl%d", os.Getpid()%100000)}
	if os.Getuid() != 0 {
		testtool.LeaveOut(t, "network namespaces are root's", "run it as root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		testtool.LeaveOut(t, "there is no ip", "apt-get install iproute2")
	}
	for _, network := range []string{relayNet, databaseNet} {
		if out, err := exec.CommandContext(t.Context(), "ip", "link", "add", s.id+network, "type", "bridge").CombinedOutput(); err != nil {
			testtool.LeaveOut(t, "the kernel makes no bridge: "+strings.TrimSpace(string(out)), "a machine that may make network interfaces")
		}
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", s.id+network).Run() })
		s.ip("link", "set", "dev", s.id+network, "up")
	}
	s.ip("addr", "add", databaseIP+"254/24", "dev", s.id+databaseNet)
	return s
}

func (s *site) ip(args ...string) {
	s.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		s.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// host is the n-th machine of a site.
type host struct {
	s *site
	n int
}

func (h host) namespace() string            { return fmt.Sprint(h.s.id, "-", h.n) }
func (h host) device(network string) string { return fmt.Sprint(h.s.id, network, h.n) }

// add adds the n-th machine.
func (s *site) add(n int) host {
	s.Helper()
	h := host{s, n}
	s.ip("netns", "add", h.namespace())
	s.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.namespace()).Run() }) // its interfaces go with it
	s.ip("-n", h.namespace(), "link", "set", "dev", "lo", "up")
	for network, prefix := range map[string]string{relayNet: relayIP, databaseNet: databaseIP} {
		s.ip("link", "add", h.device(network), "type", "veth", "peer", "name", network, "netns", h.namespace())
		s.ip("link", "set", "dev", h.device(network), "master", s.id+network, "up")
		s.ip("-n", h.namespace(), "addr", "add", fmt.Sprint(prefix, n, "/24"), "dev", network)
		s.ip("-n", h.namespace(), "link", "set", "dev", network, "up")
	}
	return h
}

// cut pulls the machine's cable out of a network's switch: its interface stays up, and packets are
// lost.
func (h host) cut(network string) { h.s.ip("link", "set", "dev", h.device(network), "nomaster") }

func (h host) heal(network string) {
	h.s.ip("link", "set", "dev", h.device(network), "master", h.s.id+network)
}

// down takes the machine's interface down: it has no route any more.
func (h host) down(network string) {
	h.s.ip("-n", h.namespace(), "link", "set", "dev", network, "down")
}
func (h host) up(network string) { h.s.ip("-n", h.namespace(), "link", "set", "dev", network, "up") }

// inside calls fn on a thread of the namespace: sockets that it makes are the machine's. The thread
// must not end: a process that it has started, such as the database, would end with it (Pdeathsig).
func (h host) inside(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	space, err := os.Open("/run/netns/" + h.namespace())
	if err != nil {
		return err
	}
	defer space.Close()
	if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // other goroutines would have this thread
	}
	return err
}

// reach returns an address of this machine for one on the loopback of the other.
func (h host) reach(address string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.s.Fatal(err)
	}
	g := newGateOn(h.s.T, l, func() (c net.Conn, err error) {
		err = h.inside(func() error { c, err = net.Dial("tcp", address); return err })
		return c, err
	})
	return g.address()
}

// lend has the machine reach a server of this machine's loopback at the same address.
func (h host) lend(address string) {
	h.s.Helper()
	var l net.Listener
	if err := h.inside(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		h.s.Fatal(err)
	}
	newGateOn(h.s.T, l, func() (net.Conn, error) { return net.Dial("tcp", address) })
}

// Three nodes on machines of their own lose the network to each other, to the database and to
// both, by lost packets and by interfaces that go down, under load.
func TestMachinesCutOff(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	s := newSite(t)
	pg := newPostgres(t, "listen_addresses = '*'")
	if err := pg.Admit(databaseIP + "0/24"); err != nil {
		t.Fatal(err)
	}
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	authority := testtool.NewAuthority(t)
	f.machines = map[string]machine{}
	names := []string{"one", "two", "three"}
	var hosts []host
	for i, name := range names {
		h := s.add(i + 1)
		hosts = append(hosts, h)
		f.machines[name] = machine{[]string{"ip", "netns", "exec", h.namespace()}, h.reach}
		h.lend(strings.TrimPrefix(f.sim.URL(), "https://"))
		ip := fmt.Sprint(relayIP, h.n)
		cert, key := authority.Issue(net.ParseIP(ip))
		f.extra[name] = []string{
			"HEARTLINE_CLUSTER_ADDRESS=" + ip + ":7883", "HEARTLINE_CLUSTER_TLS_CERT_FILE=" + cert, "HEARTLINE_CLUSTER_TLS_KEY_FILE=" + key, "HEARTLINE_CLUSTER_TLS_CA_FILE=" + authority.File,
			fmt.Sprintf("HEARTLINE_STORE_POSTGRES_URL=postgres://admin@%s254:%d/postgres?sslmode=disable", databaseIP, pg.Port),
		}
	}
	f.begin(names...)
	f.devices(60)
	all := func(fn func(host)) func() {
		return func() {
			for _, h := range hosts {
				fn(h)
			}
		}
	}
	one := hosts[0]
	for _, row := range []struct {
		what      string
		cut, heal func()
		owner     bool // the first loses the database, and its accounts
	}{
		{"all from each other, packets lost", all(func(h host) { h.cut(relayNet) }), all(func(h host) { h.heal(relayNet) }), false},
		{"one from the others, packets lost", func() { one.cut(relayNet) }, func() { one.heal(relayNet) }, false},
		{"one from the others, interface down", func() { one.down(relayNet) }, func() { one.up(relayNet) }, false},
		{"one from the database, packets lost", func() { one.cut(databaseNet) }, func() { one.heal(databaseNet) }, true},
		{"one from the database, interface down", func() { one.down(databaseNet) }, func() { one.up(databaseNet) }, true},
		{"one from both, packets lost", func() { one.cut(relayNet); one.cut(databaseNet) }, func() { one.heal(relayNet); one.heal(databaseNet) }, true},
	} {
		f.sim.Script(apnssim.Script{Delay: time.Second})
		stop := f.load()
		f.until(600)
		ended := f.takeovers()
		cut := time.Now()
		row.cut()
		took := "nobody"
		if row.owner {
			took = fmt.Sprint(f.takenOver(cut, f.others(f.nodes[0])...))
		}
		time.Sleep(time.Until(cut.Add(12 * time.Second))) // the fault: longer than a lease, and than a request is held
		healed := time.Now()
		stale := 0
		if row.owner {
			stale = f.pushedBy("one", cut.Add(lease), healed) // its trust ends a second before that
		}
		row.heal()
		f.balanced(3)
		f.mu.Lock()
		before := len(f.accepted)
		f.mu.Unlock()
		f.until(before + 300)
		accepted := time.Since(healed)
		f.sim.ClearScripts()
		stop()
		mayRefuse := 0
		if row.owner {
			mayRefuse = 1 << 20 // the owner itself, until it is taken over
		}
		f.judge("machines cut off for 12 s, "+row.what, 15, mayRefuse)
		ended = f.takeovers() - ended
		t.Logf("machines cut off for 12 s, %s: taken over after %s, nodes fenced off %v, pushes by the stale owner %d; 300 requests accepted %v after the end", row.what, took, ended, stale, accepted.Round(10*time.Millisecond))
		if stale > 0 {
			t.Errorf("%d pushes by a stale owner", stale)
		}
		if !row.owner && ended > 0 {
			t.Errorf("%v nodes were fenced off that lived", ended)
		}
	}
}
