package nodes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// bothURL names two servers of which one is the primary.
func bothURL(a, b *testtool.Postgres) string {
	return fmt.Sprintf("postgres://admin@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write", a.Port, b.Port)
}

func standby(t *testing.T, pg *testtool.Postgres, address string) *testtool.Postgres {
	t.Helper()
	s, err := pg.Standby(t.Context(), "standby", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func sql(t *testing.T, pg *testtool.Postgres, statement string) string {
	t.Helper()
	out, err := pg.SQL("postgres", statement)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lacking returns the accepted notifications that a database does not have.
func (f *fleet) lacking(pg *testtool.Postgres) (ids []string) {
	f.Helper()
	there := map[string]bool{}
	for id := range strings.Lines(sql(f.T, pg, "SELECT convert_from(id, 'UTF8') FROM heartline.given_id")) {
		there[strings.TrimSpace(id)] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.accepted {
		if !there[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// more waits until n more requests have been accepted, and returns when the first was, after
// since.
func (f *fleet) more(since time.Time, n int) (first time.Duration) {
	f.Helper()
	f.mu.Lock()
	before := len(f.accepted)
	f.mu.Unlock()
	f.until(before + 1)
	first = time.Since(since)
	f.until(before + n)
	return first.Round(10 * time.Millisecond)
}

// refusal asks each node for a notification until it refuses one, and returns the statuses and
// the slowest answer.
func (f *fleet) refusal(id string) (statuses []int, slowest time.Duration) {
	f.Helper()
	for i, n := range slices.Clone(f.nodes) {
		began := time.Now()
		status, err := f.post(n, http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":"%s-%d","account":"account1","title":"t"}`, id, i))
		if err != nil {
			f.Errorf("node %s does not answer: %v", n.name, err)
		}
		statuses, slowest = append(statuses, status), max(slowest, time.Since(began))
	}
	return statuses, slowest.Round(10 * time.Millisecond)
}

// answerBound is how long a request may be without an answer while the database takes nothing:
// the doubt of a write, and holding the request for the next owner.
const answerBound = 20 * time.Second

// told sums a number over all log lines with a message.
func (f *fleet) told(message, key string) (sum int) {
	for _, n := range f.nodes {
		text, err := os.ReadFile(n.log.Name())
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var fields map[string]any
			if json.Unmarshal(line, &fields) == nil && fields["msg"] == message {
				v, _ := fields[key].(float64)
				sum += int(v)
			}
		}
	}
	return sum
}

// A synchronous standby is away for 30 s: requests are refused within their bound, and nothing is
// lost or doubled when it is back. Then the primary is lost, and the standby promoted: it has
// everything that was accepted.
func TestFailOverToSynchronousStandby(t *testing.T) {
	if !*full {
		t.Skip("three processes and two PostgreSQLs take minutes: make nodes runs them")
	}
	pg := newPostgres(t)
	second := standby(t, pg, fmt.Sprint("127.0.0.1:", pg.Port))
	sql(t, pg, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
	sql(t, pg, "SELECT pg_reload_conf()")
	f := newFleetOn(t, pg, bothURL(pg, second))
	f.await("a synchronous standby", func() bool {
		return sql(t, pg, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
	})
	f.begin("one", "two", "three")
	f.devices(60)

	stop := f.load()
	f.until(300)
	second.Kill()
	away := time.Now()
	time.Sleep(2 * time.Second) // the fault has begun: its first requests wait
	statuses, slowest := f.refusal("away")
	if slowest > answerBound {
		t.Errorf("refused after %v, more than %v", slowest, answerBound)
	}
	time.Sleep(time.Until(away.Add(30 * time.Second)))
	connections := sql(t, pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'heartline%'")
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	first := f.more(time.Now(), 300)
	stop()
	t.Logf("standby away: requests answered with %v after %v; first accepted %v after its return; %s connections meanwhile", statuses, slowest, first, connections)
	for _, s := range statuses {
		if s != http.StatusServiceUnavailable {
			t.Errorf("status %d", s)
		}
	}
	if ids := f.lacking(pg); len(ids) > 0 {
		t.Errorf("%d accepted notifications are missing", len(ids))
	}
	f.judge("synchronous standby away for 30 s", 15, 1<<20)

	stop = f.load()
	f.until(300)
	pg.Kill()
	lost := time.Now()
	if err := second.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	first = f.more(promoted, 300)
	stop()
	ids := f.lacking(second)
	t.Logf("fail-over to a synchronous standby: promoted after %v; first request accepted %v after that; accepted and missing there %d", promoted.Sub(lost).Round(10*time.Millisecond), first, len(ids))
	if len(ids) > 0 {
		t.Errorf("missing: %v", ids[:min(5, len(ids))])
	}
	f.judge("fail-over to a synchronous standby", 15, 1<<20)
	f.balanced(3)
	if n := f.told(lossTold, "lost"); n > 0 {
		t.Errorf("a loss of %d is told that was none", n)
	}
}

// lossTold is the message of a node that finds accepted notifications missing.
const lossTold = "the database lacks notifications that were accepted: it has failed over to a standby without them"

// An asynchronous standby that lags is promoted: all nodes notice it, none goes on with its
// memory, and the log says how many accepted notifications are gone. The rest is delivered.
func TestFailOverToAsynchronousStandby(t *testing.T) {
	if !*full {
		t.Skip("three processes and two PostgreSQLs take minutes: make nodes runs them")
	}
	pg := newPostgres(t)
	g := newGate(t, fmt.Sprint("127.0.0.1:", pg.Port))
	second := standby(t, pg, g.address())
	f := newFleetOn(t, pg, bothURL(pg, second))
	f.begin("one", "two", "three")
	f.devices(60)
	stop := f.load()
	f.until(300)
	g.lose(true, true)
	f.more(time.Now(), 300) // that the standby has not
	pg.Kill()
	lost := time.Now()
	if err := second.Promote(); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	first := f.more(promoted, 300)
	stop()
	f.balanced(3)
	ids := f.lacking(second)
	undelivered := 0
	f.mu.Lock()
	pushed := f.pushed()
	for _, id := range ids {
		if !f.seen[id] && pushed[id] == 0 {
			undelivered++
		}
		if !f.seen[id] {
			delete(f.accepted, id)
		}
	}
	f.mu.Unlock()
	told := f.told(lossTold, "lost")
	t.Logf("fail-over to an asynchronous standby: promoted after %v; first request accepted %v after that; accepted and missing there %d (%d of them never delivered or pushed), told in the logs %d",
		promoted.Sub(lost).Round(10*time.Millisecond), first, len(ids), undelivered, told)
	if len(ids) == 0 {
		t.Error("nothing was lost: nothing was tried")
	}
	if told < len(ids) {
		t.Errorf("%d are lost, and %d told", len(ids), told)
	}
	f.judge("fail-over to an asynchronous standby", 1<<20, 1<<20) // what was pushed and is not on record is pushed again
}

// The disk of the database is full under load, and has room again.
func TestDatabaseDiskFull(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	if os.Getuid() != 0 {
		testtool.LeaveOut(t, "a small disk takes root's rights", "run it as root")
	}
	disk, err := os.MkdirTemp("", "heartline-disk-") //nolint:usetesting // it is unmounted before it is removed
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=400m,mode=0755"); err != nil {
		testtool.LeaveOut(t, "no tmpfs: "+err.Error(), "the right to mount")
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(disk, unix.MNT_DETACH), os.Remove(disk)); err != nil {
			t.Error(err)
		}
	})
	was := os.TempDir()
	t.Setenv("TMPDIR", disk)
	pg := newPostgres(t, "min_wal_size = 32MB", "max_wal_size = 64MB")
	t.Setenv("TMPDIR", was)
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	f.begin("one", "two", "three")
	f.devices(60)
	stop := f.load()
	f.until(300)
	filler := filepath.Join(disk, "filler")
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	// The write-ahead log has room in its segments: until it needs the next.
	f.await("a refusal", func() bool {
		if err := fill(filler); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.refused) > 0
	})
	full := time.Now()
	statuses, slowest := f.refusal("full")
	time.Sleep(time.Until(full.Add(15 * time.Second))) // the fault
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	restarted := pg.Ended()
	if restarted { // its supervisor does that
		if err := pg.Start(); err != nil {
			t.Fatal(err)
		}
	}
	first := f.more(time.Now(), 300)
	stop()
	if ids := f.lacking(pg); len(ids) > 0 {
		t.Errorf("%d accepted notifications are missing", len(ids))
	}
	t.Logf("disk of the database full: requests answered with %v after %v; PostgreSQL ended by itself: %v; first accepted %v after there was room", statuses, slowest, restarted, first)
	f.judge("disk of the database full", 15, 1<<20)
	f.balanced(3)
}

// fill appends to a file until its disk is full.
func fill(name string) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{file}, zeros{}, make([]byte, 1<<20))
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, file.Close())
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// Somebody's open transaction keeps PostgreSQL from removing dead rows for two minutes: the tables
// grow, and nothing gets slower.
func TestOpenTransaction(t *testing.T) {
	if !*full {
		t.Skip("three processes and a PostgreSQL take minutes: make nodes runs them")
	}
	pg := newPostgres(t, "autovacuum_naptime = 5s")
	f := newFleetOn(t, pg, pg.URL("admin", "postgres", ""))
	f.begin("one", "two", "three")
	f.devices(60)
	rate := func(what string, d time.Duration) float64 {
		stop := f.load()
		began := time.Now()
		time.Sleep(d)
		stop()
		f.mu.Lock()
		n := float64(len(f.accepted)) / time.Since(began).Seconds()
		f.mu.Unlock()
		size := sql(t, pg, "SELECT pg_table_size('heartline.outstanding') / 1024")
		f.judge(what, 0, 0)
		t.Logf("%s: %.0f accepted a second; outstanding takes %s kB", what, n, size)
		return n
	}
	before := rate("no open transaction", 20*time.Second)
	open := make(chan error, 1)
	go func() {
		_, err := pg.SQL("postgres", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM heartline.outstanding; SELECT pg_sleep(125); COMMIT")
		open <- err
	}()
	f.await("an open transaction", func() bool {
		return sql(t, pg, "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()") == "1"
	})
	during := rate("a transaction open for two minutes", 2*time.Minute)
	if err := <-open; err != nil {
		t.Error(err)
	}
	if during < before/2 {
		t.Errorf("the rate fell from %.0f to %.0f", before, during)
	}
	rate("after it", 20*time.Second)
}
