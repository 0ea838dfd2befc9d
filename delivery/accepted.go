package delivery

import (
	"fmt"
	"slices"
)

// commitResult is an acceptance and the store's answer. One whose batch is in the store
// is used again.
type commitResult struct {
	core         *Core
	whenDone     func(error) // onDone
	whenInDoubt  func()      // onDoubt
	batch        Batch
	accept       [1]Acceptance // of the batch
	account      *account
	notification *Notification
	deliveries   []*delivery
	full         []*device    // of the targets, those that had no room
	one          [1]*delivery // their memory, if it is enough
	err          error        // nil: it is durable
	claimed      bool         // the request had an ID
	done         func(Receipt, error)
	ended        []Event       // of deliveries that have ended on the way
	prev, next   *commitResult // in Core.underway
}

// depart enters r into the list of acceptances on their way into the store.
func (r *commitResult) depart() {
	c := r.core
	if r.next = c.underway; r.next != nil {
		r.next.prev = r
	}
	c.underway = r
}

// arrive takes r out of it.
func (r *commitResult) arrive() {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		r.core.underway = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// reuse puts r into the pool. The store has it on the disk, and so does not look at its
// batch any more.
func (r *commitResult) reuse() {
	*r = commitResult{core: r.core, whenDone: r.whenDone, whenInDoubt: r.whenInDoubt}
	r.core.results.Put(r)
}

func (r *commitResult) onDone(err error) {
	r.err = err
	r.core.committed.put(r)
}

// onDoubt answers a request whose outcome will not be known for a while. The Outbox calls
// it before onDone, from the same goroutine.
func (r *commitResult) onDoubt() {
	if r.claimed {
		r.core.mu.Lock()
		close(r.core.accepting[r.notification.ID].inDoubt)
		r.core.mu.Unlock()
	}
	r.done(Receipt{}, fmt.Errorf("accept notification %s: %w", r.notification.ID, ErrInDoubt))
	r.done = func(Receipt, error) {}
}

// onAccepted handles acceptances that the outbox has stored or refused.
func (c *Core) onAccepted(rs []*commitResult) {
	receipts := make([]Receipt, len(rs))
	c.mu.Lock()
	for i, r := range rs {
		r.arrive()
		for _, d := range r.deliveries {
			c.dev(d).reserved--
		}
		if r.notification.BadgeAuto {
			c.countedUnread(r.notification, r.deliveries, r.err != nil)
		}
		if r.err == nil {
			c.begin(r)
			receipts[i] = c.receiptOf(r)
		} else {
			c.refuse(r.deliveries)
		}
		c.pending.idle = append(c.pending.idle, r.account)
	}
	c.settle()
	c.mu.Unlock()
	for i, r := range rs {
		if r.err != nil {
			r.err = fmt.Errorf("accept notification %s: %w", r.notification.ID, r.err)
		}
		if r.claimed {
			c.unclaim(r.notification.ID)
		}
		r.done(receipts[i], r.err)
		if r.err == nil {
			r.reuse()
		}
	}
}

// refuse releases deliveries that the store has refused.
func (c *Core) refuse(ds []*delivery) {
	for _, d := range ds {
		c.endProbe(c.dev(d), d)
		d.over = true
		c.over = append(c.over, d)
	}
}

// receiptOf is the answer to a request that is durable and has begun.
func (c *Core) receiptOf(r *commitResult) Receipt {
	receipt := Receipt{Notification: r.notification, State: StateCancelled, Deliveries: make([]DeliveryState, 0, len(r.deliveries))}
	for _, d := range r.deliveries {
		id := c.dev(d).ID
		// A repeat of the request knows of full devices only: not of one that has left meanwhile, nor
		// of the one that a held notification has got.
		left := slices.ContainsFunc(r.ended, func(e Event) bool { return e.Device == id })
		receipt.add(pick(r.notification.Held, "", id), d.state == StateCancelled && !left)
	}
	return receipt
}

// add adds a delivery, cancelled or on its way.
func (r *Receipt) add(device string, cancelled bool) {
	if device == "" && !cancelled { // held: there is no device yet
		r.State = min(r.State, StateWaiting)
	}
	if device == "" {
		return
	}
	state := pick(cancelled, StateCancelled, StatePending)
	r.State = min(r.State, state)
	r.Deliveries = append(r.Deliveries, DeliveryState{Device: device, State: state})
}

// endUnderway ends the deliveries to dev whose acceptance is on its way into the store. Their
// end follows the acceptance there: after a crash they do not begin, with whoever has the
// device by then.
func (c *Core) endUnderway(dev *device, why string) {
	if dev.reserved == 0 {
		return
	}
	for r := c.underway; r != nil; r = r.next {
		for _, d := range r.deliveries {
			if c.dev(d) != dev || d.over {
				continue
			}
			e := Event{Seq: d.seq, Number: c.clock.next(), Time: c.clock.wallNow(), Kind: EventCancelled, Device: dev.ID, Detail: why}
			d.state, d.over = StateCancelled, true
			c.endProbe(dev, d)
			r.ended = append(r.ended, e)
			c.pending.events = append(c.pending.events, e)
			c.pending.finished = append(c.pending.finished, Finish{Key: Key{Seq: d.seq, Device: dev.ID}, At: e.Time, State: d.state})
			c.touchPending()
		}
	}
}

// begin sets the deliveries of a durable notification on their way.
func (c *Core) begin(r *commitResult) {
	n := r.notification
	c.observers.observe(n.Account, Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: EventAccepted})
	for _, events := range [][]Event{r.batch.Events, r.ended} {
		for _, e := range events {
			c.observers.observe(n.Account, e)
		}
	}
	for _, d := range r.deliveries {
		if d.over { // its device was dropped meanwhile
			c.over = append(c.over, d)
			continue
		}
		dev := c.dev(d)
		if dev.ID == "" && len(dev.account.devices) > 0 { // a device has come meanwhile
			c.assign(d, dev.account.devices[0])
			dev = c.dev(d)
		}
		dev.queue = append(dev.queue, d.handle)
		if d.pushUnderway {
			d.holds++
			c.recorded.put(d)
		}
		if d.state == StatePending {
			// Without room it waits no longer than an ack window without progress.
			d.deadline = c.clock.steady() + ackWindow(&d.progress, situation{windows: &c.settings.Load().Windows})
		}
		c.deadlines.schedule(d)
		room := c.makeRoom(dev, d)
		switch {
		case !room && slices.Contains(r.full, dev): // one that was admitted stays, whatever has happened since
			c.apply(d, inCancel, situation{detail: fmt.Sprintf("the device has %d unfinished notifications %s", c.settings.Load().MaxOutstanding, fullDetail)})
		case dev.presence != nil:
			d.makeDue(dev)
			c.feed(dev)
			if d.state == StatePending {
				c.apply(d, inNoRoom, situation{})
			}
		default:
			c.apply(d, inNoChannel, situation{}) // if it was online a moment ago
		}
	}
}

// fullDetail ends the detail of a delivery that was cancelled because its device was full: it
// is the one that the answer to the request shows as cancelled.
const fullDetail = "(delivery.max_outstanding_per_device)"

// makeRoom ends the deliveries whose place the newest delivery of dev takes, and reports
// whether dev has room for it. It ends one normal delivery at most, also where the limit was
// lowered below the length of the queue.
func (c *Core) makeRoom(dev *device, newest *delivery) bool {
	if newest.collapse != 0 && c.supersede(dev, newest) {
		return true
	}
	return len(dev.queue) <= c.settings.Load().MaxOutstanding || newest.urgency == UrgencyHigh && c.displace(dev)
}

// displace ends the oldest normal delivery of a full device, and reports whether there was one.
func (c *Core) displace(dev *device) bool {
	for d := range c.slab.each(dev.queue) {
		if d.urgency == UrgencyNormal && !d.state.Final() {
			c.apply(d, inCancel, situation{detail: "displaced"})
			return true
		}
	}
	return false
}
