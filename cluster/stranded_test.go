package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// mobile is a phone that connects to another node when it is asked to.
type mobile struct {
	phone
	moved time.Time
}

// Move implements delivery.Movable.
func (m *mobile) Move() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.replaced, m.moved = true, time.Now()
}

func (m *mobile) movedAt() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

// visitors brings devices of each account up at a node.
func visitors(t *testing.T, m *machine, each int) map[string][]*mobile {
	all := map[string][]*mobile{}
	for _, account := range accounts() {
		for i := range each {
			p := &mobile{}
			if _, err := m.router.Online(delivery.OnlineInfo{Device: fmt.Sprint(account, "-", m.name, "-", i), Account: account, Channel: p}); err != nil {
				t.Fatal(err)
			}
			all[account] = append(all[account], p)
		}
	}
	return all
}

// The clients of devices whose owner is not reached, but lives, are asked to move, after a lease
// and 2 s and spread over two leases; those of other owners stay. When the nodes reach each other
// again nobody is.
func TestStrandedDevicesMove(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, n *network, all []*machine) {
		const each = 50
		at := []map[string][]*mobile{visitors(t, all[0], each), visitors(t, all[1], each), visitors(t, all[2], each)}
		own := []map[string]bool{{}, {}, {}}
		for i, m := range all {
			for _, account := range b.ownedBy(m) {
				own[i][account] = true
			}
		}
		n.cut("two", true)
		cut := time.Now()
		time.Sleep(lease + 2*time.Second + 2*lease + 5*time.Second)
		for i := range all {
			var first, last time.Duration
			for account, phones := range at[i] {
				stranded := i == 1 && !own[1][account] || i != 1 && own[1][account]
				for _, p := range phones {
					moved := p.movedAt()
					if moved.IsZero() == stranded {
						t.Fatalf("a device of %s at node %s: stranded %v, asked to move %v", account, all[i].name, stranded, !moved.IsZero())
					}
					if after := moved.Sub(cut); stranded {
						last = max(last, after)
						if first == 0 || after < first {
							first = after
						}
					}
				}
			}
			if first < lease+2*time.Second {
				t.Errorf("node %s: asked to move %v after the cut", all[i].name, first)
			}
			if i == 1 && last-first < lease {
				t.Errorf("node %s: %d devices were asked to move within %v", all[i].name, 8*each, last-first)
			}
		}
		if got, want := all[1].node.Status().Moved, uint64(8*each); got != want {
			t.Errorf("counted %d, want %d", got, want)
		}
		n.cut("two", false)
		time.Sleep(10 * time.Second)
		back := visitors(t, all[1], 1)
		time.Sleep(20 * time.Second)
		for account, phones := range back {
			if !phones[0].movedAt().IsZero() {
				t.Error(account, "is asked to move although its owner is reached")
			}
		}
	})
}

// Nobody is asked to move where the owner is dead and another takes over, nor at a node that
// does not reach the database and so does not know who lives.
func TestDevicesStayWhereNobodyIsKnownToServeThem(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, n *network, all []*machine) {
		phones := []map[string][]*mobile{visitors(t, all[1], 2), visitors(t, all[2], 2)}
		stay := func(when string) {
			t.Helper()
			for _, at := range phones {
				for account, of := range at {
					for _, p := range of {
						if !p.movedAt().IsZero() {
							t.Fatal(account, "is asked to move", when)
						}
					}
				}
			}
		}
		resume := all[0].pause()
		n.cut("one", true)
		time.Sleep(30 * time.Second)
		stay("when its owner is dead")
		n.cut("one", false)
		resume()
		time.Sleep(15 * time.Second)
		b.want(map[string]int{"one": 4, "two": 4, "three": 4})

		phones = phones[:1]
		n.cut("two", true)
		all[1].away.Store(true)
		time.Sleep(30 * time.Second)
		stay("by a node that reaches nothing")
		n.cut("two", false)
		all[1].away.Store(false)
		time.Sleep(20 * time.Second)
	})
}

var _ delivery.Movable = (*mobile)(nil)
