package persist_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/hooks/persist"
	"github.com/heartline-mqtt/heartline/store"
)

// scanFails is a store that cannot be read.
type scanFails struct{ *testStore }

var errScan = errors.New("damaged")

func (scanFails) ScanState(string, func(string, []byte) error) error { return errScan }

// TestStopAtAnyTime: before, during and after Restore, also one that fails, twice and
// twice at once: no goroutine is left.
func TestStopAtAnyTime(t *testing.T) {
	newKeeper := func(s store.State) *persist.Keeper {
		return persist.New(ordinary.New(ordinary.Options{}), persist.Options{Store: s, Gather: time.Millisecond})
	}
	none := goleak.IgnoreCurrent()
	stop := func(k *persist.Keeper) {
		t.Helper()
		var stops sync.WaitGroup
		for range 3 {
			stops.Go(k.Stop)
		}
		stops.Wait()
		k.Stop()
		goleak.VerifyNone(t, none)
	}
	t.Run("never restored", func(t *testing.T) {
		k := newKeeper(&testStore{all: map[string][]byte{}})
		stop(k)
		if err := k.Restore(); err == nil {
			t.Error("restored after the stop")
		}
		stop(k)
	})
	t.Run("restored twice", func(t *testing.T) {
		k := newKeeper(&testStore{all: map[string][]byte{}})
		if err := k.Restore(); err != nil {
			t.Fatal(err)
		}
		if err := k.Restore(); err == nil {
			t.Error("restored twice")
		}
		stop(k)
	})
	t.Run("not restored", func(t *testing.T) {
		k := newKeeper(scanFails{&testStore{}})
		if err := k.Restore(); !errors.Is(err, errScan) {
			t.Errorf("restored from a store that cannot be read: %v", err)
		}
		stop(k)
	})
	t.Run("during Restore", func(t *testing.T) {
		for range 50 {
			k := newKeeper(&testStore{all: map[string][]byte{}})
			var restore sync.WaitGroup
			restore.Go(func() { _ = k.Restore() }) // whichever comes first
			k.Stop()
			restore.Wait()
			stop(k)
		}
	})
}
