package pebblestore

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// EventsFrom implements delivery.Reader.
func (s *Store) EventsFrom(after delivery.Position, fn func(delivery.Position, string, delivery.Event) bool) (err error) {
	snap, err := s.snapshot()
	if err != nil {
		return fmt.Errorf("read events: %w", oneLine{err})
	}
	defer func() {
		if err = errors.Join(err, snap.Close()); err != nil {
			err = fmt.Errorf("read events: %w", oneLine{err})
		}
	}()
	end, err := countersOf(snap)
	if err != nil {
		return err
	}
	if after.Partition != 0 || after.Commit > end.Writes {
		return fmt.Errorf("position %d of partition %d, with the store at %d: %w", after.Commit, after.Partition, end.Writes, delivery.ErrNotFound)
	}
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: keyCommit(nil, after.Commit), UpperBound: []byte{prefixCommit + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	c := commitReader{snap: snap}
	for ok := it.First(); ok; ok = it.Next() {
		commit, err := seqAt(it.Key()[1:])
		if err != nil {
			return err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := c.read(v); err != nil {
			return fmt.Errorf("commit %d: %w", commit, err)
		}
		for _, e := range c.events {
			at := delivery.Position{Commit: uint64(commit), Number: e.event.Number}
			if after.Less(at) && !fn(at, e.account, e.event) {
				return nil
			}
		}
	}
	return nil
}

// EventsEnd implements delivery.Reader.
func (s *Store) EventsEnd() (delivery.Place, error) {
	c, err := s.readCounters()
	return delivery.Place{{Commit: c.Writes, Number: math.MaxUint64}}, err
}

// EventsSince implements delivery.Reader.
func (s *Store) EventsSince(t time.Time) (_ delivery.Place, err error) {
	snap, err := s.snapshot()
	if err != nil {
		return nil, fmt.Errorf("find the events since %s: %w", t.Format(time.RFC3339), oneLine{err})
	}
	defer func() {
		if err = errors.Join(err, snap.Close()); err != nil {
			err = fmt.Errorf("find the events since %s: %w", t.Format(time.RFC3339), oneLine{err})
		}
	}()
	end, err := countersOf(snap)
	if err != nil {
		return nil, err
	}
	it, err := snap.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixCommit}, UpperBound: []byte{prefixCommit + 1}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var refs []codec.Ref
	at, err := store.SeekCommit(end.Writes, t, func(from uint64) (uint64, time.Time, bool, error) {
		if !it.SeekGE(keyCommit(nil, from)) {
			return 0, time.Time{}, false, it.Error()
		}
		number, err := seqAt(it.Key()[1:])
		if err != nil {
			return 0, time.Time{}, false, err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return 0, time.Time{}, false, err
		}
		var newest time.Time
		if newest, refs, err = codec.DecodeCommit(refs[:0], v); err != nil {
			return 0, time.Time{}, false, fmt.Errorf("commit %d: %w", number, err)
		}
		return uint64(number), newest, true, nil
	})
	return delivery.Place{at}, err
}

// commitReader reads the events of one commit after the other.
type commitReader struct {
	snap   *pebble.Snapshot
	refs   []codec.Ref
	found  []delivery.Event
	events []accountEvent // of the latest commit, by Number
}

type accountEvent struct {
	account string
	event   delivery.Event
}

func (c *commitReader) read(commit []byte) (err error) {
	if _, c.refs, err = codec.DecodeCommit(c.refs[:0], commit); err != nil {
		return err
	}
	c.events = c.events[:0]
	var n delivery.Notification
	there := false
	for i, r := range c.refs {
		if i == 0 || r.Seq != c.refs[i-1].Seq {
			if there, err = c.notification(&n, r.Seq); err != nil {
				return err
			}
		}
		if !there { // pruned or erased
			continue
		}
		if r.Number == 0 {
			c.events = append(c.events, accountEvent{n.Account, delivery.Event{
				Seq: r.Seq, Number: uint64(r.Seq), Time: n.AcceptedAt, Kind: delivery.EventAccepted,
			}})
			continue
		}
		v, closer, err := c.snap.Get(keyEvents(nil, r.Seq, r.Number))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		c.found, err = codec.DecodeEvents(c.found[:0], r.Seq, v)
		if err = errors.Join(err, closer.Close()); err != nil {
			return fmt.Errorf("events of notification %d: %w", r.Seq, err)
		}
		for _, e := range c.found {
			c.events = append(c.events, accountEvent{n.Account, e})
		}
	}
	slices.SortFunc(c.events, func(x, y accountEvent) int { return cmp.Compare(x.event.Number, y.event.Number) })
	return nil
}

func (c *commitReader) notification(n *delivery.Notification, seq delivery.Seq) (there bool, err error) {
	v, closer, err := c.snap.Get(keyContent(nil, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n.Devices = nil
	err = errors.Join(codec.DecodeNotification(n, seq, v), closer.Close())
	if err != nil {
		return false, fmt.Errorf("notification %d: %w", seq, err)
	}
	return true, nil
}

// trimChunk is how many commits go in one write.
const trimChunk = 512

// trimCommits removes the oldest commits, as long as all their events are from
// before. The records they refer to stay. It takes no mutex: Apply writes only
// newer ones.
func (s *Store) trimCommits(before time.Time) error {
	for {
		more, err := s.trimSome(before)
		if err != nil {
			return fmt.Errorf("trim the commits of store %s: %w", s.dir, err)
		}
		if !more {
			return nil
		}
	}
}

func (s *Store) trimSome(before time.Time) (more bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyCommit(nil, s.trimmed), UpperBound: []byte{prefixCommit + 1}})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	batch := s.db.NewBatch()
	defer func() { err = errors.Join(err, batch.Close()) }()
	last := s.trimmed
	for ok := it.First(); ok; ok = it.Next() {
		commit, err := seqAt(it.Key()[1:])
		if err != nil {
			return false, err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return false, err
		}
		at, _, err := codec.DecodeCommit(nil, v)
		if err != nil {
			return false, fmt.Errorf("commit %d: %w", commit, err)
		}
		if !at.Before(before) {
			break
		}
		if batch.Count() == trimChunk {
			more = true
			break
		}
		if err := batch.Delete(it.Key(), nil); err != nil {
			return false, err
		}
		last = uint64(commit)
	}
	if err := it.Error(); err != nil || batch.Empty() {
		return false, err
	}
	if err := s.commitUnsynced(batch); err != nil {
		return false, err
	}
	s.trimmed = last
	return more, nil
}
