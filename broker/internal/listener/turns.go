package listener

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A connection of a Listener with Options.Sessions has no goroutine while its client is
// silent. When there is something to read, the poller's goroutine reads it, and handles
// the packets that need no waiting: see Prompter. With any other packet, and when it is to
// end, the connection gets a turn on a worker: one at a time, until there is nothing more
// to read. A handler may wait there; that holds up its own connection alone.

// turns is what a connection needs to have turns.
type turns struct {
	state   atomic.Int32
	hup     atomic.Bool  // the peer has closed its side, or there was an error
	due     atomic.Int64 // when the client has been silent for too long, by uptime; 0: never
	id      uint64       // the poller's
	session session
	task    func()
	partial []byte // the beginning of a packet that is larger than a buffer
	left    bool   // partial holds whole packets that the poller has left to a worker
	slow    bool   // the last packet was not for the prompter: a worker reads the next
	fault   *fault // a panic on the poller's goroutine; nil: none
}

// fault is a panic that was recovered where it could not be dealt with.
type fault struct {
	value any
	stack []byte
}

const (
	turnsUnused int32 = iota // the connection has a goroutine
	turnFree                 // the poller watches it
	turnTaken                // a worker has it, or the poller's goroutine
	turnAgain                // the same, and something has happened since
	turnsOver
)

// wake gives the connection a turn, if it has any. It does not block.
func (c *Conn) wake() {
	for {
		switch c.turns.state.Load() {
		case turnFree:
			if c.turns.state.CompareAndSwap(turnFree, turnTaken) {
				c.front.poller.workers.Start(c.front.poller.ctx, c.turns.task)
				return
			}
		case turnTaken:
			if c.turns.state.CompareAndSwap(turnTaken, turnAgain) {
				return
			}
		default:
			return
		}
	}
}

// attach begins the session of a client whose CONNECT has been read. The connection has
// its first turn on this goroutine. It reports false if the connection needs a goroutine.
func (f *front) attach(c *Conn) bool {
	if f.poller == nil {
		return false
	}
	if c.base.raw = rawOf(c.base.Conn); c.base.raw == nil {
		return false
	}
	f.stats.established.Add(1)
	c.turns.session.Sessions = f.options.Sessions
	c.turns.task = func() { f.turn(c) }
	c.turns.state.Store(turnTaken)
	c.given.Store(true)
	c.in.SetSource((*source)(c))
	_ = c.SetReadDeadline(time.Time{}) // that of the CONNECT; Close may have come first
	f.turn(c)
	return true
}

// promptReads is how often a connection is read on the poller's goroutine before the
// others have their turn.
const promptReads = 4

// promptTurn reads on the poller's goroutine, and gives the connection a turn on a worker
// where there is anything to do that may wait. The caller has taken the turn. again: the
// client has sent more than is read at a time, and the caller still has the turn.
func (f *front) promptTurn(c *Conn, r *reading) (again bool) {
	more, ok := f.promptRead(c, r)
	switch {
	case !ok:
		f.poller.workers.Start(f.poller.ctx, c.turns.task)
		return false
	case more:
		return true
	case c.turns.state.CompareAndSwap(turnTaken, turnFree):
		return false
	}
	c.turns.state.Store(turnTaken) // something has happened meanwhile
	return true
}

// promptRead reads and handles packets. ok is false where a worker has to go on:
// turns.partial then holds the packets that are not handled, and the next Read returns an
// error again.
func (f *front) promptRead(c *Conn, r *reading) (more, ok bool) {
	s := &c.turns.session
	if s.prompt == nil || c.turns.slow {
		return false, false
	}
	c.base.reading = r
	defer func() {
		c.base.reading = nil
		if p := recover(); p != nil {
			ok, c.turns.fault = false, &fault{p, debug.Stack()}
		}
	}()
	for range promptReads {
		if s.client.Closed() {
			return false, false
		}
		r.drained = false // Read may find what was read before
		n, err := c.Read(r.buffer)
		if n > 0 && !c.promptHandle(r.buffer[:n]) || err != nil {
			return false, false
		}
		if n == 0 || c.drained(r) {
			return false, true
		}
	}
	return true, true
}

// drained reports whether the socket is empty, so that more bytes wake the connection.
func (c *Conn) drained(r *reading) bool {
	return r.drained && !c.turns.hup.Load() && c.stream == io.ReadWriter(c.base) && !c.in.Pending()
}

// promptHandle is handle for packets that need no waiting. It reports false if there is a
// packet for a worker.
func (c *Conn) promptHandle(b []byte) (ok bool) {
	t, s := &c.turns, &c.turns.session
	if len(t.partial) > 0 {
		t.partial = append(t.partial, b...)
		b = t.partial
	}
	var handled, publishes, bytes int64
	ok = true
	for len(b) > 1 {
		size, n := binary.Uvarint(b[1:])
		end := 1 + n + int(size)
		if n <= 0 || end > len(b) {
			break
		}
		if ok = s.prompt(b[:end]); !ok {
			t.slow = true
			break
		}
		handled++
		bytes += int64(end)
		if b[0]>>4 == packets.Publish {
			publishes++
		}
		b = b[end:]
		if ok = !s.client.Closed(); !ok {
			break
		}
	}
	switch {
	case len(b) == 0:
		t.partial = nil
	case handled > 0 || len(t.partial) == 0:
		t.partial = append([]byte(nil), b...)
	}
	t.left = !ok
	if handled > 0 {
		s.received(handled, publishes, bytes)
		c.alive()
	}
	return ok
}

// turn runs a turn of a connection. After the last it ends the connection.
func (f *front) turn(c *Conn) {
	r := readings.Get().(*reading)
	defer readings.Put(r)
	for {
		over, err := f.serveTurn(c, r)
		if over {
			c.turns.state.Store(turnsOver)
			f.poller.remove(c)
			c.turns.session.end(err)
			f.log.Debug("connection ended", "listener", f.ID(), "remote", c.remote.String(), "error", err)
			f.seeOff(c)
			return
		}
		if c.turns.state.CompareAndSwap(turnTaken, turnFree) {
			return
		}
		c.turns.state.Store(turnTaken) // something has happened meanwhile
	}
}

// serveTurn reads and handles what there is. mochi recovers no panic, and one would be
// the end of the process.
func (f *front) serveTurn(c *Conn, r *reading) (over bool, err error) {
	c.base.reading = r
	defer func() {
		c.base.reading = nil
		if p := recover(); p != nil {
			over, c.turns.session.up = true, false
			f.panicked(c, p, nil)
		}
	}()
	if f.isClosed() && c.turns.session.client == nil {
		return true, nil
	}
	if x := c.turns.fault; x != nil {
		c.turns.session.up = false
		f.panicked(c, x.value, x.stack)
		return true, nil
	}
	if c.turns.left {
		c.turns.left = false
		if !c.turns.session.client.Closed() {
			if err := c.handle(nil); err != nil {
				return true, err
			}
		}
	}
	for {
		if cl := c.turns.session.client; cl != nil && cl.Closed() {
			return true, nil
		}
		r.drained = false // Read may find what was read before
		n, err := c.Read(r.buffer)
		if n > 0 {
			if err := c.handle(r.buffer[:n]); err != nil {
				return true, err
			}
		}
		switch {
		case err != nil:
			return true, err
		case n == 0:
			if due := c.turns.due.Load(); due != 0 && uptime() > due {
				return true, os.ErrDeadlineExceeded // [MQTT-3.1.2-22]
			}
			return false, nil
		case c.drained(r):
			return false, nil
		}
		runtime.Gosched() // after each buffer: others have something to read, too
	}
}

// handle takes bytes of the client, which are MQTT as far as hooks/strict can tell.
func (c *Conn) handle(b []byte) error {
	whole := false
	if len(c.turns.partial) > 0 {
		c.turns.partial = append(c.turns.partial, b...)
		b = c.turns.partial
	}
	for len(b) > 1 {
		size, n := binary.Uvarint(b[1:])
		end := 1 + n + int(size)
		if n <= 0 || end > len(b) {
			break
		}
		if err := c.packet(b[:end]); err != nil {
			return err
		}
		b, whole = b[end:], true
		if c.turns.session.client.Closed() {
			return nil
		}
	}
	switch {
	case len(b) == 0:
		c.turns.partial = nil
	case whole || len(c.turns.partial) == 0:
		c.turns.partial = append([]byte(nil), b...)
	}
	if whole {
		c.alive()
	}
	return nil
}

func (c *Conn) packet(b []byte) error {
	s := &c.turns.session
	if s.client != nil {
		if s.prompt != nil {
			if c.turns.slow = !s.prompt(b); !c.turns.slow {
				publishes := 0
				if b[0]>>4 == packets.Publish {
					publishes = 1
				}
				s.received(1, int64(publishes), int64(len(b)))
				return nil
			}
		}
		return s.packet(b)
	}
	if err := s.begin(c, b); err != nil {
		return err
	}
	return c.front.poller.add(c)
}

// alive notes that the client has been heard of.
func (c *Conn) alive() {
	if c.turns.session.client == nil {
		return // its CONNECT has not been handled
	}
	if k := c.turns.session.keepalive(); k > 0 {
		c.turns.due.Store(uptime() + int64(k))
	}
}

var started = time.Now()

// uptime is the time since the process started, in ns. The wall clock may be set
// meanwhile: a step of an hour must not end every connection.
func uptime() int64 { return int64(time.Since(started)) }

// source is what the client sends, without waiting for it.
type source Conn

func (s *source) Read(p []byte) (int, error) {
	c := (*Conn)(s)
	n, err := c.stream.Read(p)
	if errors.Is(err, errNothing) {
		err = nil
	}
	if c.progresses(n) {
		c.alive()
	}
	return n, err
}

// reading is one read that does not wait. A worker has one for all its turns.
type reading struct {
	buffer  []byte
	drained bool // the last read has emptied the socket

	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool
}

// readBuffer is how much is read with one system call.
const readBuffer = 16 << 10

var readings = sync.Pool{New: func() any {
	r := &reading{buffer: make([]byte, readBuffer)}
	r.once = func(fd uintptr) bool {
		r.n, r.err = readNow(fd, r.p)
		return true // never wait for the socket
	}
	return r
}}

func (r *reading) read(raw syscall.RawConn, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.p, r.n, r.err = p, 0, nil
	err := raw.Read(r.once)
	r.p, r.drained = nil, r.n < len(p)
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, r.err
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// errNothing is the error of a read that would have to wait. crypto/tls goes on after an
// error that is temporary.
var errNothing error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read at the moment" }
func (nothing) Timeout() bool   { return false }
func (nothing) Temporary() bool { return true }
