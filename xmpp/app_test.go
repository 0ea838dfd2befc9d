package xmpp_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// report has a client report the state of its app.
func (w *world) report(full, app string) {
	w.link.Sendf("<iq type='set' from='%s' to='"+domain+"' id='state'><state xmlns='urn:heartline:1' app='%s'/></iq>", full, app)
}

// follows returns the stanzas to a client that follow from the earlier ones, by the name of
// the element of an IQ or the ID of a result.
func (w *world) follows(full string) (names []string) {
	w.Helper()
	for range 2 { // the handling of the first can queue stanzas behind its answer
		w.eventually("the end of all calls", w.gate.Idle)
		w.link.Sendf("<iq type='get' from='%s' to='%s' id='sync'><ping xmlns='urn:xmpp:ping'/></iq>", full, domain)
		for s := w.link.Next(); s.ID != "sync"; s = w.link.Next() {
			if s.Type != "set" || len(s.Children) != 1 {
				names = append(names, s.Type+" "+s.ID)
				continue
			}
			names = append(names, s.Children[0].XMLName.Local)
			w.link.Result(s)
		}
	}
	return names
}

// messageComes has a notification acked, and reports whether its full message follows.
func (w *world) messageComes(full string) bool {
	w.Helper()
	n := w.notify(delivery.Request{Account: ann, Title: "t", Data: json.RawMessage("1")})
	s, body := w.next("notification")
	if s.To != full || body["id"] != n.ID {
		w.Fatalf("%v came to %s, want %s to %s", body, s.To, n.ID, full)
	}
	w.link.Result(s)
	w.received(n)
	return slices.Equal(w.follows(full), []string{"message"})
}

func (w *world) received(n *delivery.Notification) {
	w.Helper()
	w.waitFor("the ack", func(e delivery.Event) bool { return e.Seq == n.Seq && e.Kind == delivery.EventReceived })
}

// hibernate has the server push an unanswered stanza back: it cannot reach the device.
func (w *world) hibernate(node, secret string) {
	w.Helper()
	w.link.Publish("e", host, domain, node, secret, "", "")
	if answer := w.link.Next(); answer.ID != "e" || answer.Type != "result" {
		w.Fatalf("%+v", answer)
	}
	if view, err := w.core.Device(ann, node); err != nil || view.Up {
		w.Fatalf("a device that the server cannot reach: %+v, %v", view, err)
	}
}

// takeOver has another gate take the link over, as another node does.
func (w *world) takeOver() {
	w.Helper()
	former, o := w.gate, w.opts
	w.Cleanup(former.Stop)
	o.Standby = true
	w.gate = xmpp.New(w.core, o)
	w.gate.Start()
	former.GiveUp()
	w.link.Ended()
	w.gate.TakeUp()
	w.link = w.server.Accept()
	w.eventually("the devices", func() bool { up, _ := w.gate.Up(); return up })
}

// TestAppGoesOn: a session goes on while the link is down, while Heartline restarts, while another
// node takes the link over, and while the server cannot reach the client. The client reports its
// app once, and its last report counts afterwards.
func TestAppGoesOn(t *testing.T) {
	for _, c := range []struct {
		name string
		away func(w *world, node, secret string)
	}{
		{"outage", func(w *world, _, _ string) {
			w.server.Refuse("system-shutdown")
			w.link.Close()
			n := w.notify(delivery.Request{Account: ann, Title: "meanwhile", NoFallback: true})
			w.waitFor("the end of the hold", func(e delivery.Event) bool { return e.Seq == n.Seq && e.Kind == delivery.EventWaiting })
			w.server.Refuse("")
			w.link = w.server.Accept()
			s, _ := w.next("notification")
			w.link.Result(s)
			w.received(n)
		}},
		{"restart", func(w *world, _, _ string) { w.restart() }},
		{"two restarts", func(w *world, _, _ string) { w.restart(); w.restart() }},
		{"take-over", func(w *world, _, _ string) { w.takeOver() }},
		{"resumption", func(w *world, node, secret string) {
			n := w.notify(delivery.Request{Account: ann, Title: "t"})
			s, _ := w.next("notification")
			w.hibernate(node, secret)
			w.link.Result(s)
			w.received(n)
			w.sync(phone)
		}},
		{"restart of a suspended session", func(w *world, node, secret string) {
			n := w.notify(delivery.Request{Account: ann, Title: "t"})
			w.next("notification")
			w.hibernate(node, secret)
			w.restart()
			s, _ := w.next("notification") // once more
			w.link.Result(s)
			w.received(n)
		}},
	} {
		for _, app := range []string{"foreground", "background"} {
			w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) {
				if c.name == "outage" {
					o.Hold = 20 * time.Millisecond
				}
			})
			node, secret := w.register(phone, "phone")
			w.up(phone, "phone")
			w.report(phone, app)
			if got := w.follows(phone); !slices.Equal(got, []string{"result state"}) {
				t.Fatalf("a report was followed by %v", got)
			}
			c.away(w, node, secret)
			if came := w.messageComes(phone); came != (app == "foreground") {
				t.Errorf("%s: after a report of the %s, message %v", c.name, app, came)
			}
		}
	}
}

// TestAppOfNewSession: the client of a new session has reported nothing, and nothing of the
// session before counts, nor after a restart.
func TestAppOfNewSession(t *testing.T) {
	for _, again := range []string{phone, ann + "/other"} {
		w := newWorld(t)
		device := w.up(phone, "phone")
		w.report(phone, "foreground")
		w.follows(phone)
		w.up(again, "phone")
		for _, when := range []string{"announced", "after a restart"} {
			if view, err := w.core.Device(ann, device); err != nil || view.App != delivery.AppBackground || view.Foreground {
				t.Errorf("%s, %s: %+v, %v", again, when, view, err)
			}
			if w.messageComes(again) {
				t.Errorf("%s, %s: a message came without a report", again, when)
			}
			w.restart()
		}
	}
	w := newWorld(t)
	device := w.up(phone, "phone")
	w.report(phone, "foreground")
	w.follows(phone)
	w.unavailable(phone)
	w.sync("sync@" + host + "/x")
	if view, err := w.core.Device(ann, device); err != nil || view.Foreground {
		t.Errorf("after the end of the session: %+v, %v", view, err)
	}
}

// TestReportResumes: the app left the foreground while the server could not reach the client, and
// the report is the first stanza of the resumed session. No message for the foreground is sent in
// front of it.
func TestReportResumes(t *testing.T) {
	w := newWorld(t)
	node, secret := w.register(phone, "phone")
	w.up(phone, "phone")
	w.report(phone, "foreground")
	w.follows(phone)
	n := w.notify(delivery.Request{Account: ann, Title: "t", Data: json.RawMessage("1")})
	s, _ := w.next("notification")
	w.link.Result(s)
	w.received(n)
	w.next("message") // and no answer
	w.hibernate(node, secret)
	w.report(phone, "background")
	if got := w.follows(phone); !slices.Equal(got, []string{"result state"}) {
		t.Errorf("a report of the background was followed by %v", got)
	}
	w.report(phone, "foreground")
	if got := w.follows(phone); !slices.Contains(got, "message") {
		t.Errorf("a report of the foreground was followed by %v", got)
	}
}
