package pebblestore_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// An outbox on a directory of this machine.
func ExampleOpen() {
	parent, err := os.MkdirTemp("", "store")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "data")
	outbox, err := store.New(store.Options{
		Open: func(readOnly bool) (store.Engine, error) {
			return pebblestore.Open(dir, pebblestore.Options{ReadOnly: readOnly})
		},
		FreeBytes: func() (uint64, error) { return pebblestore.FreeBytes(dir) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(outbox.Ready(), outbox.Close())
	// Output: <nil> <nil>
}
