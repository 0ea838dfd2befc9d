package xmpp

import (
	"crypto/hmac"
	"errors"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/text"
)

// maxShown bounds the server's text in a notification.
const maxShown = 1024

// published takes a push of XEP-0357: the server says that it cannot reach a client. It
// names no user; the node is the device, and the secret proves that the account's client
// has registered it. ejabberd deletes the registration at the first answer other than a result
// or an error of type `wait`: anything else is for registrations that are to go.
func (g *Gate) published(e *element, from string) {
	pubsub := e.child(nsPubSub, "pubsub")
	publish := pubsub.child(nsPubSub, "publish")
	if publish == nil || e.attr("type") != "set" {
		g.fail(e, fault{kind: "cancel", condition: "feature-not-implemented"})
		return
	}
	device := publish.attr("node")
	g.mu.Lock()
	c := g.devices[device]
	g.mu.Unlock()
	if c != nil { // now: what follows in the stream may be from a session that comes back
		g.publishedFor(e, from, device, c.account, c)
		return
	}
	if !g.calls.put(device, func() {
		switch account, err := g.core.AccountOf(device); {
		case errors.Is(err, delivery.ErrNotFound):
			g.unregistered(e, publishUnknown)
		case err != nil:
			g.refuseForNow(e)
		default:
			g.publishedFor(e, from, device, account, nil)
		}
	}) {
		g.refuseForNow(e)
	}
}

// publishedFor takes a publish for a device. up is the device's channel when the publish
// came: it says nothing of one that is up since.
func (g *Gate) publishedFor(e *element, from, device, account string, up *channel) {
	pubsub := e.child(nsPubSub, "pubsub")
	publish := pubsub.child(nsPubSub, "publish")
	secret := pubsub.child(nsPubSub, "publish-options").child(nsForm, "x").field("secret")
	if from != hostOf(account) || !hmac.Equal([]byte(secret), []byte(g.secret(account, device))) {
		g.unregistered(e, publishSecret) // the registration of a former account, too; the answer is the same
		return
	}
	summary := publish.child(nsPubSub, "item").child(nsPush, "notification").child(nsForm, "x")
	body, sender := summary.field("last-message-body"), summary.field("last-message-sender")
	ours := hostOf(sender) == g.opts.Domain
	g.mu.Lock()
	c, sleeping := g.devices[device], g.hibernating[device]
	now := time.Now()
	// A former session of the device explains a publish without saying anything of this one.
	former := c != nil && body == "" && now.Before(c.echoes)
	waits := c != nil && c == up && len(c.open) > 0 && !former
	echo := ours || body == "" && (waits || former || c != nil && now.Before(c.answered) ||
		c == nil && sleeping != nil && (!g.opts.NotifyAll || now.Before(sleeping.echoes)))
	if c != nil && body == "" {
		c.answered = time.Time{} // one publish stands for all that waited
	}
	g.mu.Unlock()
	if waits {
		g.suspend(c, "the XMPP server cannot reach the device")
	}
	switch {
	case echo:
		// Our own stanza. A notification for it would be sent, pushed back, and so on.
		g.counts.publish(publishEcho)
		g.answer(e, nil)
		return
	case body == "" && !g.opts.NotifyAll:
		g.counts.publish(publishEmpty)
		g.answer(e, nil)
		return
	}
	if !g.calls.put(device, func() {
		if c == nil && g.pushEnded(account, device) {
			g.unregistered(e, publishUnknown)
			return
		}
		g.notify(e, account, device, body, sender)
	}) {
		g.refuseForNow(e)
	}
}

// pushEnded reports whether the device has no way left to be reached: a notification
// server has proved that its registration is no more.
func (g *Gate) pushEnded(account, device string) bool {
	d, err := g.core.Device(account, device)
	if err != nil {
		return false
	}
	r := d.Registration(delivery.KindAlert)
	return r != nil && r.Ended != nil
}

func (g *Gate) unregistered(e *element, outcome string) {
	g.counts.publish(outcome)
	g.fail(e, fault{kind: "cancel", condition: "item-not-found"})
}

// refuseForNow keeps the registration; the publish is lost, as no server repeats one.
func (g *Gate) refuseForNow(e *element) {
	g.counts.publish(publishRefused)
	g.fail(e, fault{kind: "wait", condition: "resource-constraint"})
}

// maxJoined bounds the publishes that wait to join one notification.
const maxJoined = 1024

// burst holds the publishes of a device that came too soon after the last notification:
// a backlog of 30 messages is 30 publishes within a second.
type burst struct {
	timer   *time.Timer
	waiting []*element
	account string
	body    string // of the latest
	sender  string
}

// notify accepts a notification for a publish, or has it join others.
func (g *Gate) notify(e *element, account, device, body, sender string) {
	g.mu.Lock()
	if g.quiesced {
		g.mu.Unlock()
		g.refuseForNow(e)
		return
	}
	if b := g.bursts[device]; b != nil {
		if len(b.waiting) >= maxJoined {
			g.mu.Unlock()
			g.refuseForNow(e)
			return
		}
		b.waiting, b.account, b.body, b.sender = append(b.waiting, e), account, body, sender
		g.mu.Unlock()
		return
	}
	g.bursts[device] = &burst{timer: g.afterLocked(g.opts.MinInterval, func() { g.burstOver(device) })}
	g.mu.Unlock()
	g.accept([]*element{e}, account, device, body, sender)
}

func (g *Gate) burstOver(device string) {
	g.mu.Lock()
	b := g.bursts[device]
	if b == nil {
		g.mu.Unlock()
		return
	}
	if len(b.waiting) == 0 {
		delete(g.bursts, device)
		g.mu.Unlock()
		return
	}
	waiting, quiesced := b.waiting, g.quiesced
	b.waiting = nil
	account, body, sender := b.account, b.body, b.sender
	if !quiesced {
		g.tasks.Add(1) // this call has its own, so Stop has not returned
		b.timer.Reset(g.opts.MinInterval)
	}
	g.mu.Unlock()
	if quiesced {
		for _, e := range waiting {
			g.refuseForNow(e)
		}
		return
	}
	g.accept(waiting, account, device, body, sender)
}

// accept makes one notification of publishes, and answers them when it is on the disk.
func (g *Gate) accept(publishes []*element, account, device, body, sender string) {
	r := delivery.Request{Account: account, Devices: []string{device}, Title: g.opts.Title, CollapseKey: "xmpp"}
	if g.opts.ShowBody {
		r.Body = text.Clip(body, maxShown)
	}
	if g.opts.ShowSender {
		r.Subtitle = text.Clip(bare(sender), delivery.MaxSubtitle)
	}
	g.core.AcceptAsync(r, func(_ delivery.Receipt, err error) {
		if errors.Is(err, delivery.ErrInvalid) {
			g.seldom.Error(g.log, "notification of a publish is invalid, the publish is lost", "device", device, "error", err)
		}
		for i, e := range publishes {
			switch {
			case err == nil && i == 0:
				g.counts.publish(publishAccepted)
				g.answer(e, nil)
			case err == nil:
				g.counts.publish(publishJoined)
				g.answer(e, nil)
			case errors.Is(err, delivery.ErrNotFound):
				g.unregistered(e, publishUnknown)
			default:
				g.refuseForNow(e)
			}
		}
	})
}
