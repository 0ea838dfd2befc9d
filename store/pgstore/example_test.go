package pgstore_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// The only node on a database: another one is refused while it lives.
func ExampleStartAlone() { //nolint:testableexamples // it needs a database; the tests of StartAlone have one
	node, err := pgstore.StartAlone(context.Background(), pgstore.Options{URL: "postgres://heartline@db.example.org/heartline", Name: "a"})
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
	fmt.Println(totals.Accepted, errors.Join(err, outbox.Close(), node.Close()))
}
