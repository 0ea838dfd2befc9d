package simkit

import (
	"context"
	"errors"
	"sync"
)

// Journal keeps the received requests, in order, each entry under a key such as a device token. Its
// methods are safe for concurrent use.
type Journal[T any] struct {
	mu      sync.Mutex
	limit   int
	entries []entry[T]
	total   int
	byKey   map[string]int
	changed chan struct{} // closed at the next change
	closed  bool
}

type entry[T any] struct {
	key   string
	value T
}

// ErrClosed is the error of a wait that Close ended.
var ErrClosed = errors.New("the simulator is closed")

// NewJournal returns a journal of at most limit entries: the oldest are dropped first.
func NewJournal[T any](limit int) *Journal[T] {
	return &Journal[T]{limit: max(2, limit), byKey: map[string]int{}, changed: make(chan struct{})}
}

// Add appends what number makes of the entry's number, which counts from 1 since the
// start or the last Clear.
func (j *Journal[T]) Add(key string, number func(n int) T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.total++
	if len(j.entries) >= j.limit {
		// Half at a time, so that dropping costs nothing per entry.
		j.entries = append([]entry[T](nil), j.entries[len(j.entries)-j.limit/2:]...)
	}
	j.entries = append(j.entries, entry[T]{key, number(j.total)})
	j.byKey[key]++
	j.notifyLocked()
}

func (j *Journal[T]) notifyLocked() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// List returns the entries of a key, of all keys for "".
func (j *Journal[T]) List(key string) []T {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.listLocked(key)
}

func (j *Journal[T]) listLocked(key string) []T {
	out := make([]T, 0, len(j.entries))
	for _, e := range j.entries {
		if key == "" || e.key == key {
			out = append(out, e.value)
		}
	}
	return out
}

// Clear forgets every entry.
func (j *Journal[T]) Clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries, j.total, j.byKey = nil, 0, map[string]int{}
	j.notifyLocked()
}

// WaitFor returns the entries of a key (all for "") once n have come since the start or
// the last Clear. The error is that of ctx, or ErrClosed; the entries so far come with it.
func (j *Journal[T]) WaitFor(ctx context.Context, key string, n int) ([]T, error) {
	for {
		j.mu.Lock()
		have := j.total
		if key != "" {
			have = j.byKey[key]
		}
		if have >= n {
			defer j.mu.Unlock()
			return j.listLocked(key), nil
		}
		changed, closed := j.changed, j.closed
		got := j.listLocked(key)
		j.mu.Unlock()
		if closed {
			return got, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
}

// Close ends every wait.
func (j *Journal[T]) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.notifyLocked()
}
