package listener

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks/strict"
	"github.com/heartline-mqtt/heartline/internal/rlimit"
	"github.com/heartline-mqtt/heartline/internal/seldom"
)

// front is what every front is: it takes connections in, brings them to mochi,
// and sees them off.
type front struct {
	options Options
	log     *slog.Logger
	stats   stats
	poller  *poller // nil: a connection has a goroutine
	cutLog  pace
	// proxyLog limits what unproxied logs.
	proxyLog seldom.Log

	mu        sync.Mutex
	conns     map[*Conn]struct{}
	establish listeners.EstablishFn
	closed    bool
	refusing  bool           // Refuse has been called
	wg        sync.WaitGroup // a goroutine a connection
	serving   chan struct{}  // closed when connections get through to mochi
	done      chan struct{}  // closed when Close begins
	stopped   chan struct{}  // closed when it has ended
}

func newFront(o Options, id string) front {
	return front{
		options: o.withDefaults(id),
		log:     slog.New(slog.DiscardHandler),
		conns:   make(map[*Conn]struct{}),
		serving: make(chan struct{}),
		done:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
}

// ID implements mochi's listeners.Listener.
func (f *front) ID() string { return f.options.ID }

var errClosing = errors.New("listener is closed")

// admit asks the Gate for a place, and counts a refusal.
func (f *front) admit(addr netip.Prefix) error {
	evict, err := f.options.Gate.admit(addr)
	f.evict(evict)
	switch {
	case errors.Is(err, errFull):
		f.stats.refusedFull.Add(1)
		if f.stats.fullTold.due() {
			f.log.Warn("connections refused: there are as many as are allowed, or as there are file descriptors for",
				"listener", f.ID(), "limit", f.options.Gate.limits.Connections, "file_descriptors", rlimit.OpenFiles())
		}
	case errors.Is(err, errAddressFull):
		f.stats.refusedAddress.Add(1)
	}
	return err
}

// take admits a socket that has reserved its place. The caller must pass the result to
// run. If the front is closing, take releases the place.
func (f *front) take(socket net.Conn, addr netip.Prefix) (*Conn, error) {
	c := &Conn{front: f, remote: socket.RemoteAddr(), addr: addr, since: time.Now()}
	c.base = newSender(socket, f.options.WriteTimeout, 4*f.options.WriteQueue, func(err error) { f.cut(c, err) })
	c.stream = c.base
	c.base.onClosed = c.wake

	f.mu.Lock()
	if f.closed || f.refusing {
		f.mu.Unlock()
		f.options.Gate.leave(c.addr)
		_ = socket.Close()
		return nil, errClosing
	}
	f.conns[c] = struct{}{}
	f.wg.Add(1)
	f.mu.Unlock()

	f.stats.accepted.Add(1)
	f.stats.pending.Add(1)
	f.evict(f.options.Gate.await(c))
	return c, nil
}

// cut counts a peer that its sender gave up.
func (f *front) cut(c *Conn, err error) {
	if errors.Is(err, ErrSlow) || errors.Is(err, ErrStuck) {
		f.cutOff(c, "client cut off", "error", err)
	}
	switch {
	case errors.Is(err, ErrSlow):
		f.stats.slowConsumers.Add(1)
	case errors.Is(err, ErrStuck):
		f.stats.writeTimeouts.Add(1)
	}
}

// takeLog takes mochi's log, unless there is one of the options.
func (f *front) takeLog(log *slog.Logger) {
	if f.options.Logger != nil {
		log = f.options.Logger
	}
	if log != nil {
		f.log = log
	}
}

// cutOff logs why a client was cut off. Clients can bring that about as often as they
// like: it is a record a second, after the first few, and each tells how many there were
// none for.
func (f *front) cutOff(c *Conn, what string, args ...any) {
	if missed, ok := f.cutLog.next(time.Now()); ok {
		f.log.Info(what, append([]any{"listener", f.ID(), "remote", c.remote.String(), "not_logged", missed}, args...)...)
	}
}

// pace lets a burst of records through, and one a second after it.
type pace struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
	missed int
}

const paceBurst = 10

func (p *pace) next(now time.Time) (missed int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() {
		p.tokens = paceBurst
	}
	p.tokens, p.last = min(paceBurst, p.tokens+now.Sub(p.last).Seconds()), now
	if p.tokens < 1 {
		p.missed++
		return 0, false
	}
	p.tokens--
	missed, p.missed = p.missed, 0
	return missed, true
}

// evict closes a connection that the Gate has given up. It may be another
// front's.
func (f *front) evict(c *Conn) bool {
	if c == nil {
		return false
	}
	c.front.stats.evicted.Add(1)
	c.abort()
	return true
}

// run is the life of a connection. prepare sets up the layers between the socket and
// MQTT.
func (f *front) run(c *Conn, prepare func(*Conn) error) {
	if f.greet(c, prepare) {
		if f.attach(c) {
			return
		}
		f.serve(c)
	}
	f.seeOff(c)
}

func (f *front) seeOff(c *Conn) {
	defer f.wg.Done()
	defer f.forget(c)
	c.depart()
}

func (f *front) forget(c *Conn) {
	f.options.Gate.release(c)
	f.options.Gate.leave(c.addr)
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}

// greet waits for the CONNECT, until ConnectTimeout after the connection was
// accepted and no matter how many bytes arrive. It reports whether mochi is to be
// given the connection.
func (f *front) greet(c *Conn, prepare func(*Conn) error) bool {
	defer f.stats.pending.Add(-1)
	defer f.options.Gate.arrived(c)
	_ = c.base.SetReadDeadline(c.since.Add(f.options.ConnectTimeout))
	if err := prepare(c); err != nil {
		return false
	}
	err := c.in.ReadConnect(func(size int) bool {
		evict, ok := f.options.Gate.reserve(c, size)
		for _, e := range evict {
			f.evict(e)
		}
		return ok
	})
	if err == nil {
		return true
	}
	if v := new(strict.Violation); errors.As(err, &v) {
		c.violated(v)
	} else if timedOut(err) && !c.closed.Load() {
		f.stats.connectTimeouts.Add(1)
	}
	return false
}

func timedOut(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// serve has mochi serve the connection until it ends. mochi recovers no panic,
// and one would be the end of the process.
func (f *front) serve(c *Conn) {
	defer func() {
		if r := recover(); r != nil {
			f.panicked(c, r, nil)
		}
	}()
	f.stats.established.Add(1)
	c.given.Store(true)
	if f.isClosed() {
		return // Close has passed over this one, or will
	}
	if err := f.establish(f.ID(), c); err != nil {
		f.log.Debug("connection ended", "listener", f.ID(), "remote", c.remote.String(), "error", err)
	}
}

// panicked reports a panic that has been recovered. stack is where it was, nil: here.
func (f *front) panicked(c *Conn, r any, stack []byte) {
	packet := c.in.LastPacket()
	if f.stats.panicked(packet) {
		if stack == nil {
			stack = debug.Stack()
		}
		f.log.Error("panic under a connection, which has been closed; further ones with this packet are only counted",
			"listener", f.ID(), "remote", c.remote.String(), "packet", strict.PacketName(packet), "panic", r, "stack", string(stack))
	}
	if f.options.OnPanic != nil {
		f.options.OnPanic(c)
	}
}

// start takes mochi's callback. It reports whether the front may serve: once, and not
// after Close.
func (f *front) start(establish listeners.EstablishFn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.establish != nil {
		return false
	}
	f.establish = establish
	close(f.serving)
	return true
}

func (f *front) started() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.establish != nil
}

// stop ends every connection and waits for it. stopAccepting is called first.
//
// What mochi gives a listener for this is not called. It takes a read lock, and
// takes it again (Clients.GetByListener, Len): a client that comes or goes in
// between, through any listener, locks the server up for ever. stop does the same
// work here, for the connections that mochi does not know of too.
func (f *front) stop(stopAccepting func()) {
	f.mu.Lock()
	again := f.closed
	f.closed = true
	f.mu.Unlock()
	if again {
		<-f.stopped
		return
	}
	defer close(f.stopped)
	close(f.done)
	stopAccepting()
	f.each((*Conn).takeLeave)

	ended := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(ended)
	}()
	// Time for a DISCONNECT to be taken; then not even for that.
	for _, patience := range []time.Duration{linger / 4, f.options.CloseTimeout} {
		t := time.NewTimer(patience)
		select {
		case <-ended:
			t.Stop()
			if f.poller != nil {
				f.poller.close()
			}
			return
		case <-t.C:
			f.each((*Conn).abort)
		}
	}
	f.mu.Lock()
	n := len(f.conns)
	f.mu.Unlock()
	f.log.Error("connections still being served after the listener was closed", "listener", f.ID(), "connections", n)
}

// KickIf ends the connections that match, of those that mochi serves.
func (f *front) KickIf(match func(*Conn) bool, code packets.Code) (n int) {
	f.each(func(c *Conn) {
		if c.given.Load() && match(c) {
			n++
			c.Kick(code)
		}
	})
	return n
}

// Shed ends up to n connections, no matter which: one that mochi serves as Kick does, one
// that has not sent its CONNECT without a word. left is the number of the others.
func (f *front) Shed(n int, code packets.Code) (ended, left int) {
	f.each(func(c *Conn) {
		switch {
		case c.closed.Load(): // it is on its way out
		case ended >= n:
			left++
		case c.given.Load():
			ended++
			c.kick(code)
		default:
			ended++
			c.abort()
		}
	})
	return ended, left
}

// refuse has take refuse connections from now on.
func (f *front) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusing = true
}

func (f *front) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *front) accepts() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.closed && !f.refusing
}

func (f *front) each(do func(*Conn)) {
	f.mu.Lock()
	conns := make([]*Conn, 0, len(f.conns))
	for c := range f.conns {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}
