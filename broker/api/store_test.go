package api_test

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
	engine *sickly
}

type sickly struct {
	*memory.Engine
	sick    atomic.Bool
	applied atomic.Int64 // batches that accepted something
}

func (s *sickly) Apply(b *delivery.Batch) error {
	if s.sick.Load() {
		return errors.New("no room")
	}
	if len(b.Accept) > 0 {
		s.applied.Add(1)
	}
	return s.Engine.Apply(b)
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{engine: &sickly{Engine: memory.New()}}
	var err error
	s.Outbox, err = outbox.New(outbox.Options{Open: func(bool) (outbox.Engine, error) { return s.engine, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
