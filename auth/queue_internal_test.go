package auth

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

func always(c class) func() class { return func() class { return c } }

// served lets all waiters of a queue of one slot through and returns who got the slot,
// in order. join starts them; the slot is taken meanwhile.
func served(t *testing.T, join func(wait func(name, address string, rank func() class))) (order []string) {
	t.Helper()
	testtool.Bubble(t, func(t *testing.T) {
		q := newQueue(1, 1, false)
		release, err := q.acquire(t.Context(), "first", always(classClean), nil)
		if err != nil {
			t.Fatal(err)
		}
		join(func(name, address string, rank func() class) {
			go func() {
				release, err := q.acquire(context.Background(), address, rank, nil)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, name) // one slot: nobody else appends
				release()
			}()
			synctest.Wait() // it waits before the next comes
		})
		release()
		synctest.Wait()
	})
	return order
}

// TestAddressesTakeTurns: a login waits for at most one guess of an address that floods,
// however many of its guesses came before.
func TestAddressesTakeTurns(t *testing.T) {
	order := served(t, func(wait func(name, address string, rank func() class)) {
		for range 40 {
			wait("guess", "198.51.100.1", always(classClean))
		}
		for i := range 20 {
			wait("login", fmt.Sprint("203.0.113.", i), always(classClean))
		}
	})
	last := len(order) - 1 - slices.Index(reversed(order), "login")
	guesses := 0
	for _, who := range order[:last] {
		if who == "guess" {
			guesses++
		}
	}
	if len(order) != 60 || guesses > 2 {
		t.Errorf("%d guesses were checked before the last of 20 logins: %v", guesses, order)
	}
}

// TestSuspectsWaitBehindOthers: of four slots one is due to those that have failed often,
// and they have the rest when nobody else waits.
func TestSuspectsWaitBehindOthers(t *testing.T) {
	order := served(t, func(wait func(name, address string, rank func() class)) {
		for i := range 40 {
			wait("suspect", fmt.Sprint("198.51.100.", i), always(classSuspect))
		}
		for i := range 12 {
			wait("login", fmt.Sprint("203.0.113.", i), always(classClean))
		}
	})
	last := len(order) - 1 - slices.Index(reversed(order), "login")
	if suspects := last + 1 - 12; len(order) != 52 || suspects > 12/3+1 {
		t.Errorf("%d suspects were checked before the last of 12 logins: %v", suspects, order)
	}
}

// TestGuessesFallBehindOnceTheyFail: forty guesses join as nobody's suspects. After the
// first few have failed, the others wait behind the logins that came after them.
func TestGuessesFallBehindOnceTheyFail(t *testing.T) {
	failures := newThrottle()
	order := served(t, func(wait func(name, address string, rank func() class)) {
		for i := range 40 {
			address := fmt.Sprint("198.51.100.", i%4)
			failed := false
			wait("guess", address, func() class {
				now := time.Now()
				c := failures.class(address, "alice", now)
				if !failed { // this guess fails as soon as it has its turn
					failed = true
					for range failureBurst {
						failures.onFailure(address, "alice", now)
					}
				}
				return c
			})
		}
		for i := range 9 {
			wait("login", fmt.Sprint("203.0.113.", i), always(classClean))
		}
	})
	last := len(order) - 1 - slices.Index(reversed(order), "login")
	if guesses := last + 1 - 9; len(order) != 49 || guesses > 4+9/3+1 {
		t.Errorf("%d guesses were checked before the last of 9 logins: %v", guesses, order)
	}
}

// TestACleanNameGoesBeforeGuesses: behind the guessers' own address somebody else's login
// does not wait for the guesses at one name.
func TestACleanNameGoesBeforeGuesses(t *testing.T) {
	failures, now := newThrottle(), time.Now()
	for range failureBurst {
		failures.onFailure("198.51.100.1", "alice", now)
	}
	order := served(t, func(wait func(name, address string, rank func() class)) {
		for range 40 {
			wait("guess", "198.51.100.1", func() class { return failures.class("198.51.100.1", "alice", now) })
		}
		wait("login", "198.51.100.1", func() class { return failures.class("198.51.100.1", "bob", now) })
	})
	if place := slices.Index(order, "login"); place > 1 {
		t.Errorf("%d guesses were checked before the login", place)
	}
}

// TestSuspectsLeaveTimeToOthers: a slot of suspects rests as long as it has worked, so
// that a flood of guesses does not take a whole core, and rests for nobody else.
func TestSuspectsLeaveTimeToOthers(t *testing.T) {
	for c, want := range map[class]time.Duration{classSuspectFor: 1900 * time.Millisecond, classSuspect: time.Second, classClean: time.Second} {
		testtool.Bubble(t, func(t *testing.T) {
			q, begun := newQueue(1, 1, true), time.Now()
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					release, err := q.acquire(t.Context(), "198.51.100.1", always(c), nil)
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond) // the hash
					release()
				})
			}
			all.Wait()
			if took := time.Since(begun); took != want {
				t.Errorf("class %d: ten checks of 100 ms took %s, want %s", c, took, want)
			}
		})
	}
}

func reversed(s []string) []string {
	r := slices.Clone(s)
	slices.Reverse(r)
	return r
}
