package receipts_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
)

// between is a node's store: between two lives it does not tell where the events end.
type between struct {
	*delivery.Core
	lives atomic.Int64 // that are still to end, each before one question
}

func (b *between) EventsEnd() (delivery.Place, error) {
	if b.lives.Add(-1) >= 0 {
		return nil, fmt.Errorf("%w: this node joins again: %w", delivery.ErrUnavailable, store.ErrFenced)
	}
	return b.Core.EventsEnd()
}

// A source that has stopped for the moment does not end Follow. The Tail's own end does.
func TestFollowOutlivesItsSource(t *testing.T) {
	inWorld(t, func(w *world) {
		from, err := w.core.EventsEnd()
		if err != nil {
			t.Fatal(err)
		}
		source := &between{Core: w.core}
		source.lives.Store(2)
		tail := receipts.NewTail(source)
		got, ended := make(chan receipts.Event, 8), make(chan error, 1)
		go func() {
			ended <- tail.Follow(context.Background(), from, func(batch []receipts.Event, _ delivery.Place, _ bool) error {
				for _, e := range batch {
					got <- e
				}
				return nil
			})
		}()
		settle(50 * time.Millisecond)
		seq := w.notify("ada")
		settle(time.Second)
		select {
		case e := <-got:
			if e.Seq != seq {
				t.Errorf("event of %d, want of %d", e.Seq, seq)
			}
		case err := <-ended:
			t.Fatalf("Follow has ended with its source: %v", err)
		default:
			t.Error("no event")
		}
		tail.Stop()
		if err := <-ended; !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("Follow of a stopped Tail returned %v", err)
		}
	})
}
