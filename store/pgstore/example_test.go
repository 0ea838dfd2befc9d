package pgstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// A life on a database. Whoever goes on for longer than a lease has to renew it: Beat.
func ExampleDB_JoinWaiting() { //nolint:testableexamples // it needs a database; the tests have one
	ctx := context.Background()
	db, err := pgstore.Open(ctx, pgstore.Options{URL: "postgres://heartline@db.example.org/heartline", Name: "a"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	node, err := db.JoinWaiting(ctx) // another one is refused while this one lives
	if err != nil {
		fmt.Println(err)
		return
	}
	outbox, err := store.New(store.Options{Open: node.Open})
	if err != nil {
		fmt.Println(err)
		return
	}
	totals, err := outbox.Totals()
	fmt.Println(totals.Accepted, errors.Join(err, outbox.Close(), node.Leave(ctx)))
}
