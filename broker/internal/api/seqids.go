package api

import (
	"container/list"
	"sync"

	"github.com/heartline-mqtt/heartline/delivery"
)

// seqIDsBound is how many notifications seqIDs remembers.
const seqIDsBound = 4096

// seqIDs knows the notifications that events are of. An event carries the place in
// the order of acceptance; people know the ID. One notification has several events
// soon after one another, and each goes to every stream.
type seqIDs struct {
	mu     sync.Mutex
	bySeq  map[delivery.Seq]*list.Element
	recent list.List // of named, the one used last in front
}

type named struct {
	seq     delivery.Seq
	id      string
	devices []string
}

func (s *seqIDs) get(seq delivery.Seq, read func(delivery.Seq) (*delivery.Notification, error)) (named, error) {
	s.mu.Lock()
	if e := s.bySeq[seq]; e != nil {
		s.recent.MoveToFront(e)
		s.mu.Unlock()
		return e.Value.(named), nil
	}
	s.mu.Unlock()
	n, err := read(seq) // outside the mutex: it may be a read from the disk
	if err != nil {
		return named{}, err
	}
	x := named{seq, n.ID, n.Devices}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySeq == nil {
		s.bySeq = map[delivery.Seq]*list.Element{}
	}
	if s.bySeq[seq] == nil {
		s.bySeq[seq] = s.recent.PushFront(x)
		if s.recent.Len() > seqIDsBound {
			last := s.recent.Back()
			s.recent.Remove(last)
			delete(s.bySeq, last.Value.(named).seq)
		}
	}
	return x, nil
}
