package delivery_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/delivery/outbox"
	"github.com/heartline-mqtt/heartline/delivery/outbox/memory"
)

// store is the real outbox on the memory engine, which can be told to fail.
type store struct {
	*outbox.Outbox
	t      *testing.T
	engine *sickly
}

type sickly struct {
	*memory.Engine
	sick atomic.Bool
}

func (s *sickly) Apply(b *delivery.Batch) error {
	if s.sick.Load() {
		return errors.New("no room")
	}
	return s.Engine.Apply(b)
}

func newStore(t *testing.T) *store {
	s := &store{t: t, engine: &sickly{Engine: memory.New()}}
	var err error
	s.Outbox, err = outbox.New(outbox.Options{Open: func(bool) (outbox.Engine, error) { return s.engine, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *store) fail(sick bool) { s.engine.sick.Store(sick) }

func (s *store) close() {
	if err := s.Close(); err != nil {
		s.t.Error(err)
	}
}
