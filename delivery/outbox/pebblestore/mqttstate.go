package pebblestore

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery/outbox"
)

// prefixMQTT begins the keys of ordinary MQTT's state. What follows is the
// business of who writes them.
const prefixMQTT = 'q'

var _ outbox.State = (*Store)(nil)

// ScanState implements outbox.State.
func (s *Store) ScanState(prefix string, fn func(key string, value []byte) error) (err error) {
	from := append([]byte{prefixMQTT}, prefix...)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: successor(from)})
	if err != nil {
		return fmt.Errorf("scan MQTT state in store %s: %w", s.dir, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read MQTT state in store %s: %w", s.dir, err)
		}
		if err := fn(string(it.Key()[1:]), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// ApplyState implements outbox.State. It runs beside Apply, with which it shares
// the log's syncs, and takes no lock of it.
func (s *Store) ApplyState(changes []outbox.StateChange) (err error) {
	if err := s.broken(); err != nil {
		return err
	}
	defer func() {
		// As in Apply: Pebble panics where its log has failed.
		if r := recover(); r != nil {
			s.stateFailed(fmt.Errorf("apply MQTT state: %v", r))
			err = s.broken()
		}
	}()
	b := s.db.NewBatch()
	defer func() { err = errors.Join(err, b.Close()) }()
	var key []byte
	for i := range changes {
		c := &changes[i]
		key = append(append(key[:0], prefixMQTT), c.Key...)
		switch {
		case c.Remove && c.Prefix:
			err = b.DeleteRange(key, successor(key), nil)
		case c.Remove:
			err = b.Delete(key, nil)
		default:
			err = b.Set(key, c.Value, nil)
		}
		if err != nil {
			return fmt.Errorf("apply MQTT state to store %s: %w", s.dir, err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		if errors.Is(err, pebble.ErrReadOnly) {
			return fmt.Errorf("apply MQTT state to store %s: %w", s.dir, err)
		}
		s.stateFailed(fmt.Errorf("apply MQTT state: %w", err))
	}
	return s.broken()
}

// stateFailed marks the store as one to be opened anew, as a failed Apply does.
func (s *Store) stateFailed(err error) {
	if s.failed.CompareAndSwap(nil, &err) {
		s.opts.Logger.Error("outbox: the store failed and has to be opened anew", "dir", s.dir, "error", err)
	}
}
