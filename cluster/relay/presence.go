package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store/codec"
)

// Up is a device's channel at this node that is up at an owner elsewhere. It is the
// Acker of what the owner publishes.
type Up struct {
	r        *Remote
	presence uint64
	channel  delivery.Channel
}

var (
	_ delivery.Up    = (*Up)(nil)
	_ delivery.Acker = (*Up)(nil)
)

// Online implements Owner. Publications may come before it returns.
func (r *Remote) Online(info delivery.OnlineInfo) (delivery.Up, error) {
	if info.Channel.Closed() {
		return nil, delivery.ErrChannelClosed
	}
	u := &Up{r: r, channel: info.Channel}
	s := r.s
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil, errEnded
	}
	s.lastID++
	u.presence = s.lastID
	s.ups[u.presence] = u
	s.mu.Unlock()
	err := r.tell(context.Background(), opOnline, arguments{Account: info.Account, Device: info.Device, Online: &online{
		Presence: u.presence, ReceiveMaximum: info.ReceiveMaximum, Messages: info.Messages, Dismissals: info.Dismissals,
		App: info.App, Keepalive: info.Keepalive, Remote: info.Remote, Via: info.Via, Address: info.Address, Age: time.Since(info.Connected),
	}})
	if err != nil {
		s.dropUp(u.presence)
		return nil, err
	}
	return u, nil
}

func (s *Session) dropUp(presence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ups, presence)
}

// report passes on what the device's connection says. A Session that has ended has
// told the owner that the device is offline; nobody else needs to know.
func (u *Up) report(r upReport) {
	r.Presence = u.presence
	_ = u.r.s.send(kindUp, r, maxKept)
}

// Heartbeat implements delivery.Up.
func (u *Up) Heartbeat() { u.report(upReport{Kind: upHeartbeat}) }

// SetSubscribed implements delivery.Up.
func (u *Up) SetSubscribed(messages, dismissals bool) {
	u.report(upReport{Kind: upSubscribed, Messages: messages, Dismissals: dismissals})
}

// SetApp implements delivery.Up.
func (u *Up) SetApp(state delivery.AppState) error {
	if state != delivery.AppForeground && state != delivery.AppBackground {
		return fmt.Errorf("%w: app state %s", delivery.ErrInvalid, state)
	}
	u.report(upReport{Kind: upApp, App: state})
	return nil
}

// Offline implements delivery.Up.
func (u *Up) Offline(why string) {
	u.r.s.dropUp(u.presence)
	u.report(upReport{Kind: upOffline, Text: why})
}

// Forsake says that another owner has the channel now: this one keeps nothing of it.
func (u *Up) Forsake() {
	u.r.s.dropUp(u.presence)
	u.report(upReport{Kind: upForsaken})
}

// Acked implements delivery.Acker.
func (u *Up) Acked(r delivery.Ref) { u.report(upReport{Kind: upAcked, Ref: refOf(r)}) }

// Nacked implements delivery.Acker.
func (u *Up) Nacked(r delivery.Ref, reason string) {
	u.report(upReport{Kind: upNacked, Ref: refOf(r), Text: reason})
}

func (s *Session) up(presence uint64) *Up {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ups[presence]
}

// onPublish hands a publication of the owner to the device's channel. One of an owner
// whose successor is known is dropped: the successor publishes it.
func (s *Session) onPublish(p *publication) {
	u := s.up(p.Presence)
	if u == nil || !s.local.Current(u.r.part, u.r.term) {
		return
	}
	r := p.Ref.ref().For(u)
	var expires time.Time
	if p.Left > 0 {
		expires = time.Now().Add(p.Left)
	}
	err := u.channel.Publish(delivery.Publication{
		Ref: r, Content: p.content(), ExpiresAt: expires, Redelivery: p.Redelivery, Pushed: p.Pushed, DismissedID: p.DismissedID, BadgeAuto: p.BadgeAuto, Unread: p.Unread,
	})
	if err != nil {
		u.Nacked(r, "not queued: "+err.Error())
	}
}

// onReplaced ends the channel of a device that has come up over another connection.
func (s *Session) onReplaced(p *replaced) {
	u := s.up(p.Presence)
	if u == nil {
		return
	}
	if c, ok := u.channel.(delivery.Replaceable); ok {
		c.Replaced()
	}
}

// presence is a device's channel at another node. It is the Channel of the Core that
// serves the device's account here.
type presence struct {
	s      *Session
	number uint64
	device string
	closed atomic.Bool

	mu    sync.Mutex
	up    delivery.Up // nil: the Core has not said yet
	ready bool        // nothing of reports is left
	// reports are what the device's connection has said before the Core took the channel
	// up.
	reports []func(delivery.Up)
}

var (
	_ delivery.Channel     = (*presence)(nil)
	_ delivery.Replaceable = (*presence)(nil)
)

// Publish implements delivery.Channel. It sends the content along if it is in memory, as that
// of a notification just accepted is: the edge would have to ask the database for it.
func (p *presence) Publish(pub delivery.Publication) error {
	out := publication{
		Presence: p.number, Ref: *refOf(pub.Ref), Redelivery: pub.Redelivery, Pushed: pub.Pushed,
		DismissedID: pub.DismissedID, BadgeAuto: pub.BadgeAuto, Unread: pub.Unread,
	}
	if !pub.ExpiresAt.IsZero() {
		out.Left = max(1, time.Until(pub.ExpiresAt))
	}
	if n := p.s.local.InMemory(pub.Seq); n != nil && !pub.Dismissal {
		out.Content = codec.AppendNotification(nil, n)
	}
	err := p.s.send(kindPublish, out, maxQueued)
	if errors.Is(err, errFull) && out.Content != nil {
		out.Content = nil
		err = p.s.send(kindPublish, out, maxQueued)
	}
	return err
}

// content returns the notification that was sent along; nil: none was.
func (p *publication) content() *delivery.Notification {
	if len(p.Content) == 0 {
		return nil
	}
	n := new(delivery.Notification)
	if err := codec.DecodeNotification(n, p.Ref.Seq, p.Content); err != nil { // the store is asked, and says why
		return nil
	}
	return n
}

// Closed implements delivery.Channel.
func (p *presence) Closed() bool { return p.closed.Load() }

// Replaced implements delivery.Replaceable.
func (p *presence) Replaced() {
	p.closed.Store(true)
	_ = p.s.send(kindReplaced, replaced{p.number}, maxKept) // an ended Session has no connections
}

// do calls fn with the Core's Up, behind the calls before it, or once the Core has taken
// the channel up. Only the goroutine that reads calls it, or the end of the Session.
func (p *presence) do(fn func(delivery.Up)) {
	p.mu.Lock()
	if !p.ready {
		p.reports = append(p.reports, fn)
		p.mu.Unlock()
		return
	}
	up := p.up
	p.mu.Unlock()
	if up != nil {
		fn(up)
	}
}

// begin gives the presence the Core's Up, nil for none, and runs the waiting reports.
func (p *presence) begin(up delivery.Up) {
	p.mu.Lock()
	p.up = up
	for len(p.reports) > 0 {
		reports := p.reports
		p.reports = nil
		p.mu.Unlock()
		for _, fn := range reports {
			if up != nil {
				fn(up)
			}
		}
		p.mu.Lock()
	}
	p.ready = true
	p.mu.Unlock()
}

// onOnline brings a channel of the other node up at the Core of a partition.
func (s *Session) onOnline(c *call) {
	o := c.Online
	p := &presence{s: s, number: o.Presence, device: c.Device}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	if former := s.byDevice[c.Device]; former != nil {
		former.closed.Store(true) // a node brings one channel of a device up at a time
	}
	s.byDevice[c.Device] = p
	s.presences[o.Presence] = p
	s.mu.Unlock()
	s.later(c, func(_ context.Context, owner Owner) (results, error) {
		up, err := owner.Online(delivery.OnlineInfo{
			Device: c.Device, Account: c.Account, Channel: p,
			ReceiveMaximum: o.ReceiveMaximum, Messages: o.Messages, Dismissals: o.Dismissals,
			App: o.App, Keepalive: o.Keepalive, Remote: o.Remote, Via: o.Via, Address: o.Address, Connected: time.Now().Add(-o.Age),
		})
		if err == nil {
			p.begin(up)
		}
		return results{}, err
	}, func(err error) {
		if err != nil {
			s.dropPresence(p)
			p.begin(nil)
		}
	})
}

func (s *Session) dropPresence(p *presence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.presences, p.number)
	if s.byDevice[p.device] == p {
		delete(s.byDevice, p.device)
	}
}

// onUp passes what a device's connection reports to the Core.
func (s *Session) onUp(r *upReport) {
	s.mu.Lock()
	p := s.presences[r.Presence]
	s.mu.Unlock()
	if p == nil {
		return
	}
	switch r.Kind {
	case upHeartbeat:
		p.do(delivery.Up.Heartbeat)
	case upSubscribed:
		p.do(func(up delivery.Up) { up.SetSubscribed(r.Messages, r.Dismissals) })
	case upApp:
		p.do(func(up delivery.Up) { _ = up.SetApp(r.App) }) // it was checked
	case upOffline:
		p.closed.Store(true)
		p.do(func(up delivery.Up) { up.Offline(r.Text) })
		s.dropPresence(p)
	case upForsaken:
		p.closed.Store(true)
		s.dropPresence(p)
	case upAcked:
		p.do(func(up delivery.Up) { up.(delivery.Acker).Acked(r.Ref.ref()) })
	case upNacked:
		p.do(func(up delivery.Up) { up.(delivery.Acker).Nacked(r.Ref.ref(), r.Text) })
	}
}
