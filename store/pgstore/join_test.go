package pgstore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// renewing joins a database and renews the lease until leave.
func renewing(t *testing.T, o pgstore.Options) (n *pgstore.Node, leave func()) {
	t.Helper()
	n = join(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	var beats sync.WaitGroup
	beats.Go(func() {
		tick := time.NewTicker(o.Lease / 10)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = n.Beat(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return n, func() {
		cancel()
		beats.Wait()
		n.Close()
		if err := n.Leave(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func joinWaiting(t *testing.T, o pgstore.Options) (*pgstore.Node, error) {
	t.Helper()
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db.JoinWaiting(t.Context())
}

// A second process on the database of a living one is refused by name; once the first
// has left, its place is free at once.
func TestJoinBesideALivingNode(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = 3*time.Second, "first"
	_, leave := renewing(t, o)
	second := o
	second.Name = "second"
	_, err := joinWaiting(t, second)
	if occupied, ok := errors.AsType[*pgstore.OccupiedError](err); !ok || occupied.Other.Name != "first" || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("the second one: %v", err)
	}
	leave()
	if _, err := joinWaiting(t, second); err != nil {
		t.Error("after the first has left:", err)
	}
}

// A node that renews no more is taken over from after its lease, and can write no more.
func TestJoinAfterASilentNode(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = 2*time.Second, "silent"
	silent := join(t, o)
	e := open(t, silent)
	o.Name = "successor"
	if _, err := joinWaiting(t, o); err != nil {
		t.Fatal(err)
	}
	err := e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(1, "late", "phone")}})
	if !errors.Is(err, store.ErrFenced) {
		t.Errorf("the silent node wrote: %v", err)
	}
	select {
	case <-silent.Fenced():
	default:
		t.Error("the silent node does not know that it has been taken over")
	}
}

// A living process with a longer lease renews it less often than the lease of a second process lasts.
// It is not taken for dead.
func TestJoinBesideANodeOfALongerLease(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = pgstore.MaxLease, "first"
	first := join(t, o)
	defer first.Close()
	o.Lease, o.Name = 2*time.Second, "second"
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*o.Lease) // two leases of its own, and less than one of the first
	defer cancel()
	if _, err := db.JoinWaiting(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second one: %v", err)
	}
	if err := first.Beat(t.Context()); err != nil {
		t.Error("the first one:", err)
	}
}

// The clock of the database was set back while the node before was dead. Its lease seems to last for
// long; the next node waits no longer than otherwise.
func TestJoinAfterTheClockWasSetBack(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = 2*time.Second, "silent"
	silent := join(t, o)
	defer silent.Close()
	sql(t, "UPDATE "+o.Schema+".node SET expires = expires + interval '1 hour'")
	o.Name = "successor"
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	if _, err := joinWaiting(t, o); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "waiting for its lease to end") || !strings.Contains(log.String(), "lease=2s") {
		t.Error("it waited for longer:", log.String())
	}
}
