package delivery

import (
	"slices"
	"sync/atomic"
	"time"
)

// delivery is one notification on its way to one device, as long as something is
// left to do. A million of them may wait for offline devices: it holds what the
// next deadline needs, no content and no pointer (slab.go).
type delivery struct {
	progress
	seq      Seq // 0: released
	expires  int64
	device   uint32 // a number of the slab, see Core.dev
	collapse uint32 // likewise, the collapse key; 0: none
	handle   handle // its own
	place    int32  // in the heap, from 1; 0: not in
	urgency  Urgency
	holds    uint8 // places of the push queues that have it, so that it is not released
	due      bool  // wants the channel as soon as its window has room
	dirty    bool  // its Record is to be written
	over     bool
	recorded bool // the request for the push that is under way is on the disk

	messageRefused bool // by this connection: kept for the next
	messageSent    bool // at least once
}

// dev returns the device of d.
func (c *Core) dev(d *delivery) *device { return c.slab.devices[d.device] }

// Presence is the Up of a Core, and the Acker of its publications.
type Presence struct {
	core       *Core
	dev        *device
	channel    Channel
	info       OnlineInfo
	since      time.Time
	missed     atomic.Bool    // something went unacknowledged: the next heartbeat matters
	misses     map[Seq]misses // by delivery, those with any, until their ack or their end
	heartbeat  atomic.Int64   // steady time of the last control packet
	open       []openPackets
	packets    int
	progress   int64 // when an ack last made room
	messages   bool  // subscribed to the messages topic at QoS 1 or more
	dismissals bool  // likewise to the dismissals topic
	gone       bool
}

// openPackets counts what of one delivery is unacknowledged on this connection.
type openPackets struct {
	seq     Seq
	message bool
	ended   bool // the delivery has ended without an ack
	attempt uint16
	n       int
}

// OnlineInfo describes a channel that has come up.
type OnlineInfo struct {
	Device         string
	Account        string
	Channel        Channel
	ReceiveMaximum int           // the client's; 0: 65535 (MQTT 5 §3.1.2.11.3)
	Messages       bool          // subscribed to the messages topic, too
	Dismissals     bool          // subscribed to the dismissals topic, too
	App            AppState      // what it has said of its app on this connection
	Keepalive      time.Duration // in force on the connection
	Remote         string        // address, for people
	Via            string        // ViaMQTT, which "" stands for, or ViaXMPP
	Address        string        // with ViaXMPP: the full JID, which the registry keeps
	// Connected is when the channel came up; zero: now. Of two
	// channels of a device the later is up, in whichever order the core hears of them.
	Connected time.Time
}

// Online says that a device's channel has come up: connected, and subscribed at
// QoS 1 or more to its notifications topic. Everything outstanding is published
// again, in the order of acceptance. A channel that was up for the device, on
// another connection, is gone with this. A channel that is Closed by now is not brought
// up (ErrChannelClosed): another may be.
func (c *Core) Online(info OnlineInfo) (Up, error) {
	if info.ReceiveMaximum <= 0 {
		info.ReceiveMaximum = 65535
	}
	if info.Connected.IsZero() {
		info.Connected = time.Now()
	}
	p := &Presence{core: c, channel: info.Channel, info: info, since: c.clock.wallNow(), messages: info.Messages, dismissals: info.Dismissals}
	err := c.asDevice(info.Device, info.Account, false, func(d *device) error {
		if info.Channel.Closed() {
			return ErrChannelClosed
		}
		c.resync(d.account) // nothing stale goes out before the loop has run
		if former := d.presence; former != nil {
			if info.Connected.Before(former.info.Connected) && !former.channel.Closed() {
				replace(info.Channel)
				return ErrChannelClosed
			}
			c.lose(d, "session taken over", true)
			if !former.info.Connected.Equal(info.Connected) { // else: it is the same one
				replace(former.channel)
			}
		}
		c.up.Add(1)
		p.dev, d.presence, d.since = d, p, p.since
		c.reachedVia(d, info.Via, info.Address, info.App == AppForeground)
		p.progress = c.clock.steady()
		p.heartbeat.Store(p.progress)
		if info.App != AppUnknown {
			c.setApp(d, info.App)
		}
		for _, x := range d.dismissals {
			x.open, x.refused = false, false
		}
		for x := range c.slab.each(d.queue) {
			x.messageRefused = false
			x.makeDue(d)
		}
		c.feed(d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// replace tells a channel that another of its device is up.
func replace(ch Channel) {
	if r, ok := ch.(Replaceable); ok {
		r.Replaced()
	}
}

// Offline implements Up.
func (p *Presence) Offline(why string) {
	c := p.core
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.gone {
		return
	}
	d := p.dev
	c.lose(d, why, false)
	c.settle()
	c.release(d.account)
}

// lose takes the channel of d down. If another replaces it at once, pending
// deliveries do not fall back.
func (c *Core) lose(d *device, why string, replaced bool) {
	c.up.Add(-1)
	d.presence.gone = true
	d.presence, d.since, d.due = nil, c.clock.wallNow(), 0
	c.seen(d) // it was here until now
	if d.app == AppForeground {
		d.app = AppBackground
	}
	for _, x := range d.dismissals {
		x.open = false
	}
	for x := range c.slab.each(slices.Clone(d.queue)) {
		x.due = false
		c.apply(x, inChannelLost, situation{detail: why})
		if !replaced {
			c.apply(x, inNoChannel, situation{})
		}
	}
	if !replaced {
		c.pushDismissals(d)
	}
}

// SetSubscribed implements Up.
func (p *Presence) SetSubscribed(messages, dismissals bool) {
	c := p.core
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.messages, p.dismissals = messages, dismissals; !p.gone {
		c.feed(p.dev)
		c.settle()
	}
}

// room reports whether the in-flight window lets d be published now. A delivery
// that is unacknowledged on this connection already has its place in the window;
// another copy costs the client's Receive Maximum only (MQTT 5 §4.9).
func (p *Presence) room(d *delivery) bool {
	if p.packets >= p.info.ReceiveMaximum || p.packets-len(p.open) >= maxCopies {
		return false
	}
	return len(p.open) < p.core.settings.Load().MaxInflight || p.isOpen(d.seq, false)
}

// maxCopies bounds the copies, beyond the first packet of each delivery in the window, that a
// device which acknowledges nothing can be sent on one connection.
const maxCopies = 1024

func (p *Presence) isOpen(seq Seq, message bool) bool {
	return slices.ContainsFunc(p.open, func(o openPackets) bool { return o.seq == seq && o.message == message })
}

func (p *Presence) opened(seq Seq, message bool) {
	p.packets++
	for i := range p.open {
		if p.open[i].seq == seq && p.open[i].message == message {
			p.open[i].n++
			return
		}
	}
	p.open = append(p.open, openPackets{seq: seq, message: message, n: 1})
}

// closed counts a packet as acknowledged, and returns how its delivery stood. A Channel
// says so of each at most once.
func (p *Presence) closed(seq Seq, message bool) (was openPackets) {
	p.packets--
	p.progress = p.core.clock.steady()
	for i := range p.open {
		if o := &p.open[i]; o.seq == seq && o.message == message {
			was = *o
			o.ended = false // one ack is told of
			if o.n--; o.n == 0 {
				p.open = slices.Delete(p.open, i, i+1)
			}
			return was
		}
	}
	return was
}

// ended notes that a delivery has ended without an ack: one that comes late is put into
// the timeline.
func (p *Presence) ended(d *delivery) {
	for i := range p.open {
		if o := &p.open[i]; o.seq == d.seq && !o.message {
			o.ended, o.attempt = true, d.attempts
		}
	}
}

// freeSlot gives an acked delivery's slot in the in-flight window back: a device that
// acknowledges a later copy, and never the first, must not be starved by it. The
// packet goes on counting against the client's Receive Maximum.
func (p *Presence) freeSlot(seq Seq, message bool) {
	p.open = slices.DeleteFunc(p.open, func(o openPackets) bool { return o.seq == seq && o.message == message })
}

// makeDue marks d, a delivery to dev, as wanting the channel.
func (d *delivery) makeDue(dev *device) {
	if !d.due && !d.state.Final() && !(d.once && d.attempts+d.pushAttempts > 0) {
		d.due = true
		dev.due++
	}
}

func (d *delivery) notDue(dev *device) {
	if d.due {
		d.due = false
		dev.due--
	}
}

// feed publishes due deliveries on a channel that is up, in the order of acceptance
// while the window has room, then the messages. A Core that has stopped publishes nothing: the
// next owner of its accounts may have published later ones already.
func (c *Core) feed(dev *device) {
	p := dev.presence
	if p == nil || c.stopped {
		return
	}
	for i := 0; dev.due > 0 && i < len(dev.queue); i++ {
		d := c.slab.at(dev.queue[i])
		if !d.due {
			continue
		}
		if !c.feedDismissals(dev, p, d.seq) || !p.room(d) {
			break
		}
		c.apply(d, inOffer, situation{room: true})
	}
	if len(dev.dismissals) > 0 && dev.due == 0 {
		c.feedDismissals(dev, p, 0)
	}
	c.feedMessages(dev, p)
}

// publish hands the pseudo-notification of d to the channel.
func (c *Core) publish(d *delivery) {
	dev := c.dev(d)
	p := dev.presence
	d.notDue(dev)
	pub := Publication{
		Ref:        Ref{Seq: d.seq, Attempt: d.attempts, acker: p},
		ExpiresAt:  c.clock.local(d.expires),
		Redelivery: d.attempts > 1,
		Pushed:     d.pushAccepted,
		Unread:     len(dev.Unread),
	}
	p.opened(d.seq, false)
	if err := p.channel.Publish(pub); err != nil {
		p.closed(d.seq, false)
		c.apply(d, inNacked, situation{detail: "not queued: " + err.Error()})
	}
}
