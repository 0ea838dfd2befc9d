package xmpp_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// unavailable is how the server says that a session has ended.
func (w *world) unavailable(full string) {
	w.link.Sendf("<presence type='unavailable' from='%s' to='"+domain+"'/>", full)
}

// isUp says what the registry has, once all earlier stanzas have been handled.
func (w *world) isUp(account, device string) bool {
	w.Helper()
	w.sync("sync@" + host + "/x")
	view, err := w.core.Device(account, device)
	if err != nil {
		w.Fatal(err)
	}
	return view.Up
}

// TestLateUnavailable: the end of a session comes after its successor with the same resource
// has announced itself. It takes the successor down neither where the device was up nor where it
// was hibernating, and the successor's own end does.
func TestLateUnavailable(t *testing.T) {
	for _, hibernating := range []bool{false, true} {
		w := newWorld(t)
		node, secret := w.register(phone, "phone")
		device := w.up(phone, "phone")
		if hibernating {
			w.notify(delivery.Request{Account: ann, Title: "t"})
			w.next("notification")
			w.link.Publish("e", host, domain, node, secret, "", "")
			if answer := w.link.Next(); answer.Type != "result" {
				t.Fatalf("%+v", answer)
			}
			if w.isUp(ann, device) {
				t.Fatal("up while hibernating")
			}
		}
		w.link.Announce(phone, domain, "phone") // the new session
		if hibernating {
			s, _ := w.next("notification")
			w.link.Result(s)
		}
		w.unavailable(phone) // the old one
		if !w.isUp(ann, device) {
			t.Errorf("hibernating %v: the end of the former session has taken the device down", hibernating)
		}
		w.unavailable(phone)
		if w.isUp(ann, device) {
			t.Errorf("hibernating %v: the device is up after both sessions have ended", hibernating)
		}
	}
}

// TestLateErrorOfFormerSession: with the end of a session the server refuses what the session has
// not answered. Its successor with the same resource stays up, be it there already or on its way.
func TestLateErrorOfFormerSession(t *testing.T) {
	for _, c := range []struct {
		name                string
		hibernating, atOnce bool
	}{{"up", false, false}, {"hibernating", true, false}, {"up, at once", false, true}, {"hibernating, at once", true, true}} {
		w := newWorld(t)
		node, secret := w.register(phone, "phone")
		device := w.up(phone, "phone")
		w.notify(delivery.Request{Account: ann, Title: "t"})
		first, _ := w.next("notification")
		if c.hibernating {
			w.link.Publish("e", host, domain, node, secret, "", "")
			if answer := w.link.Next(); answer.Type != "result" {
				t.Fatalf("%+v", answer)
			}
		}
		w.link.Announce(phone, domain, "phone") // the new session
		if !c.atOnce {
			second, _ := w.next("notification")
			w.link.Result(second)
			w.wait(device, "received")
		}
		w.link.Error(first, "cancel", "service-unavailable")
		w.unavailable(phone) // the old one
		if c.atOnce {
			second, _ := w.next("notification")
			w.link.Result(second)
			w.wait(device, "received")
		}
		if !w.isUp(ann, device) {
			t.Errorf("%s: the end of the former session has taken the device down", c.name)
		}
		if view, err := w.core.Device(ann, device); err != nil || view.Address != phone {
			t.Errorf("%s: %+v, %v", c.name, view, err)
		}
	}
}

// TestUnavailableOfTheOnlySession: a session that announced itself twice and ended is found out by
// the next notification, which is pushed.
func TestUnavailableOfTheOnlySession(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.up(phone, "phone")
	w.unavailable(phone)
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.link.Error(s, "cancel", "service-unavailable")
	w.wait(device, "pushed")
	if w.isUp(ann, device) {
		t.Error("up")
	}
}

// TestAckOfFormerSession: the device has moved to another session while the answer of the old one
// was on its way. It acks; an answer that says that the old one is over says nothing more.
func TestAckOfFormerSession(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	n := w.notify(delivery.Request{Account: ann, Title: "t"})
	first, _ := w.next("notification")
	again := ann + "/other"
	w.link.Announce(again, domain, "phone")
	second, _ := w.next("notification")
	w.link.Result(first)
	w.waitFor("the ack", func(e delivery.Event) bool { return e.Seq == n.Seq && e.Kind == delivery.EventReceived })
	w.link.Result(second)
	w.link.Error(first, "cancel", "service-unavailable")
	w.unavailable(phone)
	if !w.isUp(ann, device) {
		t.Error("the end of the former session has taken the device down")
	}
	if view, err := w.core.Device(ann, device); err != nil || view.Address != again {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestNotifyAllAnswers: with notify_on all the server pushes our answers back, too, without a
// body. Those are no notifications; a call (on ejabberd without a body) is one.
func TestNotifyAllAnswers(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.NotifyAll, o.MinInterval = true, time.Millisecond })
	node, secret := w.register(phone, "phone")
	w.up(phone, "phone")
	publish := func(outcome string, body string) {
		t.Helper()
		before := w.gate.Stats().Publishes[outcome]
		w.link.Publish("p", host, domain, node, secret, "", body)
		for answered := false; !answered; { // the notification of a publish goes over the channel, too
			switch s := w.link.Next(); {
			case s.Type == "set":
				w.link.Result(s)
			case s.ID == "p" && s.Type == "result":
				answered = true
			default:
				t.Fatalf("%+v", s)
			}
		}
		if got := w.gate.Stats().Publishes; got[outcome] != before+1 {
			t.Errorf("want one more %s, got %v", outcome, got)
		}
	}
	ask := func() {
		t.Helper()
		w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><state xmlns='urn:heartline:1' app='background'/></iq>")
		s := w.link.Next()
		for ; s.Type == "set"; s = w.link.Next() { // the notification of the last publish
			w.link.Result(s)
		}
		if s.Type != "result" {
			t.Fatalf("%+v", s)
		}
	}
	ask()
	publish("echo", "") // the phone was in the pocket before the answer came
	publish("accepted", "")
	// An answer to a later request proves that ours has come.
	ask()
	w.notify(delivery.Request{Account: ann, Title: "t"})
	for {
		s := w.link.Next()
		w.link.Result(s)
		if strings.Contains(s.Raw, `"title":"t"`) {
			break
		}
	}
	w.sync(ann + "/other")
	publish("accepted", "")
	ask()
	publish("accepted", "a text is somebody's message")
}

// TestReplacedAttempts: over a new link only the last attempt of a notification is sent again, and
// the answer to any of them acks.
func TestReplacedAttempts(t *testing.T) {
	w := newWorld(t, func(_ *xmpp.Options, o *delivery.Options) { o.Windows.Ack = 20 * time.Millisecond })
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	first, _ := w.next("notification")
	w.wait(device, "waiting")
	var heartbeat time.Time
	w.eventually("the second attempt", func() bool {
		if time.Since(heartbeat) > 500*time.Millisecond {
			w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='q'><state xmlns='urn:heartline:1' app='background'/></iq>")
			heartbeat = time.Now()
		}
		return slices.Contains(w.kinds(device), "redelivered")
	})
	for answers := true; answers; { // to heartbeats
		answers = w.link.Next().Type != "set"
	}
	w.link.Close()
	w.link = w.server.Accept()
	w.link.Sendf("<iq type='get' from='%s' to='%s' id='sync'><ping xmlns='urn:xmpp:ping'/></iq>", ann+"/other", domain)
	sets := 0
	for {
		s := w.link.Next()
		if s.ID == "sync" {
			break
		}
		if s.Type == "set" { // else: the answer to a heartbeat, which the former link did not take
			sets++
		}
	}
	if sets > 1 {
		t.Errorf("%d attempts were sent again", sets)
	}
	w.link.Result(first)
	w.wait(device, "received")
}

// TestLongID: the answer carries the request's id with its quotes escaped, and would be larger than
// what a server takes. It is not answered, and the link stays.
func TestLongID(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxStanzaSize = 1 << 20 })
	id := strings.Repeat("'", 200<<10)
	for i, request := range []string{
		"<ping xmlns='urn:xmpp:ping'/>", "<query xmlns='http://jabber.org/protocol/disco#info'/>", "<unknown xmlns='y'/>", strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40),
	} {
		for _, kind := range []string{"get", "set"} {
			from := fmt.Sprint("eve", i, kind, "@", host, "/x")
			w.link.Send(`<iq type="` + kind + `" from="` + from + `" to="` + domain + `" id="` + id + `">` + request + "</iq>")
			w.sync(from)
		}
	}
	// One that a person would choose is answered.
	id = strings.Repeat("x", 1024)
	w.link.Send("<iq type='get' from='" + phone + "' to='" + domain + "' id='" + id + "'><ping xmlns='urn:xmpp:ping'/></iq>")
	if s := w.link.Next(); s.ID != id {
		t.Errorf("%+v", s)
	}
}

// TestPresenceStorm: an announcement over the user's limit is refused, so that the client can try
// again; the end of a session always counts, and other users are served.
func TestPresenceStorm(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	for range 100 {
		w.link.Announce(phone, domain, "phone")
	}
	refused := 0
	w.link.Sendf("<iq type='get' from='%s' to='"+domain+"' id='sync'><ping xmlns='urn:xmpp:ping'/></iq>", "bob@example.org/x")
	for {
		s := w.link.Next()
		if s.ID == "sync" {
			break
		}
		if s.XMLName.Local != "presence" || s.Type != "error" || s.To != phone || s.Child("error").Type != "wait" {
			t.Fatalf("%+v", s)
		}
		refused++
	}
	if refused < 50 {
		t.Errorf("%d of 100 announcements were refused", refused)
	}
	w.unavailable(phone)
	w.unavailable(phone) // the first may be that of a former session
	if w.isUp(ann, device) {
		t.Error("up after the end of the session")
	}
}
