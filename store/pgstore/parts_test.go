package pgstore_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// members joins a database as so many nodes of a cluster.
func members(t *testing.T, o pgstore.Options, names ...string) (all []*pgstore.Node, db *pgstore.DB) {
	t.Helper()
	for _, name := range names {
		o.Name, o.Address = name, name+":1"
		all = append(all, join(t, o))
	}
	db, err := pgstore.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return all, db
}

// Nodes that claim at once never get the same partition, and together get all.
func TestClaimAtOnce(t *testing.T) {
	nodes, db := members(t, fresh(t), "a", "b", "c", "d")
	var mu sync.Mutex
	owner := map[uint16]int64{}
	var claims sync.WaitGroup
	for _, n := range nodes {
		claims.Go(func() {
			for {
				got, err := n.Claim(t.Context(), 10)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, p := range got {
					if other := owner[p.Part]; other != 0 {
						t.Errorf("partition %d is given to the nodes %d and %d", p.Part, other, n.ID())
					}
					if owner[p.Part] = n.ID(); p.Node != n.ID() || p.Term != 1 {
						t.Errorf("node %d got %+v", n.ID(), p)
					}
				}
				all := len(owner) == 1024
				mu.Unlock()
				if all {
					return
				}
			}
		})
	}
	claims.Wait()
	parts, err := db.Parts(t.Context())
	if err != nil || len(parts) != 1024 {
		t.Fatalf("%d partitions (error %v)", len(parts), err)
	}
	for i, p := range parts {
		if p.Part != uint16(i) || p.Node != owner[p.Part] {
			t.Errorf("partition %d: %+v, want the node %d", i, p, owner[p.Part])
		}
	}
}

// Whoever owns a partition next begins above every number that was given out in it.
func TestFloor(t *testing.T) {
	nodes, db := members(t, fresh(t), "a", "b")
	a, b := nodes[0], nodes[1]
	if got, err := a.Claim(t.Context(), 3); err != nil || len(got) != 3 {
		t.Fatalf("claimed %v (error %v)", got, err)
	}
	if err := b.GiveUp(t.Context(), []pgstore.Part{{Part: 0, Term: 1, Floor: 999}}); err != nil { // not its own
		t.Fatal(err)
	}
	for _, floor := range []uint64{700, 600} { // the first answer may have been lost
		if err := a.GiveUp(t.Context(), []pgstore.Part{{Part: 0, Term: 1, Floor: floor}, {Part: 1, Term: 1, Floor: 500}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Claim(t.Context(), 2)
	if err != nil || len(got) != 2 || got[0].Floor != 700 || got[1].Floor != 500 || got[0].Term != 3 {
		t.Errorf("b got %+v (error %v)", got, err)
	}
	// The number in a's last write is above the end of its lease: its clock was wrong.
	far := delivery.Seq(time.Now().Add(9 * 24 * time.Hour).UnixNano())
	e := open(t, a)
	defer e.Close()
	if err := e.Apply(&delivery.Batch{Accept: []delivery.Acceptance{note(far, "i", "phone")}, Sync: true}); err != nil {
		t.Fatal(err)
	}
	all, err := db.Members(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%v (error %v)", all, err)
	}
	if ok, err := db.FenceOff(t.Context(), all[0]); err != nil || !ok {
		t.Fatal(ok, err)
	}
	got, err = b.Claim(t.Context(), 2000)
	if err != nil || len(got) != 1022 {
		t.Fatalf("b got %d partitions (error %v)", len(got), err)
	}
	for _, p := range got {
		if p.Part == 2 && p.Floor != uint64(far) {
			t.Errorf("%+v, want the floor %d", p, far)
		}
	}
}

// A GiveUp that comes after a Raise frees nothing, and a Raise keeps nothing that is freed.
func TestRaise(t *testing.T) {
	nodes, db := members(t, fresh(t), "a", "b")
	a, b := nodes[0], nodes[1]
	for _, n := range []*pgstore.Node{a, b} {
		if got, err := n.Claim(t.Context(), 2); err != nil || len(got) != 2 {
			t.Fatalf("claimed %v (error %v)", got, err)
		}
	}
	if err := a.GiveUp(t.Context(), []pgstore.Part{{Part: 1, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	kept, err := a.Raise(t.Context(), []uint16{0, 1, 2})
	if err != nil || len(kept) != 1 || kept[0].Part != 0 || kept[0].Term != 2 {
		t.Errorf("a kept %+v (error %v)", kept, err)
	}
	if err := a.GiveUp(t.Context(), []pgstore.Part{{Part: 0, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	all, err := db.Parts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []pgstore.Part{{Node: a.ID(), Term: 2}, {Term: 2}, {Node: b.ID(), Term: 1}} {
		if p := all[i]; p.Node != want.Node || p.Term != want.Term {
			t.Errorf("partition %d: %+v, want the node %d and the term %d", i, p, want.Node, want.Term)
		}
	}
}

// A life that has ended claims, frees and says nothing more.
func TestFencedClaims(t *testing.T) {
	nodes, db := members(t, fresh(t), "a", "b")
	a, b := nodes[0], nodes[1]
	if _, err := a.Claim(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	all, err := db.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := db.FenceOff(t.Context(), all[0]); err != nil || !ok {
		t.Fatal(ok, err)
	}
	_, claim := a.Claim(t.Context(), 1)
	_, raise := a.Raise(t.Context(), []uint16{0})
	for what, err := range map[string]error{
		"claim": claim, "raise": raise, "give up": a.GiveUp(t.Context(), []pgstore.Part{{Part: 0}}), "leaving": a.SetLeaving(t.Context()), "beat": a.Beat(t.Context()), "trusted": a.Trusted(),
	} {
		if !errors.Is(err, store.ErrFenced) {
			t.Errorf("%s: got error %v, want one that wraps ErrFenced", what, err)
		}
	}
	a.Close()
	if got, err := b.Claim(t.Context(), 2000); err != nil || len(got) != 1024 {
		t.Errorf("b got %d partitions (error %v)", len(got), err)
	}
	if err := b.SetLeaving(t.Context()); err != nil {
		t.Error(err)
	}
	if all, err = db.Members(t.Context()); err != nil || len(all) != 1 || !all[0].Leaving {
		t.Errorf("%+v (error %v)", all, err)
	}
	if err := b.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := db.Parts(t.Context()); err != nil || got[0].Node != 0 {
		t.Errorf("%+v (error %v)", got[0], err)
	}
}

// A lease that was renewed after it was read is not ended by others.
func TestFenceOffALivingNode(t *testing.T) {
	nodes, db := members(t, fresh(t), "a", "b")
	all, err := db.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := nodes[0].Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer nodes[0].Close()
	if ok, err := db.FenceOff(t.Context(), all[0]); ok || err != nil {
		t.Error(ok, err)
	}
	if err := nodes[0].Trusted(); err != nil {
		t.Error(err)
	}
	if d := max(time.Until(nodes[0].Now()).Abs(), time.Until(nodes[0].DatabaseTime()).Abs()); d > time.Second {
		t.Errorf("the time of the database is %v from here", d)
	}
}
