package hooks

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
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
	if o.busy || o.corked || len(o.items) == 0 {
		return false
	}
	o.busy = true
	return true
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

// take gives the draining goroutine what there is; nothing ends it. What it holds
// is then back in the queue, which nobody else drains meanwhile.
func (o *outlet) take(reuse, held []item) []item {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.items
	o.items = reuse[:0]
	if len(taken) == 0 {
		o.busy = len(held) > 0 && !o.closed
		o.items = nil // idle connections hold no queue
		if o.busy {
			o.items = held
		}
	}
	return taken
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
	for {
		taken := c.outlet.take(reuse, held)
		if len(taken) == 0 {
			if len(held) > 0 {
				c.hook.stalled.add(c)
			}
			return
		}
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
				case errors.Is(err, delivery.ErrUnavailable):
					held = c.postpone(held, it)
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
		reuse = taken
	}
}

// postpone keeps a publication whose content the store cannot read now, and those
// behind it, so that the order stays. Of several copies it keeps the last, in the
// place of the first.
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
	c.vacate()
}

// stop ends the connection. MQTT 5 clients get a DISCONNECT with the reason.
func (c *conn) stop(why error) {
	if code, ok := why.(packets.Code); ok && c.client.Properties.ProtocolVersion == 5 {
		_ = c.hook.server.DisconnectClient(c.client, code) // returns the code
		return
	}
	c.client.Stop(why)
}

// failed ends a connection whose write did not go through: what was to go out
// counts as refused at once, and a partial write has spoilt the stream.
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
