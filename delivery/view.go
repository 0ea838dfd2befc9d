package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// View is a notification with its deliveries and its timeline.
type View struct {
	*Notification
	State      State // the furthest from final among the deliveries
	Deliveries []DeliveryState
	Timeline   []Event
}

// Get returns a notification by its ID.
func (c *Core) Get(ctx context.Context, id string) (*View, error) {
	if err := c.Flush(ctx); err != nil {
		return nil, err
	}
	n, err := c.Find(id)
	if err != nil {
		return nil, err
	}
	return c.view(n)
}

// Find reads a notification by its ID. The error wraps ErrUnknownNotification.
func (c *Core) Find(id string) (*Notification, error) {
	seq, err := c.out.Lookup(id)
	if err == nil {
		var n *Notification
		if n, err = c.out.Notification(seq); err == nil {
			return n, nil
		}
	}
	if errors.Is(err, ErrNotFound) { // pruned in between, too
		return nil, fmt.Errorf("%w: %s", ErrUnknownNotification, id)
	}
	return nil, fmt.Errorf("read notification %s: %w", id, err)
}

// Notification returns the content of a notification. Channels and pushers read
// it when they are about to send. They share it, so nobody may change it.
func (c *Core) Notification(seq Seq) (*Notification, error) { return c.out.Notification(seq) }

// InMemory returns a notification if it is in memory, and nil otherwise. It does not wait.
func (c *Core) InMemory(seq Seq) *Notification { return c.out.InMemory(seq) }

// Data returns the message content of a notification.
func (c *Core) Data(seq Seq) (json.RawMessage, error) { return c.out.Data(seq) }

func (c *Core) view(n *Notification) (*View, error) {
	stored, err := c.out.Timeline(n.Seq) // first: a state is no older than its timeline
	if err != nil {
		return nil, fmt.Errorf("read the timeline of notification %s: %w", n.ID, err)
	}
	v, err := c.listed(n)
	if err != nil {
		return nil, err
	}
	v.Timeline = make([]Event, 0, len(stored)+1)
	v.Timeline = append(v.Timeline, Event{Seq: n.Seq, Number: uint64(n.Seq), Time: n.AcceptedAt, Kind: EventAccepted})
	v.Timeline = append(v.Timeline, stored...)
	return v, nil
}

// listed is the View without its timeline.
func (c *Core) listed(n *Notification) (*View, error) {
	deliveries, err := c.out.Deliveries(n.Seq)
	if err != nil {
		return nil, fmt.Errorf("read the deliveries of notification %s: %w", n.ID, err)
	}
	own := *n // the store's is shared
	own.Devices = slices.Clone(n.Devices)
	v := &View{Notification: &own, State: StateCancelled}
	for _, d := range deliveries {
		v.State = min(v.State, d.State)
		if d.Device != "" { // else: held for the first device
			v.Deliveries = append(v.Deliveries, d)
		}
	}
	return v, nil
}

// EventsFrom calls fn with every event of the history behind a position in its partition,
// in the order of their positions, until it returns false. The error wraps ErrNotFound for a position
// that this store has not reached.
func (c *Core) EventsFrom(after Position, fn func(at Position, account string, e Event) bool) error {
	return c.out.EventsFrom(after, fn)
}

// EventsEnd returns the place behind the newest event.
func (c *Core) EventsEnd() (Place, error) { return c.out.EventsEnd() }

// ReadEvents calls fn with every event of the history behind a place, until it returns
// false, and returns the place up to which fn has had everything; see ReadEvents.
func (c *Core) ReadEvents(after Place, fn func(at Position, account string, e Event) bool) (Place, error) {
	return ReadEvents(c.out, after, fn)
}

// EventsSince returns the place behind which the events of a time and later are. See
// Reader.
func (c *Core) EventsSince(t time.Time) (Place, error) { return c.out.EventsSince(t) }

// Filter narrows List.
type Filter struct {
	Account string
	Device  string
	State   State     // 0: any
	Since   time.Time // accepted then or later; zero: from the oldest
	Until   time.Time // accepted before; zero: to the newest
	Before  Seq       // from the page before; 0: from the newest
	Limit   int       // of a page
}

// before is the Seq that a list begins under.
func (f Filter) before() Seq {
	if f.Until.IsZero() {
		return f.Before
	}
	until := Seq(1)
	switch {
	case f.Until.After(time.Unix(0, math.MaxInt64)): // it has no UnixNano
		return f.Before
	case f.Until.After(time.Unix(0, 1)):
		until = Seq(f.Until.UnixNano()) // a Seq is the time of acceptance, unless it is ahead
	}
	if f.Before == 0 {
		return until
	}
	return min(f.Before, until)
}

// ahead reports whether the Seq of n is later than its acceptance: the clock had been set
// back.
func ahead(n *Notification) bool { return n.acceptedBySeq().Sub(n.AcceptedAt) > time.Minute }

func (n *Notification) acceptedBySeq() time.Time { return time.Unix(0, int64(n.Seq)) }

// listFrom is f.before, or f.Before where Seqs are ahead there: then they tell no times.
func (c *Core) listFrom(f Filter) (from Seq, err error) {
	if from = f.before(); from == f.Before {
		return from, nil
	}
	err = c.out.List(f.Account, f.Before, func(n *Notification) bool {
		if ahead(n) {
			from = f.Before
		}
		return false
	})
	return from, err
}

// A page looks at scanBound notifications at most, and after scanLeast of them for scanTime at
// most: a filter that fits few of many must not hold a reader up.
const (
	scanBound = 10_000
	scanLeast = 1000
	scanTime  = 50 * time.Millisecond
)

// List returns notifications, newest first, without their timelines, and where the next page
// begins; 0 is the end. A page may hold fewer than the limit although more follow.
func (c *Core) List(ctx context.Context, f Filter) (page []*View, next Seq, err error) {
	if err := c.Flush(ctx); err != nil {
		return nil, 0, err
	}
	if f.Account == "" && f.Device != "" {
		if account, err := c.AccountOf(f.Device); err == nil {
			f.Account = account
		}
	}
	from, err := c.listFrom(f)
	if err != nil {
		return nil, 0, err
	}
	var failed error
	var last Seq
	seen := 0
	begun := time.Now()
	err = c.out.List(f.Account, from, func(n *Notification) bool {
		old := !f.Since.IsZero() && n.AcceptedAt.Before(f.Since)
		if old && n.acceptedBySeq().Before(f.Since) {
			next = 0
			return false // the others are older
		}
		if len(page) == f.Limit || seen == scanBound || seen >= scanLeast && time.Since(begun) > scanTime || ctx.Err() != nil {
			next = last
			return false
		}
		seen++
		last = n.Seq
		if old || !f.Until.IsZero() && !n.AcceptedAt.Before(f.Until) || f.Device != "" && !slices.Contains(n.Devices, f.Device) {
			return true
		}
		v, err := c.listed(n)
		if errors.Is(err, ErrNotFound) {
			return true // pruned since the list began
		}
		if err != nil {
			failed = err
			return false
		}
		if f.State == 0 || v.State == f.State {
			page = append(page, v)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return page, next, err
}

// DeviceView is a registry entry with the state of its channel and its queue.
type DeviceView struct {
	Device
	App           AppState
	Up            bool
	Since         time.Time // of the channel's state; zero: not known since the start
	LastHeartbeat time.Time
	Keepalive     time.Duration
	Remote        string
	Outstanding   int // unfinished deliveries
}

// Devices returns the devices of an account.
func (c *Core) Devices(accountName string) ([]DeviceView, error) {
	var views []DeviceView
	err := c.withAccount(accountName, func(a *account) error {
		for _, d := range a.devices {
			views = append(views, c.deviceView(d))
		}
		return nil
	})
	return views, err
}

// Device returns one device of an account.
func (c *Core) Device(accountName, id string) (DeviceView, error) {
	var view DeviceView
	err := c.withAccount(accountName, func(a *account) error {
		d := a.device(id)
		if d == nil {
			return fmt.Errorf("%w: account %s has no device %s", ErrUnknownDevice, accountName, id)
		}
		view = c.deviceView(d)
		return nil
	})
	return view, err
}

// AllDevices returns registered devices by ID, from the one after `after`.
func (c *Core) AllDevices(after string, limit int) ([]DeviceView, error) {
	var stored []Device
	err := c.out.Devices(after, func(d *Device) bool {
		stored = append(stored, *d)
		return len(stored) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	views := make([]DeviceView, len(stored))
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, rec := range stored {
		if d := c.devices[rec.ID]; d != nil {
			views[i] = c.deviceView(d)
		} else {
			views[i] = DeviceView{Device: c.shown(rec)}
		}
	}
	return views, nil
}

// shown completes the registrations of a copy of a device.
func (c *Core) shown(d Device) Device {
	for i, r := range d.Registrations {
		d.Registrations[i] = c.completed(r)
	}
	return d
}

func (c *Core) deviceView(d *device) DeviceView {
	v := DeviceView{Device: c.shown(d.Device.Clone()), App: d.app, Since: d.since, Outstanding: len(d.queue)}
	if p := d.presence; p != nil {
		v.Up, v.Keepalive, v.Remote = true, p.info.Keepalive, p.info.Remote
		v.LastHeartbeat = c.clock.wall(p.heartbeat.Load())
	}
	return v
}

// ChannelsUp returns how many devices have a channel that is up.
func (c *Core) ChannelsUp() int { return int(c.up.Load()) }
