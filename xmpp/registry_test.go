package xmpp_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// TestBadgeAuto: the number that the server counts is in each copy and in the dismissal.
func TestBadgeAuto(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "one", BadgeAuto: true})
	s, body := w.next("notification")
	if body["badge"] != 1.0 {
		t.Errorf("the first: badge %v", body["badge"])
	}
	w.link.Result(s)
	n := w.notify(delivery.Request{Account: ann, Title: "two", BadgeAuto: true})
	s, body = w.next("notification")
	if body["badge"] != 2.0 {
		t.Errorf("the second: badge %v", body["badge"])
	}
	w.link.Result(s)
	w.waitFor("second ack", func(e delivery.Event) bool {
		return e.Device == device && e.Kind == delivery.EventReceived && e.Seq == n.Seq
	})
	if err := w.core.Dismiss(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	_, body = w.next("dismissal")
	if body["id"] != n.ID || body["badge"] != 1.0 {
		t.Errorf("dismissal: %v", body)
	}
}

// TestRemovedDevice: a device that a service removes is down at once, its client is told, and
// only an announcement makes it known again.
func TestRemovedDevice(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	if err := w.core.ForgetDevice(t.Context(), ann, device); err != nil {
		t.Fatal(err)
	}
	if !w.gate.Disconnect(device) {
		t.Error("there was no channel")
	}
	if s := w.link.Next(); s.XMLName.Local != "presence" || s.Type != "unavailable" || s.To != phone || s.From != domain {
		t.Errorf("the client is told %+v", s)
	}
	w.sync(phone) // a stanza of its own does not bring it back
	if _, err := w.core.AccountOf(device); !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("the device is known again: %v", err)
	}
	if w.gate.Disconnect(device) {
		t.Error("disconnected twice")
	}
	w.up(phone, "phone")
	if _, err := w.core.AccountOf(device); err != nil {
		t.Errorf("after an announcement: %v", err)
	}
}

// TestRemovedWhileHibernating: the session of a removed device is resumed, and the device stays
// removed. So it does when the link returns after an outage.
func TestRemovedWhileHibernating(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.Hold = 1 })
	node, secret := w.register(phone, "phone")
	w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.link.Publish("e", host, domain, node, secret, "", "")
	if answer := w.link.Next(); answer.Type != "result" {
		t.Fatalf("%+v", answer)
	}
	if err := w.core.ForgetDevice(t.Context(), ann, node); err != nil {
		t.Fatal(err)
	}
	w.link.Result(s)
	w.sync(phone)
	if _, err := w.core.AccountOf(node); !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("a resumed session made the device known again: %v", err)
	}
	w.up(phone, "phone")
	if err := w.core.ForgetDevice(t.Context(), ann, node); err != nil {
		t.Fatal(err)
	}
	w.link.Close()
	w.link = w.server.Accept()
	w.sync(ann + "/other")
	if _, err := w.core.AccountOf(node); !errors.Is(err, delivery.ErrNotFound) {
		t.Errorf("the link's return made the device known again: %v", err)
	}
}

// TestDeviceLimit: announcements and registrations cannot make more devices than an account may
// have.
func TestDeviceLimit(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxDevices = 2 })
	w.up(ann+"/1", "1")
	w.up(ann+"/2", "2")
	w.link.Announce(ann+"/3", domain, "3")
	if s := w.link.Next(); s.XMLName.Local != "presence" || s.Type != "error" || !strings.Contains(s.Raw, "mqtt.limits.devices") {
		t.Errorf("%+v", s)
	}
	w.link.Sendf("<iq type='set' from='%s' to='"+domain+"' id='r'><command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'><x xmlns='jabber:x:data'><field var='token'><value>"+token+"</value></field><field var='device-id'><value>3</value></field><field var='topic'><value>com.example.app</value></field></x></command></iq>", ann+"/3")
	if s := w.link.Next(); s.Type != "error" || !strings.Contains(s.Raw, "mqtt.limits.devices") {
		t.Errorf("%+v", s)
	}
	w.up(ann+"/4", "2") // a known one moves
	if devices, err := w.core.Devices(ann); err != nil || len(devices) != 2 {
		t.Errorf("%d devices, %v", len(devices), err)
	}
}

// TestRefusedRegistration: a registration that is refused makes no device. A notification that
// waits for the account's first device waits on.
func TestRefusedRegistration(t *testing.T) {
	w := newWorld(t, func(_ *xmpp.Options, o *delivery.Options) {
		o.HoldUnknown = true
		o.CheckRegistration = func(r delivery.Registration) error {
			if r.Token != token {
				return &delivery.FieldError{Field: "token", Rule: "must be hexadecimal"}
			}
			return nil
		}
	})
	if _, err := w.core.Accept(t.Context(), delivery.Request{Account: ann, ID: "held", Title: "Held"}); err != nil {
		t.Fatal(err)
	}
	w.link.Sendf("<iq type='set' from='%s' to='"+domain+"' id='r'><command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'><x xmlns='jabber:x:data'><field var='token'><value>no token</value></field><field var='device-id'><value>other</value></field></x></command></iq>", phone)
	if s := w.link.Next(); s.Type != "error" || !strings.Contains(s.Raw, "bad-request") {
		t.Errorf("%+v", s)
	}
	if devices, err := w.core.Devices(ann); err == nil && len(devices) > 0 {
		t.Errorf("the registry has %+v", devices)
	}
	w.link.Announce(phone, domain, "phone")
	if s, body := w.next("notification"); body["id"] != "held" {
		t.Errorf("%+v", s)
	}
	node, _ := w.register(phone, "phone")
	if view, err := w.core.Device(ann, node); err != nil || node != xmpp.DeviceID(ann, "phone") || view.Via != delivery.ViaXMPP || len(view.Registrations) != 1 {
		t.Errorf("%+v, %v", view, err)
	}
	node, _ = w.register(phone, "tablet") // before it has been announced
	if view, err := w.core.Device(ann, node); err != nil || view.Via != delivery.ViaXMPP {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestChangedSecret: the operator changes the component's secret at the server and in the
// file, and restarts nothing.
func TestChangedSecret(t *testing.T) {
	var secret atomic.Value
	secret.Store("secret")
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) {
		o.ReadSecret = func() ([]byte, error) { return []byte(secret.Load().(string)), nil }
	})
	w.up(phone, "phone")
	w.server.SetSecret("other")
	w.link.Close()
	w.awaitCause("refuses the secret")
	secret.Store("other")
	w.link = w.server.Accept()
	w.sync(phone)
}

// awaitCause waits until the gate says why its link is down.
func (w *world) awaitCause(part string) {
	w.Helper()
	w.eventually("the cause "+part, func() bool {
		up, cause := w.gate.Up()
		return !up && strings.Contains(cause, part)
	})
}

// TestOtherSession: a device comes back in another session, and the old one is over for good.
func TestOtherSession(t *testing.T) {
	w := newWorld(t)
	node, secret := w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	old, _ := w.next("notification")
	w.link.Publish("e", host, domain, node, secret, "", "")
	if answer := w.link.Next(); answer.Type != "result" {
		t.Fatalf("%+v", answer)
	}
	again := ann + "/phone.2"
	w.link.Announce(again, domain, "phone")
	s, _ := w.next("notification")
	if s.To != again {
		t.Errorf("to %s", s.To)
	}
	// The old session's end says nothing about the new one.
	w.link.Error(old, "cancel", "service-unavailable")
	w.link.Sendf("<presence type='unavailable' from='%s' to='"+domain+"'/>", phone)
	w.sync(again)
	if view, err := w.core.Device(ann, device); err != nil || !view.Up || view.Address != again {
		t.Errorf("%+v, %v", view, err)
	}
	w.link.Result(s)
	w.wait(device, "received")
}

// TestUnannounced: who asks before announcing is told so; what a user does not tell costs
// nobody anything.
func TestUnannounced(t *testing.T) {
	w := newWorld(t)
	for _, request := range []string{
		"<ack xmlns='urn:heartline:1' id='x' status='displayed'/>", "<state xmlns='urn:heartline:1' app='foreground'/>", "<sign-out xmlns='urn:heartline:1'/>",
	} {
		w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='q'>" + request + "</iq>")
		if s := w.link.Next(); s.Type != "error" || s.Child("error").Child("unexpected-request").XMLName.Local == "" || !strings.Contains(s.Raw, "announce the device first") {
			t.Errorf("%s: %+v", request, s)
		}
	}
	w.link.Send("<presence type='subscribe' from='" + ann + "' to='" + domain + "'/>")
	if s := w.link.Next(); s.XMLName.Local != "presence" || s.Type != "unsubscribed" || s.To != ann {
		t.Errorf("%+v", s)
	}
	for _, kind := range []string{"subscribed", "unsubscribe", "unsubscribed", "probe", "invisible"} {
		w.link.Send("<presence type='" + kind + "' from='" + ann + "' to='" + domain + "'/>")
	}
	w.sync(phone)
}

// TestConditions: what each error in answer to a notification means for the device: those that
// say that there is no such session take it down.
func TestConditions(t *testing.T) {
	gone := []string{"service-unavailable", "recipient-unavailable", "gone", "item-not-found", "remote-server-not-found", "remote-server-timeout"}
	other := []string{
		"bad-request", "conflict", "feature-not-implemented", "forbidden", "internal-server-error", "jid-malformed", "not-acceptable", "not-allowed",
		"not-authorized", "policy-violation", "redirect", "registration-required", "resource-constraint", "subscription-required", "undefined-condition", "unexpected-request",
		"payment-required", "no-such-condition",
	}
	w := newWorld(t)
	for i, condition := range append(slices.Clone(gone), other...) {
		user := "user" + string(rune('a'+i)) + "@" + host
		device := w.up(user+"/phone", "phone")
		w.notify(delivery.Request{Account: user, Title: "t"})
		s, _ := w.next("notification")
		w.link.Error(s, "cancel", condition)
		if e := w.wait(device, "nacked"); e.Detail != condition {
			t.Errorf("%s: the timeline says %q", condition, e.Detail)
		}
		w.sync(user + "/other")
		view, err := w.core.Device(user, device)
		if err != nil || view.Up == slices.Contains(gone, condition) {
			t.Errorf("%s: up %v, %v", condition, view.Up, err)
		}
	}
	// An error without a condition, and one without an error element.
	for _, body := range []string{"<error type='cancel'/>", ""} {
		user := "bare" + string(rune('a'+len(body))) + "@" + host
		device := w.up(user+"/phone", "phone")
		w.notify(delivery.Request{Account: user, Title: "t"})
		s, _ := w.next("notification")
		w.link.Sendf("<iq type='error' from='%s' to='%s' id='%s'>"+body+"</iq>", s.To, s.From, s.ID)
		w.wait(device, "nacked")
	}
}

// TestJIDs: resources and localparts of every kind that a server lets through.
func TestJIDs(t *testing.T) {
	w := newWorld(t)
	for _, full := range []string{
		"+4915112345@" + host + "/phone", `d\27artagnan@` + host + "/ph/one", "жанна@" + host + "/📱", "ann@" + host + "/a@b/c@d", "x@" + host + `/<'"&>`, "y@" + host + "/ ",
		"z@" + host + "/" + strings.Repeat("r", 1023),
	} {
		account, _, _ := strings.Cut(full, "/")
		w.link.Announce(full, domain, "d")
		w.sync(full)
		device := xmpp.DeviceID(account, "d")
		w.notify(delivery.Request{Account: account, Title: "t"})
		s, body := w.next("notification")
		if s.To != full || body["account"] != account {
			t.Errorf("%q: to %q, %v", full, s.To, body)
		}
		w.link.Result(s)
		w.wait(device, "received")
	}
}

// TestPrefixes: a server may declare its namespaces with any prefix, in the header and in the
// stanzas.
func TestPrefixes(t *testing.T) {
	w := newWorld(t)
	node, secret := w.register(phone, "phone")
	w.link.Send("<p:presence xmlns:p='jabber:component:accept' from='" + phone + "' to='" + domain + "'><h:device xmlns:h='urn:heartline:1' id='phone'/></p:presence>")
	w.sync(phone)
	n := w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.link.Send("<p:iq xmlns:p='jabber:component:accept' type='result' from='" + phone + "' to='" + domain + "' id='" + s.ID + "'/>")
	w.waitFor("the ack", func(e delivery.Event) bool { return e.Seq == n.Seq && e.Kind == delivery.EventReceived })
	w.link.Send("<iq type='set' from='" + host + "' to='" + domain + "' id='p'><a:pubsub xmlns:a='http://jabber.org/protocol/pubsub'><a:publish node='" + node + "'><a:item><b:notification xmlns:b='urn:xmpp:push:0'>" +
		"<c:x xmlns:c='jabber:x:data' type='form'><c:field var='last-message-body'><c:value>hi</c:value></c:field></c:x></b:notification></a:item></a:publish>" +
		"<a:publish-options><c:x xmlns:c='jabber:x:data' type='submit'><c:field var='secret'><c:value>" + secret + "</c:value></c:field></c:x></a:publish-options></a:pubsub></iq>")
	seen := map[string]bool{}
	for range 2 { // the answer, and the notification over the channel
		s := w.link.Next()
		seen[s.Type] = true
	}
	if !seen["result"] || !seen["set"] {
		t.Errorf("a publish with prefixes: %v", seen)
	}
}

// TestLateAnswers: an answer after the window, a second one, and one after the session's end.
func TestLateAnswers(t *testing.T) {
	w := newWorld(t, func(_ *xmpp.Options, o *delivery.Options) { o.Windows.Ack = 1 })
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.wait(device, "pushed")
	w.link.Result(s)
	w.wait(device, "received")
	w.link.Result(s)
	w.link.Error(s, "cancel", "service-unavailable") // to nothing: it says nothing
	w.sync(phone)
	if view, err := w.core.Device(ann, device); err != nil || !view.Up {
		t.Errorf("%+v, %v", view, err)
	}
	w.link.Sendf("<presence type='unavailable' from='%s' to='"+domain+"'/>", phone)
	w.link.Result(s)
	w.sync(phone)
	if view, err := w.core.Device(ann, device); err != nil || view.Up {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestPoison: a notification for which the server ends the stream is refused after three, and the
// link is there for the others.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	for range 3 {
		w.next("notification")
		w.link.Send("<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		w.link.Ended()
		w.link = w.server.Accept()
	}
	if e := w.wait(device, "nacked"); !strings.Contains(e.Detail, "policy-violation") {
		t.Errorf("the timeline says %q", e.Detail)
	}
	w.wait(device, "pushed")
	w.sync(ann + "/other")
}

// TestLargeMessage: a message of the largest size fits into a stanza, whatever it is made of; a
// larger stanza is refused on its own.
func TestLargeMessage(t *testing.T) {
	for _, piece := range []string{"&", "<", `\"`, "x", "é"} {
		w := newWorld(t)
		device := w.up(phone, "phone")
		data := `"` + strings.Repeat(piece, (256<<10-2)/len(piece)) + `"`
		w.notify(delivery.Request{Account: ann, Title: "t", Data: json.RawMessage(data)})
		s, _ := w.next("notification")
		w.link.Result(s)
		s, body := w.next("message")
		if got, ok := body["data"].(string); !ok || len(got) < 128<<10-1 || len(s.Raw) > 300<<10 {
			t.Errorf("%q: %d bytes of data in %d of XML", piece, len(got), len(s.Raw))
		}
		w.link.Result(s)
		w.wait(device, "message_received")
	}
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxStanzaSize = 1500 })
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: strings.Repeat("x", 1500)})
	if e := w.wait(device, "nacked"); !strings.Contains(e.Detail, "xmpp.max_stanza_size") {
		t.Errorf("the timeline says %q", e.Detail)
	}
	w.sync(phone)
}
