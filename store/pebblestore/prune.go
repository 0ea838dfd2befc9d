package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// pruneChunk is how many notifications go in one write. Apply waits for that write
// and for no read of Prune: some tenths of a millisecond.
const pruneChunk = 64

// Prune implements store.Engine. It is not synced: what a crash brings back is
// pruned again.
//
// It goes on in the index of finished deliveries where it was. Behind that place are
// the tombstones of all that it has removed, which an iterator from the beginning
// would step over each time.
func (s *Store) Prune(finishedBefore time.Time, limit int) (n int, err error) {
	if s.opts.ReadOnly {
		return 0, fmt.Errorf("prune store %s: %w", s.dir, pebble.ErrReadOnly)
	}
	s.pruneMu.Lock()
	defer s.pruneMu.Unlock()
	if _, err := s.folded(); err != nil {
		return 0, fmt.Errorf("prune store %s: %w", s.dir, err)
	}
	if err := s.trimCommits(finishedBefore); err != nil {
		return 0, err
	}
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
	if err := s.broken(); err != nil {
		return 0, false, err
	}
	batch := s.db.NewBatch()
	defer func() { err = errors.Join(err, batch.Close()) }()
	p := &pruning{
		Store: s, batch: batch, before: sortableTime(before),
		gone: map[delivery.Seq]*prunable{}, touched: map[delivery.Seq]bool{}, ids: map[string]bool{},
	}
	s.mu.Lock()
	p.from = s.pruned
	s.pruning, s.pruned = p, endFinished // Apply lowers it to what it adds meanwhile
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pruning = nil
		if err != nil {
			s.pruneFrom(p.from)
		}
	}()
	seen, more, err := p.look(limit)
	if err != nil {
		return 0, false, err
	}
	if seen == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pruneFrom(p.next)
		return 0, false, nil
	}
	n, err = p.commit()
	return n, more, err
}

// pruning is one write of Prune on its way. What Apply changes meanwhile it notes
// here, with the store's mutex.
type pruning struct {
	*Store
	batch  *pebble.Batch
	before uint64 // sortable
	from   []byte // no key of the index is before it
	next   []byte // no key will be, when this is written
	events *pebble.Iterator
	key    []byte
	gone   map[delivery.Seq]*prunable

	touched map[delivery.Seq]bool // notifications that have changed
	ids     map[string]bool       // IDs that other notifications have taken
}

// prunable is a notification that is to go.
type prunable struct {
	id   string // not "": it has an entry in the index of IDs
	keys [][]byte
}

func (p *pruning) touch(seq delivery.Seq) { p.touched[seq] = true }

// look reads from the index the notifications that can go, at most limit, and the keys
// they consist of. It holds no mutex.
func (p *pruning) look(limit int) (seen int, more bool, err error) {
	it, err := p.db.NewIter(&pebble.IterOptions{
		LowerBound: p.from,
		UpperBound: binary.BigEndian.AppendUint64([]byte{prefixFinished}, p.before),
	})
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	// One iterator for the events and the final states of all: their keys are
	// neighbours.
	p.events, err = p.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixEvents}, UpperBound: []byte{prefixFinal + 1}})
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, p.events.Close()) }()
	p.next = binary.BigEndian.AppendUint64([]byte{prefixFinished}, p.before)
	for ok := it.First(); ok; ok = it.Next() {
		// An entry that was looked at and stays is removed from the index, so there
		// is an end to it too.
		if len(p.gone) >= limit || seen >= 8*pruneChunk {
			p.next = bytes.Clone(it.Key())
			more = true
			break
		}
		seen++
		if err := p.entry(it.Key()); err != nil {
			return 0, false, err
		}
	}
	return seen, more, it.Error()
}

// entry looks at one finished delivery that is old enough. Its notification goes
// if all the others are too. If one is unfinished, this entry goes alone: the last
// to finish brings another. If one was finished at a later time, its entry, which
// may have gone that way, takes this one's place.
func (p *pruning) entry(key []byte) error {
	at := binary.BigEndian.Uint64(key[1:])
	seq, err := seqAt(key[9:])
	if err != nil {
		return err
	}
	if p.gone[seq] != nil {
		return nil
	}
	if err := p.batch.Delete(key, nil); err != nil {
		return err
	}
	v, closer, err := p.db.Get(keyContent(nil, seq))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	var n delivery.Notification
	if err := errors.Join(codec.DecodeNotification(&n, seq, v), closer.Close()); err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	g := &prunable{keys: [][]byte{keyAccount(nil, n.Account, seq), keyContent(nil, seq)}}
	if n.HasMessage {
		g.keys = append(g.keys, keyData(nil, seq))
	}
	latest, device, finals := at, "", 0
	err = p.each(prefixFinal, seq, func(key, value []byte) error {
		g.keys = append(g.keys, key)
		finals++
		f, err := codec.DecodeFinish(delivery.Key{Seq: seq, Device: string(key[9:])}, value)
		if err != nil || f.At.IsZero() { // its only one: the entry is its own
			return err
		}
		at := sortableTime(f.At)
		g.keys = append(g.keys, keyFinished(nil, at, seq, f.Device))
		if at > latest {
			latest, device = at, f.Device
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	if finals < len(n.Devices) { // as many final states as devices: none has a Record
		for _, device := range n.Devices {
			p.key = keyRecord(p.key[:0], delivery.Key{Seq: seq, Device: device})
			live, err := p.has(p.key)
			if live || err != nil {
				return err
			}
		}
	}
	if latest >= p.before {
		return p.batch.Set(keyFinished(nil, latest, seq, device), nil, nil)
	}
	err = p.each(prefixEvents, seq, func(key, _ []byte) error {
		g.keys = append(g.keys, key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	if tellsSeq(&n) {
		p.gone[seq] = g
		return nil
	}
	// A later notification may have taken the ID over.
	holder, err := p.get(keyID(nil, n.ID))
	switch {
	case err == nil && len(holder) == 8 && binary.BigEndian.Uint64(holder) == uint64(seq):
		g.id = n.ID
	case err != nil && !errors.Is(err, pebble.ErrNotFound):
		return fmt.Errorf("notification %d: %w", seq, err)
	}
	p.gone[seq] = g
	return nil
}

// each calls fn with a copy of every key of a notification with this prefix.
func (p *pruning) each(prefix byte, seq delivery.Seq, fn func(key, value []byte) error) error {
	from := keySeqPrefix(prefix, seq)
	for ok := p.events.SeekGE(from); ok && len(p.events.Key()) >= len(from) && string(p.events.Key()[:len(from)]) == string(from); ok = p.events.Next() {
		v, err := p.events.ValueAndErr()
		if err != nil {
			return err
		}
		if err := fn(append([]byte(nil), p.events.Key()...), v); err != nil {
			return err
		}
	}
	return p.events.Error()
}

// commit removes the notifications that look found, except those that Apply has changed
// since. Those stay in the index, and the next round looks at them.
func (p *pruning) commit() (n int, err error) {
	s := p.Store
	if s.opts.Journal {
		s.logMu.Lock()
		defer s.logMu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken(); err != nil {
		return 0, err
	}
	if err := s.foldLocked(); err != nil {
		return 0, s.broken()
	}
	counters := s.counters
	for seq, g := range p.gone {
		if p.touched[seq] {
			// Its entry is gone with the batch: another leads to it.
			key := keyFinished(nil, 0, seq, "")
			if err := p.batch.Set(key, nil, nil); err != nil {
				return 0, err
			}
			p.next = minKey(p.next, key)
			continue
		}
		if g.id != "" && !p.ids[g.id] {
			g.keys = append(g.keys, keyID(nil, g.id))
		}
		for _, key := range g.keys {
			if err := p.batch.Delete(key, nil); err != nil {
				return 0, err
			}
		}
		n++
		counters.Pruned = max(counters.Pruned, seq)
	}
	if s.opts.Journal {
		if counters, err = s.logRaw(p.batch, counters); err != nil {
			return 0, err
		}
	} else {
		counters.Writes++
		if err := p.batch.Set(keyCounters, codec.AppendCounters(nil, counters), nil); err != nil {
			return 0, err
		}
	}
	if err := s.commitUnsynced(p.batch); err != nil {
		return 0, err
	}
	if s.counters = counters; !s.opts.Journal {
		s.writes.Store(counters.Writes)
	}
	s.pruneFrom(p.next)
	return n, nil
}

// endFinished is behind every key of the index of finished deliveries.
var endFinished = []byte{prefixFinished + 1}

// pruneFrom has the next step of Prune begin at key, or before it where Apply has
// added something there. mu is held.
func (s *Store) pruneFrom(key []byte) { s.pruned = minKey(s.pruned, key) }

func minKey(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}

// commitUnsynced commits a batch of housekeeping. A crash may take back any part of
// it.
func (s *Store) commitUnsynced(batch *pebble.Batch) (err error) {
	if err := s.broken(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil { // as in Apply
			s.markBroken(fmt.Errorf("prune: %v", r))
			err = s.broken()
		}
	}()
	if err := batch.Commit(pebble.NoSync); err != nil {
		s.markBroken(err)
	}
	return s.broken()
}
