package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// database starts a PostgreSQL of the test's own and returns the environment of a server
// that uses it.
func database(t *testing.T) (*testtool.Postgres, []string) {
	t.Helper()
	pg := testtool.StartPostgres(t)
	return pg, []string{"HEARTLINE_STORE_ENGINE=postgres", "HEARTLINE_STORE_POSTGRES_URL=" + pg.URL("admin", "postgres", ""), "HEARTLINE_CLUSTER_LEASE=2s"}
}

// On PostgreSQL as on the disk: a notification is pushed to a device that is away, what
// was accepted outlives kill -9 of the server and of the database, and is delivered once
// the device is there.
func TestPostgres(t *testing.T) {
	t.Parallel()
	pg, onPostgres := database(t)
	sim, env := apple(t)
	s := serve(t, append(env, onPostgres...)...)
	s.register("alice", "alice-phone", deviceToken(1))
	s.register("bob", "bob-phone", "")
	pushed := s.notify(`{"account":"alice","title":"pushed"}`)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := sim.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 20 {
		ids = append(ids, s.notify(fmt.Sprintf(`{"account":"bob","title":"%d"}`, i)))
	}
	aside := s.notify(`{"account":"alice","title":"to be cancelled","fallback":false}`)
	s.kill()
	s.start()
	if got := kinds(s.notification(pushed)); len(got) < 2 || got[0] != "accepted" || got[1] != "push_requested" {
		t.Errorf("the timeline after kill -9: %v", got)
	}
	pg.Kill()
	// Nothing that writes waits for the database to be back. What became of a write that was
	// under way is known only then.
	const during = `{"account":"bob","title":"during"}`
	for _, c := range []struct{ method, path, body string }{
		{http.MethodPost, "/v1/notifications", during},
		{http.MethodPost, "/v1/notifications", `{"id":"during","account":"bob","title":"during"}`},
		{http.MethodPost, "/v1/notifications", during},
		{http.MethodPost, "/v1/notifications", `{"account":"carol","title":"an account that is not in memory"}`},
		{http.MethodDelete, "/v1/notifications/" + aside, ""},
		{http.MethodPost, "/v1/notifications/" + aside + "/dismissal", ""},
		{http.MethodPut, "/v1/accounts/bob/devices/bob-pad", "{}"},
		{http.MethodPut, "/v1/accounts/carol/devices/carol-pad", "{}"},
		{http.MethodDelete, "/v1/accounts/bob/devices/bob-pad", ""},
		{http.MethodDelete, "/v1/accounts/dora", ""},
	} {
		began := time.Now()
		status, body := s.call(c.method, c.path, c.body)
		t.Logf("without the database: %s %s: %d after %v: %s", c.method, c.path, status, time.Since(began).Round(time.Millisecond), body)
		if status != http.StatusServiceUnavailable {
			t.Errorf("%s %s without the database: %d %s", c.method, c.path, status, body)
		}
		if strings.Contains(string(body), `"outcome_unknown"`) && c.body != during {
			t.Errorf("%s %s %s without the database: %s", c.method, c.path, c.body, body)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := s.call(http.MethodGet, "/readyz", ""); status == http.StatusServiceUnavailable {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("ready without its database")
		}
	}
	if err := pg.Start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"during", "after"} {
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if status, body := s.call(http.MethodPost, "/v1/notifications", fmt.Sprintf(`{"id":%q,"account":"bob","title":%[1]q}`, id)); status == http.StatusAccepted || status == http.StatusOK {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the database is back: %d %s", status, body)
			}
		}
		ids = append(ids, id)
	}
	c := collect(ids)
	quit := device(s, "bob", "bob-phone", c.add)
	c.wait(t)
	settled(s, "bob")
	quit()
	if !slices.Equal(c.order, ids) {
		t.Errorf("delivered %v, want %v", c.order, ids)
	}
	began := time.Now()
	s.stop()
	t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	s.start()
	t.Logf("started after %v", time.Since(began).Round(time.Millisecond))
	s.stop()
}

// A second process on one database ends with the reason; the first goes on.
func TestPostgresSecondProcess(t *testing.T) {
	_, onPostgres := database(t)
	first := serve(t, onPostgres...)
	first.register("alice", "alice-phone", "")
	second := heartline(t, onPostgres, "serve", "--data-dir", t.TempDir(), "--mqtt-address", "127.0.0.1:0", "--http-address", "")
	if second.code == 0 || !strings.Contains(second.errors, "uses this database: stop it first, or set cluster.address on both") {
		t.Errorf("the second process: exit code %d\n%s", second.code, second.errors)
	}
	first.notify(`{"account":"alice","title":"t"}`)
	first.stop()
}

// Each fault of the database at the start is an error that names it, without the password.
func TestPostgresFaults(t *testing.T) {
	pg, _ := database(t)
	if _, err := pg.SQL("postgres", "CREATE ROLE powerless LOGIN; CREATE ROLE secretive LOGIN PASSWORD 'right'; CREATE SCHEMA newer; CREATE TABLE newer.meta (format int); INSERT INTO newer.meta VALUES (99); CREATE SCHEMA foreigner; CREATE TABLE foreigner.cats ()"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(strings.Replace(pg.URL("secretive", "postgres", ""), "@", ":hunter2@", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "HEARTLINE_STORE_POSTGRES_URL="
	for want, env := range map[string]string{
		`there is no database "nowhere"`:                      url + pg.URL("admin", "nowhere", ""),
		"it does not answer":                                  url + "postgres://admin@127.0.0.1:1/postgres",
		"there is no host of that name":                       url + "postgres://admin@nowhere.invalid/postgres",
		`user "powerless" lacks a right`:                      url + pg.URL("powerless", "postgres", ""),
		`the password of user "secretive" is refused`:         "HEARTLINE_STORE_POSTGRES_URL_FILE=" + file,
		"must hold a PostgreSQL URL":                          url + "hunter2",
		`schema "newer" has format 99`:                        url + pg.URL("admin", "postgres", "") + " HEARTLINE_STORE_POSTGRES_SCHEMA=newer",
		`has 1 tables that are not Heartline's: name another`: url + pg.URL("admin", "postgres", "") + " HEARTLINE_STORE_POSTGRES_SCHEMA=foreigner",
	} {
		r := heartline(t, append(strings.Fields(env), "HEARTLINE_STORE_ENGINE=postgres"), "serve", "--data-dir", t.TempDir(), "--mqtt-address", "127.0.0.1:0", "--http-address", "")
		if r.code == 0 || !strings.Contains(r.errors, want) || strings.Contains(r.errors, "hunter2") {
			t.Errorf("want %q, got exit code %d:\n%s", want, r.code, r.errors)
		}
	}
}

// TestStoreCommands: store status, store migrate and nodes, before there are tables and
// while a node runs.
func TestStoreCommands(t *testing.T) {
	_, onPostgres := database(t)
	run := func(code int, want string, args ...string) {
		t.Helper()
		if r := heartline(t, onPostgres, args...); r.code != code || !strings.Contains(r.out+r.errors, want) {
			t.Errorf("heartline %s: exit code %d, want %d and %q:\n%s%s", strings.Join(args, " "), r.code, code, want, r.out, r.errors)
		}
	}
	run(0, "none: a node makes them at its start", "store", "status")
	run(1, "has no tables of Heartline", "nodes")
	run(0, "tables of format 1 made", "store", "migrate")
	run(0, "there is nothing to do", "store", "migrate")
	s := serve(t, onPostgres...)
	s.register("alice", "alice-phone", "")
	s.notify(`{"account":"alice","title":"t"}`)
	run(0, "1 accepted, 0 finished, 1 outstanding, 0 unaccounted for", "store", "status")
	run(0, "  1024        serving", "nodes")
	s.stop()
	run(0, "1024 partitions have no owner", "nodes")
	if r := heartline(t, nil, "store", "status"); r.code != 1 || !strings.Contains(r.errors, "store.engine is pebble, not postgres") {
		t.Errorf("without PostgreSQL: %+v", r)
	}
}
