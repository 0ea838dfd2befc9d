package pgstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// sendHalf sends a part of a write of a node's lane, as the server has it when the node vanishes in
// the middle: the fence is locked, and nothing more comes. The connection stays open.
func sendHalf(t *testing.T, o pgstore.Options) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	half := conn.StartPipeline(context.Background())
	half.SendQueryParams("SELECT "+o.Schema+".own(node, lane, session) FROM "+o.Schema+".fence WHERE node = (SELECT max(node) FROM "+o.Schema+".fence)", nil, nil, nil, nil)
	half.SendFlushRequest()
	if err := half.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a session with a part of a write", func() bool {
		return count(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientRead' AND state <> 'idle' AND backend_xid IS NOT NULL AND query LIKE '%"+o.Schema+".own(node%'") == "1"
	})
}

// A node vanishes when the server has a part of a write. Another takes over.
func TestTakeOverFromHalfAWrite(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	defer n.Close()
	sendHalf(t, o)
	fenceOff(t, o)
}

// The network of a node is cut when the server has a part of a write, and comes back. The node goes on.
func TestReopenAfterHalfAWrite(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	defer n.Close()
	sendHalf(t, o)
	e := open(t, n)
	defer e.Close()
	if err := e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(1, "i1", "a")}, Sync: true}); err != nil {
		t.Error(err)
	}
}

// holdUp lets writes of notifications wait, and with them whoever waits for their fence, until release.
func holdUp(t *testing.T, o pgstore.Options) (release func()) {
	t.Helper()
	ctx := t.Context()
	holder, err := pgx.Connect(ctx, o.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Close(context.Background()) })
	tx, err := holder.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE "+o.Schema+".outstanding"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(ctx); err != nil {
			t.Error(err)
		}
	}
}

// accepts writes a notification.
func accepts(e store.Engine, seq delivery.Seq, id string) error {
	return e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(seq, id, "a")}, Sync: true})
}

// waitForLocks returns when so many sessions wait for a lock.
func waitForLocks(t *testing.T, o pgstore.Options, sessions string) {
	t.Helper()
	eventually(t, sessions+" sessions that wait", func() bool {
		return count(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+o.Schema+"%'") == sessions
	})
}

// A write that is under way, and waits for anything but its client, is not cut off.
func TestTakeOverWaitsForAWholeWrite(t *testing.T) {
	takeOverWaits(t, fresh(t))
}

// A database may let a role end no sessions, as some services do. The take-over waits for the write.
func TestTakeOverWithoutTheRightToEndSessions(t *testing.T) {
	const end = "ON FUNCTION pg_terminate_backend FROM PUBLIC"
	sql(t, "DROP SCHEMA IF EXISTS meek CASCADE; DROP ROLE IF EXISTS meek; CREATE ROLE meek LOGIN; CREATE SCHEMA meek AUTHORIZATION meek; REVOKE EXECUTE "+end)
	t.Cleanup(func() {
		sql(t, "GRANT EXECUTE ON FUNCTION pg_terminate_backend TO PUBLIC; DROP SCHEMA meek CASCADE; DROP ROLE meek")
	})
	takeOverWaits(t, pgstore.Options{Schema: "meek", URL: postgres(t).URL("meek", "postgres", ""), Lease: time.Hour})
}

func takeOverWaits(t *testing.T, o pgstore.Options) {
	t.Helper()
	n := join(t, o)
	defer n.Close()
	e := open(t, n)
	defer func() { _ = e.Close() }()
	if err := accepts(e, 1, "i1"); err != nil { // and its statements are prepared
		t.Fatal(err)
	}
	release := holdUp(t, o)
	applied := make(chan error, 1)
	go func() { applied <- accepts(e, 2, "i2") }()
	waitForLocks(t, o, "1")
	fenced := make(chan struct{})
	go func() { defer close(fenced); fenceOff(t, o) }()
	waitForLocks(t, o, "2")
	began := func() string {
		return count(t, "SELECT xact_start FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+o.Schema+"%FOR UPDATE%'")
	}
	first := began()
	eventually(t, "a second attempt", func() bool { at := began(); return at != "" && at != first })
	release()
	if err := <-applied; err != nil {
		t.Error("the write:", err)
	}
	<-fenced
	if err := e.Apply(&delivery.Batch{Sync: true}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("after the take-over: %v", err)
	}
}

// A node renews its lease while another waits to take over from it. It lives, and the other says so.
func TestNoTakeOverFromANodeThatRenewsMeanwhile(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	defer n.Close()
	e := open(t, n)
	defer e.Close()
	if err := accepts(e, 1, "i1"); err != nil {
		t.Fatal(err)
	}
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	members, err := db.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release := holdUp(t, o)
	applied := make(chan error, 1)
	go func() { applied <- accepts(e, 2, "i2") }()
	waitForLocks(t, o, "1")
	took := make(chan bool)
	go func() {
		ok, err := db.FenceOff(t.Context(), members[0])
		if err != nil {
			t.Error("take over:", err)
		}
		took <- ok
	}()
	waitForLocks(t, o, "2")
	if err := n.Beat(t.Context()); err != nil {
		t.Error("renew:", err)
	}
	if <-took {
		t.Error("it says that it took over")
	}
	release()
	if err := <-applied; err != nil {
		t.Error("the write:", err)
	}
}
