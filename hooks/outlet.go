package hooks

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// item is something to be written to a client.
type item struct {
	pub  delivery.Publication // where ack is nil
	ack  *ack
	stop error // the connection is closed for this reason, after what precedes
	// packet is written as it is.
	packet []byte
}

func (it *item) empty() bool { return it.isPublication() && it.pub.Seq == 0 }

func (it *item) isPublication() bool { return it.ack == nil && it.stop == nil && it.packet == nil }

// ack acknowledges a publish of the client, or refuses it.
type ack struct {
	packetID uint16
	qos      byte
	code     byte
	reason   string
}

// outlet is the outgoing queue of one connection. Nobody who puts something in
// waits for the network: a goroutine writes while there is something to write, as
// much as it finds with one system call.
type outlet struct {
	mu     sync.Mutex
	items  []item
	more   bool // the session has something to send
	busy   bool // a goroutine is draining
	corked bool // hold everything: a SUBACK is to go first
	closed bool
}

// Bounds of a connection's queue. The core's window and the server's Receive
// Maximum keep it far below; it is there so that a fault cannot fill the memory.
const maxItems = 8192

// flushAt is how many bytes are gathered for one system call.
const flushAt = 64 << 10

var (
	errClosed    = errors.New("connection closed")
	errQueueFull = errors.New("outgoing queue full")
)

// put appends an item; it reports whether the caller must start a drain.
func (o *outlet) put(it item) (start bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return false, errClosed
	case len(o.items) >= maxItems:
		return false, errQueueFull
	}
	o.items = append(o.items, it)
	return o.start(), nil
}

func (o *outlet) start() bool {
	if o.busy || o.corked || len(o.items) == 0 && !o.more {
		return false
	}
	o.busy = true
	return true
}

// kick says that the session has something to send.
func (o *outlet) kick() (start bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.more = true
	return o.start()
}

func (o *outlet) cork() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corked = true
}

func (o *outlet) uncork() (start bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corked = false
	return o.start()
}

// take gives the draining goroutine the queued items, behind its held ones; an empty
// result ends it. Its held items are then back in the queue until somebody starts a
// drain or, where the store has stalled it, until the goroutine itself is started again.
func (o *outlet) take(reuse, held []item, stalled, again bool) (taken []item, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	more = o.more || again
	o.more = false
	switch {
	case o.corked || len(o.items) == 0 && !more:
		o.busy = stalled && !o.closed
		if o.more = more; o.closed {
			held = nil
		}
		o.items = append(held, o.items...)
		if len(o.items) == 0 {
			o.items = nil // idle connections hold no queue
		}
		return nil, false
	case len(held) > 0:
		taken = slices.Concat(held, o.items)
		o.items = nil
	default:
		taken = o.items
		o.items = reuse[:0]
	}
	return taken, true
}

// finish refuses new items. Those in the queue are still written.
func (o *outlet) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// close refuses new items and returns those that have not been written.
func (o *outlet) close() []item {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	left := o.items
	o.items = nil
	return left
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// drain writes until the queue is empty. It runs on one goroutine at a time for a
// connection.
func (c *conn) drain() {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= 2*flushAt {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	var reuse, held []item
	var stalled, again, waited bool
	for {
		taken, more := c.outlet.take(reuse, held, stalled, again)
		if !more {
			if stalled {
				c.hook.stalled.add(c)
			}
			return
		}
		reuse, held, stalled = nil, nil, false
		c.fill(buf, 0) // a SUBACK, before what it brings about
		var written []delivery.Ref
		for i := range taken {
			it := &taken[i]
			switch {
			case it.ack != nil:
				c.encodeAck(buf, it.ack)
			case it.stop != nil:
			case it.packet != nil:
				buf.Write(it.packet)
			case len(held) > 0: // order
				held = c.postpone(held, it)
			default:
				switch err := c.encodePublication(buf, it.pub); {
				case err == nil:
					written = append(written, it.pub.Ref)
				case errors.Is(err, errNoPlace):
					held = c.postpone(held, it)
				case errors.Is(err, delivery.ErrUnavailable):
					held, stalled = c.postpone(held, it), true
				default: // at once, and for itself alone
					c.notSent(it, err.Error())
				}
			}
			if buf.Len() < flushAt && i < len(taken)-1 && it.stop == nil {
				continue
			}
			if err := c.write(buf.Bytes()); err != nil {
				c.failed(written, append(held, taken[i+1:]...), err)
				return
			}
			buf.Reset()
			written = written[:0]
			if it.stop != nil {
				c.stop(it.stop)
			}
		}
		clear(taken)
		if len(held) == 0 {
			reuse = taken
		}
		if waited && len(held) == 0 {
			c.session.Unwanted(c) // of the client's places
		}
		waited = len(held) > 0
		again = false
		if c.hasRoom() {
			messages := c.fill(buf, flushAt)
			if again = buf.Len() > 0; !again {
				continue
			}
			if err := c.write(buf.Bytes()); err != nil {
				c.failed(nil, held, err)
				return
			}
			c.sent(messages, buf.Len())
			buf.Reset()
		}
	}
}

// fill appends what the session has to send, up to limit bytes, and returns the number
// of messages.
func (c *conn) fill(buf *bytes.Buffer, limit int) int {
	b, messages := c.session.Fill(c, buf.AvailableBuffer(), limit)
	if len(b) == 0 && limit > 0 && c.session.Feed(c) {
		b, messages = c.session.Fill(c, b, limit)
	}
	buf.Write(b)
	return messages
}

// postpone keeps a publication that has no place in the client's Receive Maximum, or
// whose content the store cannot read now, and those behind it, so that the order
// stays. Of several copies it keeps the last, in the place of the first.
func (c *conn) postpone(held []item, it *item) []item {
	i := slices.IndexFunc(held, func(h item) bool { return h.pub.Seq == it.pub.Seq && h.pub.Message == it.pub.Message })
	if i < 0 {
		return append(held, *it)
	}
	c.notSent(&held[i], "another copy follows")
	held[i] = *it
	return held
}

// notSent reports to the core that a publication is not sent.
func (c *conn) notSent(it *item, why string) {
	it.pub.Nacked("not sent: " + why)
}

// stop ends the connection. MQTT 5 clients get a DISCONNECT with the reason.
func (c *conn) stop(why error) {
	if c.hook.hub != nil && c.signedOut.Load() {
		c.hook.hub.Disconnect(c.session, c, ordinary.Bye{}) // at once: the identifier is free when the client sees the end
	}
	if code, ok := errors.AsType[packets.Code](why); ok && c.client.Properties.ProtocolVersion == 5 {
		_ = c.hook.server.DisconnectClient(c.client, code) // returns the code
		return
	}
	c.client.Stop(why)
}

// failed ends a connection whose write did not go through: the unsent items
// count as refused at once, and a partial write has spoilt the stream.
func (c *conn) failed(written []delivery.Ref, left []item, err error) {
	c.client.Stop(err)
	left = append(left, c.outlet.close()...)
	for _, ref := range written {
		ref.Nacked("not written: " + err.Error())
	}
	for i := range left {
		if left[i].isPublication() {
			left[i].pub.Nacked("not written: " + err.Error())
		}
	}
}
