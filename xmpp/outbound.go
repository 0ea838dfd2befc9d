package xmpp

import (
	"fmt"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// item is one stanza to be written.
type item struct {
	raw []byte
	req *request
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

// write drains the queue until Stop, then ends the stream.
func (g *Gate) write() {
	var buf []byte // used again: it grows to flushAt and the largest stanza
	for {
		last := false
		select {
		case <-g.kick:
		case <-g.stopping:
			last = true
		}
		g.mu.Lock()
		l := g.link
		g.mu.Unlock()
		if l != nil && last {
			late := time.AfterFunc(stopGrace, func() { _ = l.conn.Close() })
			defer late.Stop()
		}
		if l != nil {
			buf = g.flush(l, buf)
		}
		if last {
			if l != nil {
				_ = l.write([]byte("</stream:stream>")) // the connection ends in any case
			}
			g.cancel()
			return
		}
	}
}

// stopGrace is how long Stop waits for the last answers to be written.
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
		for _, it := range taken {
			if it.req != nil {
				it.req.written = true // before the answer can come
			}
		}
		g.mu.Unlock()
		for i, it := range taken {
			if it.req == nil {
				buf = append(buf, it.raw...)
			} else {
				buf = g.appendRequest(buf, it.req)
			}
			if len(buf) < flushAt && i < len(taken)-1 {
				continue
			}
			if err := l.write(buf); err != nil {
				_ = l.conn.Close() // run requeues what is unanswered
				return buf[:0]
			}
			buf = buf[:0]
		}
	}
}

// appendRequest appends a request with its content. One whose content cannot be read is
// refused on its own.
func (g *Gate) appendRequest(b []byte, r *request) []byte {
	g.mu.Lock()
	done := r.done
	g.mu.Unlock()
	if done {
		return b
	}
	name, body, id, err := g.content(r.pub)
	before := len(b)
	if err == nil {
		b = appendCarrier(b, g.opts.Domain, r.channel.full, r.id, name, body)
		if size := len(b) - before; size > g.opts.MaxStanzaSize {
			b, err = b[:before], fmt.Errorf("a stanza of %d bytes is larger than xmpp.max_stanza_size", size)
		}
	}
	if err != nil {
		g.mu.Lock()
		done = r.done
		r.done = true
		delete(r.channel.open, r.id)
		g.mu.Unlock()
		if !done {
			r.pub.Nacked("not sent: " + err.Error())
		}
		return b
	}
	g.mu.Lock()
	r.subject = id
	g.mu.Unlock()
	g.counts.stanza("out", name)
	return b
}
