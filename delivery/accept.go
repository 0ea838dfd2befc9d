package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Request is what a backend asks for (contract §4, POST /v1/notifications). Zero
// values are the defaults of the configuration.
type Request struct {
	Account     string
	Title       string
	Body        string
	Data        json.RawMessage // any JSON value; nil: none
	ID          string          // "": the server makes a UUIDv7
	CollapseKey string
	TTL         *time.Duration // nil: the configured one; 0: one attempt and no more
	AckWindow   *time.Duration // of the first attempt, up to 1h; nil: the configured one; 0: a push at once
	Ack         AckKind
	Urgency     Urgency
	NoFallback  bool
	Devices     []string // of the account; nil: all
	Badge       *int
	Sound       string
	Category    string

	Subtitle  string
	Thread    string
	Link      string
	Image     string
	Level     Level
	Localized *Localized
	Extra     json.RawMessage // a JSON object
	BadgeAuto bool
	Kind      string // of the registration that a push goes to; "": KindAlert
	PushType  string
	Overlay   *Overlay
	Mark      *RequestMark // of a publish over MQTT without an ID
	Again     bool         // it may be a repetition of the publish that Mark names (DUP)
}

// Receipt answers an accepted Request.
type Receipt struct {
	Notification *Notification
	// State is the furthest from final among Deliveries; waiting where the
	// notification is held for an account without devices.
	State State
	// Deliveries are the states that the answer to the request shows: pending, or
	// cancelled where a delivery ended before its first attempt.
	Deliveries []DeliveryState
	// Repeated: the same ID with the same meaning had been accepted before; this is
	// that notification.
	Repeated bool
}

// FullError is returned where every addressed device has as many unfinished
// deliveries as delivery.max_outstanding_per_device allows. It wraps
// ErrTooMuchOutstanding.
type FullError struct {
	Limit      int
	RetryAfter time.Duration // a tenth of the time that a device has been away, 2 s to 10 min
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: every device addressed has %d unfinished notifications (delivery.max_outstanding_per_device)", ErrTooMuchOutstanding, e.Limit)
}

// Unwrap returns ErrTooMuchOutstanding.
func (e *FullError) Unwrap() error { return ErrTooMuchOutstanding }

// Accept makes a notification durable and sets it on its way. It returns when it
// is on the disk. The errors wrap ErrInvalid, ErrUnknownAccount, ErrUnknownDevice,
// ErrConflict, ErrTooMuchOutstanding, ErrUnavailable or ErrStopped; with any of them
// nothing was accepted. With ErrInDoubt that is not known yet.
func (c *Core) Accept(ctx context.Context, r Request) (Receipt, error) {
	type result struct {
		Receipt
		error
	}
	done := make(chan result, 1)
	c.AcceptAsync(r, func(receipt Receipt, err error) { done <- result{receipt, err} })
	select {
	case a := <-done:
		return a.Receipt, a.error
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("the answer was not awaited, the notification may have been accepted: %w", ctx.Err())
	}
}

// AcceptAsync is Accept for a caller that must not wait: it neither reads the store
// nor waits for another acceptance. done is called once, from another goroutine or
// from this one, and must not block. Requests of one caller for one account are
// accepted in the order of the calls.
func (c *Core) AcceptAsync(r Request, done func(Receipt, error)) {
	n, err := c.notification(r)
	if err != nil {
		done(Receipt{}, err)
		return
	}
	c.mu.Lock()
	err = c.acceptLocked(r, n, done)
	c.mu.Unlock()
	if err != nil {
		done(Receipt{}, err)
	}
}

// acceptLocked enqueues n if that needs nothing from the store: the account is in
// memory, and the server makes the ID. Otherwise a goroutine opens the account's
// way, and whatever comes for the account meanwhile queues behind n.
func (c *Core) acceptLocked(r Request, n *Notification, done func(Receipt, error)) error {
	if c.stopped {
		return ErrStopped
	}
	o := c.openings[n.Account]
	a := c.accounts[n.Account]
	if o == nil && a != nil && r.ID == "" && !r.Again {
		err := c.enqueue(a, r, n, done)
		c.settle()
		c.release(a)
		return err
	}
	if o == nil {
		o = &opening{}
		c.openings[n.Account] = o
		c.loops.Go(func() { c.open(n.Account, o) })
	}
	o.requests = append(o.requests, openRequest{r, n, done})
	return nil
}

// opening is the acceptances of one account that need the store first, in order.
type opening struct{ requests []openRequest }

type openRequest struct {
	request      Request
	notification *Notification
	done         func(Receipt, error)
}

// open handles the requests of an opening until there are no more.
func (c *Core) open(account string, o *opening) {
	for {
		c.mu.Lock()
		if len(o.requests) == 0 {
			delete(c.openings, account)
			c.mu.Unlock()
			return
		}
		requests := o.requests
		o.requests = nil
		c.mu.Unlock()
		for _, q := range requests {
			if err := c.accept(q.request, q.notification, q.done); err != nil {
				q.done(Receipt{}, err)
			}
		}
	}
}

// accept is Accept for a caller that may wait for the store.
func (c *Core) accept(r Request, n *Notification, done func(Receipt, error)) error {
	if r.ID != "" {
		repeat, err := c.claim(r, n)
		if err != nil {
			return err
		}
		if repeat != nil {
			return c.answerRepeat(repeat, done)
		}
	} else if r.Again && r.Mark != nil {
		repeat, err := c.marked(n.Account, *r.Mark)
		if errors.Is(err, ErrUnavailable) { // of this copy nothing was accepted, of the first perhaps
			err = ErrInDoubt
		}
		if err != nil {
			return err
		}
		if repeat != nil {
			return c.answerRepeat(repeat, done)
		}
	}
	err := c.withAccount(n.Account, func(a *account) error { return c.enqueue(a, r, n, done) })
	if err != nil && r.ID != "" {
		c.unclaim(n.ID)
	}
	return err
}

// answerRepeat answers the repetition of a request as the first one was answered.
func (c *Core) answerRepeat(n *Notification, done func(Receipt, error)) error {
	receipt := Receipt{Notification: n, State: StateWaiting, Repeated: true, Deliveries: []DeliveryState{}}
	if n.Held { // whatever device has come since
		done(receipt, nil)
		return nil
	}
	// A delivery to a full device ends at once, and that may not be in the store yet.
	err := c.Flush(c.ctx)
	if errors.Is(err, ErrStopped) {
		return fmt.Errorf("notification %s was accepted, its deliveries are not read: %w", n.ID, err)
	}
	var timeline []Event
	if err == nil {
		timeline, err = c.out.Timeline(n.Seq)
	}
	if err != nil {
		return fmt.Errorf("%w: read the timeline of notification %s: %w", ErrUnavailable, n.ID, err)
	}
	full := map[string]bool{}
	for _, e := range timeline {
		if e.Kind == EventCancelled && strings.HasSuffix(e.Detail, fullDetail) {
			full[e.Device] = true
		}
	}
	receipt.State = StateCancelled
	for _, device := range n.Devices {
		receipt.add(device, full[device])
	}
	done(receipt, nil)
	return nil
}

// claim makes sure that an ID is accepted once. It returns the notification that
// has it already, if it means the same as r.
func (c *Core) claim(r Request, n *Notification) (*Notification, error) {
	for {
		c.mu.Lock()
		other := c.accepting[n.ID]
		if other == nil {
			c.accepting[n.ID] = &claimedID{over: make(chan struct{}), inDoubt: make(chan struct{})}
		}
		c.mu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other.over: // a commit away
		case <-other.inDoubt:
			return nil, ErrInDoubt
		case <-c.quit:
			return nil, fmt.Errorf("another request with the ID %s is not answered: %w", n.ID, ErrStopped)
		}
	}
	first, err := c.Find(n.ID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	defer c.unclaim(n.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	same, err := c.sameMeaning(first, n, r)
	if err != nil {
		return nil, fmt.Errorf("%w: read notification %s: %w", ErrUnavailable, n.ID, err)
	}
	if !same {
		return nil, fmt.Errorf("%w: notification %s was accepted at %s", ErrConflict, n.ID, first.AcceptedAt.Format(time.RFC3339Nano))
	}
	return first, nil
}

// claimedID is an ID on its way into the store.
type claimedID struct {
	over    chan struct{} // closed when it is in, or refused
	inDoubt chan struct{} // closed when that will not be known for a while
}

func (c *Core) unclaim(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.accepting[id].over)
	delete(c.accepting, id)
}

// marked finds the notification of an account that was accepted from the publish
// that m marks; nil: none.
func (c *Core) marked(account string, m RequestMark) (first *Notification, err error) {
	// A list lacks acceptances that are being committed.
	if err := c.Flush(c.ctx); err != nil {
		return nil, err
	}
	// A client uses a packet ID again once it has the PUBACK. Then the older publish does not
	// come again: what looks like it is another one with the same content. A node's own mark
	// has no packet ID, and is unique.
	within := pick(c.opts.RepeatWithin > 0, c.opts.RepeatWithin, 10*time.Minute)
	reused := m.PacketID != 0
	looked := 0
	err = c.out.List(account, 0, func(n *Notification) bool {
		looked++
		if reused && c.clock.wallNow().Sub(n.AcceptedAt) > within {
			return false // so are the others
		}
		switch {
		case n.Mark == nil:
		case *n.Mark == m:
			if !reused || c.clock.wallNow().Sub(n.AcceptedAt) > -within { // else: the clock was set back
				first = n
			}
			return false
		case reused && n.Mark.Client == m.Client && n.Mark.PacketID == m.PacketID:
			return false
		}
		return looked < scanBound
	})
	if err != nil {
		return nil, fmt.Errorf("%w: list the notifications of account %s: %w", ErrUnavailable, account, err)
	}
	return first, nil
}

// enqueue hands a notification to the outbox. The caller holds the mutex, so that
// the order of the commits is the order of acceptance. On an error done is not
// called.
func (c *Core) enqueue(a *account, r Request, n *Notification, done func(Receipt, error)) error {
	targets, full, err := c.targets(a, n, r.Devices)
	if err != nil {
		return err
	}
	n.Devices, n.Narrowed = make([]string, 0, len(targets)), len(targets) < len(a.devices)
	n.Held = targets[0].ID == ""
	for _, d := range targets {
		n.Devices = append(n.Devices, d.ID)
		d.reserved++
	}
	n.Seq = Seq(c.clock.next())
	if r.ID == "" {
		n.ID = NewID(n.Seq)
	}
	n.AcceptedAt = c.clock.wallNow()
	ttl := c.settings.Load().TTL
	if r.TTL != nil {
		ttl = *r.TTL
	}
	n.ExpiresAt = n.AcceptedAt.Add(ttl)
	if len(c.pending.putDevices) > 0 || len(c.pending.removed) > 0 {
		c.commitPending() // a new device before its first notification
	}
	result := c.results.Get().(*commitResult) //nolint:forcetypeassert // it holds nothing else
	b := &result.batch
	result.accept = [1]Acceptance{{Notification: n, Data: r.Data}}
	b.Accept, b.Sync, b.InDoubt = result.accept[:], true, result.whenInDoubt
	if n.BadgeAuto {
		c.countUnread(b, n, targets)
	}
	deliveries := result.one[:0]
	for _, dev := range targets {
		d := c.newDelivery(n, dev, ttl)
		deliveries = append(deliveries, d)
		if dev.presence == nil && n.CollapseKey == "" && !n.TTLZero { // else those before it end first
			c.beginOffline(d, n, b)
		}
	}
	result.account, result.notification, result.deliveries, result.full = a, n, deliveries, full
	result.claimed, result.done = r.ID != "", done
	result.depart()
	c.out.Commit(b, result.whenDone)
	return nil
}

func (c *Core) newDelivery(n *Notification, dev *device, ttl time.Duration) *delivery {
	d := c.slab.add(dev, n.Kind, n.CollapseKey)
	d.state, d.ack, d.fallback, d.once = StatePending, n.Ack, n.Fallback, n.TTLZero
	d.message = pick(n.HasMessage, MessageHeld, MessageNone)
	d.seq, d.urgency = n.Seq, n.Urgency
	d.setWindows(n.AckWindow, ttl, c.settings.Load().Windows)
	if n.TTLZero { // time for its one attempt, and no more
		ttl = max(time.Duration(d.window)*time.Millisecond, c.settings.Load().Windows.Ack) + c.settings.Load().Windows.Fallback
	}
	d.expires = c.clock.steady() + int64(ttl)
	return d
}

// beginOffline takes the first step of a delivery to a device that is offline, and
// has it recorded with the acceptance: its push leaves a write sooner.
func (c *Core) beginOffline(d *delivery, n *Notification, b *Batch) {
	var st step
	d.progress, st = transition(d.progress, inNoChannel, c.around(d, situation{}))
	for _, e := range st.events[:st.n] {
		b.Events = append(b.Events, Event{Seq: d.seq, Number: c.clock.next(), Time: n.AcceptedAt, Kind: e.kind, Device: c.dev(d).ID, Detail: e.detail})
	}
	if st.push {
		c.probing(d)
	} else if d.state == StateWaiting {
		d.deadline = c.nextProbe(d)
	}
	b.Update = append(b.Update, c.recordNow(d))
}

// targets picks the devices that a notification goes to. A device that is full is
// named too as long as another is not: a dead device holds only its own queue.
func (c *Core) targets(a *account, n *Notification, names []string) (wanted, full []*device, err error) {
	wanted = a.devices
	switch {
	case len(a.devices) == 0 && c.opts.HoldUnknown && len(names) == 0:
		wanted = []*device{a.heldFor()}
	case len(a.devices) == 0:
		return nil, nil, fmt.Errorf("%w: account %s has no device; a device is registered by its first subscription to its notifications topic, its first push token, or PUT /v1/accounts/{account}/devices/{device}", ErrUnknownAccount, a.name)
	}
	if len(names) > 0 {
		wanted = nil
		for _, name := range names {
			d := a.device(name)
			if d == nil {
				return nil, nil, fmt.Errorf("%w: account %s has no device %s", ErrUnknownDevice, a.name, name)
			}
			if !slices.Contains(wanted, d) {
				wanted = append(wanted, d)
			}
		}
	}
	for _, d := range wanted {
		if !c.hasRoom(d, n) {
			full = append(full, d)
		}
	}
	if len(full) < len(wanted) {
		return slices.Clone(wanted), full, nil
	}
	retry := c.retryAfter(full[0])
	for _, d := range full[1:] {
		retry = min(retry, c.retryAfter(d))
	}
	return nil, nil, &FullError{Limit: c.settings.Load().MaxOutstanding, RetryAfter: retry}
}

// hasRoom reports whether d may have one delivery more: it is not full, n replaces
// one by its collapse key, or n is urgent and one that is not can be displaced. The limit
// may have been lowered below the length of the queue. The queue need not shrink to the limit
// then: n takes the place of one delivery, and no other has to end for it.
func (c *Core) hasRoom(d *device, n *Notification) bool {
	limit := c.settings.Load().MaxOutstanding
	over := min(len(d.queue), limit) + d.reserved - limit
	if over < 0 {
		return true
	}
	key := c.slab.texts[n.CollapseKey] // 0: no delivery has it
	for x := range c.slab.each(d.queue) {
		if x.state.Final() {
			continue
		}
		if key != 0 && x.collapse == key {
			return true
		}
		if n.Urgency == UrgencyHigh && x.urgency == UrgencyNormal {
			if over--; over < 0 {
				return true
			}
		}
	}
	return false
}

// Bounds of FullError.RetryAfter.
const (
	minRetryAfter = 2 * time.Second
	maxRetryAfter = 10 * time.Minute
)

// retryAfter is a tenth of the time that d has been away.
func (c *Core) retryAfter(d *device) time.Duration {
	if d.presence != nil {
		return minRetryAfter
	}
	gone := d.since
	if gone.IsZero() { // not since the start
		gone = d.SeenAt
	}
	return min(max(c.clock.wallNow().Sub(gone)/10, minRetryAfter), maxRetryAfter)
}
