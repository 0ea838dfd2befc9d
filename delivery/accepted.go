package delivery

import "fmt"

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
	one          [1]*delivery // their memory, if it is enough
	err          error        // nil: it is durable
	claimed      bool         // the request had an ID
	done         func(Receipt, error)
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
		for _, d := range r.deliveries {
			c.dev(d).reserved--
		}
		if r.notification.BadgeAuto {
			c.countedUnread(r.notification, r.deliveries, r.err != nil)
		}
		if r.err == nil {
			c.begin(r.notification, r.deliveries, r.batch.Events)
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
		receipt.add(c.dev(d).ID, d.state == StateCancelled)
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

// begin sets the deliveries of a durable notification on their way.
func (c *Core) begin(n *Notification, deliveries []*delivery, begun []Event) {
	c.observers.observe(n.Account, Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: EventAccepted})
	for _, e := range begun {
		c.observers.observe(n.Account, e)
	}
	for _, d := range deliveries {
		dev := c.dev(d)
		if dev.ID == "" && len(dev.account.devices) > 0 && dev.dropped == "" { // a device has come meanwhile
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
		if d.collapse != 0 {
			c.supersede(dev, d)
		}
		if len(dev.queue) > c.settings.Load().MaxOutstanding && d.urgency == UrgencyHigh {
			c.displace(dev)
		}
		switch {
		case dev.dropped != "": // since it was accepted
			c.apply(d, inCancel, situation{detail: dev.dropped})
		case len(dev.queue) > c.settings.Load().MaxOutstanding:
			c.apply(d, inCancel, situation{detail: fmt.Sprintf("the device has %d unfinished notifications (delivery.max_outstanding_per_device)", c.settings.Load().MaxOutstanding)})
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

// displace ends the oldest normal delivery of a full device.
func (c *Core) displace(dev *device) {
	for d := range c.slab.each(dev.queue) {
		if d.urgency == UrgencyNormal && !d.state.Final() {
			c.apply(d, inCancel, situation{detail: "displaced"})
			return
		}
	}
}
