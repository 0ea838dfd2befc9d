package storetest

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// twoParts are the partitions of each engine of RunTwo: the remainder of a Seq by 1,024.
var twoParts = [][]uint64{{1, 2}, {3, 1023}}

// twoAccounts are the accounts of each engine.
var twoAccounts = [][]string{{"a", "ab"}, {"b"}}

// RunTwo tests two engines that write one store at once, as two nodes do, each the
// notifications of its own partitions and the devices of its own accounts. IDs, device names
// and push tokens are shared. Batches that are applied at once must have the outcome that
// they have one after the other, in one of the two orders.
//
// open makes a new, empty store, and returns for each engine what opens it, also again after
// Close, and what removes the store. The events of engine i are those of Partition i.
func RunTwo(t *testing.T, open func(t *testing.T) (engines [2]func() store.Engine, remove func())) {
	rapid.Check(t, func(rt *rapid.T) {
		opens, remove := open(t)
		defer remove()
		var engines [2]store.Engine
		for i := range engines {
			engines[i] = opens[i]()
			defer func() {
				if err := engines[i].Close(); err != nil {
					rt.Errorf("close: %v", err)
				}
			}()
		}
		m := newModel(len(engines))
		var writers [2]*writer
		round := uint64(10)
		for i := range writers {
			turn := 0
			writers[i] = &writer{
				owns: func(s delivery.Seq) bool { return slices.Contains(twoParts[i], uint64(s)%1024) },
				next: func() uint64 {
					round++
					turn++
					return round*1024 + twoParts[i][turn%2]
				},
				accounts: twoAccounts[i], ids: modelIDs[:4], devices: modelDevices[:2], tokens: modelTokens[:1], // so that they meet often
			}
		}
		which := func(rt *rapid.T) int { return rapid.IntRange(0, 1).Draw(rt, "engine") }
		defer func() {
			if !rt.Failed() {
				checkSame(rt, engines[0], m)
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"look": func(rt *rapid.T) { checkSame(rt, engines[which(rt)], m) },
			"apply at once": func(rt *rapid.T) {
				var batches [2]*delivery.Batch
				for i := range batches {
					batches[i] = drawBatch(rt, m, writers[i])
				}
				refused := applyAtOnce(rt, engines, batches)
				got := look(rt, engines[which(rt)])
				after := explain(m, batches, refused, got)
				if after == nil {
					rt.Fatalf("neither order refuses %q and has the outcome\n%s\nbefore it was\n%s", refused, indent(got), indent(m.picture()))
				}
				m = after
			},
			"apply": func(rt *rapid.T) {
				i := which(rt)
				applyBatch(rt, engines[i], m, i, drawBatch(rt, m, writers[i]), true)
			},
			"prune": func(rt *rapid.T) { pruneSome(rt, engines[which(rt)], m) },
			"reopen": func(rt *rapid.T) {
				if i := rapid.IntRange(0, 9).Draw(rt, "engine"); i < len(engines) { // rarely: it takes the most time
					if err := engines[i].Close(); err != nil {
						rt.Fatalf("close: %v", err)
					}
					engines[i] = opens[i]()
				}
			},
		})
	})
}

// applyAtOnce returns the IDs that each engine refused its batch for; nil: it applied it.
func applyAtOnce(rt *rapid.T, engines [2]store.Engine, batches [2]*delivery.Batch) (refused [2][]string) {
	var errs [2]error
	var applying sync.WaitGroup
	begin := make(chan struct{})
	for i := range engines {
		applying.Go(func() {
			<-begin
			errs[i] = engines[i].Apply(batches[i])
		})
	}
	close(begin)
	applying.Wait()
	for i, err := range errs {
		if taken, ok := errors.AsType[*store.Taken](err); ok {
			refused[i] = taken.IDs
		} else if err != nil {
			rt.Fatalf("apply by engine %d: %v", i, err)
		}
	}
	return refused
}

// explain returns the model after the batches in the order that has the observed outcome;
// nil: neither has.
func explain(m *model, batches [2]*delivery.Batch, refused [2][]string, got picture) *model {
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		after := m.clone()
		same := true
		for _, i := range order {
			taken := after.taken(batches[i])
			same = same && slices.Equal(taken, refused[i])
			if len(taken) == 0 {
				after.apply(i, batches[i])
			}
		}
		if same && show(after.picture()) == show(got) {
			return after
		}
	}
	return nil
}
