package nodes

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// metric returns the sum of a metric over its labels, as a node tells it; ok: it answers.
func (f *fleet) metric(n *served, name string) (sum float64, ok bool) {
	ctx, cancel := context.WithTimeout(f.Context(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.http+"/metrics", http.NoBody)
	if err != nil {
		return 0, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if key, _, _ = strings.Cut(key, "{"); key == name {
			v, err := strconv.ParseFloat(value, 64)
			sum, ok = sum+v, err == nil
		}
	}
	return sum, ok
}

// servedBy waits until some nodes serve all partitions, and returns when that was so.
func (f *fleet) servedBy(nodes ...*served) time.Time {
	f.Helper()
	f.await("all partitions at the other nodes", func() bool {
		all := 0.0
		for _, n := range nodes {
			v, _ := f.metric(n, "heartline_cluster_partitions")
			all += v
		}
		return all == cluster.Parts
	})
	return time.Now()
}

// takeOverBound is how long a take-over may last from the fault on (contract §10).
const takeOverBound = lease + 2*time.Second

// takenOver waits until the survivors serve everything, and returns how long that took.
func (f *fleet) takenOver(fault time.Time, survivors ...*served) time.Duration {
	f.Helper()
	took := f.servedBy(survivors...).Sub(fault)
	if took > takeOverBound && !raceDetector {
		f.Errorf("taken over after %v, more than %v", took, takeOverBound)
	}
	return took.Round(10 * time.Millisecond)
}

// pushedBy counts the pushes of a node that Apple accepted in a time.
func (f *fleet) pushedBy(name string, from, to time.Time) (n int) {
	for _, r := range f.sim.Received() {
		if r.Status == http.StatusOK && r.KeyID == keyID(name) && r.Time.After(from) && r.Time.Before(to) {
			n++
		}
	}
	return n
}

// others are the nodes but one.
func (f *fleet) others(n *served) (all []*served) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.nodes), func(o *served) bool { return o == n })
}

// A node is cut from the database for longer than its lease, with pushes queued, and comes back:
// by lost packets (also of the answers alone) on connections that the network then has forgotten,
// and by resets. The others take over, and from the end of its trust on it pushes nothing.
func TestNodeCutFromDatabase(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	g := newGate(t, fmt.Sprint("127.0.0.1:", pg.Port))
	f.extra["one"] = []string{"HEARTLINE_STORE_POSTGRES_URL=postgres://admin@" + g.address() + "/postgres?sslmode=disable"}
	f.begin("one", "two", "three")
	f.devices(60)
	one := f.nodes[0]
	for _, row := range []struct {
		what      string
		cut, heal func()
	}{
		{"all packets lost", func() { g.lose(true, true) }, func() { g.forget(); g.heal() }},
		{"the database's packets lost", func() { g.lose(false, true) }, func() { g.forget(); g.heal() }},
		{"connections reset", g.refuse, g.heal},
	} {
		f.sim.Script(apnssim.Script{Delay: time.Second})
		stop := f.load()
		f.until(1500) // a quarter of them pushes, of which 15 a second are answered
		cut := time.Now()
		row.cut()
		took := f.takenOver(cut, f.others(one)...)
		time.Sleep(time.Until(cut.Add(12 * time.Second))) // the fault
		healed := time.Now()
		before := f.pushedBy("one", time.Time{}, cut)
		stale := f.pushedBy("one", cut.Add(lease), healed) // its trust ends a second before that
		row.heal()
		f.balanced(3)
		back := time.Since(healed)
		f.sim.ClearScripts()
		stop()
		f.judge("cut from the database, "+row.what, 15, 1<<20) // until it is taken over, the owner itself refuses
		t.Logf("cut from the database, %s: taken over after %v; pushes by the stale owner %d (%d before); has its share %v after the end of the cut", row.what, took, stale, before, back.Round(10*time.Millisecond))
		if stale > 0 {
			t.Errorf("%d pushes by a stale owner", stale)
		}
		if before == 0 {
			t.Error("it never pushed: nothing was tried")
		}
	}
}

// freeAddress returns one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The relays between the nodes are cut, while all reach the database: all for 10 s, of one node
// one direction, and by resets. All nodes keep their partitions, a backend finds a node that
// accepts, and when the relays are back everything is delivered.
func TestNodesCutFromEachOther(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	gates := map[string]*gate{}
	names := []string{"one", "two", "three"}
	for _, name := range names {
		address := freeAddress(t)
		gates[name] = newGate(t, address)
		f.extra[name] = []string{"HEARTLINE_CLUSTER_ADDRESS=" + address, "HEARTLINE_CLUSTER_ADVERTISE=" + gates[name].address()}
	}
	f.begin(names...)
	f.devices(60)
	all := func(fn func(*gate)) {
		for _, g := range gates {
			fn(g)
		}
	}
	for _, row := range []struct {
		what      string
		cut, heal func()
	}{
		{"all packets lost", func() { all(func(g *gate) { g.lose(true, true) }) }, func() { all(func(g *gate) { g.forget(); g.heal() }) }},
		{"packets to the nodes that began the streams lost", func() { all(func(g *gate) { g.lose(false, true) }) }, func() { all((*gate).heal) }},
		{"packets from the nodes that began the streams lost", func() { all(func(g *gate) { g.lose(true, false) }) }, func() { all((*gate).heal) }},
		{"connections reset", func() { all((*gate).refuse) }, func() { all((*gate).heal) }},
	} {
		stop := f.load()
		f.until(300)
		row.cut()
		time.Sleep(10 * time.Second) // the fault: longer than a request is held
		row.heal()
		healed := time.Now()
		f.mu.Lock()
		before := len(f.accepted)
		f.mu.Unlock()
		f.until(before + 300)
		stop()
		accepted := time.Since(healed)
		f.judge("relays cut for 10 s, "+row.what, 15, 0)
		ended := f.takeovers()
		t.Logf("relays cut for 10 s, %s: 300 requests accepted %v after; nodes fenced off %v", row.what, accepted.Round(10*time.Millisecond), ended)
		if ended > 0 {
			t.Errorf("%v nodes were fenced off that lived", ended)
		}
	}
}
