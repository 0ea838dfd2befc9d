package pebblestore_test

import (
	"testing"

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
	outboxtest.Run(t, func(t *testing.T) outbox.Engine { return open(t, t.TempDir(), pebblestore.Options{}) })
}
