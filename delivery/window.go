package delivery

import "time"

// deadlines is a min-heap of deliveries by key, the earlier of the running window
// and the expiry; by Seq where keys are equal. Each delivery knows its place, so that an ack takes it out in
// O(log n) without a search. Most keys grow with time, so that most insertions
// stay where they are put, and most removals are near the end.
type deadlines []*delivery

func (h deadlines) first() *delivery {
	if len(h) == 0 {
		return nil
	}
	return h[0]
}

// schedule puts d where its deadlines say.
func (h *deadlines) schedule(d *delivery) {
	key := d.expires
	if d.deadline != 0 && d.deadline < key {
		key = d.deadline
	}
	if d.place == 0 {
		d.key = key
		*h = append(*h, d)
		d.place = int32(len(*h))
		h.up(len(*h) - 1)
		return
	}
	old := d.key
	d.key = key
	if key < old {
		h.up(int(d.place) - 1)
	} else if key > old {
		h.down(int(d.place) - 1)
	}
}

// remove takes d out, if it is in.
func (h *deadlines) remove(d *delivery) {
	if d.place == 0 {
		return
	}
	i, last := int(d.place)-1, len(*h)-1
	d.place = 0
	moved := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	if i == last {
		return
	}
	(*h)[i] = moved
	moved.place = int32(i + 1)
	h.up(i)
	h.down(int(moved.place) - 1)
}

// Four children a node: half the levels of a binary heap, and the children share
// a cache line.
const arity = 4

func (d *delivery) before(o *delivery) bool { return d.key < o.key || d.key == o.key && d.seq < o.seq }

func (h deadlines) up(i int) {
	d := h[i]
	for i > 0 {
		parent := (i - 1) / arity
		if !d.before(h[parent]) {
			break
		}
		h[i] = h[parent]
		h[i].place = int32(i + 1)
		i = parent
	}
	h[i] = d
	d.place = int32(i + 1)
}

func (h deadlines) down(i int) {
	d := h[i]
	for {
		child := i*arity + 1
		if child >= len(h) {
			break
		}
		for j, end := child+1, min(child+arity, len(h)); j < end; j++ {
			if h[j].before(h[child]) {
				child = j
			}
		}
		if !h[child].before(d) {
			break
		}
		h[i] = h[child]
		h[i].place = int32(i + 1)
		i = child
	}
	h[i] = d
	d.place = int32(i + 1)
}

// elapse handles the deadline of d that has come.
func (c *Core) elapse(d *delivery, now int64) {
	if d.expires <= now {
		c.apply(d, inExpire, situation{})
		c.settle()
		return
	}
	dev, p := d.dev, d.dev.presence
	switch {
	case d.state == StatePending && p != nil && p.progress > now-int64(c.settings.Load().Windows.Ack):
		// Acks make room all the time; its turn will come.
		d.deadline = p.progress + int64(c.settings.Load().Windows.Ack)
		c.deadlines.schedule(d)
		return
	case d.state == StateWaiting:
		d.deadline = 0
		if p != nil { // the distance to the next try is over, and the device was heard meanwhile
			d.makeDue()
		}
		c.apply(d, inPushPossible, situation{}) // a suspended registration may be probed
	default:
		c.apply(d, inElapsed, situation{room: p != nil && p.room(d)})
	}
	c.feed(dev)
	c.settle()
}

// missed notes that a pseudo-notification has gone unacknowledged: the next try
// is at the first heartbeat after, then at growing distances (contract §2).
func (d *delivery) missed(now int64) {
	d.notBefore = now
	if d.misses > 0 {
		d.notBefore += int64(min(5*time.Second<<(d.misses-1), time.Minute))
	}
	d.misses = min(d.misses+1, 8)
	if p := d.dev.presence; p != nil {
		p.missed.Store(true)
	}
}
