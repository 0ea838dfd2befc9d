package xmpp_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/demo"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// TestLoop plays the paths; each has a user of its own.
func TestLoop(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		online, inactive, half, absent, hibernated, messaged := w.phone(true), w.phone(true), w.phone(true), w.phone(true), w.phone(true), w.phone(true)
		sender := w.phone(false)

		// Online: the IQ's result is the ack, and the message follows it.
		online.announce()
		id := online.notify(`{"k":"v"}`)
		w.until(id, "message_received")
		w.want(id, "accepted", "published", "received", "message_sent", "message_received")
		if got := <-online.Received; got.Kind != "notification" || !strings.Contains(got.JSON, id) {
			w.t.Errorf("%+v", got)
		}

		// Inactive: the phone is in the pocket (XEP-0352). IQs pass all the same.
		inactive.announce()
		inactive.putAway()
		id = inactive.notify("")
		w.until(id, "received")
		w.want(id, "accepted", "published", "received")

		// Half open: nothing says that the phone has gone but the ack window.
		half.announce()
		half.HalfOpen()
		halfID := half.notify("")

		// Absent: a push at once, and delivery over the channel when it returns.
		absent.Close()
		id = absent.notify("")
		w.until(id, "pushed")
		absent.login(nil)
		absent.announce()
		w.until(id, "received")
		w.want(id, "accepted", "push_requested", "pushed", "published", "received")

		// Hibernated: the server pushes our own stanza back. That ends the window, and is no
		// notification.
		hibernated.announce()
		resume := hibernated.Session()
		hibernated.Kill()
		id = hibernated.notify("")
		v := w.until(id, "pushed")
		if d := after(v, "pushed"); d >= w.cfg.Delivery.AckWindow {
			w.t.Errorf("pushed after %s: the server's word did not end the ack window", d)
		}
		w.want(id, "accepted", "published", "nacked", "push_requested", "pushed")
		hibernated.down()
		hibernated.login(resume) // it announces nothing
		v = w.until(id, "received")
		if last := v.Timeline[len(v.Timeline)-1]; last.Detail != "late" {
			w.t.Errorf("%+v", last)
		}
		next := hibernated.notify("")
		w.until(next, "received")
		w.want(next, "accepted", "published", "received")
		if n := len(w.notifications(hibernated.account)); n != 2 || hibernated.pushes() != 1 {
			w.t.Errorf("%d notifications and %d pushes after one echo", n, hibernated.pushes())
		}

		// A chat message to an absent user: the server's publish becomes a notification.
		messaged.Close()
		messaged.chat(sender, "hi")
		w.await("the notification of the message", func() bool { return len(w.notifications(messaged.account)) == 1 })
		id = w.notifications(messaged.account)[0].ID
		w.until(id, "pushed")
		messaged.login(nil)
		messaged.announce()
		w.until(id, "received")
		w.want(id, "accepted", "push_requested", "pushed", "published", "received")

		v = w.until(halfID, "pushed")
		if d := after(v, "ack_timeout"); d < w.cfg.Delivery.AckWindow-100*time.Millisecond {
			w.t.Errorf("the ack window ended after %s", d)
		}
		w.want(halfID, "accepted", "published", "ack_timeout", "push_requested", "pushed")
	})
}

// TestEchoWithoutSender: the server's publishes name no sender, and our own stanza is told from a
// message all the same.
func TestEchoWithoutSender(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		w := newWorld(t, kind, func(config string) string {
			return strings.Replace(config, "include_sender: true", "include_sender: false", 1)
		})
		p := w.phone(true)
		p.announce()
		p.Kill()
		id := p.notify("")
		w.until(id, "pushed")
		w.want(id, "accepted", "published", "nacked", "push_requested", "pushed")
		w.await("the publish", func() bool { return w.broker.XMPPStats()[0].Publishes["echo"] > 0 })
		if n := len(w.notifications(p.account)); n != 1 || p.pushes() != 1 {
			w.t.Errorf("%d notifications and %d pushes of one", n, p.pushes())
		}
	})
}

// TestMQTTAndXMPP: one device comes over MQTT and over XMPP in turn. It is reached where it came
// last, and its registration stays.
func TestMQTTAndXMPP(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, kind string) {
		w := newWorld(t, kind, func(c *config.Config) { c.MQTT.Address = "127.0.0.1:0" })
		p := w.phone(true)
		via := func(want string) {
			t.Helper()
			w.await("the device over "+want, func() bool {
				d, err := w.broker.Core().Device(p.account, p.device)
				return err == nil && d.Up && (d.Via == delivery.ViaXMPP) == (want == "xmpp")
			})
		}
		for range 2 {
			p.announce()
			via("xmpp")
			id := p.notify("")
			w.until(id, "received")
			w.want(id, "accepted", "published", "received")
			if got := <-p.Received; !strings.Contains(got.JSON, id) {
				t.Errorf("over XMPP came %+v", got)
			}
			m, err := rawmqtt.Dial(w.broker.MQTTAddr(), 5)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Connect(rawmqtt.Connect{ID: p.device, Username: p.account, Keepalive: 60, Clean: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Subscribe(1, 1, "heartline/devices/"+p.device+"/notifications"); err != nil {
				t.Fatal(err)
			}
			via("mqtt")
			id = p.notify("")
			pk, err := m.Read(patience)
			if err != nil || pk.FixedHeader.Type != packets.Publish || !strings.Contains(string(pk.Payload), id) {
				t.Fatalf("over MQTT came %+v, %v", pk, err)
			}
			if err := m.Puback(pk.PacketID); err != nil {
				t.Fatal(err)
			}
			w.until(id, "received")
			w.want(id, "accepted", "published", "received")
			m.Close()
		}
		p.Close()
		p.down()
		w.until(p.notify(""), "pushed")
		if n := p.pushes(); n != 1 {
			t.Errorf("%d pushes", n)
		}
	})
}

// TestStorm: 30 messages to an absent user, who then comes, takes nothing and leaves: at most
// one push a second.
func TestStorm(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		p, sender := w.phone(true), w.phone(false)
		p.Close()
		begin := time.Now()
		for range 30 {
			p.chat(sender, "hi")
		}
		w.await("a push", func() bool { return p.pushes() > 0 })
		p.login(nil)
		if err := p.Send("<presence/>"); err != nil {
			w.t.Fatal(err)
		}
		p.sync()
		p.Close()
		w.await("all publishes", func() bool {
			n := w.broker.XMPPStats()[0].Publishes
			return n["accepted"]+n["joined"] >= 24 // ejabberd makes fewer than one a message
		})
		w.await("the last of them", func() bool {
			all := w.notifications(p.account)
			return all[len(all)-1].State.String() != "pending" && time.Since(all[len(all)-1].AcceptedAt) > 1500*time.Millisecond
		})
		if most := int(time.Since(begin)/time.Second) + 1; p.pushes() > most || len(w.notifications(p.account)) > most {
			w.t.Errorf("%d pushes and %d notifications in %s", p.pushes(), len(w.notifications(p.account)), time.Since(begin))
		}
	})
}

// TestLinkFaults: what a real server says is told in words.
func TestLinkFaults(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		o := xmpp.Options{Domain: w.server.Component, Address: w.server.ComponentAddress, Secret: []byte("wrong"), Hosts: []string{w.server.Host}}
		if _, err := xmpp.Check(w.t.Context(), o); err == nil || !strings.Contains(err.Error(), "refuses the secret") {
			w.t.Errorf("wrong secret: %v", err)
		}
		o.Domain, o.Secret = "other.example.test", []byte(w.server.Secret)
		if _, err := xmpp.Check(w.t.Context(), o); err == nil || !strings.Contains(err.Error(), "no component of this name") {
			w.t.Errorf("unknown component: %v", err)
		}
		o.Domain = w.server.Component
		if _, err := xmpp.Check(w.t.Context(), o); w.server.Kind == xmppkit.Prosody && (err == nil || !strings.Contains(err.Error(), "another process")) {
			w.t.Errorf("second link: %v", err)
		}
	})
}

// TestServerRestart: the server is killed and comes back; the device announces itself again.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		p := w.phone(true)
		p.announce()
		if err := w.server.Kill(); err != nil {
			w.t.Fatal(err)
		}
		w.await("the end of the link", func() bool {
			checks, err := w.broker.Ready()
			return err == nil && strings.HasPrefix(checks["xmpp "+w.server.Component], "down: ")
		})
		id := p.notify("") // waits for the link, then is pushed
		w.until(id, "pushed")
		if err := w.server.Run(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		w.await("the link", func() bool {
			checks, err := w.broker.Ready()
			return err == nil && checks["xmpp "+w.server.Component] == "up"
		})
		p.login(nil)
		p.announce()
		w.until(id, "received")
	})
}

// TestAppSurvivesRestart: the app is in the foreground while Heartline restarts, then while its
// phone has no network. Its client reports nothing again, and gets the full messages. A report
// that comes while Heartline is away is refused by the server, and does not count.
func TestAppSurvivesRestart(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		p := w.phone(true)
		p.announce()
		if _, err := p.IQ("set", w.server.Component, "<state xmlns='urn:heartline:1' app='foreground'/>"); err != nil {
			w.t.Fatal(err)
		}
		w.stop()
		if _, err := p.IQ("set", w.server.Component, "<state xmlns='urn:heartline:1' app='background'/>"); err == nil || !strings.HasPrefix(err.Error(), "the answer is an error") {
			w.t.Errorf("a report while Heartline was away: %v", err)
		}
		w.start()
		id := p.notify(`{"k":"v"}`)
		w.until(id, "message_received")
		w.want(id, "accepted", "published", "received", "message_sent", "message_received")
		resume := p.Session()
		p.Kill()
		id = p.notify(`{"k":"v"}`)
		w.until(id, "pushed")
		p.down()
		p.login(resume)
		w.until(id, "message_received")
	})
}

// TestRegistrationSurvivesRestart: a message comes while Heartline is away. The server loses that
// publish; the registration must live.
func TestRegistrationSurvivesRestart(t *testing.T) {
	t.Parallel()
	eachServer(t, func(w *world) {
		leaveOutWithoutHosts(w.t, w.server.Kind)
		p, sender := w.phone(true), w.phone(false)
		p.Close()
		w.stop()
		p.chat(sender, "lost")
		sender.sync()
		time.Sleep(2 * time.Second) // the server's attempt to reach the component leaves no trace to wait for
		w.start()
		p.chat(sender, "kept")
		w.await("the push", func() bool { return p.pushes() > 0 })
	})
}

// TestWithoutHostsLine shows why docs/xmpp.md begins with a line for ejabberd's hosts file:
// without it the same message costs the user her registration.
func TestWithoutHostsLine(t *testing.T) {
	t.Parallel()
	leaveOut(t, xmppkit.Ejabberd)
	if _, err := net.DefaultResolver.LookupHost(t.Context(), "push.example.test"); err == nil || !strings.Contains(err.Error(), "no such host") {
		testtool.LeaveOut(t, "the DNS does not say that there is no push.example.test", "a resolver that answers")
	}
	w := newWorld(t, xmppkit.Ejabberd, func(o *xmppkit.Options) { o.Hosts = false })
	lost, kept, sender := w.phone(true), w.phone(true), w.phone(false)
	lost.Close()
	kept.Close()
	w.stop()
	lost.chat(sender, "lost")
	sender.sync()
	time.Sleep(2 * time.Second) // the server's attempt to reach the component leaves no trace to wait for
	w.start()
	lost.chat(sender, "deleted")
	sender.sync()
	kept.chat(sender, "kept") // to a user whom nobody wrote to meanwhile
	w.await("the push of another user", func() bool { return kept.pushes() > 0 })
	if n := lost.pushes(); n != 0 {
		t.Errorf("%d pushes: the registration was kept without the line", n)
	}
}

// TestDocumentedConfigurations: docs/xmpp.md shows the configurations that these tests run.
func TestDocumentedConfigurations(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "xmpp.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ejabberd.yml", "prosody.cfg.lua"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "xmpp", "xmppkit", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(doc), strings.TrimSpace(string(text))) {
			t.Errorf("docs/xmpp.md does not show %s as it is", name)
		}
	}
}

// TestDemo plays `heartline demo --xmpp` on each server that is installed.
func TestDemo(t *testing.T) {
	t.Parallel()
	if xmppkit.Installed(xmppkit.Ejabberd) != nil && xmppkit.Installed(xmppkit.Prosody) != nil {
		leaveOut(t, xmppkit.Prosody)
	}
	var out strings.Builder
	busy := func(d *config.Delivery) { d.AckWindow, d.FallbackWindow = 8*time.Second, 15*time.Second }
	if err := demo.RunXMPP(t.Context(), &out, busy); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, kind := range []string{xmppkit.Ejabberd, xmppkit.Prosody} {
		if xmppkit.Installed(kind) == nil && !strings.Contains(out.String(), "All 6 paths went as they should over "+kind) {
			t.Errorf("%s was not played:\n%s", kind, out.String())
		}
	}
}
