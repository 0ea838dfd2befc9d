package listener

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heartline-mqtt/heartline/internal/workers"
)

// poller watches the sockets of connections that have no goroutine. It reads from those
// that have something to read, and gives a turn to those whose client has been silent for
// too long. It watches a change once (EPOLLET), so that a turn needs no system call but
// its reads.
type poller struct {
	workers *workers.Workers
	fd      int
	epoll   *os.File        // fd
	raw     syscall.RawConn // of epoll
	running sync.WaitGroup
	ctx     context.Context // ends in close
	cancel  context.CancelFunc

	mu    sync.Mutex
	conns map[uint64]*Conn
	last  uint64 // never given twice: a descriptor's number is
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	// The loops wait in Go's own poller, which can watch an epoll descriptor like any other
	// that does not block. A thread that blocks in epoll_wait keeps the scheduler's monitor
	// awake, and its return has to wait for a processor.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll descriptor: %w", err)
	}
	p := &poller{workers: workers.New(), fd: fd, epoll: os.NewFile(uintptr(fd), "epoll"), conns: map[uint64]*Conn{}}
	if p.raw, err = p.epoll.SyscallConn(); err != nil {
		_ = p.epoll.Close()
		return nil, fmt.Errorf("epoll descriptor: %w", err)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		p.running.Go(p.loop)
	}
	p.running.Go(p.watchSilence)
	return p, nil
}

// close ends the poller. Its connections have ended.
func (p *poller) close() {
	p.cancel()
	_ = p.epoll.Close() // ends the loops
	p.running.Wait()
	p.workers.Stop()
}

// add gives the connection turns from now on, at once if there is something to read.
func (p *poller) add(c *Conn) error {
	p.mu.Lock()
	p.last++
	id := p.last
	c.turns.id = id
	p.conns[id] = c
	p.mu.Unlock()
	var err error
	ctl := c.base.raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(id), Pad: int32(id >> 32),
		})
	})
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("watch the connection: %w", err)
	}
	return nil
}

// remove forgets a connection. The system stops watching when its socket is closed.
func (p *poller) remove(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c.turns.id)
}

// eventsTogether is how many events are taken at a time.
const eventsTogether = 64

// loop serves the sockets that have something to read. Each loop takes events that no
// other gets.
func (p *poller) loop() {
	var (
		events [eventsTogether]unix.EpollEvent
		ready  []*Conn // this loop has their turns
		again  []*Conn
		n      int
		err    error
	)
	r := readings.Get().(*reading)
	defer readings.Put(r)
	// One closure for all calls: it would be an allocation each.
	look := func(fd uintptr) { n, err = unix.EpollWait(int(fd), events[:], 0) }
	wait := func(fd uintptr) bool {
		look(fd)
		return n > 0 || err != nil
	}
	for {
		n, err = 0, nil
		var closed error
		if len(again) > 0 { // not behind another loop, which may wait for long
			closed = p.raw.Control(look)
		} else {
			closed = p.raw.Read(wait)
		}
		if closed != nil {
			return
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // no argument of ours can cause that
		}
		ready = p.take(events[:max(n, 0)], append(ready[:0], again...))
		again = again[:0]
		for _, c := range ready {
			if c.front.promptTurn(c, r) {
				again = append(again, c)
			}
		}
		clear(ready)
		runtime.Gosched() // after each batch: others want the processor, too
	}
}

// take appends the connections of events to ready, as far as nobody has their turn.
func (p *poller) take(events []unix.EpollEvent, ready []*Conn) []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range events {
		e := &events[i]
		c := p.conns[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
		if c == nil {
			continue
		}
		if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			c.turns.hup.Store(true)
		}
		if c.turns.state.CompareAndSwap(turnFree, turnTaken) {
			ready = append(ready, c)
		} else {
			c.wake()
		}
	}
	return ready
}

// silenceInterval is how often the keepalives are looked at.
const silenceInterval = 500 * time.Millisecond

func (p *poller) watchSilence() {
	tick := time.NewTicker(silenceInterval)
	defer tick.Stop()
	var silent []*Conn
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
			now := uptime()
			p.mu.Lock()
			for _, c := range p.conns {
				if due := c.turns.due.Load(); due != 0 && due < now {
					silent = append(silent, c)
				}
			}
			p.mu.Unlock()
			for _, c := range silent {
				c.wake()
			}
			clear(silent)
			silent = silent[:0]
		}
	}
}
