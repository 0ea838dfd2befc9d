package nodes

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// fakeClock returns the library that fakes the clock of programs of C.
func fakeClock(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1") // the pattern is good
	if len(found) == 0 {
		testtool.LeaveOut(t, "libfaketime is missing", "apt-get install libfaketime")
	}
	return found[0]
}

// takeovers sums the nodes that the nodes have fenced off.
func (f *fleet) takeovers() (n float64) {
	for _, node := range f.nodes {
		v, _ := f.metric(node, "heartline_cluster_takeovers_total")
		n += v
	}
	return n
}

// The clock of the database is set by an hour, forth and back, under load: nobody is fenced off,
// the order of acceptance stays, and an owner that is killed meanwhile is taken over in time.
func TestDatabaseClock(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	library := fakeClock(t)
	pg := newPostgres(t)
	dir, err := os.MkdirTemp("", "heartline-clock-") //nolint:usetesting // PostgreSQL's user can read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	offset := filepath.Join(dir, "offset")
	set := func(by string) {
		if err := os.WriteFile(offset+".new", []byte(by+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(offset+".new", offset); err != nil { // PostgreSQL never reads half of it
			t.Fatal(err)
		}
	}
	set("+0")
	pg.Kill()
	pg.Env = []string{"LD_PRELOAD=" + library, "FAKETIME_TIMESTAMP_FILE=" + offset, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	f.begin("one", "two", "three")
	f.devices(60)
	for _, by := range []string{"+1h", "+0", "-1h"} {
		stop := f.load()
		f.until(300)
		set(by)
		now, err := time.Parse(time.RFC3339, sql(t, pg, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`))
		if err != nil {
			t.Fatal(err)
		}
		off := time.Until(now).Round(time.Second)
		f.more(time.Now(), 4000) // for longer than a lease
		stop()
		f.judge("database's clock set to "+by, 0, 0)
		t.Logf("database's clock set to %s: it is off by %v, nodes fenced off %v", by, off, f.takeovers())
	}
	if n := f.takeovers(); n > 0 {
		t.Errorf("%v nodes were fenced off that lived", n)
	}
	stop := f.load()
	f.until(300)
	one := f.nodes[0]
	killed := time.Now()
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-one.ended
	took := f.takenOver(killed, f.others(one)...)
	f.replace(one, f.start("one"))
	f.balanced(3)
	stop()
	f.judge("owner killed, the database's clock an hour late", 15, 0)
	t.Logf("owner killed, the database's clock an hour late: taken over after %v", took)
}

// now returns the time of a node.
func (f *fleet) now(n *served) time.Time {
	f.Helper()
	resp, err := http.Get("http://" + n.http + "/healthz")
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		f.Fatal(err)
	}
	return at
}

// The clock of one node is set by an hour, forth and back, under load: nothing is lost, nobody is
// fenced off, the order stays. A TTL is counted by the clock of the database, so it stays when
// another node takes over.
func TestNodeClock(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	if !clockCanBeSet {
		testtool.LeaveOut(t, "the clock of one process is set on Linux for amd64 only", "such a machine")
	}
	pg := newPostgres(t)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	offset := filepath.Join(t.TempDir(), "offset")
	set := func(by time.Duration) {
		if err := os.WriteFile(offset+".new", []byte(by.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(offset+".new", offset); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	f.extra["one"] = []string{"NODE_CLOCK=" + offset}
	f.begin("one", "two", "three")
	f.devices(60)
	one := f.nodes[0]
	var short []string // notifications for devices that are away, which live for half an hour
	atOne := func(by time.Duration) {
		set(by)
		f.await("the new time at the node", func() bool { return (time.Until(f.now(one)) - by).Abs() < time.Minute })
	}
	for i, by := range []time.Duration{time.Hour, -time.Hour} {
		stop := f.load()
		f.until(300)
		atOne(by)
		for n := range 10 { // some of which it owns
			account := fmt.Sprintf("away%d-%d", i, n)
			if status, err := f.post(one, http.MethodPut, "/v1/accounts/"+account+"/devices/phone-"+account, "{}"); err != nil || status >= 300 {
				t.Fatal(status, err)
			}
			id := "short-" + account
			if status, err := f.post(one, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":%q,"title":"t","ttl":"30m"}`, id, account)); err != nil || status != http.StatusAccepted {
				t.Fatal(status, err)
			}
			short = append(short, id)
		}
		f.keeps += 10
		f.more(time.Now(), 4000) // for longer than a lease
		stop()
		atOne(0) // Apple refuses provider tokens of another time, so pushes wait until then
		f.judge("a node's clock set to "+by.String()+" and back", 0, 0)
		t.Logf("a node's clock set to %v and back: nodes fenced off %v", by, f.takeovers())
	}
	atOne(-time.Hour)
	if n := f.takeovers(); n > 0 {
		t.Errorf("%v nodes were fenced off that lived", n)
	}
	stop := f.load()
	f.until(300)
	killed := time.Now()
	if err := one.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-one.ended
	took := f.takenOver(killed, f.others(one)...)
	two := f.nodes[1]
	for _, id := range short {
		body, err := f.get(two, "/v1/notifications/"+id)
		if err != nil {
			t.Fatal(err)
		}
		expires, err := time.Parse(time.RFC3339, body.ExpiresAt)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(expires); body.State != "waiting" || left > 30*time.Minute || left < 20*time.Minute {
			t.Errorf("%s with a TTL of 30 min is %s and has %v left", id, body.State, left.Round(time.Second))
		}
	}
	set(0)
	f.replace(one, f.start("one"))
	f.balanced(3)
	stop()
	f.judge("owner killed, its clock an hour late", 15, 0)
	t.Logf("owner killed, its clock an hour late: taken over after %v; %d notifications kept their TTL", took, len(short))
}
