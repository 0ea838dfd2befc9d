package pgstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// A node that stops does not wait for a database that stands still: not for a backlog, and not for a
// session.
func TestInterrupt(t *testing.T) {
	o := fresh(t)
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	n, err := db.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, n)
	defer e.Close()
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
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "LOCK TABLE "+o.Schema+".outstanding, "+o.Schema+".fence"); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 2)
	go func() {
		_, err := e.(store.Gatherer).Backlog([]uint16{1})
		waiting <- err
	}()
	go func() {
		_, err := n.Open(false)
		waiting <- err
	}()
	eventually(t, "two that wait", func() bool {
		return count(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"+o.Schema+"%'") == "2"
	})
	db.Interrupt()
	for range 2 {
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want one that wraps context.Canceled", err)
		}
	}
}

// A list ends while the database stands still: nobody waits until it goes on.
func TestListsOfADatabaseThatStandsStill(t *testing.T) {
	o := fresh(t)
	e := open(t, join(t, o))
	defer e.Close()
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
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "LOCK TABLE "+o.Schema+".notification, "+o.Schema+".device"); err != nil {
		t.Fatal(err)
	}
	lists := make(chan error, 2)
	go func() { lists <- e.List("ann", 0, func(*delivery.Notification) bool { return true }) }()
	go func() { lists <- e.Devices("", func(*delivery.Device) bool { return true }) }()
	for range 2 {
		if err := <-lists; !errors.Is(err, delivery.ErrUnavailable) {
			t.Errorf("got error %v, want one that wraps ErrUnavailable", err)
		}
	}
}
