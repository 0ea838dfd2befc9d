package delivery

import "time"

// deadlines is a min-heap of deliveries by key, by Seq where keys are equal. Each
// delivery knows its place, so that an ack takes it out in
// O(log n) without a search. Most keys grow with time, so that most insertions
// stay where they are put, and most removals are near the end.
type deadlines struct {
	slab *slab
	heap []handle
}

func (h *deadlines) first() *delivery {
	if len(h.heap) == 0 {
		return nil
	}
	return h.slab.at(h.heap[0])
}

// key is the earlier of the running window and the expiry. Whoever changes one of them
// calls schedule before anything else of the heap moves.
func (d *delivery) key() int64 {
	if d.deadline != 0 && d.deadline < d.expires {
		return d.deadline
	}
	return d.expires
}

// schedule puts d where its key says.
func (h *deadlines) schedule(d *delivery) {
	if d.place == 0 {
		h.heap = append(h.heap, d.handle)
		d.place = int32(len(h.heap))
	}
	h.up(d)
	h.down(d)
}

// remove takes d out, if it is in.
func (h *deadlines) remove(d *delivery) {
	if d.place == 0 {
		return
	}
	i, last := d.place-1, len(h.heap)-1
	moved := h.slab.at(h.heap[last])
	h.heap = h.heap[:last]
	d.place = 0
	if moved != d {
		h.set(i, moved)
		h.up(moved)
		h.down(moved)
	}
	if room := cap(h.heap); room > minDeadlines && last < room/4 { // most are gone: give memory back
		h.heap = append(make([]handle, 0, room/2), h.heap...)
	}
}

// Four children a node: half the levels of a binary heap, and the children share
// a cache line.
const arity = 4

// minDeadlines is the room for deadlines that is kept.
const minDeadlines = 1024

func (d *delivery) before(o *delivery) bool {
	a, b := d.key(), o.key()
	return a < b || a == b && d.seq < o.seq
}

func (h *deadlines) set(i int32, d *delivery) {
	h.heap[i] = d.handle
	d.place = i + 1
}

func (h *deadlines) up(d *delivery) {
	i := d.place - 1
	for i > 0 {
		parent := (i - 1) / arity
		p := h.slab.at(h.heap[parent])
		if !d.before(p) {
			break
		}
		h.set(i, p)
		i = parent
	}
	h.set(i, d)
}

func (h *deadlines) down(d *delivery) {
	i := d.place - 1
	for {
		child := i*arity + 1
		if int(child) >= len(h.heap) {
			break
		}
		least := h.slab.at(h.heap[child])
		for j, end := child+1, min(child+arity, int32(len(h.heap))); j < end; j++ {
			if x := h.slab.at(h.heap[j]); x.before(least) {
				child, least = j, x
			}
		}
		if !least.before(d) {
			break
		}
		h.set(i, least)
		i = child
	}
	h.set(i, d)
}

// elapse handles the deadline of d that has come.
func (c *Core) elapse(d *delivery, now int64) {
	if d.expires <= now {
		c.apply(d, inExpire, situation{})
		c.settle()
		return
	}
	dev := c.dev(d)
	p := dev.presence
	switch {
	case d.state == StatePending && p != nil && p.progress > now-int64(c.settings.Load().Windows.Ack):
		// Acks make room all the time; its turn will come.
		d.deadline = p.progress + int64(c.settings.Load().Windows.Ack)
		c.deadlines.schedule(d)
		return
	case d.state == StateWaiting:
		d.deadline = 0
		if p != nil { // the distance to the next try is over, and the device was heard meanwhile
			d.makeDue(dev)
		}
		c.apply(d, inPushPossible, situation{}) // a suspended registration may be probed
	default:
		c.apply(d, inElapsed, situation{room: p != nil && p.room(d)})
	}
	c.feed(dev)
	c.settle()
}

// misses counts the tries of a delivery that went without an ack.
type misses struct {
	notBefore int64 // no try over the channel before
	n         uint8
}

// missed notes that a pseudo-notification to dev goes unacknowledged from a time on: the next
// try is at the first heartbeat after it, then at growing distances (contract §2).
func (dev *device) missed(d *delivery, from int64) {
	p := dev.presence
	if p == nil { // it begins again when the device is back
		return
	}
	m := p.misses[d.seq]
	m.notBefore = from
	if m.n > 0 {
		m.notBefore += int64(min(5*time.Second<<(m.n-1), time.Minute))
	}
	m.n = min(m.n+1, 8)
	if p.misses == nil {
		p.misses = map[Seq]misses{}
	}
	p.misses[d.seq] = m
	p.missed.Store(true)
}

// refused notes that dev has refused d, or its channel has, which no ack window waits for:
// after the first try the next may come at once.
func (dev *device) refused(d *delivery, now int64) {
	if p := dev.presence; p != nil && p.misses[d.seq].n == 1 {
		p.misses[d.seq] = misses{notBefore: now, n: 1}
	}
}

// forgetMisses ends the count of misses: the ack that d asks for has come, or d has ended. A
// PUBACK is no such ack where `displayed` is asked for.
func (dev *device) forgetMisses(d *delivery) {
	if p := dev.presence; p != nil {
		delete(p.misses, d.seq)
	}
}
