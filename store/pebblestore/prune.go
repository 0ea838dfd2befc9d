package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// pruneChunk is how many notifications go in one write, so that Apply is held up
// for some milliseconds at most.
const pruneChunk = 128

// Prune implements store.Engine. It is not synced: what a crash brings back is
// pruned again.
func (s *Store) Prune(finishedBefore time.Time, limit int) (n int, err error) {
	for n < limit {
		removed, more, err := s.pruneSome(finishedBefore, min(limit-n, pruneChunk))
		n += removed
		if err != nil {
			return n, fmt.Errorf("prune store %s: %w", s.dir, err)
		}
		if !more {
			break
		}
	}
	return n, nil
}

func (s *Store) pruneSome(before time.Time, limit int) (n int, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken(); err != nil {
		return 0, false, err
	}
	defer func() {
		if r := recover(); r != nil { // as in Apply
			s.markBroken(fmt.Errorf("prune: %v", r))
			err = s.broken()
		}
	}()
	batch := s.db.NewBatch()
	defer func() { err = errors.Join(err, batch.Close()) }()
	p := pruning{Store: s, batch: batch, before: sortableTime(before), counters: s.counters, gone: map[delivery.Seq]bool{}}
	prefix := []byte{prefixFinished}
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: prefix, UpperBound: binary.BigEndian.AppendUint64([]byte{prefixFinished}, p.before),
	})
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	seen := 0
	for ok := it.First(); ok; ok = it.Next() {
		// What is looked at and stays is removed from the index, so there is an
		// end to it too.
		if len(p.gone) >= limit || seen >= 8*pruneChunk {
			more = true
			break
		}
		seen++
		if err := p.entry(it.Key()); err != nil {
			return 0, false, err
		}
	}
	if err := it.Error(); err != nil || seen == 0 {
		return 0, false, err
	}
	p.counters.Writes++
	s.value = codec.AppendCounters(s.value[:0], p.counters)
	if err := batch.Set(keyCounters, s.value, nil); err != nil {
		return 0, false, err
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		s.markBroken(err)
	}
	if err := s.broken(); err != nil {
		return 0, false, err
	}
	s.counters = p.counters
	s.writes.Store(p.counters.Writes)
	return len(p.gone), more, nil
}

// pruning is one write of Prune on its way.
type pruning struct {
	*Store
	batch    *pebble.Batch
	before   uint64
	counters codec.Counters
	gone     map[delivery.Seq]bool
}

// entry looks at one finished delivery that is old enough. Its notification goes
// if all the others are too. If one is unfinished, this entry goes alone: the last
// to finish brings another. If one was finished at a later time, its entry, which
// may have gone that way, takes this one's place.
func (p *pruning) entry(key []byte) error {
	_, rest, err := cutSeq(key[1:]) // the time
	if err != nil {
		return err
	}
	seq, _, err := cutSeq(rest)
	if err != nil {
		return err
	}
	if p.gone[seq] {
		return nil
	}
	if err := p.batch.Delete(key, nil); err != nil {
		return err
	}
	v, err := p.get(keyContent(nil, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	var n delivery.Notification
	if err := codec.DecodeNotification(&n, seq, v); err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	for _, device := range n.Devices {
		live, err := p.has(keyRecord(nil, delivery.Key{Seq: seq, Device: device}))
		if live || err != nil {
			return err
		}
	}
	type finished struct {
		at     uint64
		device string
	}
	var all []finished
	var latest finished
	err = p.scan(keySeqPrefix(prefixFinish, seq), func(rest, value []byte) (bool, error) {
		if len(value) != 8 {
			return false, fmt.Errorf("%w: time of a finish", codec.ErrDamaged)
		}
		at := binary.BigEndian.Uint64(value)
		all = append(all, finished{at, string(rest)})
		if at >= latest.at {
			latest = all[len(all)-1]
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	if latest.at >= p.before {
		p.key = keyFinished(p.key[:0], latest.at, seq, latest.device)
		return p.batch.Set(p.key, nil, nil)
	}
	del := func(key []byte) {
		p.key = key
		if err == nil {
			err = p.batch.Delete(key, nil)
		}
	}
	for _, f := range all {
		del(keyFinish(p.key[:0], seq, f.device))
		del(keyFinished(p.key[:0], f.at, seq, f.device))
	}
	serr := p.scan(keySeqPrefix(prefixEvents, seq), func(rest, _ []byte) (bool, error) {
		del(append(appendSeq(append(p.key[:0], prefixEvents), seq), rest...))
		return err == nil, err
	})
	if n.HasMessage {
		del(keyData(p.key[:0], seq))
	}
	del(keyAccount(p.key[:0], n.Account, seq))
	del(keyContent(p.key[:0], seq))
	// A later notification may have taken the ID over.
	holder, gerr := p.get(keyID(nil, n.ID))
	if errors.Is(gerr, pebble.ErrNotFound) { // it may tell the Seq
		gerr = nil
	} else if gerr == nil && binary.BigEndian.Uint64(append(holder, make([]byte, 8)...)) == uint64(seq) {
		del(keyID(p.key[:0], n.ID))
	}
	if err = errors.Join(err, serr, gerr); err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	p.gone[seq] = true
	p.counters.Pruned = max(p.counters.Pruned, seq)
	return nil
}
