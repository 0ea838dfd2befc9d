package ordinary

import (
	"fmt"
	"strings"
	"testing"
)

// TestRemovalsAreBounded: whoever removes retained messages of many topics, of any length,
// that have none, takes a bounded part of the memory, and none for longer than an hour. It
// pushes no removal of a message out that was there, and hears of the newest ones.
func TestRemovalsAreBounded(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 60_000} {
		journal := &retainedJournal{}
		h, c := hubAt(Options{Journal: journal})
		h.Share(Sharing{Now: c.time})
		retain(t, h, "was/there", "x")
		retain(t, h, "was/there", "")
		retain(t, h, "was/there", "") // once more
		long := strings.Repeat("x", length)
		most := 3 * removedBytes / (removalOverhead + length)
		for i := range most {
			retain(t, h, fmt.Sprint(i, long), "")
		}
		r := h.retained.removed
		bytes, count := 0, 0
		remembered := map[string]bool{}
		for _, m := range h.Removed() {
			bytes += removalOverhead + len(m.TopicName)
			count++
			remembered[m.TopicName] = true
		}
		if bytes > 2*removedBytes || bytes < removedBytes/2 || r.real.bytes+r.void.bytes != bytes || len(r.real.places)+len(r.void.places) != count {
			t.Errorf("%d removals of %d bytes, counted %d and %d", count, bytes, r.real.bytes, r.void.bytes)
		}
		if !remembered["was/there"] || !remembered[fmt.Sprint(most-1, long)] || remembered[fmt.Sprint(0, long)] {
			t.Error("not those are remembered that are to be")
		}
		if n := len(journal.topics); n != 2 {
			t.Errorf("the journal heard of %d changes", n)
		}

		h.Learn(&Message{TopicName: "was/there", Payload: []byte("x"), Retain: true, Stamp: c.now.UnixNano() - 1})
		if n := len(retainedOf(h)); n != 0 {
			t.Error("a removed message has come back")
		}
		h.Elapse()
		if n := len(h.Removed()); n != count {
			t.Errorf("%d removals are left of %d at once", n, count)
		}
		c.now = c.now.Add(removedFor + 2e9)
		for range 1 + count/4096 {
			h.Elapse()
		}
		if n := len(h.Removed()); n != 0 || r.real.bytes+r.void.bytes != 0 {
			t.Errorf("%d removals of %d bytes are left an hour later", n, r.real.bytes+r.void.bytes)
		}
	}
}

// TestRemovalsOfMessages: removals of messages that were there are bounded, too, the newest
// are remembered, and a topic with a message has none.
func TestRemovalsOfMessages(t *testing.T) {
	t.Parallel()
	h, c := hubAt(Options{})
	h.Share(Sharing{Now: c.time})
	long := strings.Repeat("x", 60_000)
	most := 2 * removedBytes / len(long)
	for i := range most {
		retain(t, h, fmt.Sprint(i, long), "x")
		retain(t, h, fmt.Sprint(i, long), "")
	}
	all := h.Removed()
	if n := len(all); n == 0 || n*len(long) > removedBytes || all[n-1].TopicName != fmt.Sprint(most-1, long) {
		t.Errorf("%d removals are remembered", n)
	}
	for _, m := range all {
		retain(t, h, m.TopicName, "x")
	}
	if r := h.retained.removed; r.real.bytes != 0 || len(h.Removed()) != 0 {
		t.Errorf("%d bytes of removals for topics that have a message", r.real.bytes)
	}
}
