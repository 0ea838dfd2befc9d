package store

import (
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
)

// State is a small key-value store next to the outbox, in the same engine, for the
// broker's state of ordinary MQTT. The outbox's promises for notifications do not
// cover it: a State that fails degrades alone.
type State interface {
	// ScanState calls fn with every key that begins with prefix, in their order.
	// key and value are valid only during the call; an error of fn ends it.
	ScanState(prefix string, fn func(key string, value []byte) error) error
	// ApplyState makes all changes, in their order, or none, and has them on the
	// disk before it returns. It can hang on a full disk until the engine is
	// abandoned.
	ApplyState(changes []StateChange) error
}

// StateChange puts a value, or removes a key, or removes every key that begins
// with it.
type StateChange struct {
	Key    string
	Value  []byte
	Remove bool
	Prefix bool // with Remove: all that begins with Key
}

// ErrNoState is answered by an engine that keeps no State, such as that in memory.
var ErrNoState = errors.New("the store keeps no MQTT state")

var _ State = (*Outbox)(nil)

// HasState reports whether the engine keeps State.
func (o *Outbox) HasState() bool {
	ok := false
	_ = o.read(func(e Engine) error { // no engine, no State
		_, ok = e.(State)
		return nil
	})
	return ok
}

// ScanState implements State.
func (o *Outbox) ScanState(prefix string, fn func(key string, value []byte) error) error {
	return o.withState(func(s State) error { return s.ScanState(prefix, fn) })
}

// ApplyState implements State. The error wraps delivery.ErrUnavailable while the
// engine is being reopened, and while there is too little room: the remaining room is
// reserved for ending deliveries that have begun.
func (o *Outbox) ApplyState(changes []StateChange) error {
	o.mu.Lock()
	low := o.low
	o.mu.Unlock()
	if low != nil {
		return low
	}
	return o.withState(func(s State) error { return s.ApplyState(changes) })
}

func (o *Outbox) withState(fn func(State) error) error {
	return o.read(func(e Engine) error {
		s, ok := e.(State)
		if !ok {
			return fmt.Errorf("%w: %w", delivery.ErrUnavailable, ErrNoState)
		}
		return fn(s)
	})
}
