package h2pool

import (
	"sync/atomic"
	"time"
)

// A connection that has gone silent must be found within seconds while requests wait
// for it, but an idle one need not be asked every few seconds. net/http knows one
// interval for both, so that it is set for idle connections (idlePing), and liveness
// asks when something was written that nothing has been read after.
const (
	idlePing     = time.Minute
	askAfter     = 3 * time.Second // nothing was read since the last write: send a PING
	answerWithin = 2 * time.Second // nothing was read since the PING: the connection is dead
	askAgain     = 10 * time.Millisecond
)

// ping is a PING frame (RFC 9113 §6.7). net/http ignores the acknowledgement of a PING
// that is not its own.
var ping = []byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 'h', 'l', 'a', 'l', 'i', 'v', 'e', '?'}

// liveness watches a connection. All but read is guarded by coalescingConn.mu.
type liveness struct {
	read    atomic.Int64 // when bytes were last read, since start
	start   time.Time
	frames  frameScanner
	first   time.Duration // when bytes were first written after the last read, since start
	written time.Duration // when bytes were last written, since start
	asked   time.Duration // when the last PING was written, since start; 0: none is open
	timer   *time.Timer   // nil: none yet
	armed   bool
}

func (l *liveness) since() time.Duration { return time.Since(l.start) }

// wroteLocked notes that b has been written and starts to watch for an answer.
func (c *coalescingConn) wroteLocked(b []byte) {
	l := &c.live
	l.frames.scan(b)
	now := max(l.since(), 1)
	if time.Duration(l.read.Load()) >= l.written {
		l.first = now
	}
	l.written = now
	if !l.armed {
		c.armLocked(askAfter)
	}
}

func (c *coalescingConn) armLocked(d time.Duration) {
	l := &c.live
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(d, c.checkLiveness)
		return
	}
	l.timer.Reset(d)
}

// checkLiveness is the timer's function.
func (c *coalescingConn) checkLiveness() {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.live
	l.armed = false
	if c.closed || c.err != nil {
		return
	}
	now, read := l.since(), time.Duration(l.read.Load())
	switch {
	case read >= l.written: // all that was written may have been answered
		l.asked = 0
	case l.asked > read: // not even the PING was answered
		if left := l.asked + answerWithin - now; left > 0 {
			c.armLocked(left)
			return
		}
		c.err = errSilent
		c.moved.Broadcast()
		_ = c.Conn.SetDeadline(time.Now()) // wakes the read loop, and a write
	case now < max(l.first, read)+askAfter:
		c.armLocked(max(l.first, read) + askAfter - now)
	case !l.frames.between():
		c.armLocked(askAgain)
	default:
		c.buf = append(c.buf, ping...)
		c.moved.Broadcast()
		l.asked = max(now, 1)
		l.written = l.asked
		c.armLocked(answerWithin)
	}
}

// frameScanner finds out where frames end in what net/http writes, because a PING may
// only stand between two, and not within a block of header frames.
type frameScanner struct {
	preface int // bytes of the connection preface seen
	header  [9]byte
	have    int  // bytes of header seen
	left    int  // bytes of the frame's payload still to come
	block   bool // a header block is not complete
}

const prefaceLength = 24 // "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	frameHeaders      = 0x1
	frameContinuation = 0x9
	flagEndHeaders    = 0x4
)

func (f *frameScanner) scan(b []byte) {
	if n := min(len(b), prefaceLength-f.preface); n > 0 {
		f.preface += n
		b = b[n:]
	}
	for len(b) > 0 {
		if f.left > 0 {
			n := min(len(b), f.left)
			f.left -= n
			b = b[n:]
			continue
		}
		n := copy(f.header[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < len(f.header) {
			return
		}
		f.have = 0
		f.left = int(f.header[0])<<16 | int(f.header[1])<<8 | int(f.header[2])
		if kind := f.header[3]; kind == frameHeaders || kind == frameContinuation {
			f.block = f.header[4]&flagEndHeaders == 0
		}
	}
}

// between reports whether another frame may follow.
func (f *frameScanner) between() bool {
	return f.preface == prefaceLength && f.have == 0 && f.left == 0 && !f.block
}
