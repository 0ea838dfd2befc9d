package testtool

import (
	"context"
	"sync"
)

// Deadline returns a context whose deadline is exceeded when pass is called: on a busy machine
// no real one leaves enough time for the events before it.
func Deadline() (ctx context.Context, pass func()) {
	d := &deadline{Context: context.Background(), passed: make(chan struct{})}
	return d, sync.OnceFunc(func() { close(d.passed) })
}

type deadline struct {
	context.Context
	passed chan struct{}
}

func (d *deadline) Done() <-chan struct{} { return d.passed }

func (d *deadline) Err() error {
	select {
	case <-d.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
