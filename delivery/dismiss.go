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
	// CollapseKey is the notification's. A background push names the tip by it, also
	// when the notification has been erased meanwhile.
	CollapseKey string
	BadgeAuto   bool // the notification's: a dismissal tells the new number
	Pushed      bool // a background push for it was accepted
	At          time.Time
}

// dismissal is a Dismissal in memory, and how it stands on this connection.
type dismissal struct {
	Dismissal
	open    bool // published, not acknowledged yet
	sent    bool // published at least once
	refused bool // by this connection: kept for the next
	pushing bool // a background push is under way
	// withdraw tells the pusher that it is not wanted any more; nil: none is under way.
	withdraw func()
}

func (x *dismissal) withdrawPush() {
	if x.withdraw != nil {
		x.withdraw()
		x.withdraw = nil
	}
}

// Dismiss takes a notification off the screens of all devices that have had it, or
// may have had it. It returns when that is on the disk. A repetition is harmless.
func (c *Core) Dismiss(ctx context.Context, id string) error {
	n, err := c.Find(id)
	if err != nil {
		return err
	}
	queued := c.dismissing(n)
	if err := c.Flush(ctx); err != nil {
		return err
	}
	if err := c.dismiss(n, "", queued); err != nil {
		return err
	}
	return c.flush(ctx, true)
}

// dismissing returns the devices for which a dismissal of n is queued. See dismiss.
func (c *Core) dismissing(n *Notification) (devices []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.accounts[n.Account]
	if a == nil {
		return nil
	}
	for _, dev := range a.devices {
		if dev.dismisses(n.Seq) {
			devices = append(devices, dev.ID)
		}
	}
	return devices
}

func (d *device) dismisses(seq Seq) bool {
	return slices.ContainsFunc(d.dismissals, func(x *dismissal) bool { return x.Of == seq })
}

// dismiss queues a dismissal of n for each device that may show it, but for one.
// The caller calls dismissing, then Flush, then dismiss: a device that acknowledges its
// dismissal after the Flush gets no other.
func (c *Core) dismiss(n *Notification, but string, queued []string) error {
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
	for _, id := range queued {
		shown[id] = false
	}
	return c.withAccount(n.Account, func(a *account) error {
		for _, dev := range a.devices {
			if dev.ID != but {
				c.markRead(dev, n.Seq)
			}
			if shown[dev.ID] && dev.ID != but {
				c.addDismissal(dev, n)
			}
		}
		return nil
	})
}

func (c *Core) addDismissal(dev *device, n *Notification) {
	if dev.dismisses(n.Seq) {
		return
	}
	full := len(dev.dismissals) >= c.settings.Load().MaxOutstanding
	if full { // a device that does not ask for them keeps the newest
		oldest := dev.dismissals[0]
		if !dev.dropsDismissals {
			c.log.Warn("dismissals dropped: the device does not take them, and has as many as are kept", "device", dev.ID, "account", dev.Account, "notification", oldest.ID, "limit", len(dev.dismissals))
		}
		c.removeDismissal(dev, oldest)
	}
	dev.dropsDismissals = full
	x := &dismissal{Dismissal: Dismissal{Seq: Seq(c.clock.next()), Device: dev.ID, Of: n.Seq, ID: n.ID, CollapseKey: n.CollapseKey, BadgeAuto: n.BadgeAuto, At: c.clock.wallNow()}}
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
	c.event(Event{Seq: x.Of, Time: c.clock.wallNow(), Kind: kind, Device: dev.ID, Detail: detail}, dev.Account)
}

// feedDismissals publishes the dismissals that were accepted before a Seq (0: all),
// and reports whether the window has room for more.
func (c *Core) feedDismissals(dev *device, p *Presence, before Seq) bool {
	if !p.dismissals {
		return true
	}
	for _, x := range dev.dismissals {
		if before != 0 && x.Seq >= before {
			return true
		}
		if x.open || x.refused {
			continue
		}
		if len(p.open) >= c.settings.Load().MaxInflight || p.packets >= p.info.ReceiveMaximum {
			return false
		}
		p.opened(x.Seq, false)
		c.dismissalEvent(dev, x, EventDismissalSent, "")
		err := p.channel.Publish(Publication{Ref: Ref{Seq: x.Seq, Dismissal: true, acker: p}, DismissedID: x.ID, Redelivery: x.sent, BadgeAuto: x.BadgeAuto, Unread: len(dev.Unread)})
		x.open, x.sent = true, true
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
	if c.pusher == nil || c.stopped || x.Pushed || x.pushing || r == nil || r.Suspended != nil || r.Ended != nil {
		return
	}
	x.pushing = true
	dev.dismissing++
	c.pushing++
	asked := r.Clone()
	expires := time.Now().Add(c.settings.Load().TTL)
	p := Push{
		Seq: x.Seq, Device: dev.ID, Account: dev.Account, Registration: asked, Attempt: attempt, Urgency: UrgencyNormal,
		ExpiresAt: expires,
		// Its own, and no copy of the content: the notification may have expired or been
		// erased.
		Dismiss: &Notification{
			Seq: x.Of, ID: x.ID, Account: dev.Account, CollapseKey: x.CollapseKey, BadgeAuto: x.BadgeAuto,
			Urgency: UrgencyNormal, AcceptedAt: x.At, ExpiresAt: expires,
		},
		Current: func() (Registration, error) {
			return c.currentTarget(dev, func() (Registration, error) {
				if err := c.trusted(); err != nil {
					return Registration{}, err
				}
				r := dev.Registration(KindAlert)
				if dev.dropped != "" || dev.presence != nil || !slices.Contains(dev.dismissals, x) || !r.Usable(c.clock.wallNow()) {
					return Registration{}, fmt.Errorf("%w: the dismissal needs no push", ErrPushNotWanted)
				}
				return r.Clone(), nil
			})
		},
		Unread: func() int { return c.unread(dev) },
	}
	ctx, cancel := context.WithCancel(c.ctx)
	x.withdraw = cancel
	c.pusher.Push(ctx, p, func(r PushResult) {
		cancel()
		if c.dismissalAnswers.put(dismissalAnswer{dev, x, asked, attempt, r}) {
			c.dismissalAnswers.drain(c.onDismissalsPushed)
		}
	})
}

// dismissalAnswer is what a notification server has answered to the background push of
// a dismissal.
type dismissalAnswer struct {
	dev     *device
	x       *dismissal
	asked   Registration
	attempt int
	result  PushResult
}

func (c *Core) onDismissalsPushed(as []dismissalAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range as {
		a.x.pushing, a.x.withdraw = false, nil
		a.dev.dismissing--
		c.onDismissalPushed(a)
		c.answered(a.dev)
	}
	c.settle()
	c.pushesAnswered(len(as))
}

// onDismissalPushed handles the notification server's answer. The caller holds the
// mutex.
func (c *Core) onDismissalPushed(a dismissalAnswer) {
	dev, x, r := a.dev, a.x, &a.result
	if dev.dropped != "" {
		return
	}
	switch r.Outcome {
	case PushAccepted:
		x.Pushed = true
		c.pending.sync = true // a crash must not push again what was accepted
		c.dismissalEvent(dev, x, EventDismissalSent, "push "+r.detail())
		if slices.Contains(dev.dismissals, x) {
			c.putDismissal(x)
		}
		c.seen(dev)
	case PushTokenGone, PushTokenSuspended:
		asked := a.asked
		if r.Registration.Token != "" {
			asked = r.Registration
		}
		if held := dev.Registration(KindAlert); held != nil && held.Ended == nil && held.SameAddress(&asked) && c.endRegistration(dev, held, asked, *r) {
			c.dismissalEvent(dev, x, pick(r.Outcome == PushTokenGone, EventTokenRemoved, EventTokenSuspended), r.Detail)
		}
	case PushRetry, PushWithdrawn:
		if held := dev.Registration(KindAlert); held != nil && !held.SameAddress(&a.asked) && dev.presence == nil && slices.Contains(dev.dismissals, x) {
			c.pushDismissal(dev, x, 1) // to the registration that took its place
			return
		}
		after, next := r.RetryAfter, a.attempt+1
		switch {
		case c.stopped:
			return
		case errors.Is(r.Err, errUntrusted): // nobody was asked
			after, next = distrust(r.Err), a.attempt
		case r.Outcome == PushWithdrawn || errors.Is(r.Err, context.Canceled) || a.attempt >= patience:
			return
		}
		c.loops.Go(func() {
			select {
			case <-time.After(after):
			case <-c.quit:
				return
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if dev.dropped == "" && dev.presence == nil && slices.Contains(dev.dismissals, x) {
				c.pushDismissal(dev, x, next)
			}
		})
	}
}

// pushDismissals asks for the background pushes of a device that is offline.
func (c *Core) pushDismissals(dev *device) {
	for _, x := range dev.dismissals {
		c.pushDismissal(dev, x, 1)
	}
}

// pushRecoveredDismissals asks for the background pushes that a stop or a crash came
// before. Devices get an ack window's time to come back first.
func (c *Core) pushRecoveredDismissals() {
	select {
	case <-time.After(c.settings.Load().Windows.Ack):
	case <-c.quit:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, dev := range c.devices {
		if dev.presence == nil {
			c.pushDismissals(dev)
		}
	}
}

// recoverDismissals takes up the dismissals of b. The caller holds the mutex.
func (c *Core) recoverDismissals(b Backlog) error {
	var failed error
	err := b.Dismissals(c.opts.Shard, func(x *Dismissal) bool {
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
	limit := c.clock.wallNow().Add(-pick(c.opts.History > 0, c.opts.History, 72*time.Hour))
	for _, dev := range c.devices {
		for len(dev.dismissals) > 0 && dev.dismissals[0].At.Before(limit) {
			c.removeDismissal(dev, dev.dismissals[0])
		}
	}
	c.settle()
}
