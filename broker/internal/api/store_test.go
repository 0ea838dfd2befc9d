package api_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// testStore is the real outbox on the memory engine, which can be told to fail.
type testStore struct {
	*store.Outbox
	engine *sickly
}

type sickly struct {
	*memory.Engine
	sick    atomic.Bool
	applied atomic.Int64 // batches that accepted something
	read    atomic.Int64 // events
	writing sync.Mutex   // held while a batch is applied
}

func (s *sickly) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) error {
	return s.Engine.EventsFrom(after, func(at delivery.Position, account string, e delivery.Event) bool {
		s.read.Add(1)
		return fn(at, account, e)
	})
}

func (s *sickly) Apply(b *delivery.Batch) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.sick.Load() {
		return errors.New("no room")
	}
	if len(b.Accept) > 0 {
		s.applied.Add(1)
	}
	return s.Engine.Apply(b)
}

func newStore(t *testing.T) *testStore {
	t.Helper()
	s := &testStore{engine: &sickly{Engine: memory.New()}}
	var err error
	s.Outbox, err = store.New(store.Options{Open: func(bool) (store.Engine, error) { return s.engine, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
