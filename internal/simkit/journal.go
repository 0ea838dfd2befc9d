package simkit

import (
	"context"
	"errors"
	"sync"
)

// Journal keeps the received requests, in order, each entry under a key such as a device token. Its
// methods are safe for concurrent use.
type Journal[T any] struct {
	// Fold makes one key of several that mean the same; nil: none do. Set it before use.
	Fold func(key string) string

	mu      sync.Mutex
	limit   int
	entries []entry[T]
	total   int
	byKey   map[string]int
	changed chan struct{} // closed at the next change, if anybody waits
	waiting int
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
	key = j.fold(key)
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

func (j *Journal[T]) fold(key string) string {
	if j.Fold == nil {
		return key
	}
	return j.Fold(key)
}

func (j *Journal[T]) notifyLocked() {
	if j.waiting == 0 {
		return
	}
	j.waiting = 0
	close(j.changed)
	j.changed = make(chan struct{})
}

// List returns the entries of a key, of all keys for "".
func (j *Journal[T]) List(key string) []T {
	key = j.fold(key)
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
	key = j.fold(key)
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.countLocked(key) < n {
		if j.closed {
			return j.listLocked(key), ErrClosed
		}
		changed := j.changed
		j.waiting++
		j.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		j.mu.Lock()
		if err != nil && j.countLocked(key) < n {
			return j.listLocked(key), err
		}
	}
	return j.listLocked(key), nil
}

func (j *Journal[T]) countLocked(key string) int {
	if key == "" {
		return j.total
	}
	return j.byKey[key]
}

// Close ends every wait.
func (j *Journal[T]) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.notifyLocked()
}
