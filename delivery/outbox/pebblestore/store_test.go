package pebblestore_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery/outbox"
	"github.com/heartline-mqtt/heartline/delivery/outbox/outboxtest"
	"github.com/heartline-mqtt/heartline/delivery/outbox/pebblestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string, o pebblestore.Options) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(dir, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func TestConformance(t *testing.T) {
	outboxtest.Run(t, func(t *testing.T) outbox.Engine { return open(t, "data", pebblestore.Options{FS: vfs.NewMem()}) })
}

func TestDurability(t *testing.T) {
	outboxtest.RunDurable(t, func(t *testing.T) func() outbox.Engine {
		// Small, so that tables are written and merged all the time.
		o := pebblestore.Options{FS: vfs.NewMem(), MemTableBytes: 64 << 10}
		return func() outbox.Engine { return open(t, "data", o) }
	})
}
