package pgstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
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
