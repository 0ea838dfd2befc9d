package delivery_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// store is the real outbox on the memory engine, which can be told to fail.
type testStore struct {
	*store.Outbox
	t      *testing.T
	engine *sickly
}

// sickly logs its batches, so that a power cut can drop those that were not synced.
type sickly struct {
	*memory.Engine
	sick   atomic.Bool
	gate   atomic.Pointer[chan struct{}] // a write waits until it is closed
	log    []delivery.Batch
	logged atomic.Int64 // len(log)
	synced int          // batches of the log that a power cut leaves
	slow   atomic.Int64 // how long Deliveries takes, in ns
}

func (s *sickly) Deliveries(seq delivery.Seq) ([]delivery.DeliveryState, error) {
	time.Sleep(time.Duration(s.slow.Load()))
	return s.Engine.Deliveries(seq)
}

func (s *sickly) Apply(b *delivery.Batch) error {
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
	if s.sick.Load() {
		return errors.New("no room")
	}
	s.log = append(s.log, copyOf(b))
	s.logged.Store(int64(len(s.log)))
	if b.Sync {
		s.synced = len(s.log)
	}
	return s.Engine.Apply(b)
}

// copyOf keeps what an engine must not keep.
func copyOf(b *delivery.Batch) delivery.Batch {
	var c delivery.Batch
	c.Merge(b)
	return c
}

func newStore(t *testing.T) *testStore {
	s := &testStore{t: t, engine: &sickly{Engine: memory.New()}}
	s.open()
	return s
}

func (s *testStore) open() {
	var err error
	s.Outbox, err = store.New(store.Options{Gathering: -1, Open: func(bool) (store.Engine, error) { return s.engine, nil }})
	if err != nil {
		s.t.Fatal(err)
	}
}

// powerCut loses all but the first `kept` of the batches that were not synced, and
// opens the store again.
func (s *testStore) powerCut(kept int) {
	if err := s.Close(); err != nil {
		s.t.Error(err)
	}
	old := s.engine
	s.engine = &sickly{Engine: memory.New()}
	for i := range old.log[:min(old.synced+kept, len(old.log))] {
		if err := s.engine.Apply(&old.log[i]); err != nil {
			s.t.Fatal(err)
		}
	}
	s.open()
}

// hold has writes wait until release is called.
func (s *testStore) hold() (release func()) {
	gate := make(chan struct{})
	s.engine.gate.Store(&gate)
	return func() { s.engine.gate.Store(nil); close(gate) }
}

func (s *testStore) fail(sick bool) { s.engine.sick.Store(sick) }

func (s *testStore) close() {
	if err := s.Close(); err != nil {
		s.t.Error(err)
	}
}
