package xmpp_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// served checks that the link is the same as before and that a device is served over it.
func (w *world) served(p *phone, after string) {
	w.t.Helper()
	id := p.notify("")
	w.until(id, "received")
	w.want(id, "accepted", "published", "received")
	if st := w.broker.XMPPStats()[0]; !st.Up {
		w.t.Errorf("%s: the link is down", after)
	}
}

// TestHostileClient: what a user of the server sends to the component harms nobody else, and gains
// nothing. A server may end the user's own connection; each attempt has a new one.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	eachKind(t, hostileClient)
}

func hostileClient(t *testing.T, kind string) {
	leaveOut(t, kind)
	var between *tap
	w := newWorld(t, kind, func(c *config.Config) {
		between = newTap(t, c.XMPP.Components[0].Address)
		c.XMPP.Components[0].Address = between.socket.Addr().String()
	})
	victim := w.phone(true)
	victim.announce()
	eve := w.phone(false)
	to := " to='" + w.server.Component + "'"
	waiting := victim.notify("") // acked before eve can answer for it
	w.until(waiting, "received")
	for name, sent := range map[string]string{
		"quotes in an id":        `<iq type="get"` + to + ` id="` + strings.Repeat("'", 200_000) + `"><ping xmlns="urn:xmpp:ping"/></iq>`,
		"quotes in an attribute": `<message` + to + ` a="` + strings.Repeat("'", 200_000) + `"><body>x</body></message>`,
		"quotes in a text":       `<message` + to + `><body>` + strings.Repeat("'&quot;", 30_000) + `</body></message>`,
		"deep":                   `<message` + to + `>` + strings.Repeat("<a>", 2_000) + strings.Repeat("</a>", 2_000) + `</message>`,
		"wide":                   `<message` + to + `>` + strings.Repeat("<a/>", 40_000) + `</message>`,
		"spoofed from":           `<iq type="set" from="` + victim.Full + `"` + to + ` id="s"><sign-out xmlns="urn:heartline:1"/></iq>`,
		"spoofed presence":       `<presence type="unavailable" from="` + victim.Full + `"` + to + `/>`,
		"another namespace":      `<presence` + to + `><device xmlns="urn:heartline:2" id="phone"/></presence>`,
		"a publish":              `<iq type="set"` + to + ` id="p"><pubsub xmlns="http://jabber.org/protocol/pubsub"><publish node="` + victim.device + `"><item><notification xmlns="urn:xmpp:push:0"><x xmlns="jabber:x:data" type="submit"><field var="last-message-body"><value>x</value></field></x></notification></item></publish></pubsub></iq>`,
		"a room's presence":      `<presence` + to + `><x xmlns="http://jabber.org/protocol/muc"/><device xmlns="urn:heartline:1" id="phone"/></presence>`,
		"a pubsub event":         `<message` + to + `><event xmlns="http://jabber.org/protocol/pubsub#event"><items node="` + victim.device + `"><item/></items></event></message>`,
		"a carbon copy":          `<message` + to + `><received xmlns="urn:xmpp:carbons:2"><forwarded xmlns="urn:xmpp:forward:0"><iq xmlns="jabber:client" type="result" id="1" from="` + victim.Full + `"` + to + `/></forwarded></received></message>`,
		"an error":               `<message type="error"` + to + `><error type="cancel"><gone xmlns="urn:ietf:params:xml:ns:xmpp-stanzas"/></error></message>`,
		"a storm of presences":   strings.Repeat(`<presence`+to+`><device xmlns="urn:heartline:1" id="phone"/></presence>`, 500),
		"a storm of requests":    strings.Repeat(`<iq type="get"`+to+` id="q"><query xmlns="http://jabber.org/protocol/disco#info"/></iq>`, 500),
		"another's ack":          `<presence` + to + `><device xmlns="urn:heartline:1" id="phone"/></presence><iq type="set"` + to + ` id="a"><ack xmlns="urn:heartline:1" id="` + waiting + `" status="read"/></iq>`,
		"a replayed answer":      strings.Repeat(`<iq type="result"`+to+` id="1"/>`, 50),
	} {
		eve.login(nil)
		if err := eve.Send(sent); err != nil {
			w.t.Logf("%s: %v", name, err) // the server has ended eve's connection
		}
		eve.sync()
		eve.Kill()
		w.served(victim, name)
	}
	// One connection to the server has seen all of it.
	between.mu.Lock()
	if between.links != 1 {
		w.t.Errorf("the link was dialed %d times", between.links)
	}
	between.mu.Unlock()
	v := w.view(waiting)
	if last := v.Timeline[len(v.Timeline)-1]; last.Kind != delivery.EventReceived {
		w.t.Errorf("the last event is %+v", last)
	}
	// Eve enables push at her server for the victim's node, with a secret that she makes up: her
	// messages make no notification of the victim's.
	before := len(w.notifications(victim.account))
	eve.login(nil)
	if _, err := eve.IQ("set", "", "<enable xmlns='urn:xmpp:push:0' jid='"+w.server.Component+"' node='"+victim.device+"'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field><field var='secret'><value>guess</value></field></x></enable>"); err != nil {
		w.t.Fatal(err)
	}
	eve.Close()
	eve.chat(victim, "hi")
	w.await("the refused publish", func() bool { return w.broker.XMPPStats()[0].Publishes["bad_secret"] > 0 })
	if n := len(w.notifications(victim.account)); n != before {
		w.t.Errorf("eve has made %d notifications", n-before)
	}
}

// TestAccountsOfEveryKind: names with escapes (XEP-0106), in other scripts, and with the characters
// of phone numbers are accounts, over the whole loop.
func TestAccountsOfEveryKind(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		for i, user := range []string{`d\27artagnan`, "жанна", "+4915112345", `a\40b.example`, "李", "x%2f"} {
			if err := w.server.AddUser(w.t.Context(), user); err != nil {
				w.t.Fatal(err)
			}
			p := &phone{w: w, user: user, account: user + "@" + w.server.Host, token: strings.Repeat(fmt.Sprintf("%02x", 100+i), 32)}
			p.device = xmpp.DeviceID(p.account, "phone")
			p.login(nil)
			if node, err := p.Register(w.server.Component, "phone", p.token); err != nil || node != p.device {
				w.t.Fatalf("%s: node %q, %v", user, node, err)
			}
			p.announce()
			id := p.notify("")
			w.until(id, "received")
			p.Close()
			p.down()
			id = p.notify("")
			w.until(id, "pushed")
			if p.pushes() != 1 {
				w.t.Errorf("%s: %d pushes", user, p.pushes())
			}
		}
	})
}

// TestTwoSessions: two devices of one account get each notification, `read` on one takes it off the
// other, a sign-out ends one, and erasing the account ends both until they announce themselves.
func TestTwoSessions(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		one := w.phone(true)
		one.announce()
		two, err := xmppkit.Dial(w.t.Context(), w.server.Account(one.user, "tablet"), true, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		defer two.Kill()
		tablet := xmpp.DeviceID(one.account, "tablet")
		up := func(device string) bool {
			d, err := w.broker.Core().Device(one.account, device)
			return err == nil && d.Up
		}
		if err := two.Announce(w.server.Component, "tablet"); err != nil {
			w.t.Fatal(err)
		}
		w.await("the tablet", func() bool { return up(tablet) })
		id := one.notify("")
		first, second := <-one.Received, <-two.Received
		if !strings.Contains(first.JSON, id) || !strings.Contains(second.JSON, id) {
			w.t.Errorf("%+v, %+v", first, second)
		}
		if _, err := one.IQ("set", w.server.Component, "<ack xmlns='urn:heartline:1' id='"+id+"' status='read'/>"); err != nil {
			w.t.Error(err)
		}
		if got := <-two.Received; got.Kind != "dismissal" || !strings.Contains(got.JSON, id) {
			w.t.Errorf("after a read on the other device: %+v", got)
		}
		if _, err := two.IQ("set", w.server.Component, "<sign-out xmlns='urn:heartline:1'/>"); err != nil {
			w.t.Error(err)
		}
		if _, err := w.broker.Core().Device(one.account, tablet); err == nil {
			w.t.Error("the tablet is known after its sign-out")
		}
		if _, err := two.IQ("set", w.server.Component, "<state xmlns='urn:heartline:1' app='foreground'/>"); err == nil {
			w.t.Error("a request after the sign-out was taken")
		}
		w.served(one, "the other's sign-out")
		if err := w.broker.Core().EraseAccount(context.Background(), one.account); err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.broker.Core().Device(one.account, one.device); err == nil {
			w.t.Error("the phone is known after its account was erased")
		}
		if _, err := one.IQ("set", w.server.Component, "<ack xmlns='urn:heartline:1' id='"+id+"' status='displayed'/>"); err == nil {
			w.t.Error("an ack for an erased notification was taken")
		}
		if err := one.Announce(w.server.Component, "phone"); err != nil {
			w.t.Fatal(err)
		}
		w.await("the phone", func() bool { return up(one.device) })
		w.served(one, "the erasure")
	})
}
