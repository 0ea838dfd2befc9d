package auth

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// served lets all waiters of a queue of one slot through and returns who got the slot,
// in order. join starts them; the slot is taken meanwhile.
func served(t *testing.T, join func(q *queue, wait func(name, address string, suspect bool))) (order []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1, 1)
		release, err := q.acquire(t.Context(), "first", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		join(q, func(name, address string, suspect bool) {
			go func() {
				release, err := q.acquire(context.Background(), address, suspect, nil)
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
	order := served(t, func(_ *queue, wait func(name, address string, suspect bool)) {
		for range 40 {
			wait("guess", "198.51.100.1", false)
		}
		for i := range 20 {
			wait("login", fmt.Sprint("203.0.113.", i), false)
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
	order := served(t, func(_ *queue, wait func(name, address string, suspect bool)) {
		for i := range 40 {
			wait("suspect", fmt.Sprint("198.51.100.", i), true)
		}
		for i := range 12 {
			wait("login", fmt.Sprint("203.0.113.", i), false)
		}
	})
	last := len(order) - 1 - slices.Index(reversed(order), "login")
	if suspects := last + 1 - 12; len(order) != 52 || suspects > 12/3+1 {
		t.Errorf("%d suspects were checked before the last of 12 logins: %v", suspects, order)
	}
}

func reversed(s []string) []string {
	r := slices.Clone(s)
	slices.Reverse(r)
	return r
}
