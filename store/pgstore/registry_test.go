package pgstore_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// TestDeviceOfTwoAccounts: two nodes register a device for two accounts at the same moment,
// each with a token that a third device holds. One of them has the device, with its own
// token; the other claim has changed nothing.
func TestDeviceOfTwoAccounts(t *testing.T) {
	nodes, _ := members(t, fresh(t), "one", "two")
	engines := []store.Engine{open(t, nodes[0]), open(t, nodes[1])}
	for _, e := range engines {
		defer e.Close()
	}
	accounts := []string{"ann", "bob"}
	registered := func(id, account, token string) *delivery.Batch {
		r := delivery.Registration{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: token, Claims: true}
		return &delivery.Batch{PutDevices: []delivery.Device{{ID: id, Account: account, Registrations: []delivery.Registration{r}}}, Sync: true}
	}
	first := map[string]int{}
	for round := range 20 {
		id := fmt.Sprint("phone", round)
		token := func(account string) string { return fmt.Sprint(account, round) }
		for _, account := range accounts {
			if err := engines[0].Apply(registered("former-"+token(account), "cid", token(account))); err != nil {
				t.Fatal(err)
			}
		}
		var both sync.WaitGroup
		for i, account := range accounts {
			both.Go(func() {
				if err := engines[i].Apply(registered(id, account, token(account))); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		d, err := engines[0].Device(id)
		if err != nil {
			t.Fatal(err)
		}
		first[d.Account]++
		for _, account := range accounts {
			want := "former-" + token(account)
			if account == d.Account {
				want = id
			}
			holder, err := engines[1].TokenOwner(delivery.ServerAPNs, token(account))
			if err != nil || holder != want {
				t.Fatalf("account %s has the device; the token of %s is held by %q (error %v), want %q", d.Account, account, holder, err, want)
			}
			h, err := engines[1].Device(holder)
			if err != nil || !slices.ContainsFunc(h.Registrations, func(r delivery.Registration) bool { return r.Token == token(account) }) {
				t.Fatalf("the entry of the holder lacks the token: %+v, error %v", h, err)
			}
		}
	}
	t.Logf("first: %v", first)
}

// A registration looks at its own rows, however many devices there are: by the plan of a
// lane.
func TestRegistrationReadsItsOwn(t *testing.T) {
	o := fresh(t)
	_, db := members(t, o)
	c, err := pgx.Connect(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for name, value := range pgstore.LaneSettings {
		if _, err := c.Exec(t.Context(), "SELECT set_config($1, $2, false)", name, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Exec(t.Context(), "PREPARE locked (bytea[], bytea[]) AS "+pgstore.LockDevices(db)); err != nil {
		t.Fatal(err)
	}
	rows, _ := c.Query(t.Context(), "EXPLAIN EXECUTE locked (ARRAY['a'::bytea], ARRAY['b'::bytea])")
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "Filter:") || strings.Contains(text, "Seq Scan") || !strings.Contains(text, "Index Cond: (device = ANY") {
		t.Errorf("it looks at other rows:\n%s", text)
	}
}

// Events come later than acceptances with a higher number. A write looks up only events that come
// again, or out of order.
func TestEventsAreNotLookedUp(t *testing.T) {
	e := open(t, join(t, fresh(t)))
	defer e.Close()
	event := func(number uint64) *delivery.Batch {
		return &delivery.Batch{Events: []delivery.Event{{Seq: 3*ofParts + 7, Number: number*ofParts + 7, Time: time.Now(), Kind: delivery.EventPublished, Device: "ann1"}}}
	}
	for _, b := range []*delivery.Batch{waiting(3, 7, "ann", "ann1"), event(4), waiting(9, 7, "ann", "ann1")} {
		if err := e.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
	if pgstore.LooksUp(e, event(5)) {
		t.Error("an event below a Seq that was accepted before is looked up")
	}
	if !pgstore.LooksUp(e, event(4)) || !pgstore.LooksUp(e, waiting(9, 7, "ann", "ann1")) {
		t.Error("what comes again is not looked up")
	}
}
