package xmpp

import (
	"context"
	"errors"
	"sync"
)

const (
	workers = 256 // goroutines that wait for the store: it writes what they ask for with one sync
	// maxCalls bounds the calls that wait for a worker, maxLane those of one key.
	maxCalls = 100_000
	maxLane  = maxJoined
)

var errBusy = errors.New("too many requests wait for the store")

// lanes run the calls that may wait for the store: those of one key, an account or a push
// node, in their order and one at a time, those of others at the same time. A read that
// is slow for one account does not hold up the next account, nor the reader of the
// stream, which takes everybody's acks. Workers are started on demand and end when
// nothing waits.
type lanes struct {
	ctx   context.Context //nolint:containedctx // of the gate: after Stop no further call is run
	tasks *sync.WaitGroup // of the gate; a caller of put is one of them

	mu      sync.Mutex
	waiting map[string]*lane
	ready   []*lane // that no worker has
	calls   int     // in all lanes
	running int     // workers
}

// lane holds the calls of one key.
type lane struct {
	key   string
	calls []func()
}

// put adds a call and returns at once: false if there is no room for it.
func (l *lanes) put(key string, fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.waiting[key]
	if l.calls >= maxCalls || a != nil && len(a.calls) >= maxLane {
		return false
	}
	if a == nil {
		a = &lane{key: key}
		l.waiting[key] = a
		l.ready = append(l.ready, a)
	}
	a.calls = append(a.calls, fn)
	l.calls++
	if l.running < workers && len(l.ready) > 0 {
		l.running++
		l.tasks.Go(l.work)
	}
	return true
}

// waits returns how many calls wait for a worker.
func (l *lanes) waits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// do runs a call in its lane and waits for it.
func (l *lanes) do(key string, fn func() error) error {
	done := make(chan error, 1)
	if !l.put(key, func() { done <- fn() }) {
		return errBusy
	}
	select {
	case err := <-done:
		return err
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// work runs calls until none is left, one of each lane in turn.
func (l *lanes) work() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ready) > 0 {
		a := l.ready[0]
		l.ready = l.ready[1:]
		fn := a.calls[0]
		a.calls = a.calls[1:]
		l.calls--
		l.mu.Unlock()
		if l.ctx.Err() == nil {
			fn()
		}
		l.mu.Lock()
		if len(a.calls) > 0 {
			l.ready = append(l.ready, a)
		} else {
			delete(l.waiting, a.key)
		}
	}
	l.running--
}
