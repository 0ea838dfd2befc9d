package fallback

import (
	"os"
	"sync"
	"time"
)

// looker sees to it that the network is looked at while requests are made. As long
// as there is something to run, Go's scheduler asks the operating system only every
// 10 ms what has come for those who wait, and a storm of pushes has always
// something to run: acks over the channel would be late. A byte through a pipe
// comes back when it has asked. Requests go on meanwhile, but not for long.
type looker struct {
	mu     sync.Mutex
	pipe   *pipe     // from the first request on
	began  time.Time // the last look
	away   bool      // the byte has not been seen to come back
	closed bool
}

// lookEvery is how often the network is to be looked at.
const lookEvery = time.Millisecond

type pipe struct {
	r, w *os.File
	came chan struct{} // the byte; closed at the end
}

// look is called before a request is made, and waits if the last look is overdue.
func (l *looker) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || time.Since(l.began) < lookEvery {
		return
	}
	if l.pipe == nil {
		r, w, err := os.Pipe()
		if err != nil {
			l.began = time.Now()
			return // no file descriptor is left for what is only a courtesy
		}
		l.pipe = &pipe{r: r, w: w, came: make(chan struct{}, 1)}
		go l.pipe.read()
	}
	if l.away {
		<-l.pipe.came
	}
	_, err := l.pipe.w.Write([]byte{0})
	l.began, l.away = time.Now(), err == nil
}

func (p *pipe) read() {
	defer close(p.came)
	b := make([]byte, 1)
	for {
		if _, err := p.r.Read(b); err != nil {
			_ = p.r.Close() // its other end is closed
			return
		}
		p.came <- struct{}{}
	}
}

// close returns when nothing of the looker is left. No look comes after it.
func (l *looker) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.pipe == nil {
		return
	}
	_ = l.pipe.w.Close()
	for range l.pipe.came {
	}
}
