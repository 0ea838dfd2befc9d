package h2pool

import (
	"os"
	"sync"
	"time"
)

// Netpoller makes the runtime poll the network at least every pollEvery while pushes
// are sent. As long as a goroutine is runnable, Go's scheduler asks the operating
// system only every 10 ms which connections are ready. A storm of pushes always has a
// runnable goroutine, so acks over the channel would be late. Poll writes a byte to a
// pipe; the byte comes back when the runtime has polled. Until then at most one
// interval of requests goes on.
//
// The zero value is ready to use.
type Netpoller struct {
	mu     sync.Mutex
	pipe   *pipe     // nil before the first Poll
	began  time.Time // when the last byte was written
	away   bool      // the last byte has not been received back
	closed bool
}

// pollEvery is the longest time between two polls of the network.
const pollEvery = time.Millisecond

type pipe struct {
	r, w *os.File
	came chan struct{} // one value per byte received; closed with the pipe
}

// Poll is called before each request. It blocks while the last poll is overdue.
func (n *Netpoller) Poll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || time.Since(n.began) < pollEvery {
		return
	}
	if n.pipe == nil {
		r, w, err := os.Pipe()
		if err != nil {
			n.began = time.Now()
			return // no file descriptor is left; pushes go on without it
		}
		n.pipe = &pipe{r: r, w: w, came: make(chan struct{}, 1)}
		go n.pipe.read()
	}
	if n.away {
		<-n.pipe.came
	}
	_, err := n.pipe.w.Write([]byte{0})
	n.began, n.away = time.Now(), err == nil
}

func (p *pipe) read() {
	defer close(p.came)
	b := make([]byte, 1)
	for {
		if _, err := p.r.Read(b); err != nil {
			_ = p.r.Close() // the write end is closed
			return
		}
		p.came <- struct{}{}
	}
}

// Close ends the goroutine and waits for it. Poll does nothing afterwards.
func (n *Netpoller) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.pipe == nil {
		return
	}
	_ = n.pipe.w.Close()
	for range n.pipe.came {
	}
}
