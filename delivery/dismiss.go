package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Dismissal takes a notification off a device's screen (contract §2, "Taking it
// back"). It is kept until the device's PUBACK, or for Options.History.
type Dismissal struct {
	Seq    Seq // its place in the order of acceptance
	Device string
	Of     Seq    // the notification
	ID     string // the notification's
	Pushed bool   // a background push for it was accepted
	At     time.Time
}

// dismissal is a Dismissal in memory, and how it stands on this connection.
type dismissal struct {
	Dismissal
	open    bool // published, not acknowledged yet
	refused bool // by this connection: kept for the next
	pushing bool // a background push is under way
}

// Dismiss takes a notification off the screens of all devices that have had it, or
// may have had it. It returns when that is on the disk. A repetition is harmless.
func (c *Core) Dismiss(ctx context.Context, id string) error {
	n, err := c.find(id)
	if err != nil {
		return err
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	if err := c.dismiss(n, ""); err != nil {
		return err
	}
	return c.flush(ctx, true)
}

// dismiss queues a dismissal of n for each device that may show it, but for one.
// Everything that has happened so far is in the store.
func (c *Core) dismiss(n *Notification, but string) error {
	states, err := c.out.Deliveries(n.Seq)
	var timeline []Event
	if err == nil {
		timeline, err = c.out.Timeline(n.Seq)
	}
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrUnknownNotification, n.ID)
	} else if err != nil {
		return fmt.Errorf("read the deliveries of notification %s: %w", n.ID, err)
	}
	shown := map[string]bool{}
	for _, d := range states {
		shown[d.Device] = d.Attempts > 0 || d.Pushed
	}
	for _, e := range timeline {
		switch e.Kind {
		case EventPushRequested: // its answer may be lost
			shown[e.Device] = true
		case EventDismissed: // it comes after them
			shown[e.Device] = false
		}
	}
	return c.withAccount(n.Account, func(a *account) error {
		for _, dev := range a.devices {
			if shown[dev.ID] && dev.ID != but {
				c.addDismissal(dev, n)
			}
		}
		return nil
	})
}

func (c *Core) addDismissal(dev *device, n *Notification) {
	if slices.ContainsFunc(dev.dismissals, func(x *dismissal) bool { return x.Of == n.Seq }) {
		return
	}
	if len(dev.dismissals) >= c.opts.MaxOutstanding { // a device that does not ask for them keeps the newest
		c.removeDismissal(dev, dev.dismissals[0])
	}
	x := &dismissal{Dismissal: Dismissal{Seq: Seq(c.clock.next()), Device: dev.ID, Of: n.Seq, ID: n.ID, At: time.Now()}}
	dev.dismissals = append(dev.dismissals, x)
	c.putDismissal(x)
	c.pending.sync = true
	if dev.presence == nil {
		c.pushDismissal(dev, x, 1)
	}
	c.feed(dev)
}

func (c *Core) putDismissal(x *dismissal) {
	c.pending.dismissals = append(c.pending.dismissals, x.Dismissal)
	c.touchPending()
}

func (c *Core) removeDismissal(dev *device, x *dismissal) {
	dev.dismissals = slices.DeleteFunc(dev.dismissals, func(y *dismissal) bool { return y == x })
	c.pending.dismissed = append(c.pending.dismissed, Key{Seq: x.Seq, Device: dev.ID})
	c.touchPending()
	if dev.idle() {
		c.pending.idle = append(c.pending.idle, dev.account)
	}
}

// dismissalEvent adds a line to the timeline of the notification that x takes away.
func (c *Core) dismissalEvent(dev *device, x *dismissal, kind EventKind, detail string) {
	c.event(Event{Seq: x.Of, Time: time.Now(), Kind: kind, Device: dev.ID, Detail: detail}, dev.Account)
}

// feedDismissals publishes the dismissals that were accepted before a Seq (0: all),
// and reports whether the window has room for more.
func (c *Core) feedDismissals(dev *device, p *Presence, before Seq) bool {
	if !p.info.Dismissals {
		return true
	}
	for _, x := range dev.dismissals {
		if before != 0 && x.Seq >= before {
			return true
		}
		if x.open || x.refused {
			continue
		}
		if len(p.open) >= c.opts.MaxInflight || p.packets >= p.info.ReceiveMaximum {
			return false
		}
		x.open = true
		p.opened(x.Seq, false)
		c.dismissalEvent(dev, x, EventDismissalSent, "")
		err := p.channel.Publish(Publication{Ref: Ref{Seq: x.Seq, Dismissal: true, presence: p}, DismissedID: x.ID})
		if err != nil {
			p.closed(x.Seq, false)
			x.open, x.refused = false, true
		}
	}
	return true
}

// onDismissalAcked handles the device's PUBACK of a dismissal.
func (c *Core) onDismissalAcked(dev *device, seq Seq, refused bool) {
	for _, x := range dev.dismissals {
		if x.Seq != seq {
			continue
		}
		if refused {
			x.open, x.refused = false, true
			return
		}
		c.dismissalEvent(dev, x, EventDismissed, "")
		c.removeDismissal(dev, x)
		return
	}
}

// pushDismissal asks for the background push of a dismissal whose device is offline.
// It is tried a few times; when the device is back it gets the dismissal anyway.
func (c *Core) pushDismissal(dev *device, x *dismissal, attempt int) {
	r := dev.Registration(KindAlert)
	if !c.opts.PushDismissals || c.pusher == nil || c.stopped || x.Pushed || x.pushing || r == nil || r.Suspended != nil || r.Ended != nil {
		return
	}
	x.pushing = true
	c.pushing++
	p := Push{
		Seq: x.Of, Device: dev.ID, Account: dev.Account, Registration: r.Clone(), Attempt: attempt, Urgency: UrgencyNormal,
		ExpiresAt: time.Now().Add(c.opts.TTL), Dismiss: true,
		Current: func() (Registration, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			r := dev.Registration(KindAlert)
			if dev.dropped != "" || dev.presence != nil || !slices.Contains(dev.dismissals, x) || !r.Usable(time.Now()) {
				return Registration{}, fmt.Errorf("%w: the dismissal needs no push", ErrPushNotWanted)
			}
			return r.Clone(), nil
		},
	}
	c.pusher.Push(c.ctx, p, func(r PushResult) { c.onDismissalPushed(dev, x, attempt, r) })
}

func (c *Core) onDismissalPushed(dev *device, x *dismissal, attempt int, r PushResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.pushing = false
	c.pushing--
	if c.stopped {
		if c.pushing == 0 {
			close(c.noPushing)
		}
		return
	}
	switch {
	case dev.dropped != "":
	case r.Outcome == PushAccepted:
		x.Pushed = true
		c.dismissalEvent(dev, x, EventDismissalSent, "push "+r.detail())
		if slices.Contains(dev.dismissals, x) {
			c.putDismissal(x)
		}
	case r.Outcome == PushRetry && r.Err == nil && attempt < patience:
		c.loops.Go(func() {
			select {
			case <-time.After(r.RetryAfter):
			case <-c.quit:
				return
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if dev.presence == nil && slices.Contains(dev.dismissals, x) {
				c.pushDismissal(dev, x, attempt+1)
			}
		})
	}
	c.settle()
}

// recoverDismissals takes up the dismissals of the store. The caller holds the mutex.
func (c *Core) recoverDismissals() error {
	var failed error
	err := c.out.Dismissals(func(x *Dismissal) bool {
		var dev *device
		dev, failed = c.recoverDevice(&Record{Device: x.Device})
		if errors.Is(failed, ErrNotFound) {
			failed = nil
			c.pending.dismissed = append(c.pending.dismissed, Key{Seq: x.Seq, Device: x.Device})
			c.touchPending()
			return true
		}
		if failed == nil {
			dev.dismissals = append(dev.dismissals, &dismissal{Dismissal: *x})
		}
		return failed == nil
	})
	return pick(failed != nil, failed, err)
}

// expireDismissals drops dismissals that are older than Options.History.
func (c *Core) expireDismissals() {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := time.Now().Add(-pick(c.opts.History > 0, c.opts.History, 72*time.Hour))
	for _, dev := range c.devices {
		for len(dev.dismissals) > 0 && dev.dismissals[0].At.Before(limit) {
			c.removeDismissal(dev, dev.dismissals[0])
		}
	}
	c.settle()
}
