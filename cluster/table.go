package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// table says who owns each partition, as far as this node knows.
type table struct {
	slots []slot          // by partition
	hold  time.Duration   // how long a request waits for an owner
	ctx   context.Context // ends when the node stops
}

// slot is one partition.
type slot struct {
	mu      sync.Mutex
	owner   owner          // nil: nobody serves it now, requests are held
	core    *delivery.Core // owner, if it is of this node
	term    uint64         // of the owner
	life    int64          // of the node that owns the partition, if it is another; 0: none or this
	changed chan struct{}  // closed when owner or term changes
	held    int            // requests that wait
	edges   map[*edge]struct{}

	accepts  []heldAccept // that wait, in their order
	draining bool         // a goroutine sees to them
}

// maxHeld bounds the requests that wait for the owner of one partition.
const maxHeld = 1000

// get returns the owner of a slot, and a channel that is closed when it changes.
func (s *slot) get() (owner, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner, s.changedLocked()
}

func (s *slot) changedLocked() chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// set gives a slot another owner; nil: none for now. It reports whether that changed
// anything: an owner of a lower term than one seen before is ignored.
func (s *slot) set(o owner, term uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term < s.term || o == s.owner && term == s.term {
		return false
	}
	s.setLocked(o, term)
	return true
}

func (s *slot) setLocked(o owner, term uint64) {
	s.owner, s.term, s.life = o, term, 0
	s.core, _ = o.(*delivery.Core)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait waits until the owner of a slot is another than `but`, or for as long as again, if that
// is not 0: `but` is to be asked again then.
func (t *table) wait(ctx context.Context, part uint16, but owner, again time.Duration) error {
	s := &t.slots[part]
	s.mu.Lock()
	if s.held >= maxHeld {
		s.mu.Unlock()
		return t.unowned(part)
	}
	s.held++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.held--
		s.mu.Unlock()
	}()
	patience := time.NewTimer(t.hold)
	defer patience.Stop()
	var pause <-chan time.Time
	if again > 0 {
		timer := time.NewTimer(again)
		defer timer.Stop()
		pause = timer.C
	}
	for {
		o, changed := s.get()
		if o != nil && o != but {
			return nil
		}
		select {
		case <-changed:
		case <-pause:
			return nil
		case <-patience.C:
			return t.unowned(part)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.ctx.Done():
			return delivery.ErrStopped
		}
	}
}

func (t *table) unowned(part uint16) error {
	return fmt.Errorf("%w: no node serves partition %d at the moment", delivery.ErrUnavailable, part)
}

// askPause is the time between two calls to an owner that may recover.
const askPause = 500 * time.Millisecond

// do calls fn with the owner of a partition, and again with the next owner if that one
// has stopped serving it meanwhile. recovers, where it is not nil, says of an owner and its error
// that the owner itself may answer soon: it is asked again, or its successor.
func (t *table) do(ctx context.Context, part uint16, recovers func(owner, error) bool, fn func(owner) error) error {
	deadline := time.Now().Add(t.hold)
	for {
		o, _ := t.slots[part].get()
		again := time.Duration(0)
		if o != nil {
			err := fn(o)
			if err != nil && recovers != nil && recovers(o, err) {
				again = askPause
			}
			if !moved(err) && again == 0 || t.ctx.Err() != nil || time.Now().After(deadline) {
				return err
			}
		}
		if err := t.wait(ctx, part, o, again); err != nil {
			return err
		}
	}
}

// moved reports whether an owner's error says that it is one no longer.
func moved(err error) bool { return errors.Is(err, delivery.ErrStopped) }
