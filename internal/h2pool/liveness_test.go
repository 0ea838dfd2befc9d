package h2pool

import (
	"bytes"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// request is what net/http writes for one: preface, then HEADERS and DATA.
var request = append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
	0, 0, 2, frameHeaders, flagEndHeaders, 0, 0, 0, 1, 'h', 'h',
	0, 0, 3, 0, 1, 0, 0, 0, 1, 'd', 'd', 'd')

// peer reads all that is written to a net.Pipe, and answers if it is told to.
type peer struct {
	net.Conn
	mu    sync.Mutex
	got   []byte
	pings int
	deaf  bool
}

func (p *peer) run() {
	b := make([]byte, 1024)
	for {
		n, err := p.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.got = append(p.got, b[:n]...)
		pings := bytes.Count(b[:n], ping)
		p.pings += pings
		deaf := p.deaf
		p.mu.Unlock()
		if pings > 0 && !deaf {
			_, _ = p.Write([]byte("an acknowledgement"))
		}
	}
}

func (p *peer) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pings
}

func newPeer() (*coalescingConn, *peer) {
	ours, theirs := net.Pipe()
	c, p := coalesce(ours), &peer{Conn: theirs}
	go p.run()
	return c, p
}

func readAll(c net.Conn, failed chan<- error) {
	b := make([]byte, 64)
	for {
		if _, err := c.Read(b); err != nil {
			failed <- err
			return
		}
	}
}

// TestIdleConnectionIsNotAsked again and again: once when a write was not followed by a
// read, then never until the next write.
func TestIdleConnectionIsNotAsked(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		c, p := newPeer()
		failed := make(chan error, 1)
		go readAll(c, failed)
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2900 * time.Millisecond)
		if n := p.asked(); n != 0 {
			t.Errorf("asked after less than 3 s")
		}
		time.Sleep(time.Hour)
		if n := p.asked(); n != 1 {
			t.Errorf("asked %d times in an idle hour", n)
		}
		_ = c.Close()
		_ = p.Close()
		<-failed
	})
}

// TestSilentConnectionIsFound within 5 s of a request.
func TestSilentConnectionIsFound(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		c, p := newPeer()
		p.deaf = true
		failed := make(chan error, 1)
		go readAll(c, failed)
		time.Sleep(time.Hour) // idle before
		start := time.Now()
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		<-failed
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("found after %v", took)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a write to a dead connection succeeds")
		}
		_ = c.Close()
		_ = p.Close()
	})
}

// TestPingStandsBetweenFrames: not within one, and not within a header block.
func TestPingStandsBetweenFrames(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		c, p := newPeer()
		failed := make(chan error, 1)
		go readAll(c, failed)
		open := []byte{0, 0, 1, frameHeaders, 0, 0, 0, 0, 3, 'h'} // CONTINUATION must follow
		_, _ = c.Write(append(bytes.Clone(request), open...))
		time.Sleep(4 * time.Second)
		if p.asked() != 0 {
			t.Error("a PING within a header block")
		}
		_, _ = c.Write([]byte{0, 0, 2, frameContinuation, flagEndHeaders, 0, 0, 0, 3, 'h'}) // a byte is missing
		time.Sleep(4 * time.Second)
		if p.asked() != 0 {
			t.Error("a PING within a frame")
		}
		_, _ = c.Write([]byte{'h'})
		time.Sleep(time.Second)
		if p.asked() != 1 {
			t.Error("no PING after the frame")
		}
		_ = c.Close()
		_ = p.Close()
		<-failed
	})
}

// TestFrameScanner: the end of a frame is found however the bytes are cut.
func TestFrameScanner(t *testing.T) {
	for size := 1; size <= len(request); size++ {
		var f frameScanner
		for rest := request; len(rest) > 0; {
			n := min(size, len(rest))
			f.scan(rest[:n])
			rest = rest[n:]
			if f.between() != (len(rest) == 0 || len(rest) == 12 || len(rest) == len(request)-prefaceLength) {
				t.Errorf("cut by %d: %d bytes before the end: %v", size, len(rest), f.between())
			}
		}
	}
}
