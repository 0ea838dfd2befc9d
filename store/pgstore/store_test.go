package pgstore_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

// server is started by the first test that needs it.
var server struct {
	once sync.Once
	*testtool.Postgres
	err error
}

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // a read costs a round trip
		_ = f.Value.Set("20")
	}
	code := m.Run()
	if server.Postgres != nil {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func postgres(t testing.TB) *testtool.Postgres {
	t.Helper()
	testtool.NeedPostgres(t)
	server.once.Do(func() { server.Postgres, server.err = testtool.NewPostgres() })
	if server.err != nil {
		t.Fatal(server.err)
	}
	return server.Postgres
}

// schemas are made once and used by one test after the other: making one takes longer
// than most tests.
var schemas struct {
	sync.Mutex
	made int
	free []string
}

// fresh returns options for a schema of the test's own.
func fresh(t testing.TB) pgstore.Options {
	t.Helper()
	o, free := take(t)
	t.Cleanup(free)
	return o
}

// take returns options for an empty schema, which nobody else uses until free is called.
func take(t testing.TB) (o pgstore.Options, free func()) {
	t.Helper()
	o = pgstore.Options{URL: postgres(t).URL("admin", "postgres", ""), Slack: -1, Connections: 4, Lease: time.Hour}
	schemas.Lock()
	defer schemas.Unlock()
	if n := len(schemas.free); n > 0 {
		o.Schema = schemas.free[n-1]
		schemas.free = schemas.free[:n-1]
	} else {
		schemas.made++
		o.Schema = fmt.Sprintf("test_%d", schemas.made)
	}
	return o, func() {
		empty := "UPDATE meta SET accepted = 0, finished = 0, last = 0; DELETE FROM stream WHERE stream > 0; UPDATE stream SET number = 0; UPDATE part SET node = NULL, term = 0, floor = 0 WHERE term > 0;"
		for _, table := range []string{"node", "fence", "notification", "event", "final", "outstanding", "dismissal", "given_id", "device", "token", "journal", "mqtt_state", "erased"} {
			empty += "DELETE FROM " + table + ";"
		}
		sql(t, "SET search_path = "+o.Schema+";"+empty)
		schemas.Lock()
		defer schemas.Unlock()
		schemas.free = append(schemas.free, o.Schema)
	}
}

// sql runs statements as the administrator.
func sql(t testing.TB, text string) {
	t.Helper()
	ctx := context.Background() // also in a cleanup
	c, err := pgx.Connect(ctx, postgres(t).URL("admin", "postgres", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.PgConn().Exec(ctx, text).ReadAll(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// join opens a database and joins it as a node.
func join(t testing.TB, o pgstore.Options) *pgstore.Node {
	t.Helper()
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(db.Close)
	n, err := db.Join(t.Context())
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	return n
}

func open(t testing.TB, n *pgstore.Node) store.Engine {
	t.Helper()
	e, err := n.Open(false)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return e
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Engine { return open(t, join(t, fresh(t))) }, storetest.UniqueIDs)
}

func TestDurability(t *testing.T) {
	storetest.RunDurable(t, func(t *testing.T) func() store.Engine {
		n := join(t, fresh(t))
		return func() store.Engine { return open(t, n) }
	}, storetest.UniqueIDs)
}

func TestCommits(t *testing.T) {
	storetest.RunCommits(t, func(t *testing.T) *store.Outbox {
		n := join(t, fresh(t))
		o, err := store.New(store.Options{Open: n.Open, Gathering: -1})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}, (*store.Outbox).Close, storetest.UniqueIDs)
}

// Two nodes write one database at once. A deadlock, which is tried again, is found sooner
// than by default.
func TestTwoEngines(t *testing.T) {
	storetest.RunTwo(t, func(t *testing.T) (engines [2]func() store.Engine, remove func()) {
		o, free := take(t)
		o.URL += "&options=-c%20deadlock_timeout%3D20ms"
		var dbs [len(engines)]*pgstore.DB
		for i := range engines {
			o.Name, o.Address = fmt.Sprint("node", i), fmt.Sprintf("127.0.0.1:%d", i+1)
			db, err := pgstore.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			dbs[i] = db
			n, err := db.Join(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			engines[i] = func() store.Engine { return open(t, n) }
		}
		return engines, func() {
			for _, db := range dbs {
				db.Close()
			}
			free()
		}
	})
}
