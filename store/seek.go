package store

import (
	"math"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// SeekCommit finds the place for delivery.Reader.EventsSince in a store whose commits are
// numbered 1 to end, with gaps. next reads the first commit of a number of at least from:
// its number and the time of its newest event; ok is false where there is none. SeekCommit
// calls it once for each bit of end, at most.
func SeekCommit(end uint64, since time.Time, next func(from uint64) (number uint64, at time.Time, ok bool, err error)) (delivery.Position, error) {
	before, first := uint64(0), end+1 // commits up to before are older; those from first on are not
	for first-before > 1 {
		middle := before + (first-before)/2
		number, at, ok, err := next(middle)
		if err != nil {
			return delivery.Position{}, err
		}
		if !ok || number >= first || !at.Before(since) {
			first = middle // none between it and number is older
		} else {
			before = number
		}
	}
	return delivery.Position{Commit: before, Number: math.MaxUint64}, nil
}
