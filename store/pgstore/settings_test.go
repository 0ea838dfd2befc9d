package pgstore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// What the database has for a role is meant for other programs. What the URL says holds.
func TestSettingsOfTheRole(t *testing.T) {
	o := fresh(t)
	o.Lease = 5 * time.Second
	const role = "impatient"
	sql(t, "DROP ROLE IF EXISTS "+role+"; CREATE ROLE "+role+" SUPERUSER LOGIN; ALTER ROLE "+role+" SET statement_timeout = '2s'; "+
		"ALTER ROLE "+role+" SET lock_timeout = '1s'; ALTER ROLE "+role+" SET default_transaction_isolation = 'serializable'; ALTER ROLE "+role+" SET synchronous_commit = off")
	for url, want := range map[string][]string{
		postgres(t).URL(role, "postgres", ""):                                  {"0", "0", "read committed", "on", "2", "1", "4"},
		postgres(t).URL(role, "postgres", "&statement_timeout=3000"):           {"3s", "0", "read committed", "on", "2", "1", "4"},
		postgres(t).URL(role, "postgres", "&options=-c%20lock_timeout%3D4000"): {"0", "4s", "read committed", "on", "2", "1", "4"},
	} {
		o.URL = url
		db, err := pgstore.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		got := db.Settings(t, "statement_timeout", "lock_timeout", "default_transaction_isolation", "synchronous_commit", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
		db.Close()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", url, got, want)
		}
	}
}

// The user or the password is renewed while Heartline runs. New connections use it.
func TestRenewedCredentials(t *testing.T) {
	o := fresh(t)
	sql(t, "DROP ROLE IF EXISTS renewed; CREATE ROLE renewed SUPERUSER LOGIN")
	url := o.URL
	o.Reread = func() (string, error) { return url, nil }
	n := join(t, o)
	defer n.Close()
	url = postgres(t).URL("renewed", "postgres", "")
	e := open(t, n)
	defer e.Close()
	if err := n.Beat(t.Context()); err != nil {
		t.Error(err)
	}
	const connections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'renewed' AND application_name LIKE 'heartline % node %'"
	if got := count(t, connections); got != "2" {
		t.Errorf("%s connections of the renewed user, want 2", got)
	}
	db, err := pgstore.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if got := db.Settings(t, "session_authorization"); got[0] != "renewed" {
		t.Errorf("a connection for reading is that of %s", got)
	}
	url = "http://?"
	n.Close()
	if err := n.Beat(t.Context()); err != nil {
		t.Error("with a URL that is not understood:", err)
	}
}

// A server that is too old refuses the settings of the first session, as any server does one that it does
// not know. The message says both.
func TestUnknownSetting(t *testing.T) {
	o := pgstore.Options{URL: postgres(t).URL("admin", "postgres", "&no_such_setting=1")}
	if db, err := pgstore.Connect(t.Context(), o); err == nil {
		db.Close()
		t.Error("connected")
	} else if text := err.Error(); !strings.Contains(text, "older than version 14") || !strings.Contains(text, "no_such_setting") {
		t.Error(err)
	}
}

// A role that may not write is told so.
func TestReadOnlyRole(t *testing.T) {
	o := pgstore.Options{URL: postgres(t).URL("reader", "postgres", "")}
	sql(t, "DROP ROLE IF EXISTS reader; CREATE ROLE reader SUPERUSER LOGIN; ALTER ROLE reader SET default_transaction_read_only = on")
	if db, err := pgstore.Connect(t.Context(), o); err == nil {
		db.Close()
		t.Error("connected")
	} else if !strings.Contains(err.Error(), "takes no writes") {
		t.Error(err)
	}
}

// A role that may only use the tables is refused at the start, and not once the days that have their
// tables are over. A member of the owner's role is not.
func TestRoleThatOwnsNoTables(t *testing.T) {
	sql(t, "DROP SCHEMA IF EXISTS owned CASCADE; DROP ROLE IF EXISTS app; DROP ROLE IF EXISTS own; CREATE ROLE own LOGIN; CREATE ROLE app LOGIN; CREATE SCHEMA owned AUTHORIZATION own")
	o := pgstore.Options{Schema: "owned", URL: postgres(t).URL("own", "postgres", "")}
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	sql(t, "GRANT USAGE ON SCHEMA owned TO app; GRANT ALL ON ALL TABLES IN SCHEMA owned TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA owned TO app")
	o.URL = postgres(t).URL("app", "postgres", "")
	if db, err := pgstore.Open(t.Context(), o); err == nil {
		db.Close()
		t.Error("opened")
	} else if !strings.Contains(err.Error(), "GRANT own TO app") {
		t.Error(err)
	}
	sql(t, "GRANT own TO app")
	if db, err = pgstore.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	db.Close()
	sql(t, "DROP SCHEMA owned CASCADE; DROP ROLE app; DROP ROLE own")
}
