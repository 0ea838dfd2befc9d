package api_test

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/heartline-mqtt/heartline/delivery"
)

// store is a delivery.Outbox in memory.
type store struct {
	mu    sync.Mutex
	notes map[delivery.Seq]*delivery.Notification
	data  map[delivery.Seq]json.RawMessage
	evs   map[delivery.Seq][]delivery.Event
	devs  map[string]delivery.Device
	last  uint64
	fails bool
	q     chan func()
}

func newStore() *store {
	s := &store{
		notes: map[delivery.Seq]*delivery.Notification{}, data: map[delivery.Seq]json.RawMessage{}, evs: map[delivery.Seq][]delivery.Event{},
		devs: map[string]delivery.Device{}, q: make(chan func(), 1<<16),
	}
	go func() {
		for f := range s.q {
			f()
		}
	}()
	return s
}

func (s *store) close() { close(s.q) }

func (s *store) fail(b bool) { s.mu.Lock(); s.fails = b; s.mu.Unlock() }

func (s *store) Commit(b *delivery.Batch, done func(error)) {
	s.q <- func() { done(s.commit(b)) }
}

func (s *store) commit(b *delivery.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails && len(b.Accept) > 0 {
		return delivery.ErrUnavailable
	}
	for _, a := range b.Accept {
		n := a.Notification
		s.notes[n.Seq], s.data[n.Seq] = n, a.Data
		s.last = max(s.last, uint64(n.Seq))
	}
	for _, e := range b.Events {
		s.evs[e.Seq] = append(s.evs[e.Seq], e)
		s.last = max(s.last, e.Number)
	}
	for _, d := range b.PutDevices {
		s.devs[d.ID] = d
	}
	for _, id := range b.RemoveDevices {
		delete(s.devs, id)
	}
	return nil
}

func (s *store) Notification(q delivery.Seq) (*delivery.Notification, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.notes[q]; n != nil {
		return n, nil
	}
	return nil, delivery.ErrNotFound
}

func (s *store) Data(q delivery.Seq) (json.RawMessage, error) { return s.data[q], nil }

func (s *store) Lookup(id string) (delivery.Seq, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, n := range s.notes {
		if n.ID == id {
			return q, nil
		}
	}
	return 0, delivery.ErrNotFound
}

func (s *store) Timeline(q delivery.Seq) ([]delivery.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.evs[q]), nil
}

func (s *store) List(account string, before delivery.Seq, fn func(*delivery.Notification) bool) error {
	s.mu.Lock()
	seqs := slices.Sorted(maps.Keys(s.notes))
	notes := maps.Clone(s.notes)
	s.mu.Unlock()
	for _, q := range slices.Backward(seqs) {
		if (before == 0 || q < before) && (account == "" || notes[q].Account == account) && !fn(notes[q]) {
			break
		}
	}
	return nil
}

func (s *store) Device(id string) (*delivery.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devs[id]
	if !ok {
		return nil, delivery.ErrNotFound
	}
	return &d, nil
}

func (s *store) AccountDevices(a string) (l []delivery.Device, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.devs)) {
		if s.devs[id].Account == a {
			l = append(l, s.devs[id])
		}
	}
	return l, nil
}

func (s *store) Devices(fn func(*delivery.Device) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.devs)) {
		d := s.devs[id]
		if !fn(&d) {
			break
		}
	}
	return nil
}

func (s *store) TokenOwner(_, t string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, d := range s.devs {
		if d.Push != nil && d.Push.Token == t {
			return id, nil
		}
	}
	return "", delivery.ErrNotFound
}

func (s *store) Unfinished(func(*delivery.Record) bool) error { return nil }
func (s *store) LastSeq() (uint64, error)                     { return s.last, nil }
func (s *store) Totals() (delivery.Totals, error)             { return delivery.Totals{}, nil }
