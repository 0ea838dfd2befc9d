package pgstore_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
)

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
