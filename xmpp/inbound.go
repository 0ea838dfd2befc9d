package xmpp

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/wire"
)

// handle sorts a stanza by its shape.
func (g *Gate) handle(e *element) {
	kind, from := e.attr("type"), e.attr("from")
	g.counts.stanza("in", stanzaKind(e))
	if e.fault != nil {
		g.passedOver(e, from, kind)
		return
	}
	answer := e.name.Local == "iq" && (kind == "result" || kind == "error")
	if len(e.attr("id")) > maxID {
		g.counts.drop()
		g.seldom.Info(g.log, "stanza dropped", "from", clip(from), "error", "its id is too long to be answered")
		return
	}
	if answer {
		g.answered(e, from, kind == "result")
		return
	}
	if kind == "error" && e.name.Local != "presence" {
		return // never answered: two errors would answer each other for ever
	}
	publish := e.name.Local == "iq" && isDomain(from) && e.child(nsPubSub, "pubsub") != nil
	if publish && slices.Contains(g.opts.Hosts, from) {
		g.published(e, from) // without a limit: it speaks for all users of the host
		return
	}
	ends := e.name.Local == "presence" && (kind == "unavailable" || kind == "error")
	// A session that ends is not up any more, however many have ended.
	if !ends && !g.isAck(e, from, kind) && !g.allowed(from) {
		g.counts.drop()
		switch {
		case e.name.Local == "iq":
			g.fail(e, errTooMany)
		case e.name.Local == "presence" && kind == "" && e.child(nsHeartline, "device") != nil && g.local(from):
			g.refuseAnnouncement(e, from, errTooMany)
		}
		return
	}
	if e.name.Local != "presence" {
		if kind == "set" && e.child(nsHeartline, "state") != nil {
			g.reportsFirst(from)
		}
		g.resumed(from)
	}
	switch e.name.Local {
	case "presence":
		g.onPresence(e, from, kind)
	case "iq":
		if publish { // it cannot have the secret of one of our accounts
			g.unregistered(e, publishSecret)
			return
		}
		g.onRequest(e, from, kind)
	case "message":
		g.onMessage(from)
	}
}

// reportsFirst drops the last report of a session that a new report resumes: the device would
// get messages for the foreground in front of a report that its app has left it.
func (g *Gate) reportsFirst(full string) {
	if c := g.suspended(full); c != nil {
		c.setReported(delivery.AppUnknown)
	}
}

// maxID bounds the id of a stanza that is handled. The answer carries the id, with each
// quote escaped: one of 200 KB makes an answer of more than a megabyte, for which Prosody
// ends the link.
const maxID = 1024

// stranger reports whether a stanza is from a user, or from another server: its faults are not
// the fault of the server at the other end, and do not end the link.
func (g *Gate) stranger(from string) bool {
	return from != "" && !slices.Contains(g.opts.Hosts, from)
}

// passedOver takes a stanza that was too large, too deep or malformed, of which there is the
// start tag only.
func (g *Gate) passedOver(e *element, from, kind string) {
	g.counts.drop()
	g.seldom.Info(g.log, "stanza dropped", "from", clip(from), "error", clip(e.fault.Error()))
	if e.name.Local == "iq" && (kind == "get" || kind == "set") && e.attr("id") != "" && len(e.attr("id")) <= maxID && g.allowed(from) {
		g.fail(e, fault{"wait", "policy-violation", clip(e.fault.Error())})
	}
}

func stanzaKind(e *element) string {
	switch k := e.name.Local; k {
	case "iq", "presence", "message":
		return k
	}
	return "other"
}

// allowed limits what one user, or all users of one foreign domain, can ask for.
func (g *Gate) allowed(from string) bool {
	key := bare(from)
	if !g.local(from) {
		key = hostOf(from)
	}
	l := g.limits[key]
	if l == nil {
		if len(g.limits) >= maxLimits {
			clear(g.limits)
		}
		l = rate.NewLimiter(perUser, 2*perUser)
		g.limits[key] = l
	}
	return l.Allow()
}

// isAck reports whether a stanza is the ack of a device by its ID. A device has one for each
// notification: the account's lane bounds those, not the limit on what a user may ask for.
func (g *Gate) isAck(e *element, from, kind string) bool {
	if e.name.Local != "iq" || kind != "set" || e.child(nsHeartline, "ack") == nil || e.child(nsCommands, "command") != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.channels[from] != nil || g.givenUp[from] != nil
}

func (g *Gate) onPresence(e *element, from, kind string) {
	switch kind {
	case "":
		device := e.child(nsHeartline, "device")
		if device == nil {
			return
		}
		if err := g.checkUser(from); err != nil { // strangers get no answer
			g.seldom.Info(g.log, "announcement ignored", "from", clip(from), "error", err)
			return
		}
		if !g.calls.put(bare(from), func() {
			if err := g.announced(from, device.attr("id")); err != nil {
				g.seldom.Info(g.log, "device not brought up", "account", bare(from), "error", err)
				g.refuseAnnouncement(e, from, faultOf(err))
			}
		}) {
			g.refuseAnnouncement(e, from, faultOf(errBusy))
		}
	case "unavailable":
		g.ended(from, func() {
			if !g.endOfFormer(from) {
				g.gone(from, "presence unavailable")
			}
		})
	case "error":
		g.ended(from, func() { g.gone(from, "presence error") })
	case "subscribe":
		if !g.local(from) {
			return
		}
		// Without an answer the user's server asks again at each login.
		b := append([]byte(nil), "<presence type='unsubscribed'"...)
		g.send(append(appendAttr(appendAttr(b, "from", bare(to(e, g.opts.Domain))), "to", bare(from)), "/>"...))
	}
}

// errTooMany tells a client that it has asked too often.
var errTooMany = fault{"wait", "resource-constraint", "too many requests"}

// refuseAnnouncement tells a client why its device is not taken up.
func (g *Gate) refuseAnnouncement(e *element, from string, f fault) {
	b := append([]byte(nil), "<presence type='error'"...)
	b = append(appendAttr(appendAttr(b, "from", to(e, g.opts.Domain)), "to", from), '>')
	b = appendErrorElement(b, f)
	g.send(append(b, "</presence>"...))
}

// Why a sender can have no device.
var (
	errForeignUser = errors.New("devices are for users of xmpp.components[].hosts only")
	errNoSession   = errors.New("send it from a session: user@domain/resource")
	errNotUp       = errors.New("announce the device first: presence with <device xmlns='" + nsHeartline + "' id='…'/> to the component")
)

// checkUser says why a sender can have no device; nil if it can.
func (g *Gate) checkUser(from string) error {
	switch {
	case !g.local(from):
		return errForeignUser
	case !isFull(from):
		return errNoSession
	}
	return nil
}

func (g *Gate) onRequest(e *element, from, kind string) {
	switch {
	case kind != "get" && kind != "set":
	case !g.local(from): // strangers get no lanes, and nothing that waits
		g.serve(e, from, kind)
	case !g.calls.put(bare(from), func() { g.serve(e, from, kind) }):
		g.fail(e, fault{"wait", "resource-constraint", "the server is busy"})
	}
}

// onMessage takes a message, which says that its sender is there. It does so in its place among
// the requests: an ack in front of it counts first.
func (g *Gate) onMessage(from string) {
	g.mu.Lock()
	c := g.channels[from]
	g.mu.Unlock()
	if c != nil && !g.calls.put(c.account, c.heartbeat) {
		g.counts.drop()
	}
}

// serve answers a request. One of a device is a heartbeat, too: afterwards, or an ack's
// notification would be published again.
func (g *Gate) serve(e *element, from, kind string) {
	g.mu.Lock()
	c := g.channels[from]
	g.mu.Unlock()
	if c != nil {
		defer c.heartbeat()
	}
	if kind == "get" {
		g.onGet(e, from)
		return
	}
	command, ack, state, signOut := e.child(nsCommands, "command"), e.child(nsHeartline, "ack"), e.child(nsHeartline, "state"), e.child(nsHeartline, "sign-out")
	ours := command != nil || ack != nil || state != nil || signOut != nil
	switch err := g.checkUser(from); {
	case ours && err != nil:
		g.answer(e, err)
	case command != nil:
		g.onCommand(e, from)
	case ours && c == nil:
		g.answer(e, errNotUp)
	case ack != nil:
		g.answer(e, g.onAck(c, ack))
	case state != nil:
		g.answer(e, g.onState(c, state))
	case signOut != nil:
		g.answer(e, g.onSignOut(c))
	default:
		g.fail(e, fault{kind: "cancel", condition: "service-unavailable"})
	}
}

func (g *Gate) onAck(c *channel, ack *element) error {
	kind, err := wire.ParseAckStatus(ack.attr("status"))
	if err != nil {
		return err
	}
	return g.core.AckByID(ack.attr("id"), c.device, c.account, kind)
}

func (g *Gate) onState(c *channel, state *element) error {
	app := delivery.AppBackground
	switch s := state.attr("app"); s {
	case "foreground":
		app = delivery.AppForeground
	case "background":
	default:
		return &delivery.FieldError{Field: "app", Rule: "must be foreground or background", Got: clip(s)}
	}
	p := c.presenceNow()
	if p == nil {
		return g.core.ReportsApp(c.device, c.account)
	}
	if err := p.SetApp(app); err != nil {
		return err
	}
	c.setReported(app) // a suspension may have ended p meanwhile: the channel's return passes it on
	return nil
}

// onSignOut forgets the device. When the result comes, that is on the disk.
func (g *Gate) onSignOut(c *channel) error {
	ctx, cancel := context.WithTimeout(g.ctx, storePatience)
	defer cancel()
	if err := g.core.SignOut(ctx, c.device, c.account); err != nil {
		return err
	}
	g.log.Info("device signed out", "device", c.device, "account", c.account)
	g.forget(c)
	return nil
}

// storePatience is how long a request of a device may wait for the disk.
const storePatience = 5 * time.Second

// answer answers a request of a device.
func (g *Gate) answer(e *element, err error) {
	if err != nil {
		g.fail(e, faultOf(err))
		return
	}
	g.mayComeBack(e.attr("from"))
	g.send(appendIQ(nil, "result", to(e, g.opts.Domain), e.attr("from"), e.attr("id"), true))
}

// to is the address that a stanza was sent to, which its answer comes from: the domain, or
// something in it. The server has checked that; a wrong one would end the link.
func to(e *element, domain string) string {
	if a := e.attr("to"); hostOf(a) == domain {
		return a
	}
	return domain
}

func (g *Gate) fail(e *element, f fault) {
	g.mayComeBack(e.attr("from"))
	g.send(appendFault(nil, to(e, g.opts.Domain), e.attr("from"), e.attr("id"), f))
}

// faultOf turns an error of the core into one for a client.
func faultOf(err error) fault {
	switch {
	case errors.Is(err, delivery.ErrInvalid):
		return fault{"modify", "bad-request", clip(err.Error())}
	case errors.Is(err, delivery.ErrNotYours), errors.Is(err, delivery.ErrNotFound):
		return fault{"cancel", "item-not-found", clip(err.Error())}
	case errors.Is(err, delivery.ErrForeignDevice):
		return fault{"cancel", "forbidden", "another account holds the device"}
	case errors.Is(err, newcomers.ErrTooMany), errors.Is(err, errForeignUser):
		return fault{"cancel", "not-allowed", err.Error()}
	case errors.Is(err, errNoSession):
		return fault{"modify", "jid-malformed", err.Error()}
	case errors.Is(err, errNotUp):
		return fault{"wait", "unexpected-request", err.Error()}
	default: // the store fails, or the process is stopping
		return fault{"wait", "resource-constraint", "try again later"}
	}
}
