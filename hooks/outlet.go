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
	// packet is written as it is; written, unless it is nil, is closed then.
	packet  []byte
	written chan struct{}
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
	queue  *queue // nil: empty, as an idle connection's is
	more   bool   // the session has something to send
	busy   bool   // a goroutine is draining
	corked bool   // hold everything: a SUBACK is to go first
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
	case o.queue.len() >= maxItems:
		return false, errQueueFull
	}
	if o.queue == nil {
		o.queue = queues.Get().(*queue)
	}
	o.queue.items = append(o.queue.items, it)
	return o.start(), nil
}

func (o *outlet) start() bool {
	if o.busy || o.corked || o.queue.len() == 0 && !o.more {
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

// take gives the draining goroutine the queued items, behind its held ones; false ends
// it. Its held items are then back in the queue until somebody starts a drain or, where
// the store has stalled it, until the goroutine itself is started again.
func (o *outlet) take(held []item, stalled, again bool) (taken *queue, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	more := o.more || again
	o.more = false
	end := o.corked || o.queue.len() == 0 && !more
	if end {
		o.busy = stalled && !o.closed
		if o.more = more; o.closed {
			held = nil
		}
	}
	if taken = o.queue; len(held) > 0 {
		taken = queues.Get().(*queue)
		taken.items = append(taken.items, held...)
		if o.queue != nil {
			taken.items = append(taken.items, o.queue.items...)
			o.queue.release()
		}
	}
	if o.queue = nil; end {
		o.queue = taken
		return nil, false
	}
	return taken, true
}

// restore puts taken items back in front of the queue. more: the session has something to
// send. The outlet stays busy: the caller has somebody else drain it.
func (o *outlet) restore(items []item, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.more = o.more || more
	if len(items) == 0 {
		return
	}
	q := queues.Get().(*queue)
	q.items = append(q.items, items...)
	if o.queue != nil {
		q.items = append(q.items, o.queue.items...)
		o.queue.release()
	}
	o.queue = q
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
	var left []item
	if o.queue != nil {
		left = o.queue.items
	}
	o.queue = nil
	return left
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// queue is a list of items. Queues are taken from queues and released there.
type queue struct {
	items   []item
	written []delivery.Ref // of items, while it is drained
}

var queues = sync.Pool{New: func() any { return new(queue) }}

// maxSpare is the capacity up to which a queue is filled again.
const maxSpare = 256

func (q *queue) len() int {
	if q == nil {
		return 0
	}
	return len(q.items)
}

// release gives a queue back, empty.
func (q *queue) release() {
	if q == nil || cap(q.items) > maxSpare {
		return
	}
	clear(q.items)
	clear(q.written)
	q.items, q.written = q.items[:0], q.written[:0]
	queues.Put(q)
}

// startDrain has the outlet drained by a flusher, or by a worker where a write to the
// connection may wait.
func (c *conn) startDrain() {
	if c.pacer != nil {
		c.flusher.add(c)
		return
	}
	c.hook.workers.Start(c.hook.ctx, c.drain)
}

// drain writes until the queue is empty, and waits where it has to.
func (c *conn) drain() { c.drainQueue(true) }

// drainQueue writes until the queue is empty. It runs on one goroutine at a time for a
// connection. Unless it may wait, it leaves the rest to a worker as soon as it would
// have to, and to the flusher's next turn after a few rounds, or one of a full buffer.
func (c *conn) drainQueue(mayWait bool) {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= 2*flushAt {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	var held []item
	var written []chan struct{}
	var stalled, again bool
	for rounds := 0; ; rounds++ {
		if !mayWait && rounds >= flushRounds { // others have something to send, too
			c.outlet.restore(held, true)
			c.flusher.add(c)
			return
		}
		queue, ok := c.outlet.take(held, stalled, again)
		if !ok {
			if stalled {
				c.hook.stalled.add(c)
			}
			return
		}
		held, stalled = nil, false
		if queue.len() > 0 { // else the answers go out when the connection has room
			c.fill(buf, 0, false) // a SUBACK, before what it brings about
		}
		for i := range queue.len() {
			it := &queue.items[i]
			leave := false
			switch {
			case it.ack != nil:
				c.encodeAck(buf, it.ack)
			case it.stop != nil:
				leave = !mayWait
			case it.packet != nil:
				buf.Write(it.packet)
				if it.written != nil {
					written = append(written, it.written)
				}
			case len(held) > 0: // order
				held = c.postpone(held, it)
			default:
				switch err := c.encodePublication(buf, it.pub, mayWait); {
				case errors.Is(err, errMustWait):
					leave = true
				case err == nil:
					queue.written = append(queue.written, it.pub.Ref)
				case errors.Is(err, errNoPlace):
					held = c.postpone(held, it)
				case errors.Is(err, delivery.ErrUnavailable):
					held, stalled = c.postpone(held, it), true
				default: // at once, and for itself alone
					c.notSent(it, err.Error())
				}
			}
			if buf.Len() < flushAt && i < queue.len()-1 && it.stop == nil && !leave {
				continue
			}
			left := queue.items[i+1:]
			if leave {
				left = queue.items[i:]
			}
			if err := c.write(buf.Bytes()); err != nil {
				c.failed(queue.written, append(held, left...), err)
				return
			}
			buf.Reset()
			queue.written = queue.written[:0]
			for _, w := range written {
				close(w)
			}
			written = written[:0]
			if leave {
				c.awaitsPlace = c.awaitsPlace || len(held) > 0
				c.outlet.restore(append(held, left...), true)
				queue.release()
				c.drainByWorker()
				return
			}
			if it.stop != nil {
				c.stop(it.stop)
			}
		}
		queue.release()
		if c.awaitsPlace && len(held) == 0 {
			c.session.Unwanted(c) // of the client's places
		}
		c.awaitsPlace = len(held) > 0
		again = false
		if c.hasRoom() {
			messages, moved, mustWait := c.fill(buf, flushAt, mayWait)
			if mustWait {
				c.outlet.restore(held, true)
				c.drainByWorker()
				return
			}
			if again = moved || buf.Len() > 0; buf.Len() == 0 {
				continue
			}
			if err := c.write(buf.Bytes()); err != nil {
				c.failed(nil, held, err)
				return
			}
			c.sent(messages, buf.Len())
			if buf.Len() >= flushAt {
				rounds = flushRounds
			}
			buf.Reset()
		}
	}
}

// drainByWorker leaves the busy outlet to a worker, which may wait.
func (c *conn) drainByWorker() {
	if !c.hook.workers.Start(c.hook.ctx, c.drain) { // the hook stops
		c.drain()
	}
}

// fill appends what the session has to send, up to limit bytes, and returns the number
// of messages. moved: a replay has moved on, though it may have passed topics alone of which
// the client gets nothing. mustWait: retained messages are next, which may have to be read
// from the disk.
func (c *conn) fill(buf *bytes.Buffer, limit int, mayWait bool) (messages int, moved, mustWait bool) {
	b, messages := c.session.Fill(c, buf.AvailableBuffer(), limit)
	switch {
	case buf.Len()+len(b) > 0 || limit == 0: // that goes first
	case !mayWait:
		mustWait = c.session.Feeds(c)
	case c.session.Feed(c):
		moved = true
		b, messages = c.session.Fill(c, b, limit)
	}
	buf.Write(b)
	return messages, moved, mustWait
}

// postpone keeps a publication that has no place in the client's Receive Maximum, or
// whose content the store cannot read now, and those behind it, so that the order
// stays. Of several copies it keeps the last, in the place of the first.
func (c *conn) postpone(held []item, it *item) []item {
	it.pub.Content = nil
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
