package delivery

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// streams are the partitions of a store that several owners write, as PostgreSQL has them:
// one writer each, and one moment of all in EventsEnd.
type streams [][]placed

func (s streams) EventsEnd() (end Place, err error) {
	for i, events := range s {
		at := Position{Partition: uint32(i), Number: math.MaxUint64}
		if len(events) > 0 {
			at.Commit = events[len(events)-1].at.Commit
		}
		end = append(end, at)
	}
	return end, nil
}

func (s streams) EventsFrom(after Position, fn func(at Position, account string, e Event) bool) error {
	for _, e := range s[after.Partition] {
		if after.Less(e.at) && !fn(e.at, e.account, e.event) {
			return nil
		}
	}
	return nil
}

// Accounts move between owners whose clocks differ. A reader that is cut off anywhere gets
// every event once, and those of an account in the order in which they were stored.
func TestReadEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const accounts = 5
		s := streams{nil}
		var clock [accounts]uint64 // of each Core: its highest number
		owner := make([]int, accounts)
		var stored uint64 // the highest number of all owners
		var last [accounts]uint64
		var at Place
		var total, read int
		look := func(limit int) {
			left := limit
			next, err := ReadEvents(s, at, func(p Position, account string, e Event) bool {
				var a int
				_, _ = fmt.Sscan(account, &a)
				if e.Number <= last[a] {
					t.Errorf("account %d: number %d after %d", a, e.Number, last[a])
				}
				if !at.Of(p.Partition).Less(p) {
					t.Errorf("%v again, after %v", p, at)
				}
				last[a] = e.Number
				read++
				left--
				return left > 0
			})
			if err != nil {
				t.Fatal(err)
			}
			at = next
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				o := rapid.IntRange(0, len(s)-1).Draw(t, "owner")
				commit := Position{Partition: uint32(o), Commit: 1}
				if n := len(s[o]); n > 0 {
					commit.Commit = s[o][n-1].at.Commit + 1
				}
				var events []placed
				for a := range accounts {
					if owner[a] != o {
						continue
					}
					for range rapid.IntRange(0, 3).Draw(t, "events") {
						clock[a] += uint64(rapid.IntRange(1, 100).Draw(t, "step"))*accounts + uint64(a)
						clock[a] -= (clock[a] - uint64(a)) % accounts // numbers of two Cores differ
						commit.Number = clock[a]
						events = append(events, placed{commit, fmt.Sprint(a), Event{Number: clock[a]}})
						stored = max(stored, clock[a])
						total++
					}
				}
				slices.SortFunc(events, func(x, y placed) int { return cmp.Compare(x.at.Number, y.at.Number) })
				s[o] = append(s[o], events...)
			},
			"one more owner": func(t *rapid.T) {
				if len(s) < 4 {
					s = append(s, nil)
				}
			},
			"move": func(t *rapid.T) {
				to := rapid.IntRange(0, len(s)-1).Draw(t, "to")
				a := rapid.IntRange(0, accounts-1).Draw(t, "account")
				owner[a], clock[a] = to, max(clock[a], stored) // as a Core begins: above all that is stored
			},
			"clock": func(t *rapid.T) {
				clock[rapid.IntRange(0, accounts-1).Draw(t, "account")] += uint64(rapid.IntRange(0, 5000).Draw(t, "ahead"))
			},
			"read":   func(t *rapid.T) { look(rapid.IntRange(1, 20).Draw(t, "limit")) },
			"resume": func(*rapid.T) { at = must(ParseEventID(EventID(at...))) },
		})
		look(math.MaxInt)
		if read != total {
			t.Errorf("read %d events of %d", read, total)
		}
		if end, _ := s.EventsEnd(); !at.Covers(end) || !at.Within(end) {
			t.Errorf("after all: %v, and the end is %v", at, end)
		}
		if _, err := ReadEvents(s, Place{{Partition: 9, Commit: 1}}, nil); err == nil {
			t.Error("a place of another store is no error")
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Two partitions have more events than are read ahead.
func TestReadEventsInSteps(t *testing.T) {
	s := make(streams, 2)
	for i := range uint64(5 * mergeStep) {
		s[i%2] = append(s[i%2], placed{Position{uint32(i % 2), i + 1, i + 1}, "a", Event{Number: i + 1}})
	}
	for _, limit := range []int{1 << 20, 700, 3} {
		var got []uint64
		var at Place
		for range 5 * mergeStep {
			left := limit
			at = must(ReadEvents(s, at, func(_ Position, _ string, e Event) bool {
				got = append(got, e.Number)
				left--
				return left > 0
			}))
		}
		if len(got) != 5*mergeStep || !slices.IsSorted(got) {
			t.Errorf("%d events in steps of %d", len(got), limit)
		}
	}
}
