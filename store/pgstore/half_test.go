package pgstore_test

import (
	"context"
	"errors"
	"testing"

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

// A write that is under way, and waits for anything but its client, is not cut off.
func TestTakeOverWaitsForAWholeWrite(t *testing.T) {
	o := fresh(t)
	n := join(t, o)
	defer n.Close()
	e := open(t, n)
	defer func() { _ = e.Close() }()
	write := func(seq delivery.Seq, id string) error {
		return e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(seq, id, "a")}, Sync: true})
	}
	if err := write(1, "i1"); err != nil { // and its statements are prepared
		t.Fatal(err)
	}
	ctx := t.Context()
	holder, err := pgx.Connect(ctx, o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(ctx)
	tx, err := holder.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE "+o.Schema+".outstanding"); err != nil {
		t.Fatal(err)
	}
	applied := make(chan error, 1)
	go func() { applied <- write(2, "i2") }()
	waiting := func(want string) func() bool {
		return func() bool {
			return count(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+o.Schema+"%'") == want
		}
	}
	eventually(t, "a write that waits", waiting("1"))
	fenced := make(chan struct{})
	go func() { defer close(fenced); fenceOff(t, o) }()
	eventually(t, "a take-over that waits", waiting("2"))
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil {
		t.Error("the write:", err)
	}
	<-fenced
	if err := e.Apply(&delivery.Batch{Sync: true}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("after the take-over: %v", err)
	}
}
