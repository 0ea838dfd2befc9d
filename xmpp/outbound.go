package xmpp

import (
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// item is one stanza to be written.
type item struct {
	raw  []byte
	req  *request // nil: it is none of ours
	name string   // of the request's element
	size int64    // of raw in link.room; 0: it has no place there
	// written is closed after the write; nil: it is no ping.
	written chan struct{}
}

// request is an IQ of ours to a device.
type request struct {
	id      string
	seq     uint64
	channel *channel
	pub     delivery.Publication
	written bool
	breaks  int  // streams that the server has ended for a fault of ours while it was unanswered
	done    bool // answered, or given up
	// replaced: another attempt of the same has followed.
	replaced bool
	subject  string // the notification's ID, once read
}

// send queues a stanza that is no request of ours.
func (g *Gate) send(b []byte) {
	g.mu.Lock()
	full := len(g.queue) >= maxQueue || g.link == nil // an answer over another link has no use
	if !full {
		g.queue = append(g.queue, item{raw: b})
	}
	g.mu.Unlock()
	if full {
		g.counts.drop()
		return
	}
	g.counts.stanza("out", "answer")
	g.wake()
}

func (g *Gate) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// write drains the queue until Stop, then ends the stream. GiveUp has it end the stream, too.
// Both cut the link off after stopGrace.
func (g *Gate) write() {
	var buf []byte // used again: it grows to flushAt and the largest stanza
	for {
		last, ended := false, chan struct{}(nil)
		select {
		case <-g.kick:
		case ended = <-g.ending:
		case <-g.stopping:
			last = true
		}
		g.mu.Lock()
		l := g.link
		g.mu.Unlock()
		if l != nil {
			buf = g.flush(l, buf)
		}
		if l != nil && (last || ended != nil) {
			_ = l.write([]byte("</stream:stream>")) // the connection ends in any case
		}
		if ended != nil {
			close(ended)
		}
		if last {
			g.cancel()
			return
		}
	}
}

// stopGrace is how long Stop and GiveUp wait for the last answers to be written.
const stopGrace = 500 * time.Millisecond

// flush writes the whole queue, many stanzas with one call. It returns the buffer.
func (g *Gate) flush(l *link, buf []byte) []byte {
	for {
		g.mu.Lock()
		if g.link != l || len(g.queue) == 0 {
			g.mu.Unlock()
			return buf[:0]
		}
		taken := g.queue
		g.queue = nil
		for i := range taken {
			if r := taken[i].req; r != nil && r.done {
				taken[i].raw = nil
			} else if r != nil {
				r.written = true // before the answer can come
			}
		}
		g.mu.Unlock()
		ready, first := int64(0), 0
		for i, it := range taken {
			buf = append(buf, it.raw...)
			ready += it.size
			if it.req != nil && it.raw != nil {
				g.counts.stanza("out", it.name)
			}
			if len(buf) < flushAt && i < len(taken)-1 {
				continue
			}
			if err := l.write(buf); err != nil {
				_ = l.conn.Close() // run requeues what is unanswered
				return buf[:0]
			}
			l.room.Release(ready)
			for _, it := range taken[first : i+1] {
				if it.written != nil {
					close(it.written)
				}
			}
			buf, ready, first = buf[:0], 0, i+1
		}
	}
}

// waitingLocked returns how many outbound stanzas are not written.
func (g *Gate) waitingLocked() int { return len(g.queue) + g.reads.waits() + g.parked }

// readLocked has the content of a request read and its stanza queued for a link, and reports
// whether there is room. Those of one device go in their order. A read that is slow
// holds up neither other devices nor the writer.
func (g *Gate) readLocked(l *link, r *request) bool {
	return g.reads.put(r.channel.device, func() { g.read(l, r) })
}

// read queues a request with its content. One whose content cannot be read is refused on its
// own.
func (g *Gate) read(l *link, r *request) {
	g.mu.Lock()
	needless := r.done || g.link != l // the next link has it read again
	g.mu.Unlock()
	if needless {
		return
	}
	name, body, id, err := g.content(r.pub)
	var b []byte
	if err == nil {
		b = appendCarrier(nil, g.opts.Domain, r.channel.full, r.id, name, body)
		if len(b) > g.opts.MaxStanzaSize {
			err = fmt.Errorf("a stanza of %d bytes is larger than xmpp.max_stanza_size", len(b))
		}
	}
	if err != nil {
		g.mu.Lock()
		done := r.done
		r.done = true
		delete(r.channel.open, r.id)
		g.mu.Unlock()
		if !done {
			r.pub.Nacked("not sent: " + err.Error())
		}
		return
	}
	size := min(int64(len(b)), maxReady)
	if l.room.Acquire(l.over, size) != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link != l || r.done {
		l.room.Release(size)
		return
	}
	r.subject = id
	g.queue = append(g.queue, item{raw: b, req: r, name: name, size: size})
	g.wake()
}
