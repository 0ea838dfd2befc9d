package pgstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// A second process on the database of a living one is refused by name; once the first
// has left, its place is free at once.
func TestStartAloneBesideALivingNode(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = 3*time.Second, "first"
	first, err := pgstore.StartAlone(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Name = "second"
	_, err = pgstore.StartAlone(t.Context(), o)
	if occupied, ok := errors.AsType[*pgstore.OccupiedError](err); !ok || occupied.Other.Name != "first" || !strings.Contains(err.Error(), "Stop it first") {
		t.Errorf("the second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := pgstore.StartAlone(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// A node that renews no more is taken over from after its lease, and can write no more.
func TestStartAloneAfterASilentNode(t *testing.T) {
	o := fresh(t)
	o.Lease, o.Name = 2*time.Second, "silent"
	silent := open(t, join(t, o))
	o.Name = "successor"
	a, err := pgstore.StartAlone(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	err = silent.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(1, "late", "phone")}})
	if !errors.Is(err, store.ErrFenced) {
		t.Errorf("the silent node wrote: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
