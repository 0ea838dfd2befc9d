package listener

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/heartline-mqtt/heartline/internal/workers"
)

// poller watches the sockets of connections that have no goroutine, and gives a turn to
// those that have something to read or whose client has been silent for too long. It
// watches a change once (EPOLLET), so that a turn needs no system call but its reads.
type poller struct {
	workers *workers.Workers
	fd      int
	wake    int // an eventfd that ends the loop
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
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	p := &poller{workers: workers.New(), fd: fd, wake: wake, conns: map[uint64]*Conn{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		_, _ = unix.Close(fd), unix.Close(wake)
		return nil, fmt.Errorf("epoll_ctl: %w", err)
	}
	p.running.Go(p.loop)
	p.running.Go(p.watchSilence)
	return p, nil
}

// close ends the poller. Its connections have ended.
func (p *poller) close() {
	p.cancel()
	_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	p.running.Wait()
	p.workers.Stop()
	_, _ = unix.Close(p.fd), unix.Close(p.wake)
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

func (p *poller) loop() {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(p.fd, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // no argument of ours can cause that
		}
		for i := range max(n, 0) {
			e := &events[i]
			id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			if id == 0 {
				return
			}
			p.mu.Lock()
			c := p.conns[id]
			p.mu.Unlock()
			if c == nil {
				continue
			}
			if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
				c.turns.hup.Store(true)
			}
			c.wake()
		}
	}
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
