package xmpp

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// TestLanes: calls of one key run in their order and one at a time, and none is lost. A full lane
// refuses the next call.
func TestLanes(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	l := &lanes{ctx: ctx, tasks: &tasks, waiting: map[string]*lane{}}
	var got [3][]int
	for i := range 3 * 500 {
		key := i % 3
		if !l.put(string(rune('a'+key)), func() { got[key] = append(got[key], i) }) { // the race detector sees two at a time
			t.Fatal("refused")
		}
	}
	tasks.Wait()
	for key := range got {
		if len(got[key]) != 500 || !slices.IsSorted(got[key]) {
			t.Errorf("%d calls, in order: %v", len(got[key]), slices.IsSorted(got[key]))
		}
	}
	entered, release := make(chan struct{}), make(chan struct{})
	l.put("a", func() { close(entered); <-release })
	<-entered
	for range maxLane {
		if !l.put("a", func() {}) {
			t.Fatal("refused before the lane was full")
		}
	}
	if l.put("a", func() {}) {
		t.Error("a full lane took a call")
	}
	if !l.put("b", func() {}) {
		t.Error("another lane was refused")
	}
	cancel()
	l.put("c", func() { t.Error("a call ran after the end") })
	close(release)
	tasks.Wait()
	if len(l.waiting) != 0 || l.calls != 0 || l.running != 0 {
		t.Errorf("%d lanes, %d calls, %d workers are left", len(l.waiting), l.calls, l.running)
	}
}
