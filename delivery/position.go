package delivery

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// Position is a place in the order in which a store took events: behind the event
// Number of the commit Commit. Commits are numbered in the order in which readers
// can see them, so no event ever appears behind a position that was read. The zero
// Position is the beginning.
type Position struct {
	Partition uint32 // of the store; a store on one machine has only 0
	Commit    uint64
	Number    uint64
}

// Less reports whether p is before o, which is of the same partition.
func (p Position) Less(o Position) bool {
	return p.Commit < o.Commit || p.Commit == o.Commit && p.Number < o.Number
}

// Place is how far a reader of all events has come: a Position in each partition of the
// store, by Partition. A partition that is not in it was not begun. The nil Place is the
// beginning. ReadEvents continues it.
type Place []Position

// Of returns the Position in a partition.
func (p Place) Of(partition uint32) Position {
	for _, at := range p { // a few
		if at.Partition == partition {
			return at
		}
	}
	return Position{Partition: partition}
}

// Advance moves the Place to a Position of one partition. It changes the elements of p:
// clone a Place that others may read.
func (p *Place) Advance(at Position) {
	i, found := slices.BinarySearchFunc(*p, at.Partition, func(x Position, n uint32) int { return cmp.Compare(x.Partition, n) })
	if found {
		(*p)[i] = at
	} else {
		*p = slices.Insert(*p, i, at)
	}
}

// Covers reports whether a reader at p has had everything up to o.
func (p Place) Covers(o Place) bool {
	return !slices.ContainsFunc(o, func(at Position) bool { return p.Of(at.Partition).Less(at) })
}

// Within reports whether p can be a Place of a store that ends at end.
func (p Place) Within(end Place) bool {
	return !slices.ContainsFunc(p, func(at Position) bool {
		known := slices.ContainsFunc(end, func(e Position) bool { return e.Partition == at.Partition })
		return !known || at.Commit > end.Of(at.Partition).Commit
	})
}

// The first byte of an event ID: how the rest is written.
const eventIDVersion = 1

// EventID makes the public ID of an event out of where its reader has come in each
// partition. It is opaque to clients.
func EventID(at ...Position) string {
	b := []byte{eventIDVersion}
	for _, p := range at {
		b = binary.AppendUvarint(b, uint64(p.Partition))
		b = binary.AppendUvarint(b, p.Commit)
		b = binary.AppendUvarint(b, p.Number)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b))) // a part of it is enough to notice a typing error
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseEventID is the inverse of EventID. Its error wraps ErrInvalid.
func ParseEventID(id string) (Place, error) {
	bad := fmt.Errorf("%w: %q is no event ID of this server", ErrInvalid, clipID(id))
	b, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(b) < 3 || b[0] != eventIDVersion {
		return nil, bad
	}
	b, sum := b[:len(b)-2], binary.BigEndian.Uint16(b[len(b)-2:])
	if uint16(crc32.ChecksumIEEE(b)) != sum { // as above
		return nil, bad
	}
	var at Place
	for b = b[1:]; len(b) > 0; {
		var v [3]uint64
		for i := range v {
			var n int
			if v[i], n = binary.Uvarint(b); n <= 0 {
				return nil, bad
			}
			b = b[n:]
		}
		if v[0] > 1<<32-1 {
			return nil, bad
		}
		at.Advance(Position{Partition: uint32(v[0]), Commit: v[1], Number: v[2]})
	}
	return at, nil
}

func clipID(id string) string { return id[:min(len(id), 64)] }
