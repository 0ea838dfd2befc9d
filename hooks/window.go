package hooks

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
)

// window keeps the Receive Maximum of one connection's client (MQTT 5 §4.9), for
// ordinary messages and notifications together: each that is sent and not
// acknowledged has a place. mochi's own accounting is off (see OnConnect).
//
// An ordinary message that has no place stays where mochi has put it, in flight, so
// that it is kept, expires, is counted and passes to the next connection as what has
// been sent does; only its packet is left out of the stream (see hold). Whatever
// ends the exchange of another sends it.
type window struct {
	mu      sync.Mutex
	free    int
	placed  map[uint16]struct{} // ordinary packets that have a place
	held    []heldPacket        // ordinary packets that wait, oldest first
	waiting []delivery.Publication
	turn    bool // of the ordinary ones, where both wait
	sending bool // a goroutine gives places out: who comes now goes to the end
}

// heldPacket is an ordinary packet that waits. The identifier may have passed to
// another message meanwhile, which the order tells.
type heldPacket struct {
	id    uint16
	dup   bool
	order uint64
}

func newWindow(receiveMaximum int) *window {
	return &window{free: receiveMaximum, placed: map[uint16]struct{}{}}
}

// open reports whether something new may be sent at once: not before what waits.
func (w *window) open() bool { return w.free > 0 && !w.sending && len(w.held)+len(w.waiting) == 0 }

// admit reports whether an ordinary packet has a place; it waits for one otherwise.
func (c *conn) admit(pk *packets.Packet) bool {
	w := c.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.placed[pk.PacketID]; ok {
		return true // giveOut sends it
	}
	if w.open() {
		w.free--
		w.placed[pk.PacketID] = struct{}{}
		return true
	}
	// Those that have expired are never asked for. They do not pile up.
	if len(w.held) >= 2*int(c.hook.server.Options.Capabilities.MaximumInflight) {
		w.held = slices.DeleteFunc(w.held, func(p heldPacket) bool { _, ok := c.inFlight(p); return !ok })
	}
	held, _ := c.client.State.Inflight.Get(pk.PacketID)
	w.held = append(w.held, heldPacket{pk.PacketID, pk.FixedHeader.Dup, orderOf(&held)})
	return false
}

// admitPublication is admit for a notification. The core's mutex may be held.
func (w *window) admitPublication(p delivery.Publication) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open() {
		w.free--
		return true
	}
	w.waiting = append(w.waiting, p)
	return false
}

// acknowledged gives the place of an ordinary packet to the next, once mochi has it in
// flight no more: after a PUBACK, a PUBCOMP, or a PUBREC with an error.
func (c *conn) acknowledged(id uint16) {
	w := c.window
	if _, still := c.client.State.Inflight.Get(id); still {
		return
	}
	w.mu.Lock()
	_, ok := w.placed[id]
	delete(w.placed, id)
	w.mu.Unlock()
	if ok {
		c.vacate()
	}
}

// vacate frees a place. The core's mutex must not be held.
func (c *conn) vacate() {
	if c.window == nil {
		return
	}
	c.window.giveBack()
	c.giveOut()
}

func (w *window) giveBack() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free++
}

// giveOut sends what waits, as far as there are places, one goroutine at a time so
// that the order holds. No lock is held over a write.
func (c *conn) giveOut() {
	w := c.window
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sending {
		return // whoever does will see the place
	}
	w.sending = true
	defer func() { w.sending = false }()
	for w.free > 0 && !c.client.Closed() {
		switch {
		case len(w.waiting) > 0 && (!w.turn || len(w.held) == 0):
			p := w.waiting[0]
			w.waiting[0] = delivery.Publication{}
			w.waiting = w.waiting[1:]
			w.turn = true
			w.free--
			w.mu.Unlock()
			err := c.send(item{pub: p})
			if err != nil {
				p.Nacked("not sent: " + err.Error())
			}
			w.mu.Lock()
			if err != nil {
				w.free++
			}
		case len(w.held) > 0:
			p := w.held[0]
			w.held = w.held[1:]
			w.turn = false
			pk, ok := c.inFlight(p)
			if _, twice := w.placed[p.id]; !ok || twice {
				continue
			}
			if tooLarge(c.client, &pk) { // of the session's last client it was not
				c.discard(p.id)
				continue
			}
			w.free--
			w.placed[p.id] = struct{}{}
			w.mu.Unlock()
			pk.FixedHeader.Dup = p.dup
			c.sendNow(pk) // it counts as sent already, see hold
			w.mu.Lock()
		default:
			return
		}
	}
}

// inFlight returns the message that waits, unless it is over.
func (c *conn) inFlight(p heldPacket) (packets.Packet, bool) {
	pk, ok := c.client.State.Inflight.Get(p.id)
	return pk, ok && pk.FixedHeader.Type == packets.Publish && orderOf(&pk) == p.order
}

// discard forgets a message that the client cannot take [MQTT-3.1.2-25]: it counts
// as sent.
func (c *conn) discard(id uint16) {
	if c.client.State.Inflight.Delete(id) {
		atomic.AddInt64(&c.hook.server.Info.Inflight, -1)
		c.hook.Counters.TooLarge.Add(1)
		c.hook.relieve(c.client, id)
	}
}

// hold puts another in the place of a packet that is not to be sent yet. mochi has no way to
// leave a packet out: an error ends a resend with its connection, and leaves what
// is buffered before it unsent. So it writes a packet that no server ever sends,
// and quietConn drops that.
func hold(pk *packets.Packet) {
	*pk = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}
}

// quietConn is a connection to a client that is never asked for a PINGRESP.
type quietConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn. mochi tells of a connection's end in no other way
// before it is established.
func (q quietConn) Close() error {
	q.closed()
	return q.Conn.Close()
}

func unwrapped(nc net.Conn) net.Conn {
	if q, ok := nc.(quietConn); ok {
		return q.Conn
	}
	return nc
}

const pingreq = packets.Pingreq << 4

// Write implements io.Writer. mochi writes whole packets.
func (q quietConn) Write(b []byte) (int, error) {
	out, from, cut := []byte(nil), 0, false
	for at := 0; at+1 < len(b); {
		size, shift, end := 0, 0, at+1
		for ; end < len(b); end++ {
			size |= int(b[end]&0x7F) << shift
			if shift += 7; b[end] < 0x80 {
				break
			}
		}
		end += 1 + size
		if b[at] == pingreq && size == 0 {
			out = append(out, b[from:at]...)
			from, cut = end, true
		}
		at = end
	}
	if !cut {
		return q.Conn.Write(b)
	}
	if out = append(out, b[from:]...); len(out) > 0 {
		if _, err := q.Conn.Write(out); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
