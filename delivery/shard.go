package delivery

// Shard is a part of the accounts, which one Core serves alone. Everything about an
// account has numbers of its shard: Seqs and event Numbers leave the remainder Index
// when divided by Of. The zero Shard is the whole store, as is Index 0 of 1.
type Shard struct{ Index, Of uint16 }

// Whole reports whether s is the whole store.
func (s Shard) Whole() bool { return s.Of <= 1 }

// from returns the first number of the shard that is n or above.
func (s Shard) from(n uint64) uint64 {
	if s.Whole() {
		return n
	}
	of := uint64(s.Of)
	return n + (uint64(s.Index)+of-n%of)%of
}

// Holds reports whether a Seq, or an event's Number, is of the shard.
func (s Shard) Holds(number uint64) bool {
	return s.Whole() || uint16(number%uint64(s.Of)) == s.Index
}
