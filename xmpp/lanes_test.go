package xmpp_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// slowCore is a core whose calls for one account wait until the test goes on, as those do
// whose entries come from a slow disk.
type slowCore struct {
	xmpp.Core
	account, device string // the slow ones
	entered         chan string
	released        chan struct{}
	release         func() // also at the end of the test: Stop waits for the calls
}

func newSlowCore(w *world, account string) *slowCore {
	c := &slowCore{Core: w.core, account: account, device: xmpp.DeviceID(account, "phone"), entered: make(chan string, 100), released: make(chan struct{})}
	c.release = sync.OnceFunc(func() { close(c.released) })
	w.Cleanup(c.release)
	return c
}

func (c *slowCore) wait(call string) {
	c.entered <- call
	<-c.released
}

func (c *slowCore) Online(info delivery.OnlineInfo) (delivery.Up, error) {
	if info.Account == c.account {
		c.wait("Online")
	}
	return c.Core.Online(info)
}

func (c *slowCore) AccountOf(id string) (string, error) {
	if id == c.device {
		c.wait("AccountOf")
	}
	return c.Core.AccountOf(id)
}

func (c *slowCore) Devices(account string) ([]delivery.DeviceView, error) {
	views, err := c.Core.Devices(account)
	if account == c.account {
		c.wait("Devices")
	}
	return views, err
}

// restartOn has another Gate take the component up, over another core.
func (w *world) restartOn(core xmpp.Core) {
	w.Helper()
	w.gate.Stop()
	w.link.Ended()
	if err := w.core.Flush(w.Context()); err != nil { // the registry is read once
		w.Fatal(err)
	}
	w.gate = xmpp.New(core, w.opts)
	w.gate.Start()
	w.link = w.server.Accept()
}

// TestSlowStore: while the registry entry of one user is read, the devices of others announce
// themselves, are notified and ack; the slow user's stanzas are handled in their order.
func TestSlowStore(t *testing.T) {
	w := newWorld(t)
	const bob = "bob@" + host
	core := newSlowCore(w, bob)
	w.restartOn(core)
	w.link.Announce(bob+"/phone", domain, "phone")
	if call := <-core.entered; call != "Online" {
		t.Fatalf("the core was asked for %s", call)
	}
	w.link.Sendf("<iq type='set' from='%s' to='"+domain+"' id='state'><state xmlns='urn:heartline:1' app='foreground'/></iq>", bob+"/phone")
	w.link.Publish("p", host, domain, xmpp.DeviceID(bob, "other"), "guess", "", "text")
	if s := w.link.Next(); s.ID != "p" || s.Type != "error" {
		t.Errorf("a publish for a device that nobody holds: %+v", s)
	}
	w.link.Announce(phone, domain, "phone")
	w.ping(phone)
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.link.Result(s)
	w.wait(xmpp.DeviceID(ann, "phone"), "received")
	core.release()
	if s := w.link.Next(); s.ID != "state" || s.Type != "result" {
		t.Errorf("a request that follows the announcement: %+v", s)
	}
	w.sync(phone)
	if view, err := w.core.Device(bob, core.device); err != nil || !view.Up || view.App != delivery.AppForeground {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestSlowPublish: the same while a publish waits for the entry of its device.
func TestSlowPublish(t *testing.T) {
	w := newWorld(t)
	const bob = "bob@" + host
	node, secret := w.register(bob+"/phone", "phone")
	core := newSlowCore(w, bob)
	w.restartOn(core)
	w.link.Publish("p", host, domain, node, secret, "", "text")
	if call := <-core.entered; call != "AccountOf" {
		t.Fatalf("the core was asked for %s", call)
	}
	w.link.Announce(phone, domain, "phone")
	w.ping(phone)
	core.release()
	if s := w.link.Next(); s.ID != "p" || s.Type != "result" {
		t.Errorf("%+v", s)
	}
	<-w.apple.pushes
}

// TestLimitAtOnce: of a registration and an announcement that come at once, and for which the
// account has room for one, the second is refused.
func TestLimitAtOnce(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxDevices = 1 })
	core := newSlowCore(w, ann)
	core.device = "" // its account alone is slow
	w.restartOn(core)
	w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='r'><command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'><x xmlns='jabber:x:data'><field var='token'><value>" + token + "</value></field><field var='device-id'><value>1</value></field><field var='topic'><value>com.example.app</value></field></x></command></iq>")
	if call := <-core.entered; call != "Devices" {
		t.Fatalf("the core was asked for %s", call)
	}
	w.link.Announce(ann+"/tablet", domain, "2")
	w.ping("bob@" + host + "/x") // it has been read
	core.release()
	answers := map[string]string{}
	for range 2 {
		s := w.link.Next()
		answers[s.XMLName.Local] = s.Type
		if s.Type == "error" && !strings.Contains(s.Raw, "mqtt.limits.devices") {
			t.Errorf("%+v", s)
		}
	}
	if answers["iq"] != "result" || answers["presence"] != "error" {
		t.Errorf("answers: %v", answers)
	}
	if devices, err := w.core.Devices(ann); err != nil || len(devices) != 1 {
		t.Errorf("%d devices, %v", len(devices), err)
	}
}

// TestUpAfterRestore: the link counts as up once the devices that were online are: before that a
// notification for one of them would be pushed.
func TestUpAfterRestore(t *testing.T) {
	w := newWorld(t)
	w.up(phone, "phone")
	core := newSlowCore(w, ann)
	w.restartOn(core)
	if call := <-core.entered; call != "Online" {
		t.Fatalf("the core was asked for %s", call)
	}
	if up, cause := w.gate.Up(); up || cause != "reading the devices that were online" {
		t.Errorf("up %v, %q", up, cause)
	}
	core.release()
	w.eventually("the link", func() bool { up, _ := w.gate.Up(); return up })
	if view, err := w.core.Device(ann, core.device); err != nil || !view.Up {
		t.Errorf("%+v, %v", view, err)
	}
}
