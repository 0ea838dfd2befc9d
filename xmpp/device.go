package xmpp

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// channel is a client's session as a delivery.Channel: the full JID that has announced
// itself by directed presence. Its fields below account are guarded by Gate.mu.
type channel struct {
	g       *Gate
	full    string
	device  string
	account string
	tenure  *tenure // in which it came up

	closed   bool
	presence delivery.Up
	// app is what its client has reported in this session. The client reports nothing again
	// where the session goes on: after a resumption, an outage of the link or a restart.
	app  delivery.AppState
	open map[string]*request // unanswered
	// late holds the notification IDs of requests that were given up: their answers ack
	// by ID.
	late map[string]string
	// former is until when an `unavailable` from the full JID can be that of an earlier
	// session with the same resource, which this one has replaced.
	former time.Time
	// answered is until when the server may push an answer of ours back, and answerSeq the
	// place of that answer among our stanzas: the device's answer to a later one proves
	// that it has come. Zero: there is none.
	answered  time.Time
	answerSeq uint64
	// echoes is until when the server may push back stanzas of ours to an earlier session of
	// the device, or those from before this one was suspended.
	echoes time.Time
}

const (
	// formerEnd is how long after a session the end of its predecessor may come. ejabberd
	// gives a socket that takes nothing 15 s.
	formerEnd = 30 * time.Second
	// echoAfter is how long a server may wait for a device that it has sent something:
	// ejabberd 60 s (ack_timeout), Prosody 31 s.
	echoAfter = 75 * time.Second
	// echoSoon is the same where the server has said that it cannot reach the session.
	// Prosody takes a second.
	echoSoon = 5 * time.Second
	// maxOpen is how many requests of one channel may be unanswered before those that a
	// later attempt has replaced are given up.
	maxOpen = 256
	// maxFormer is how many former sessions can still ack.
	maxFormer = 10_000
)

var (
	errNoChannel = errors.New("channel closed")
	errQueueFull = errors.New("outbound queue of the XMPP link full")
	errNoLink    = errors.New("the link to the XMPP server is down")
)

// Closed implements delivery.Channel.
func (c *channel) Closed() bool {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.closed
}

// Publish implements delivery.Channel. The core calls it with its mutex held.
func (c *channel) Publish(p delivery.Publication) error {
	g := c.g
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case c.closed:
		return errNoChannel
	case g.stopped, g.ctx.Err() != nil, g.link == nil && g.overdue:
		return errNoLink
	case g.waitingLocked() >= maxQueue:
		return errQueueFull
	}
	if p.Redelivery {
		c.replaceLocked(p.Ref)
	}
	id := g.nextIDLocked()
	r := &request{id: id, seq: g.seq, channel: c, pub: p}
	if g.link == nil {
		g.parked++
	} else if !g.readLocked(g.link, r) {
		return errQueueFull
	}
	c.open[id] = r
	return nil
}

// Replaced implements delivery.Replaceable: the device is up over MQTT or at another node.
// Answers that are on their way still ack. The core calls it with its mutex held.
func (c *channel) Replaced() {
	g := c.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !c.closed {
		for _, r := range c.open {
			c.ackLaterLocked(r)
		}
		if len(c.late) > 0 {
			g.keepFormerLocked(c)
		}
		g.closeLocked(c)
	}
	g.dropGivenUpLocked(c)
	if p := c.presence; p != nil && !g.stopped {
		g.calls.put(c.account, func() { p.Offline("session taken over") }) // a node forgets it with this
	}
}

// replaceLocked marks the earlier attempts of a publication. Their answers count, and they are
// not sent again over another link. A client that never answers must not fill the
// memory, so that beyond maxOpen they are acked by ID only.
func (c *channel) replaceLocked(ref delivery.Ref) {
	for id, r := range c.open {
		if r.pub.Seq == ref.Seq && r.pub.Message == ref.Message && r.pub.Dismissal == ref.Dismissal {
			r.replaced = true
		}
		if r.replaced && len(c.open) >= maxOpen {
			r.done = true
			delete(c.open, id)
			c.ackLaterLocked(r)
		}
	}
}

// ackLaterLocked has the answer to a request that is over ack by ID.
func (c *channel) ackLaterLocked(r *request) {
	if r.subject == "" {
		return
	}
	for id := range c.late {
		if len(c.late) < maxGivenUp {
			break
		}
		delete(c.late, id)
	}
	c.late[r.id] = r.subject
}

// content reads what a publication carries.
func (g *Gate) content(p delivery.Publication) (name string, body []byte, id string, err error) {
	if p.Dismissal { // it needs no content: its notification may have been erased
		d := wire.Dismissal{ID: p.DismissedID}
		if p.BadgeAuto {
			d.Badge = &p.Unread
		}
		body, err = json.Marshal(d)
		return "dismissal", body, "", err
	}
	n := p.Content
	if n == nil {
		if n, err = g.core.Notification(p.Seq); err != nil {
			return "", nil, "", fmt.Errorf("read the notification: %w", err)
		}
	}
	if !p.Message {
		if n.BadgeAuto {
			counted := *n
			counted.Badge, n = &p.Unread, &counted
		}
		return "notification", wire.AppendPseudo(nil, n, p.Redelivery, p.Pushed), n.ID, nil
	}
	data, err := g.core.Data(p.Seq)
	if err != nil {
		return "", nil, "", fmt.Errorf("read the message: %w", err)
	}
	m := wire.Message{ID: n.ID, Account: n.Account, Data: data, AcceptedAt: wire.FormatTime(n.AcceptedAt)}
	body, err = m.Append(nil)
	return "message", body, "", err
}

// announced brings a client up that has sent directed presence with its device-id.
func (g *Gate) announced(full, deviceID string) error {
	account := bare(full)
	if err := delivery.ValidAccount(account); err != nil {
		return err
	}
	if deviceID == "" || len(deviceID) > maxDeviceID {
		return &delivery.FieldError{Field: "device id", Rule: fmt.Sprintf("must have 1 to %d bytes", maxDeviceID)}
	}
	device := DeviceID(account, deviceID)
	known, err := g.admit(account, device)
	if err != nil {
		return err
	}
	defer known()
	return g.online(account, device, full, true, delivery.AppUnknown)
}

// admit returns newcomers.ErrTooMany for a new device without room. known is called when the
// device is in the registry, or has failed to be.
func (g *Gate) admit(account, device string) (known func(), err error) {
	limit := int(g.maxDevices.Load())
	if limit == 0 {
		return func() {}, nil
	}
	by := new(byte)
	_, err = g.opts.Newcomers.Admit(g.core, limit, account, device, by)
	return func() { g.opts.Newcomers.Leave(account, device, by) }, err
}

// maxDeviceID bounds what a client calls its device.
const maxDeviceID = 256

// online brings a device up: its client has announced it, or else it goes on with the session
// that it had, in which app was its last report. A channel that the device had is over with
// this, and one that the same full JID had for another device. It runs in the account's lane: the
// core must hear of two channels of a device in the order of the maps.
func (g *Gate) online(account, device, full string, announced bool, app delivery.AppState) error {
	c := &channel{g: g, full: full, device: device, account: account, app: app, open: map[string]*request{}, late: map[string]string{}}
	g.mu.Lock()
	if g.tenure == nil {
		g.mu.Unlock()
		return errNotHeld
	}
	c.tenure = g.tenure
	old, other := g.devices[device], g.channels[full]
	for _, was := range []*channel{g.givenUp[full], g.hibernating[device], g.former[full], old, other} {
		if was == nil {
			continue
		}
		for _, r := range was.open { // another copy follows
			was.ackLaterLocked(r)
		}
		switch {
		case was.full != full: // the device is on another session now
			if len(was.late) > 0 {
				c.echoes = time.Now().Add(echoAfter)
				g.keepFormerLocked(was)
			}
		case was.device == device:
			c.late = was.late
			if !announced {
				c.former, c.answered, c.answerSeq, c.echoes = was.former, was.answered, was.answerSeq, was.echoes
			}
		}
		if announced && was.full == full {
			c.former = time.Now().Add(formerEnd)
		}
	}
	delete(g.former, full)
	g.dropGivenUpLocked(g.givenUp[full])
	g.dropGivenUpLocked(g.hibernating[device])
	for _, x := range []*channel{old, other} {
		if x != nil {
			g.closeLocked(x)
		}
	}
	g.channels[full], g.devices[device] = c, c
	g.mu.Unlock()
	if other != nil && other != old && other.presenceNow() != nil {
		other.presenceNow().Offline("its connection announced another device")
	}
	p, err := g.core.Online(delivery.OnlineInfo{
		Device: device, Account: account, Channel: c, Messages: true, Dismissals: true, App: app, Remote: full,
		Via: delivery.ViaXMPP, Address: full,
	})
	g.mu.Lock()
	if err != nil {
		g.closeLocked(c)
		g.mu.Unlock()
		return err
	}
	c.presence = p
	if g.tenure == nil { // given up meanwhile
		g.closeLocked(c)
	}
	closed := c.closed
	g.mu.Unlock()
	if closed { // meanwhile; whoever closed it had no presence to take down
		p.Offline("its connection has ended")
	}
	return nil
}

// keepFormerLocked keeps a channel that its device has left for another session, so that
// answers that are on their way still ack.
func (g *Gate) keepFormerLocked(c *channel) {
	for full := range g.former {
		if len(g.former) < maxFormer {
			break
		}
		delete(g.former, full)
	}
	g.former[c.full] = c
}

// endOfFormer reports whether an `unavailable` may be that of an earlier session with the same
// full JID. ejabberd ends that one on its own time, and its `unavailable` can follow the
// announcement of its successor. Taken for the successor's it would take down a device that is
// there; if it is the successor's, the next notification is refused within a millisecond.
func (g *Gate) endOfFormer(full string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.channels[full]
	if c == nil {
		c = g.givenUp[full]
	}
	if c == nil || !time.Now().Before(c.former) {
		return false
	}
	c.former = time.Time{} // it ends once
	return true
}

// mayComeBack notes that an answer is on its way to a session: if the server cannot reach it,
// it pushes the answer back.
func (g *Gate) mayComeBack(full string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.channels[full]; c != nil {
		c.answered, c.answerSeq = time.Now().Add(echoAfter), g.seq
	}
}

func (c *channel) presenceNow() delivery.Up {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.presence
}

// reported returns what the client has reported of its app in this session.
func (c *channel) reported() delivery.AppState {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.app
}

func (c *channel) setReported(app delivery.AppState) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.app = app
}

func (c *channel) heartbeat() {
	if p := c.presenceNow(); p != nil {
		p.Heartbeat()
	}
}

// closeLocked takes a channel out of the maps. Its requests are over.
func (g *Gate) closeLocked(c *channel) {
	c.closed = true
	for _, r := range c.open {
		r.done = true
	}
	clear(c.open)
	if g.channels[c.full] == c {
		delete(g.channels, c.full)
	}
	if g.devices[c.device] == c {
		delete(g.devices, c.device)
	}
}

// giveUpLocked ends the unanswered requests and returns them in their order. Late answers
// still ack, by ID.
func (c *channel) giveUpLocked() []delivery.Ref {
	all := make([]*request, 0, len(c.open))
	for _, r := range c.open {
		r.done = true
		all = append(all, r)
		c.ackLaterLocked(r)
	}
	clear(c.open)
	slices.SortFunc(all, func(a, b *request) int { return cmp.Compare(a.seq, b.seq) })
	refs := make([]delivery.Ref, len(all))
	for i, r := range all {
		refs[i] = r.pub.Ref
	}
	return refs
}

// requeueLocked has the unanswered requests of a tenure sent over a new link, and returns
// those for which there is no room.
func (g *Gate) requeueLocked(t *tenure, l *link) (refused []delivery.Ref) {
	var again []*request
	for _, c := range g.channels {
		if c.tenure != t {
			continue
		}
		for _, r := range c.open {
			if !r.written || !r.replaced {
				again = append(again, r)
			}
		}
	}
	slices.SortFunc(again, func(a, b *request) int { return cmp.Compare(a.seq, b.seq) })
	for _, r := range again {
		if r.written = false; !g.readLocked(l, r) {
			r.done = true
			delete(r.channel.open, r.id)
			refused = append(refused, r.pub.Ref)
		}
	}
	return refused
}

// answered takes the answer to an IQ of ours. It is one only if id and sender match: a
// user's own IQ may have the same id.
func (g *Gate) answered(e *element, from string, result bool) {
	id := e.attr("id")
	g.mu.Lock()
	c := g.channels[from]
	if c == nil {
		c = g.givenUp[from]
	}
	if c == nil {
		c = g.former[from]
	}
	if c == nil {
		g.mu.Unlock()
		return
	}
	r, subject := c.open[id], c.late[id]
	delete(c.open, id)
	delete(c.late, id)
	condition, closed := e.condition(), c.closed
	if r != nil {
		r.done = true
		if r.seq > c.answerSeq && (result || !unreachable(condition)) {
			c.answered = time.Time{}
		}
	}
	g.mu.Unlock()
	switch {
	case r != nil && result:
		r.pub.Acked()
	case r != nil:
		r.pub.Nacked(condition)
	case result && subject != "":
		g.ackLate(c, subject, from)
		return
	}
	switch {
	case result || !unreachable(condition):
		g.resumed(from)
	case r != nil || closed && subject != "":
		// The server's word; a client that does not know us says the same, and is no device.
		// Of a channel that is up it must be about one of its own requests: a late one can be
		// that of an earlier session with the same resource.
		g.ended(from, func() {
			if !g.succeeded(c) {
				g.gone(from, condition)
			}
		})
	}
}

// succeeded reports whether another channel has taken a channel's full JID.
func (g *Gate) succeeded(c *channel) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.channels[c.full]
	if now == nil {
		now = g.givenUp[c.full]
	}
	return now != nil && now != c
}

// ackLate counts an answer to a request that was given up, then brings its channel back: in
// this order, or the notification would be published again.
func (g *Gate) ackLate(c *channel, id, from string) {
	ack := func() {
		if err := g.core.AckByID(id, c.device, c.account, delivery.AckReceived); err != nil {
			g.seldom.Info(g.log, "late ack not counted", "device", c.device, "notification", id, "error", err)
		}
		g.resumed(from)
	}
	if !g.calls.put(c.account, ack) {
		g.counts.drop()
		g.resumed(from)
	}
}

// unreachable reports whether an error says that there is no such session.
func unreachable(condition string) bool {
	switch condition {
	case "service-unavailable", "recipient-unavailable", "gone", "item-not-found", "remote-server-not-found", "remote-server-timeout":
		return true
	}
	return false
}

// ended runs what takes a device down, after what its user has asked for before.
func (g *Gate) ended(full string, fn func()) {
	if !g.calls.put(bare(full), fn) {
		g.counts.drop() // the next notification is refused by the server
	}
}

// gone takes a device down whose session the server says is over.
func (g *Gate) gone(full, why string) {
	g.mu.Lock()
	c := g.channels[full]
	if c == nil {
		c = g.givenUp[full]
	}
	g.dropGivenUpLocked(c)
	delete(g.former, full)
	if c == nil {
		if !g.restored && g.local(full) && len(g.departed) < maxFormer {
			g.departed[full] = struct{}{} // it is not to be brought up
		}
		g.mu.Unlock()
		return
	}
	refs := c.giveUpLocked()
	g.closeLocked(c)
	p := c.presence
	g.mu.Unlock()
	for _, r := range refs {
		r.Nacked(why)
	}
	if p != nil {
		p.Offline(why)
	}
	if err := g.core.ForgetAddress(c.device, c.account, full); err != nil && !errors.Is(err, delivery.ErrStopped) {
		g.seldom.Error(g.log, "forget the address of a device failed", "device", c.device, "error", err)
	}
}

// suspend takes a device down whose session the server cannot reach but keeps: a client
// that resumes it announces nothing, so that its next stanza brings it back.
func (g *Gate) suspend(c *channel, why string) {
	g.mu.Lock()
	if g.devices[c.device] != c { // another session has taken its place
		g.mu.Unlock()
		return
	}
	refs := c.giveUpLocked()
	g.closeLocked(c)
	g.givenUp[c.full], g.hibernating[c.device] = c, c
	c.answered, c.echoes = time.Time{}, time.Now().Add(echoSoon)
	p := c.presence
	g.mu.Unlock()
	for _, r := range refs {
		r.Nacked(why)
	}
	if p != nil {
		p.Offline(why)
	}
}

// dropGivenUpLocked gives up on the return of a channel; nil is none.
func (g *Gate) dropGivenUpLocked(c *channel) {
	if c == nil {
		return
	}
	if g.givenUp[c.full] == c {
		delete(g.givenUp, c.full)
	}
	if g.hibernating[c.device] == c {
		delete(g.hibernating, c.device)
	}
}

// resumed brings a device back whose session has been resumed.
func (g *Gate) resumed(full string) {
	if c := g.suspended(full); c != nil && !g.calls.put(c.account, func() {
		if g.suspended(full) == c {
			g.revive(c)
		}
	}) {
		g.counts.drop() // its next stanza tries again
	}
}

func (g *Gate) suspended(full string) *channel {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.givenUp[full]
}

// revive brings a channel's device up again, unless it has left the registry: its user, or a
// service, has signed it out, and only an announcement makes it known again.
func (g *Gate) revive(c *channel) {
	holder, err := g.core.AccountOf(c.device)
	switch {
	case errors.Is(err, delivery.ErrNotFound), err == nil && holder != c.account:
		g.forget(c)
		return
	case err == nil:
		err = g.online(c.account, c.device, c.full, false, c.reported())
	}
	if err != nil {
		g.seldom.Info(g.log, "device not brought up again", "device", c.device, "error", err)
	}
}

// forget drops the channel of a device that has left the registry.
func (g *Gate) forget(c *channel) {
	g.mu.Lock()
	g.closeLocked(c)
	g.dropGivenUpLocked(c)
	p := c.presence
	g.mu.Unlock()
	if p != nil {
		p.Offline("the device has left the registry")
	}
}

// Disconnect takes a device down until its client announces it again, and reports whether it was
// up or could have come back by itself. The client is told by a presence of type
// unavailable; its session at the server is its own.
func (g *Gate) Disconnect(device string) bool {
	g.mu.Lock()
	c := g.devices[device]
	if c == nil {
		c = g.hibernating[device]
	}
	g.mu.Unlock()
	if c == nil {
		return false
	}
	g.gone(c.full, "disconnected by the server")
	b := appendAttr(append([]byte(nil), "<presence type='unavailable'"...), "from", g.opts.Domain)
	g.send(append(appendAttr(b, "to", c.full), "/>"...))
	return true
}
