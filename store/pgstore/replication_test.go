package pgstore_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// The database tells whether a synchronous standby is wanted and attached, also to a role that may
// not see which standbys are synchronous.
func TestReplication(t *testing.T) {
	pg := testtool.StartPostgres(t)
	sql := func(statements ...string) {
		t.Helper()
		for _, s := range statements { // ALTER SYSTEM wants to be alone
			if out, err := pg.SQL("postgres", s); err != nil {
				t.Fatal(err, out)
			}
		}
	}
	sql("CREATE ROLE plain LOGIN", "CREATE ROLE monitor LOGIN", "GRANT pg_monitor TO monitor")
	roles := map[string]*pgstore.DB{}
	for _, role := range []string{"plain", "monitor"} {
		db, err := pgstore.Connect(t.Context(), pgstore.Options{URL: pg.URL(role, "postgres", ""), Lease: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		roles[role] = db
	}
	want := func(what string, wants map[string]string) {
		t.Helper()
		for role, db := range roles {
			w := wants[role]
			var got string
			for until := time.Now().Add(30 * time.Second); ; { // a reload, and a standby, take a moment
				r, err := db.Replication(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got = r.String(); strings.HasPrefix(got, w) && r.Away() == strings.Contains(w, "attached") {
					break
				}
				if time.Now().After(until) {
					t.Errorf("%s: %q to the role %s, want %q", what, got, role, w)
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	both := func(s string) map[string]string { return map[string]string{"plain": s, "monitor": s} }
	want("no standby", both("none"))
	standby, err := pg.Standby(t.Context(), "standby", fmt.Sprintf("127.0.0.1:%d", pg.Port))
	if err != nil {
		t.Fatal(err)
	}
	want("a standby", both("asynchronous"))
	sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
	want("a synchronous standby", map[string]string{"plain": "unknown: this role", "monitor": "synchronous"})
	sql("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 2 (standby, other)'", "SELECT pg_reload_conf()")
	want("one of two", both("synchronous, but 1 of 2 standbys attached"))
	sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
	standby.Kill()
	want("the standby is away", both("synchronous, but 0 of 1 standbys attached"))
	sql("ALTER SYSTEM SET synchronous_commit = local", "SELECT pg_reload_conf()")
	want("commits do not wait for it", both("none"))
	if err := standby.Close(); err != nil {
		t.Error(err)
	}
}

// Somebody cancels a commit that waits for the synchronous standby. PostgreSQL says that it has
// committed. The engine does not, until the standby has it.
func TestCancelledWaitForTheStandby(t *testing.T) {
	pg := testtool.StartPostgres(t)
	sql := func(text string) string {
		t.Helper()
		out, err := pg.SQL("postgres", text)
		if err != nil {
			t.Fatal(err, out)
		}
		return out
	}
	n := join(t, pgstore.Options{URL: pg.URL("admin", "postgres", ""), Lease: time.Hour})
	defer n.Close()
	e := open(t, n)
	defer func() { _ = e.Close() }()
	write := func(seq delivery.Seq) error {
		return e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(seq, fmt.Sprint("i", seq), "a")}, Sync: true})
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	sql("SELECT pg_reload_conf()")
	const waiting = " FROM pg_stat_activity WHERE application_name LIKE '% lane 0' AND wait_event = 'SyncRep'"
	var cancelled atomic.Bool
	result := make(chan error, 1)
	go func() {
		for seq := delivery.Seq(2); ; seq++ { // the reload takes a moment
			if err := write(seq); err != nil || cancelled.Load() {
				result <- err
				return
			}
		}
	}()
	eventually(t, "a commit that waits", func() bool { return sql("SELECT count(*)"+waiting) == "1" })
	cancelled.Store(true)
	sql("SELECT pg_cancel_backend(pid)" + waiting)
	if err := <-result; !errors.Is(err, store.ErrBroken) || errors.Is(err, store.ErrUnsent) {
		t.Errorf("got error %v, want one that wraps ErrBroken", err)
	}
	sql("ALTER SYSTEM RESET synchronous_standby_names")
	sql("SELECT pg_reload_conf()")
	e = open(t, n)
	if err := write(1 << 40); err != nil {
		t.Error("after its return:", err)
	}
}
