package xmpp

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// handle sorts a stanza by its shape.
func (g *Gate) handle(e *element) {
	kind, from := e.attr("type"), e.attr("from")
	g.counts.stanza("in", stanzaKind(e))
	answer := e.name.Local == "iq" && (kind == "result" || kind == "error")
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
	if !g.allowed(from) {
		g.counts.drop()
		if e.name.Local == "iq" {
			g.fail(e, fault{"wait", "resource-constraint", "too many requests"})
		}
		return
	}
	if e.name.Local != "presence" {
		g.resumed(from)
	}
	switch e.name.Local {
	case "presence":
		g.onPresence(e, from, kind)
	case "iq":
		if publish {
			g.published(e, from) // it cannot have the secret of one of our accounts
			return
		}
		g.onRequest(e, from, kind)
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

func (g *Gate) onPresence(e *element, from, kind string) {
	switch kind {
	case "":
		device := e.child(nsHeartline, "device")
		if device == nil || !isFull(from) || !g.local(from) {
			return
		}
		if err := g.announced(from, device.attr("id")); err != nil {
			g.seldom.Info(g.log, "device not brought up", "account", bare(from), "error", err)
			b := append([]byte(nil), "<presence type='error'"...)
			b = append(appendAttr(appendAttr(b, "from", g.opts.Domain), "to", from), '>')
			b = appendErrorElement(b, faultOf(err))
			g.send(append(b, "</presence>"...))
		}
	case "unavailable", "error":
		g.gone(from, "presence "+kind)
	}
}

func (g *Gate) onRequest(e *element, from, kind string) {
	if kind != "get" && kind != "set" {
		return
	}
	g.mu.Lock()
	c := g.channels[from]
	g.mu.Unlock()
	switch {
	case kind == "get":
		g.onGet(e, from)
	case e.child(nsCommands, "command") != nil && g.local(from):
		g.call(e, func() { g.onCommand(e, from) })
	case c != nil && e.child(nsHeartline, "ack") != nil:
		g.call(e, func() { g.answer(e, g.onAck(c, e.child(nsHeartline, "ack"))) })
	case c != nil && e.child(nsHeartline, "state") != nil:
		c.heartbeat()
		g.answer(e, g.onState(c, e.child(nsHeartline, "state")))
	case c != nil && e.child(nsHeartline, "sign-out") != nil:
		g.call(e, func() { g.answer(e, g.onSignOut(c)) })
	default:
		g.fail(e, fault{kind: "cancel", condition: "service-unavailable"})
	}
}

func (g *Gate) onAck(c *channel, ack *element) error {
	kind, err := wire.ParseAckStatus(ack.attr("status"))
	if err != nil {
		return err
	}
	err = g.core.AckByID(ack.attr("id"), c.device, c.account, kind)
	c.heartbeat() // after the ack, or it would be published again
	return err
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
	if p := c.presenceNow(); p != nil {
		return p.SetApp(app)
	}
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
	default: // the store fails, or the process is stopping
		return fault{"wait", "resource-constraint", "try again later"}
	}
}
