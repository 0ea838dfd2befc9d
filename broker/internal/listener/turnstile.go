package listener

import (
	"runtime"
	"sync"
	"time"
)

// turnstile bounds how many TLS handshakes compute at a time, so that thousands of devices
// that come back at once do not keep the processors from the devices that are
// connected. A handshake that waits for its client does not count. Those that go on after
// such a wait are first: a handshake that is nearly done must not time out behind those
// that begin.
type turnstile struct {
	mu     sync.Mutex
	free   int
	goesOn []chan struct{}
	begins []chan struct{}
}

// newTurnstile leaves one processor to everything else, if there are several.
func newTurnstile() *turnstile {
	return &turnstile{free: max(1, runtime.GOMAXPROCS(0)-1)}
}

// enter waits for a turn. It returns how long that took.
func (t *turnstile) enter(queue *[]chan struct{}) time.Duration {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return 0
	}
	turn := make(chan struct{})
	*queue = append(*queue, turn)
	t.mu.Unlock()
	begun := time.Now()
	<-turn
	return time.Since(begun)
}

// leave passes the turn on.
func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, queue := range []*[]chan struct{}{&t.goesOn, &t.begins} {
		if q := *queue; len(q) > 0 {
			close(q[0])
			q[0] = nil
			if *queue = q[1:]; len(q) == 1 {
				*queue = nil
			}
			return
		}
	}
	t.free++
}

// handshaking is the connection under a tls.Conn. During the handshake it gives its turn up
// while it waits for the client. Time in the queue moves the client's deadline.
type handshaking struct {
	*sender
	turns    *turnstile
	over     bool
	deadline time.Time // for reads, until over
}

func (h *handshaking) Read(p []byte) (int, error) {
	if h.over {
		return h.sender.Read(p)
	}
	h.turns.leave()
	n, err := h.sender.Read(p)
	h.waited(h.turns.enter(&h.turns.goesOn))
	return n, err
}

// waited moves the deadline: the client is not to blame for that time.
func (h *handshaking) waited(d time.Duration) {
	if d > 0 {
		h.deadline = h.deadline.Add(d)
		_ = h.sender.SetReadDeadline(h.deadline)
	}
}
