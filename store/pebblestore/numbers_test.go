package pebblestore

import (
	"testing"

	"pgregory.net/rapid"
)

// TestNumbers compares the set with a map over several generations. Every sure answer must
// be true, and numbers of the last generation must get one when they come nearly in order.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s numbers
		start := rapid.Uint64Range(1, 1000).Draw(t, "start")
		s.startAt(start)
		added := map[uint64]bool{}
		next := start
		for range rapid.IntRange(1, 6).Draw(t, "runs") {
			disorder := rapid.Uint64Range(0, 100).Draw(t, "disorder")
			for i := range uint64(rapid.IntRange(1, numbersGeneration).Draw(t, "length")) {
				n := next + i%7*disorder
				s.add(n)
				added[n] = true
				next += 3
			}
			for range 100 {
				n := next + 1000 - min(next+1000, rapid.Uint64Range(0, 12*numbersGeneration).Draw(t, "back"))
				if s.spans(n) && s.has(n) != added[n] {
					t.Fatalf("number %d: has %v, added %v", n, s.has(n), added[n])
				}
				if n >= start && n+3*numbersGeneration/2 > next && !s.spans(n) {
					t.Fatalf("not sure of number %d, with %d to come", n, next)
				}
			}
		}
	})
}
