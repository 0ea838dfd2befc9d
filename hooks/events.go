package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/wire"
)

// This file sends the events of timelines to services that subscribe to
// accounts/{account}/events. Every such connection reads the store for itself, as far as
// its client keeps up: a slow one has its events wait in the store, where they cost
// nobody anything.

// Events is where a Hook reads events.
type Events interface {
	// EventsEnd returns the place behind the newest event.
	EventsEnd() (delivery.Place, error)
	// Follow calls fn with each event behind from, in order, until ctx ends or fn returns
	// an error. at is how far everything has been passed; with a nil event at has moved
	// past commits without one. fn may keep at.
	Follow(ctx context.Context, from delivery.Place, fn func(e *delivery.AccountEvent, at delivery.Place) error) error
}

// eventReader is the part of a connection that reads events.
type eventReader struct {
	mu     sync.Mutex
	cancel context.CancelFunc  // nil: it does not read
	ended  chan struct{}       // closed when the reading is over
	open   map[uint16]struct{} // unacknowledged packets, in a server whose routing is its own
	moved  chan struct{}       // gets a value when open shrinks
}

// eventsOf reads the part of a filter that stands for the account. ok is false if the
// filter matches no events topic; account is "" if it may match those of several.
func (t topics) eventsOf(filter string) (account string, ok bool) {
	names := append(strings.Split(t.prefix, "/"), "accounts", "", string(kindEvents))
	levels := strings.Split(filter, "/")
	if t.prefix[0] == '$' && (levels[0] == "+" || levels[0] == "#") {
		return "", false // [MQTT-4.7.2-1]
	}
	for i, name := range names {
		switch {
		case i == len(levels):
			return "", false
		case levels[i] == "#":
			return account, true
		case name == "" && levels[i] != "+":
			if account, ok = wire.ParseLevel(levels[i]); !ok {
				return "", false
			}
		case levels[i] != "+" && levels[i] != name:
			return "", false
		}
	}
	rest := levels[len(names):]
	return account, len(rest) == 0 || len(rest) == 1 && rest[0] == "#"
}

// mayReadEvents reports whether the client may read the events of an account; "": of
// some account.
func (c *conn) mayReadEvents(account string) bool {
	switch {
	case c.hook.opts.Events == nil:
		return false
	case c.hook.opts.Authenticate == nil && !c.hook.opts.HostAuth:
		return true
	case account == "":
		return c.identity.Service
	}
	return c.identity.MayActFor(account)
}

// refusesEvents says why a filter below the accounts is not granted; "": it is no filter
// of events, or it is granted.
func (c *conn) refusesEvents(filter string) string {
	account, ok := c.hook.topics.eventsOf(filter)
	switch {
	case !ok || c.mayReadEvents(account):
		return ""
	case c.identity.Service:
		return "this service may not act for account " + clip(account)
	}
	return "the events of accounts are for services"
}

// eventsChanged starts or ends the reading of events, as the client is subscribed.
// resumed: the connection continues a session. It is called before the SUBACK is sent, so
// that the client gets every event that comes after it.
func (c *conn) eventsChanged(resumed bool) {
	if !c.mayReadEvents("") {
		return
	}
	wanted := false
	for filter := range c.subscriptions() {
		if group, _ := ordinary.SplitShare(filter); group != "" {
			continue // its members have no common place in the store
		}
		_, of := c.hook.topics.eventsOf(filter)
		wanted = wanted || of
	}
	r := &c.events
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !wanted && r.cancel != nil:
		r.cancel()
		r.cancel = nil
		ended := r.ended
		r.mu.Unlock() // which it may need
		select {      // or it would leave its bookmark, and serve a subscription that comes next
		case <-ended:
		case <-c.hook.ctx.Done():
		}
		r.mu.Lock()
		c.session.SetBookmark(c, nil)
	case wanted && r.cancel == nil && !c.Closed():
		from, known := c.eventsFrom(resumed)
		var ctx context.Context
		ctx, r.cancel = context.WithCancel(c.hook.ctx)
		ended := make(chan struct{})
		r.ended = ended
		c.hook.workers.Start(ctx, func() {
			defer close(ended)
			c.followEvents(ctx, from, known)
		})
	}
}

// eventsFrom returns where a client begins to read: where its session has come, or for a
// session from before the server's start, there; a new subscription begins with the next
// event. false: the store does not say now.
func (c *conn) eventsFrom(resumed bool) (from delivery.Place, ok bool) {
	if at, ok := c.session.Bookmark().(delivery.Place); ok {
		return at, true
	}
	if at := c.hook.eventsStart.Load(); resumed && at != nil && c.hook.hub != nil {
		return *at, true
	}
	from, err := c.hook.opts.Events.EventsEnd()
	return from, err == nil
}

// endEvents ends the reading of a connection that is over.
func (c *conn) endEvents() {
	c.events.mu.Lock()
	defer c.events.mu.Unlock()
	if c.events.cancel != nil {
		c.events.cancel()
	}
}

// eventsRetry is the time between two questions to a store that cannot be read, and
// between two tries of a client that has no place in its Receive Maximum.
const eventsRetry = 100 * time.Millisecond

var errEventsOver = errors.New("the connection is over")

// followEvents sends events until ctx ends or the connection is over.
func (c *conn) followEvents(ctx context.Context, from delivery.Place, known bool) {
	source := c.hook.opts.Events
	for !known {
		if !pause(ctx, eventsRetry) {
			return
		}
		var err error
		from, err = source.EventsEnd()
		known = err == nil
	}
	if c.hook.hub != nil {
		c.session.SetBookmark(c, from)
	}
	var last struct {
		seq delivery.Seq
		id  string
	}
	_ = source.Follow(ctx, from, func(e *delivery.AccountEvent, at delivery.Place) error {
		if e != nil && !c.mayReadEvents(e.Account) {
			e = nil
		}
		var m *ordinary.Message
		if e != nil {
			for first := true; e.Seq != last.seq; first = false { // events of one notification follow one another
				n, err := c.hook.core.Notification(e.Seq)
				switch {
				case err == nil:
					last.seq, last.id = e.Seq, n.ID
					continue
				case errors.Is(err, delivery.ErrNotFound): // its history is gone
					last.seq, last.id = e.Seq, ""
					continue
				case errors.Is(err, delivery.ErrDamaged): // to wait for it would hold up all that follow
					last.seq, last.id = e.Seq, ""
					c.hook.logs.Error(c.hook.log, "event sent without the ID of its notification, which is damaged", "error", err)
					continue
				case first:
					c.hook.logs.Warn(c.hook.log, "events held back: their notification cannot be read, retrying", "client", c.client.ID, "error", err)
				}
				if !pause(ctx, eventsRetry) {
					return ctx.Err()
				}
			}
			var err error
			if m, err = c.eventMessage(e, last.id, at); err != nil {
				c.hook.logs.Error(c.hook.log, "event not sent", "client", c.client.ID, "error", err)
			}
		}
		if c.hook.hub == nil {
			return c.sendEvent(ctx, m)
		}
		for {
			later, ok := c.session.Serve(c, m, at)
			switch {
			case !ok:
				return errEventsOver
			case later == nil:
				return nil
			}
			select {
			case <-later:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// eventMessage is the PUBLISH of an event.
func (c *conn) eventMessage(e *delivery.AccountEvent, id string, at delivery.Place) (*ordinary.Message, error) {
	payload, err := json.Marshal(wire.NewStreamEvent(*e, id))
	if err != nil {
		return nil, err
	}
	m := &ordinary.Message{
		TopicName: c.hook.topics.events(e.Account), Payload: payload, QoS: 1, Created: e.Time.Unix(),
		Properties: ordinary.Properties{
			HasPayloadFormat: true, PayloadFormat: 1, ContentType: "application/json",
			User: []ordinary.UserProperty{{Key: "heartline-event", Value: delivery.EventID(at...)}},
		},
	}
	if id != "" {
		m.User = append(m.User, ordinary.UserProperty{Key: "heartline-id", Value: id})
	}
	return m, nil
}

// maxForeignEvents is how many events a client of a server whose routing is its own may
// leave unacknowledged.
const maxForeignEvents = 32

// sendEvent sends an event in a server whose routing is its own, and returns when it is
// written.
func (c *conn) sendEvent(ctx context.Context, m *ordinary.Message) error {
	if m == nil {
		return nil
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, ProtocolVersion: c.client.Properties.ProtocolVersion,
		TopicName: m.TopicName, Payload: m.Payload,
		Properties: packets.Properties{ContentType: m.ContentType, PayloadFormat: 1, PayloadFormatFlag: true},
	}
	for _, p := range m.User {
		pk.Properties.User = append(pk.Properties.User, packets.UserProperty{Key: p.Key, Val: p.Value})
	}
	wanted := false
	for filter, sub := range c.subscriptions() {
		if group, _ := ordinary.SplitShare(filter); group != "" || !ordinary.Matches(filter, m.TopicName) {
			continue
		}
		wanted = true
		pk.FixedHeader.Qos = max(pk.FixedHeader.Qos, min(sub.QoS, 1))
		if sub.Identifier > 0 {
			pk.Properties.SubscriptionIdentifier = append(pk.Properties.SubscriptionIdentifier, sub.Identifier)
		}
	}
	if !wanted {
		return nil
	}
	if pk.FixedHeader.Qos > 0 {
		var err error
		if pk.PacketID, err = c.claimEvent(ctx); err != nil {
			return err
		}
	}
	var buf bytes.Buffer
	err := pk.PublishEncode(&buf)
	if limit := c.client.Properties.Props.MaximumPacketSize; err == nil && limit > 0 && uint32(buf.Len()) > limit { // [MQTT-3.1.2-24]
		err = errTooLarge
	}
	if err != nil {
		c.ackEvent(pk.PacketID)
		c.hook.logs.Info(c.hook.log, "event not sent", "client", c.client.ID, "error", err)
		return nil
	}
	written := make(chan struct{})
	if err := c.send(item{packet: buf.Bytes(), written: written}); err != nil {
		return err
	}
	select {
	case <-written:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errTooLarge = errors.New("more bytes than the client's Maximum Packet Size")

// claimEvent waits for a packet identifier and a place in the client's Receive Maximum.
func (c *conn) claimEvent(ctx context.Context) (uint16, error) {
	r := &c.events
	for {
		r.mu.Lock()
		if r.moved == nil {
			r.open, r.moved = map[uint16]struct{}{}, make(chan struct{}, 1)
		}
		open, moved := len(r.open), r.moved
		if open < maxForeignEvents {
			if id, ok := c.session.Claim(c); ok {
				r.open[id] = struct{}{}
				r.mu.Unlock()
				return id, nil
			}
			c.session.Unwanted(c)
		}
		r.mu.Unlock()
		retry := time.NewTimer(eventsRetry)
		select {
		case <-moved:
		case <-retry.C: // notifications have the places
		case <-ctx.Done():
			retry.Stop()
			return 0, ctx.Err()
		}
		retry.Stop()
	}
}

// ackEvent takes a PUBACK; false: it is of no event.
func (c *conn) ackEvent(id uint16) bool {
	r := &c.events
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ours := r.open[id]; !ours {
		return false
	}
	delete(r.open, id)
	c.session.Release(c, id)
	select {
	case r.moved <- struct{}{}:
	default:
	}
	return true
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
