package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// Limits of contract §4.
const (
	maxText = 2 << 10   // title and body together, bytes
	maxData = 256 << 10 // data, bytes
	maxTTL  = 30 * 24 * time.Hour
	maxID   = 64
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
}

// Receipt answers an accepted Request.
type Receipt struct {
	Notification *Notification
	// Repeated: the same ID with the same content had been accepted before; this
	// is that notification.
	Repeated bool
}

// accepting is an ID on its way into the store, and who waits for it.
type accepting struct {
	done chan struct{}
}

// Accept makes a notification durable and sets it on its way. It returns when it
// is on the disk. The errors wrap ErrInvalid, ErrNotFound (unknown account or
// device), ErrConflict, ErrTooMuchOutstanding, ErrUnavailable or ErrStopped; with
// any of them nothing was accepted.
func (c *Core) Accept(ctx context.Context, r Request) (Receipt, error) {
	type answer struct {
		Receipt
		error
	}
	answered := make(chan answer, 1)
	c.AcceptAsync(r, func(receipt Receipt, err error) { answered <- answer{receipt, err} })
	select {
	case a := <-answered:
		return a.Receipt, a.error
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("the answer was not awaited, the notification may have been accepted: %w", ctx.Err())
	}
}

// AcceptAsync is Accept for a caller that must not wait: done is called once, from
// another goroutine or from this one, and must not block.
func (c *Core) AcceptAsync(r Request, done func(Receipt, error)) {
	n, err := c.notification(r)
	if err != nil {
		done(Receipt{}, err)
		return
	}
	if r.ID != "" {
		repeat, err := c.claim(n)
		if err != nil || repeat != nil {
			done(Receipt{Notification: repeat, Repeated: true}, err)
			return
		}
		answer := done
		done = func(receipt Receipt, err error) { c.unclaim(n.ID); answer(receipt, err) }
	}
	err = c.withAccount(n.Account, func(a *account) error {
		return c.enqueue(a, r, n, done)
	})
	if err != nil {
		done(Receipt{}, err)
	}
}

// claim makes sure that an ID is accepted once. It returns the notification that
// has it already, if its content is the same.
func (c *Core) claim(n *Notification) (*Notification, error) {
	for {
		c.mu.Lock()
		other := c.accepting[n.ID]
		if other == nil {
			c.accepting[n.ID] = &accepting{done: make(chan struct{})}
		}
		c.mu.Unlock()
		if other == nil {
			break
		}
		<-other.done // a commit away
	}
	seq, err := c.out.Lookup(n.ID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	defer c.unclaim(n.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: find notification %s: %w", ErrUnavailable, n.ID, err)
	}
	first, err := c.out.Notification(seq)
	if err != nil {
		return nil, fmt.Errorf("%w: read notification %s: %w", ErrUnavailable, n.ID, err)
	}
	if first.Fingerprint != n.Fingerprint {
		return nil, fmt.Errorf("%w: notification %s was accepted at %s", ErrConflict, n.ID, first.AcceptedAt.Format(time.RFC3339Nano))
	}
	return first, nil
}

func (c *Core) unclaim(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.accepting[id].done)
	delete(c.accepting, id)
}

// enqueue hands a notification to the outbox. The caller holds the mutex, so that
// the order of the commits is the order of acceptance.
func (c *Core) enqueue(a *account, r Request, n *Notification, done func(Receipt, error)) error {
	targets, err := c.targets(a, r.Devices)
	if err != nil {
		return err
	}
	n.Devices = make([]string, 0, len(targets))
	for _, d := range targets {
		n.Devices = append(n.Devices, d.ID)
		d.reserved++
	}
	n.Seq = Seq(c.clock.next())
	if r.ID == "" {
		n.ID = NewID(n.Seq)
	}
	n.AcceptedAt = time.Now()
	ttl := c.opts.TTL
	if r.TTL != nil {
		ttl = *r.TTL
	}
	n.ExpiresAt = n.AcceptedAt.Add(ttl)
	expires := c.clock.steady() + int64(ttl)
	if len(c.pending.putDevices) > 0 || len(c.pending.removed) > 0 {
		c.commitPending() // a new device before its first notification
	}
	b := acceptance(n, r.Data)
	deliveries := make([]*delivery, len(targets))
	for i, dev := range targets {
		deliveries[i] = &delivery{
			progress: progress{state: StatePending, ack: n.Ack, fallback: n.Fallback, message: pick(n.HasMessage, MessageHeld, MessageNone)},
			dev:      dev, seq: n.Seq, urgency: n.Urgency, kind: n.Kind, expires: expires, collapse: n.CollapseKey,
		}
		if dev.presence == nil && n.CollapseKey == "" { // else those before it end first
			c.beginOffline(deliveries[i], n, b)
		}
	}
	c.out.Commit(b, func(err error) {
		c.outcomes.put(outcome{account: a, notification: n, deliveries: deliveries, begun: b.Events, err: err, done: done})
	})
	return nil
}

// beginOffline takes the first step of a delivery to a device that is offline, and
// has it recorded with the acceptance: its push leaves a write sooner.
func (c *Core) beginOffline(d *delivery, n *Notification, b *Batch) {
	var st step
	d.progress, st = transition(d.progress, inNoChannel, c.around(d, situation{}))
	for _, e := range st.events[:st.n] {
		b.Events = append(b.Events, Event{Seq: d.seq, Number: c.clock.next(), Time: n.AcceptedAt, Kind: e.kind, Device: d.dev.ID, Detail: e.detail})
	}
	b.Update = append(b.Update, d.recordNow(c.clock))
}

// outcome is what has become of an acceptance.
type outcome struct {
	account      *account
	notification *Notification
	deliveries   []*delivery
	begun        []Event // of those to devices that were offline
	err          error   // nil: it is durable
	done         func(Receipt, error)
}

func (c *Core) accepted(os []outcome) {
	c.mu.Lock()
	for i := range os {
		o := &os[i]
		for _, d := range o.deliveries {
			d.dev.reserved--
		}
		if o.err == nil {
			c.begin(o.notification, o.deliveries, o.begun)
		}
		c.pending.idle = append(c.pending.idle, o.account)
	}
	c.settle()
	c.mu.Unlock()
	for i := range os {
		o := &os[i]
		if o.err != nil {
			o.err = fmt.Errorf("accept notification %s: %w", o.notification.ID, o.err)
		}
		o.done(Receipt{Notification: o.notification}, o.err)
	}
}

// acceptance is a batch with the room for its one notification beside it.
func acceptance(n *Notification, data json.RawMessage) *Batch {
	b := &struct {
		Batch
		one [1]Acceptance
	}{Batch: Batch{Sync: true}, one: [1]Acceptance{{Notification: n, Data: data}}}
	b.Accept = b.one[:]
	return &b.Batch
}

// targets picks the devices that a notification goes to. A device that is full is
// passed over as long as another is not: a dead device holds only its own queue.
func (c *Core) targets(a *account, names []string) ([]*device, error) {
	if len(a.devices) == 0 {
		return nil, fmt.Errorf("%w: account %s has no device; a device is registered by its first subscription to its notifications topic, its first push token, or PUT /v1/accounts/{account}/devices/{device}", ErrUnknownAccount, a.name)
	}
	wanted := a.devices
	if len(names) > 0 {
		wanted = nil
		for _, name := range names {
			d := a.device(name)
			if d == nil {
				return nil, fmt.Errorf("%w: account %s has no device %s", ErrUnknownDevice, a.name, name)
			}
			if !slices.Contains(wanted, d) {
				wanted = append(wanted, d)
			}
		}
	}
	full := 0
	for _, d := range wanted {
		if len(d.queue)+d.reserved >= c.opts.MaxOutstanding {
			full++
		}
	}
	if full == len(wanted) {
		return nil, fmt.Errorf("%w: every device addressed has %d unfinished notifications (delivery.max_outstanding_per_device)", ErrTooMuchOutstanding, c.opts.MaxOutstanding)
	}
	return slices.Clone(wanted), nil
}

// contentAtHand is for how many deliveries of a device that is up, and has no room
// for them in its window, the content stays in memory: their turn comes soon.
const contentAtHand = 64

// begin sets the deliveries of a durable notification on their way.
func (c *Core) begin(n *Notification, deliveries []*delivery, begun []Event) {
	c.observers.observe(n.Account, Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: EventAccepted})
	for _, e := range begun {
		c.observers.observe(n.Account, e)
	}
	for _, d := range deliveries {
		dev := d.dev
		full := len(dev.queue) >= c.opts.MaxOutstanding
		dev.queue = append(dev.queue, d)
		d.content = n
		if d.pushUnderway {
			c.recorded.put(d)
		}
		if d.state == StatePending {
			// Without room it waits no longer than an ack window without progress.
			d.deadline = c.clock.steady() + int64(c.opts.Windows.Ack)
		}
		c.deadlines.schedule(d)
		if d.collapse != "" {
			c.supersede(dev, d)
		}
		switch {
		case dev.dropped != "": // since it was accepted
			c.apply(d, inCancel, situation{detail: dev.dropped})
		case full:
			c.apply(d, inCancel, situation{detail: fmt.Sprintf("the device has %d unfinished notifications (delivery.max_outstanding_per_device)", c.opts.MaxOutstanding)})
		case dev.presence != nil:
			d.makeDue()
			c.feed(dev)
		default:
			c.apply(d, inNoChannel, situation{}) // if it was online a moment ago
		}
		if !d.pushUnderway && (!d.due || len(dev.queue) > contentAtHand) {
			d.content = nil
		}
	}
}

// notification checks a request and makes what is to be stored of it.
func (c *Core) notification(r Request) (*Notification, error) {
	if err := ValidName("account", r.Account); err != nil {
		return nil, err
	}
	var errs []error
	invalid := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if r.ID != "" && !validID(r.ID) {
		invalid("id: must be 1 to 64 of A-Za-z0-9._:-, got %q", clip(r.ID))
	}
	if r.CollapseKey != "" && !validID(r.CollapseKey) {
		invalid("collapse_key: must be 1 to 64 of A-Za-z0-9._:-, got %q", clip(r.CollapseKey))
	}
	if len(r.Title)+len(r.Body) > maxText {
		invalid("title and body: at most %d bytes together, got %d; put the rest into data", maxText, len(r.Title)+len(r.Body))
	}
	for name, text := range map[string]string{"title": r.Title, "body": r.Body, "sound": r.Sound, "category": r.Category} {
		if !utf8.ValidString(text) {
			invalid("%s: must be UTF-8", name)
		}
	}
	if len(r.Sound) > maxName || len(r.Category) > maxName {
		invalid("sound and category: at most %d bytes each", maxName)
	}
	if r.TTL != nil && (*r.TTL <= 0 || *r.TTL > maxTTL) {
		invalid("ttl: must be above 0 and at most 720h (30 days), got %s", r.TTL)
	}
	if r.Badge != nil && *r.Badge < 0 {
		invalid("badge: must be 0 or more, got %d", *r.Badge)
	}
	if len(r.Data) > maxData {
		invalid("data: at most %d bytes of JSON, got %d", maxData, len(r.Data))
	} else if r.Data != nil && !json.Valid(r.Data) {
		invalid("data: must be a JSON value")
	}
	if r.Title == "" && r.Body == "" && r.Data == nil {
		invalid("title, body and data: at least one must be given")
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	n := &Notification{
		ID: r.ID, Account: r.Account, Title: r.Title, Body: r.Body, Badge: r.Badge, Sound: r.Sound, Category: r.Category,
		CollapseKey: r.CollapseKey, Ack: pick(r.Ack != 0, r.Ack, c.opts.Ack), Urgency: pick(r.Urgency != 0, r.Urgency, UrgencyHigh),
		Fallback: !r.NoFallback, HasMessage: r.Data != nil,
		Subtitle: r.Subtitle, Thread: r.Thread, Link: r.Link, Image: r.Image, Level: r.Level, Localized: r.Localized, Extra: r.Extra,
		BadgeAuto: r.BadgeAuto, AckWindow: r.AckWindow, Kind: r.Kind, PushType: r.PushType, Overlay: r.Overlay, Request: r.Mark,
	}
	if n.ID == "" {
		n.ID = placeholderID // the one it gets tells its Seq, which it does not have yet
	} else {
		n.Fingerprint = fingerprint(r)
	}
	if c.opts.CheckContent != nil && n.Fallback {
		if err := c.opts.CheckContent(n); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return n, nil
}

// fingerprint tells whether two requests ask for the same.
func fingerprint(r Request) uint64 {
	var data bytes.Buffer
	if r.Data != nil {
		_ = json.Compact(&data, r.Data) // it is valid
	}
	r.Data = data.Bytes()
	r.Devices = slices.Sorted(slices.Values(r.Devices))
	text, _ := json.Marshal(r) // strings, numbers and valid JSON
	return xxhash.Sum64(text)
}

func validID(id string) bool {
	if len(id) > maxID {
		return false
	}
	for _, b := range []byte(id) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == ':', b == '-':
		default:
			return false
		}
	}
	return id != ""
}

// clip keeps an error readable.
func clip(s string) string {
	if len(s) > maxID {
		return s[:maxID] + "…"
	}
	return s
}
