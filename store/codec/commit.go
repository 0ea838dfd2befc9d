package codec

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Ref says where the events of one notification are that one commit stored.
type Ref struct {
	Seq    delivery.Seq
	Number uint64 // of the first; 0: the notification was accepted
}

const (
	commitTime protowire.Number = iota + 1
	commitRefs
)

// AppendCommit appends the value of a commit: when it was made and where its events
// are. refs are in the order of Seq; most differ little from the one before, and so
// do the numbers from the Seq.
func AppendCommit(b, scratch []byte, at time.Time, refs []Ref) (value, reuse []byte) {
	b = appendTime(b, commitTime, at)
	s := scratch[:0]
	var last delivery.Seq
	for _, r := range refs {
		s = protowire.AppendVarint(s, uint64(r.Seq-last))
		last = r.Seq
		if r.Number == 0 {
			s = protowire.AppendVarint(s, 0)
		} else {
			s = protowire.AppendVarint(s, 1+protowire.EncodeZigZag(int64(r.Number-uint64(r.Seq))))
		}
	}
	return appendBytes(b, commitRefs, s), s
}

// DecodeCommit is the inverse of AppendCommit; it appends to into.
func DecodeCommit(into []Ref, b []byte) (at time.Time, refs []Ref, err error) {
	refs = into
	err = eachField(b, func(f field) error {
		switch f.num {
		case commitTime:
			at = unixTime(f.v)
		case commitRefs:
			var last delivery.Seq
			for s := f.s; len(s) > 0; {
				seq, n := protowire.ConsumeVarint(s)
				if n < 0 {
					return fmt.Errorf("%w: reference: %w", ErrDamaged, protowire.ParseError(n))
				}
				number, m := protowire.ConsumeVarint(s[n:])
				if m < 0 {
					return fmt.Errorf("%w: reference: %w", ErrDamaged, protowire.ParseError(m))
				}
				s = s[n+m:]
				last += delivery.Seq(seq)
				r := Ref{Seq: last}
				if number != 0 {
					r.Number = uint64(last) + uint64(protowire.DecodeZigZag(number-1))
				}
				refs = append(refs, r)
			}
		}
		return nil
	})
	return at, refs, err
}

// Counters is the store's own account, one value that every Apply replaces.
type Counters struct {
	Accepted uint64
	Finished uint64
	Last     uint64       // highest Seq and event Number
	Pruned   delivery.Seq // no notification above it has ever been pruned
	Writes   uint64       // batches committed; see watermark
}

const (
	counterAccepted protowire.Number = iota + 1
	counterFinished
	counterLast
	counterPruned
	counterWrites
)

// AppendCounters appends the value of the counters.
func AppendCounters(b []byte, c Counters) []byte {
	b = appendUint(b, counterAccepted, c.Accepted)
	b = appendUint(b, counterFinished, c.Finished)
	b = appendUint(b, counterLast, c.Last)
	b = appendUint(b, counterPruned, uint64(c.Pruned))
	return appendUint(b, counterWrites, c.Writes)
}

// DecodeCounters is the inverse of AppendCounters.
func DecodeCounters(b []byte) (c Counters, err error) {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return c, err
		}
		b = rest
		switch f.num {
		case counterAccepted:
			c.Accepted = f.v
		case counterFinished:
			c.Finished = f.v
		case counterLast:
			c.Last = f.v
		case counterPruned:
			c.Pruned = delivery.Seq(f.v)
		case counterWrites:
			c.Writes = f.v
		}
	}
	return c, nil
}
