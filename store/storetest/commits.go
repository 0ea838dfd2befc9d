package storetest

import (
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/heartline-mqtt/heartline/delivery"
)

// RunCommits tests a delivery.Outbox: whatever batches share a write, the result
// is as if they had been applied one after the other. open makes one that is
// empty, and end is called with it at the end.
func RunCommits[O delivery.Outbox](t *testing.T, open func(t *testing.T) O, end func(O) error, traits ...Trait) {
	rapid.Check(t, func(rt *rapid.T) {
		o := open(t)
		defer func() {
			if err := end(o); err != nil {
				rt.Errorf("close: %v", err)
			}
		}()
		m, w := newModel(1), onlyWriter()
		m.freshIDs = slices.Contains(traits, UniqueIDs)
		var called atomic.Int64 // done functions
		all := int64(0)
		told := make(chan int64, 100)
		o.OnGroupDone(func() { told <- called.Load() })
		for range rapid.IntRange(1, 4).Draw(rt, "bursts") {
			n := rapid.IntRange(1, 12).Draw(rt, "burst")
			batches := make([]*delivery.Batch, n)
			for i := range batches {
				batches[i] = drawBatch(rt, m, w)
				m.apply(0, batches[i])
			}
			done := make(chan int, n)
			for i, b := range batches {
				o.Commit(b, func(err error) {
					if err != nil {
						t.Errorf("commit: %v", err)
					}
					called.Add(1)
					done <- i
				})
			}
			for i := range n {
				if got := <-done; got != i {
					rt.Fatalf("done of commit %d came at place %d", got, i)
				}
			}
			all += int64(n)
			for toldOf := int64(0); toldOf < all; { // the last, too
				toldOf = <-told
			}
			if got, want := look(rt, o), m.picture(); show(got) != show(want) {
				rt.Fatalf("the store has\n%s\nand the model\n%s", indent(got), indent(want))
			}
		}
	})
}
