package hooks

import (
	"sync"
	"time"
)

// stalled are the connections that hold a publication because the store, which is
// being reopened, cannot read its content.
type stalled struct {
	hook  *Hook
	mu    sync.Mutex
	conns []*conn
}

// stallRetry is the time between two tries.
const stallRetry = 50 * time.Millisecond

func (s *stalled) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns = append(s.conns, c); len(s.conns) == 1 {
		s.hook.workers.Start(s.hook.ctx, s.resume)
	}
}

// resume tries again. At the end of the hook their queues are closed, and empty.
func (s *stalled) resume() {
	select {
	case <-time.After(stallRetry):
	case <-s.hook.ctx.Done():
	}
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, c := range conns {
		s.hook.workers.Start(s.hook.ctx, c.drain)
	}
}
