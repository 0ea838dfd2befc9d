package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// A node that joins has its share of 1,024 partitions within a few seconds, and so have the
// others after a node has left.
func TestShareSoon(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		b := newBaseOf(t, cluster.Parts)
		one := b.machine("one")
		b.want(map[string]int{"one": 1024})
		two := b.machine("two")
		time.Sleep(4 * time.Second)
		b.want(map[string]int{"one": 512, "two": 512})
		three := b.machine("three")
		time.Sleep(4 * time.Second)
		if n := b.owners(); n["three"] < 340 || n["one"] < 340 || n["two"] < 340 || n[""] > 0 {
			t.Errorf("partitions: %v, want a third each", n)
		}
		begun := time.Now()
		if err := three.node.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 4*time.Second {
			t.Error("handed over after", took)
		}
		b.want(map[string]int{"one": 512, "two": 512})
		for _, m := range []*machine{three, two, one} {
			m.stop(t)
		}
	})
}

// A node that leaves hands its partitions over while it and the others serve: every request
// at every node is accepted, devices at the leaving node stay connected and get everything in
// order, and no partition of it has to be taken over.
func TestDrain(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		phones := map[string]*phone{}
		for i, account := range accounts() {
			phones[account], _ = onlineAs(t, all[i/3%3], account, &phone{slow: time.Duration(i) * 30 * time.Millisecond})
		}
		time.Sleep(time.Second) // they are in the registry
		sending, enough := context.WithCancel(t.Context())
		var backends sync.WaitGroup
		sent := map[string]int{}
		for i, account := range accounts() {
			backends.Go(func() {
				n := 0
				for ; sending.Err() == nil; n++ {
					if _, err := all[(i+n)%3].router.Accept(t.Context(), delivery.Request{Account: account, Title: fmt.Sprint(n)}); err != nil {
						t.Error(account, n, err)
					}
					time.Sleep(20 * time.Millisecond)
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				sent[account] = n
			})
		}
		time.Sleep(time.Second)
		begun := time.Now()
		var drains sync.WaitGroup
		for range 2 {
			drains.Go(func() {
				if err := all[0].node.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		drains.Wait()
		if took := time.Since(begun); took > 3*time.Second {
			t.Error("handed over after", took)
		}
		b.want(map[string]int{"two": 6, "three": 6})
		time.Sleep(time.Second) // its Router relays all now
		enough()
		backends.Wait()
		time.Sleep(2 * time.Second)
		for account, p := range phones {
			ids := p.ids(t, all[1])
			seen := map[string]bool{}
			for _, id := range ids {
				seen[id] = true
			}
			if p.mu.Lock(); len(seen) != sent[account] || p.replaced {
				t.Errorf("%s got %d of %d, connection ended: %v", account, len(seen), sent[account], p.replaced)
			}
			p.mu.Unlock()
		}
		if b.fencing != 0 {
			t.Error("lives ended by others:", b.fencing)
		}
	})
}

// A node that nobody relieves keeps its partitions until it stops. So do nodes that all leave.
func TestDrainAlone(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one := b.machine("one")
		if err := one.node.Drain(t.Context()); !errors.Is(err, cluster.ErrAlone) {
			t.Error("alone:", err)
		}
		time.Sleep(2 * lease)
		b.want(map[string]int{"one": parts})
		accept(t, "a", one)
		one.stop(t)
		if err := one.node.Drain(t.Context()); !errors.Is(err, delivery.ErrStopped) {
			t.Error("after the stop:", err)
		}

		two, three := b.machine("two"), b.machine("three")
		time.Sleep(5 * time.Second)
		b.want(map[string]int{"two": 6, "three": 6})
		resume := three.pause() // it claims nothing
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := two.node.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Error("nobody claims:", err)
		}
		if n := b.owners(); n["two"] < 2 {
			t.Errorf("partitions: %v; at most 4 should be free", n)
		}
		resume()
		if err := two.node.Drain(t.Context()); err != nil {
			t.Error("claimed again:", err)
		}
		b.want(map[string]int{"three": parts})
		if err := three.node.Drain(t.Context()); !errors.Is(err, cluster.ErrAlone) {
			t.Error("the other leaves, too:", err)
		}
		b.want(map[string]int{"three": parts})
		two.stop(t)
		three.stop(t)
	})
}

// A database whose network is cut in the middle of a hand-over does not hold up the stop.
func TestStopWithoutAnAnswer(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one, two := b.machine("one"), b.machine("two")
		time.Sleep(5 * time.Second)
		b.want(map[string]int{"one": 6, "two": 6})
		b.mu.Lock()
		b.silent = true
		b.mu.Unlock()
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := one.node.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Error("hand-over:", err)
		}
		begun := time.Now()
		within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = one.node.Stop(within) // what it did not give up is taken over
		if took := time.Since(begun); took > 12*time.Second {
			t.Error("stopped after", took)
		}
		b.mu.Lock()
		b.silent = false
		b.mu.Unlock()
		time.Sleep(3 * lease)
		b.want(map[string]int{"two": parts})
		one.router.Close()
		two.stop(t)
	})
}

// A GiveUp without an answer has no effect once its node serves the partitions again: they never have
// two owners. Where the partitions are freed by hand, their Cores end.
func TestFreedLate(t *testing.T) {
	for name, claimed := range map[string]bool{"free": false, "claimed again without an answer": true} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(t *testing.T, b *base) {
				one := b.machine("one")
				b.mu.Lock()
				b.late = true
				b.mu.Unlock()
				two := b.machine("two")
				for b.begun() == parts { // until one serves them again
					time.Sleep(10 * time.Millisecond)
				}
				resume := two.pause() // it claims nothing
				synctest.Wait()
				one.mu.Lock()
				freed := one.ended
				one.mu.Unlock()
				for _, commit := range b.commits {
					if err := commit(); err != nil {
						t.Fatal(err)
					}
				}
				b.wantOwners()
				b.mu.Lock()
				for _, part := range freed {
					p := &b.parts[part]
					if p.Term++; claimed {
						p.Term++
					} else {
						p.Node = 0
					}
				}
				b.mu.Unlock()
				time.Sleep(lease / 10)
				synctest.Wait()
				b.wantOwners()
				one.mu.Lock()
				for _, part := range freed {
					if !slices.Contains(one.ended[len(freed):], part) || slices.Contains(one.lost, part) {
						t.Errorf("what depends on partition %d was not awaited", part)
					}
				}
				one.mu.Unlock()
				resume()
				time.Sleep(5 * time.Second)
				b.want(map[string]int{"one": 6, "two": 6})
				for part, running := range b.running() {
					if len(running) != 1 {
						t.Errorf("partition %d has %d Cores that run", part, len(running))
					}
				}
				for _, account := range accounts() {
					accept(t, account, one, two)
				}
				one.stop(t)
				two.stop(t)
			})
		})
	}
}

// wantOwners reports Cores that run for a life or a term that is not the owner's.
func (b *base) wantOwners() {
	b.t.Helper()
	for part, running := range b.running() {
		b.mu.Lock()
		now := b.parts[part]
		b.mu.Unlock()
		for _, o := range running {
			if o.Node != now.Node || o.Term != now.Term {
				b.t.Errorf("a Core of partition %d runs for life %d under term %d, but it is that of %d under term %d", part, o.Node, o.Term, now.Node, now.Term)
			}
		}
	}
}

// begun returns how many Cores there have been.
func (b *base) begun() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, cores := range b.cores {
		n += len(cores)
	}
	return n
}

// running returns which Cores of each partition run.
func (b *base) running() [][]cluster.Ownership {
	b.mu.Lock()
	all := slices.Clone(b.cores)
	b.mu.Unlock()
	running := make([][]cluster.Ownership, len(all))
	for part, cores := range all {
		for _, c := range cores {
			if err := c.core.Flush(b.t.Context()); !errors.Is(err, delivery.ErrStopped) {
				running[part] = append(running[part], c.Ownership)
			}
		}
	}
	return running
}
