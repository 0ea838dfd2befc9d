package pebblestore

// numbers is a set of event numbers: those that were stored lately. It answers whether
// an event is stored already, without a read of the store.
type numbers struct {
	young, old         map[uint64]struct{}
	youngHigh, oldHigh uint64 // the highest of each
	low                uint64 // the set lacks no stored number from here on
}

// numbersGeneration is how many numbers are kept, twice at most: a few MB. Events reach
// the store nearly in the order of their numbers.
const numbersGeneration = 1 << 15

// startAt empties the set; no number from low on is stored.
func (s *numbers) startAt(low uint64) { *s = numbers{low: low} }

// spans reports whether has is sure about n.
func (s *numbers) spans(n uint64) bool { return n >= s.low }

func (s *numbers) has(n uint64) bool {
	_, young := s.young[n]
	_, old := s.old[n]
	return young || old
}

func (s *numbers) add(n uint64) {
	if len(s.young) >= numbersGeneration {
		s.low = max(s.low, s.oldHigh+1)
		s.old, s.oldHigh, s.young, s.youngHigh = s.young, s.youngHigh, s.old, 0
		clear(s.young)
	}
	if s.young == nil {
		s.young = make(map[uint64]struct{}, numbersGeneration)
	}
	s.young[n] = struct{}{}
	s.youngHigh = max(s.youngHigh, n)
}
