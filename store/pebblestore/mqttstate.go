package pebblestore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// prefixMQTT begins the keys of ordinary MQTT's state. The writers of these keys
// define the rest.
const prefixMQTT = 'q'

var _ store.State = (*Store)(nil)

// ScanState implements store.State.
func (s *Store) ScanState(prefix string, fn func(key string, value []byte) error) (err error) {
	from := append([]byte{prefixMQTT}, prefix...)
	db, err := s.folded()
	if err != nil {
		return fmt.Errorf("scan MQTT state: %w", err)
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: successor(from)})
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

// ApplyState implements store.State. It runs concurrently with Apply. It shares the
// log's syncs with Apply, and takes no lock of it.
func (s *Store) ApplyState(changes []store.StateChange) (err error) {
	if s.opts.Journal {
		err := s.applyJournal(new(delivery.Batch), changes, true)
		if errors.Is(err, errHeld) {
			err = fmt.Errorf("%w: %w", delivery.ErrUnavailable, err)
		}
		return err
	}
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
	if slices.ContainsFunc(changes, func(c store.StateChange) bool { return c.Prefix }) {
		b = s.db.NewIndexedBatch()
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := changeState(b, changes); err != nil {
		return fmt.Errorf("apply MQTT state to store %s: %w", s.dir, err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		if errors.Is(err, pebble.ErrReadOnly) {
			return fmt.Errorf("apply MQTT state to store %s: %w", s.dir, err)
		}
		s.stateFailed(fmt.Errorf("apply MQTT state: %w", err))
	}
	return s.broken()
}

// changeState puts changes into b.
func changeState(b *pebble.Batch, changes []store.StateChange) (err error) {
	var key []byte
	for i := range changes {
		c := &changes[i]
		key = append(append(key[:0], prefixMQTT), c.Key...)
		switch {
		case c.Remove && c.Prefix:
			err = deleteAll(b, key)
		case c.Remove:
			err = b.Delete(key, nil)
		default:
			err = b.Set(key, c.Value, nil)
		}
		if err != nil {
			return fmt.Errorf("change MQTT state: %w", err)
		}
	}
	return nil
}

// deleteAll deletes what begins with prefix, key by key. A range tombstone in the
// memtable makes each read of the store look at all of them, and there is one for
// each client that connects with a clean session, most of which left nothing.
func deleteAll(b *pebble.Batch, prefix []byte) (err error) {
	it, err := b.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var keys [][]byte // an iterator does not see its batch change
	for ok := it.First(); ok; ok = it.Next() {
		keys = append(keys, bytes.Clone(it.Key()))
	}
	for _, key := range keys {
		if err := b.Delete(key, nil); err != nil {
			return err
		}
	}
	return it.Error()
}

// stateFailed marks the store as one to be reopened, as a failed Apply does.
func (s *Store) stateFailed(err error) {
	if s.failed.CompareAndSwap(nil, &err) {
		s.opts.Logger.Error("store failed, reopening it", "dir", s.dir, "error", err)
	}
}
