package pebblestore_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
	"github.com/heartline-mqtt/heartline/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// both runs a test on a store with Pebble's log and on one with a journal.
func both(t *testing.T, run func(t *testing.T, journal bool)) {
	t.Run("disk", func(t *testing.T) { run(t, false) })
	t.Run("journal", func(t *testing.T) { run(t, true) })
}

func open(t *testing.T, dir string, o pebblestore.Options) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(dir, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func TestConformance(t *testing.T) { both(t, testConformance) }

func testConformance(t *testing.T, journal bool) {
	o := pebblestore.Options{Journal: journal}
	if journal {
		o.MemTableBytes = 64 << 10 // nearly each fold becomes tables of its own
	}
	storetest.Run(t, func(t *testing.T) store.Engine {
		o := o
		o.FS = vfs.NewMem()
		return open(t, "data", o)
	})
}

func TestDurability(t *testing.T) { both(t, testDurability) }

func testDurability(t *testing.T, journal bool) {
	storetest.RunDurable(t, func(t *testing.T) func() store.Engine {
		// Small, so that tables are written and merged all the time.
		o := pebblestore.Options{Journal: journal, FS: vfs.NewMem(), MemTableBytes: 64 << 10}
		return func() store.Engine { return open(t, "data", o) }
	})
}
