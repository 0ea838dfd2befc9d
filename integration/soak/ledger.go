package main

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// ledger holds every notification of which the server still has to say how it ended.
// It learns the ends from a stream of all events, which is cut and resumed.
type ledger struct {
	delivered func(took time.Duration)

	mu       sync.Mutex
	entries  map[string]*entry
	accepted int // deliveries
	finished int
}

type entry struct {
	ack      string
	begun    time.Time
	due      time.Time // by which every delivery must have ended
	wanted   []string  // devices; nil: the answer has not come
	finished map[string]bool
	arrived  map[string]bool
}

func newLedger(delivered func(time.Duration)) *ledger {
	return &ledger{delivered: delivered, entries: map[string]*entry{}}
}

// opened records a notification that is about to be sent. Its events may come before
// its answer.
func (l *ledger) opened(id, ack string, ttl time.Duration) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id] = &entry{ack: ack, begun: now, due: now.Add(ttl + grace), finished: map[string]bool{}, arrived: map[string]bool{}}
}

// grace is how long after its TTL a delivery may need to end, and its event to arrive.
const grace = time.Minute

// took records the devices that the server accepted a notification for.
func (l *ledger) took(id string, devices []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[id]; e != nil {
		e.wanted = devices
		l.accepted += len(devices)
		l.closeLocked(id, e)
	}
}

// dropped forgets a notification: it was refused, erased, or its answer did not come.
func (l *ledger) dropped(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[id]; e != nil {
		l.accepted -= len(e.wanted)
		delete(l.entries, id)
	}
}

// ended takes an event of a timeline.
func (l *ledger) ended(id, device, event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil {
		return
	}
	switch event {
	case "received":
		if e.ack != "received" {
			return
		}
	case "displayed", "read", "expired", "superseded", "cancelled":
	default:
		return
	}
	e.finished[device] = true
	l.closeLocked(id, e)
}

func (l *ledger) closeLocked(id string, e *entry) {
	if e.wanted == nil || slices.ContainsFunc(e.wanted, func(d string) bool { return !e.finished[d] }) {
		return
	}
	l.finished += len(e.wanted)
	delete(l.entries, id)
}

// arrived measures how long a notification took to a device that has been subscribed
// since before it was sent.
func (l *ledger) arrived(id, device string, subscribed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil || e.arrived[device] {
		return
	}
	e.arrived[device] = true
	if subscribed.Before(e.begun) {
		l.delivered(time.Since(e.begun))
	}
}

// open returns the number of notifications without an end, and the IDs of those that
// should have one.
func (l *ledger) open() (n int, overdue []string) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range l.entries {
		if now.After(e.due) {
			overdue = append(overdue, id)
		}
	}
	slices.Sort(overdue)
	return len(l.entries), overdue
}

func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d deliveries accepted, %d of them with an end in the event stream", l.accepted, l.finished)
}

// tally counts by name.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	first  map[string]string
}

func newTally() *tally { return &tally{counts: map[string]int{}, first: map[string]string{}} }

func (t *tally) count(name string) { t.countWith(name, "") }

// countWith also keeps the detail of the first one.
func (t *tally) countWith(name, detail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[name]++; t.counts[name] == 1 {
		t.first[name] = detail
	}
}

func (t *tally) of(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[name]
}

// lines returns a line for each name.
func (t *tally) lines() (lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, n := range t.counts {
		line := fmt.Sprintf("%s: %d", name, n)
		if detail := t.first[name]; detail != "" {
			line += ", the first: " + detail
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}
