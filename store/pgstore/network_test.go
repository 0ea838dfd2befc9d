package pgstore_test

import (
	"context"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// With several hosts in the URL, one that is silent takes no longer than the lease allows: a node
// renews its lease at the next host.
func TestSilentHostBeforeThePrimary(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	o := fresh(t)
	o.Lease = 3 * time.Second // below the 10 s that one host has
	u, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = silent.Addr().String() + "," + u.Host
	o.URL = u.String()
	n := join(t, o)
	defer n.Close()
	eventually(t, "a renewal", func() bool { // the machine may be slow, too
		ctx, cancel := context.WithTimeout(t.Context(), o.Lease)
		defer cancel()
		return n.Beat(ctx) == nil
	})
}

// A statement that waits for a lock ends at the server when its client has hung up. Without that
// each attempt to renew a lease would take one more of the server's connections.
func TestWaitingStatementEndsWithItsClient(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	defer n.Close()
	locked := make(chan error, 1)
	go func() {
		_, err := postgres(t).SQL("postgres", "BEGIN; SELECT node FROM "+o.Schema+".node FOR UPDATE; SELECT pg_sleep(60); COMMIT")
		locked <- err
	}()
	sleeping := "FROM pg_stat_activity WHERE query LIKE '%" + o.Schema + ".node FOR UPDATE; SELECT pg_sleep%' AND pid <> pg_backend_pid() AND wait_event = 'PgSleep'"
	eventually(t, "a lock", func() bool { return count(t, "SELECT count(*) "+sleeping) == "1" })
	ctx, cancel := context.WithCancel(t.Context())
	beat := make(chan error, 1)
	go func() { beat <- n.Beat(ctx) }()
	waiting := "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%" + o.Schema + "%'"
	eventually(t, "a renewal that waits", func() bool { return count(t, waiting) == "1" })
	cancel()
	if err := <-beat; err == nil {
		t.Error("renewed while the row was locked")
	}
	eventually(t, "the end of the statement", func() bool { return count(t, waiting) == "0" })
	sql(t, "SELECT pg_terminate_backend(pid) "+sleeping)
	if err := <-locked; err == nil || !strings.Contains(err.Error(), "terminat") {
		t.Error(err)
	}
}

func count(t *testing.T, statement string) string {
	t.Helper()
	out, err := postgres(t).SQL("postgres", statement)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what, "did not come")
		}
	}
}
