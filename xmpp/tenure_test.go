package xmpp_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/xmpp"
)

// TestHandOver: another gate, as another node has one, takes the link over and gives it back.
// Devices stay up meanwhile: nothing is pushed, and the unanswered is sent again.
func TestHandOver(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	first := w.notify(delivery.Request{Account: ann, Title: "t"})
	w.next("notification")
	o := w.opts
	o.Standby = true
	other := xmpp.New(w.core, o)
	other.Start()
	defer other.Stop()
	gates := []*xmpp.Gate{w.gate, other}
	for range 3 {
		holder, next := gates[0], gates[1]
		holder.GiveUp()
		w.link.Ended()
		holder.GiveUp() // has nothing to give
		if up, cause := holder.Up(); up || holder.Holds() || cause != "another node has it" {
			t.Errorf("up %v, holds %v, %q", up, holder.Holds(), cause)
		}
		second := w.notify(delivery.Request{Account: ann, Title: "between"})
		next.TakeUp()
		next.TakeUp()
		w.link = w.server.Accept()
		for _, n := range []*delivery.Notification{first, second} {
			s, body := w.next("notification")
			if body["id"] != n.ID {
				t.Errorf("%v came, want %s", body, n.ID)
			}
			w.link.Result(s)
		}
		w.eventually("the acks", func() bool {
			v, err := w.core.Get(t.Context(), second.ID)
			return err == nil && v.State == delivery.StateAcked
		})
		w.eventually("the device at its new gate alone", func() bool { return holder.Stats().Devices == 0 && next.Stats().Devices == 1 })
		first = w.notify(delivery.Request{Account: ann, Title: "unanswered"})
		w.next("notification")
		gates[0], gates[1] = next, holder
	}
	if len(w.apple.pushes) != 0 {
		t.Errorf("%d pushes", len(w.apple.pushes))
	}
	if view, err := w.core.Device(ann, device); err != nil || !view.Up || view.Address != phone {
		t.Errorf("%+v, %v", view, err)
	}
}

// TestGivenUpForGood: nobody takes the link up. The devices are down after the hold, and up when
// the link is back.
func TestGivenUpForGood(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.Hold = 20 * time.Millisecond })
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.gate.GiveUp()
	w.link.Ended()
	w.eventually("the end of the channel", func() bool { v, err := w.core.Device(ann, device); return err == nil && !v.Up })
	n := w.notify(delivery.Request{Account: ann, Title: "t"})
	<-w.apple.pushes
	w.gate.TakeUp()
	w.link = w.server.Accept()
	s, body := w.next("notification")
	if body["id"] != n.ID {
		t.Errorf("%v", body)
	}
	w.link.Result(s)
	w.wait(device, "received")
}

// heldCore has calls wait until the test goes on.
type heldCore struct {
	xmpp.Core
	hold    func(call, subject string) bool
	entered chan string
	release func()
	over    chan struct{}
}

func newHeldCore(w *world, hold func(call, subject string) bool) *heldCore {
	c := &heldCore{Core: w.core, hold: hold, entered: make(chan string, 100), over: make(chan struct{})}
	c.release = sync.OnceFunc(func() { close(c.over) })
	w.Cleanup(c.release) // Stop waits for the calls
	return c
}

func (c *heldCore) wait(call, subject string) {
	if c.hold(call, subject) {
		c.entered <- call
		<-c.over
	}
}

func (c *heldCore) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	n, err := c.Core.Notification(seq)
	if err == nil {
		c.wait("Notification", n.Account)
	}
	return n, err
}

func (c *heldCore) AllDevices(after string, limit int) ([]delivery.DeviceView, error) {
	page, err := c.Core.AllDevices(after, limit)
	c.wait("AllDevices", "")
	return page, err
}

func (c *heldCore) Online(info delivery.OnlineInfo) (delivery.Up, error) {
	c.wait("Online", info.Account)
	return c.Core.Online(info)
}

// TestSlowContent: while the content of one notification is read, other devices get theirs and
// requests are answered; those of the device come in their order.
func TestSlowContent(t *testing.T) {
	w := newWorld(t)
	const bob = "bob@" + host
	core := newHeldCore(w, func(call, subject string) bool { return call == "Notification" && subject == bob })
	w.restartOn(core)
	w.up(phone, "phone")
	w.up(bob+"/phone", "phone")
	first := w.notify(delivery.Request{Account: bob, Title: "first", Data: json.RawMessage(`1`)})
	second := w.notify(delivery.Request{Account: bob, Title: "second"})
	<-core.entered
	w.ping(phone)
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	if s.To != phone {
		t.Fatalf("%+v", s)
	}
	w.link.Result(s)
	w.wait(xmpp.DeviceID(ann, "phone"), "received")
	core.release()
	for _, n := range []*delivery.Notification{first, second} {
		if _, body := w.next("notification"); body["id"] != n.ID {
			t.Errorf("%v came, want %s", body, n.ID)
		}
	}
}

// TestSlowRestore: while the registry is read at the start, the link serves others. What the
// server says of a device meanwhile is newer than the registry.
func TestSlowRestore(t *testing.T) {
	w := newWorld(t)
	gone, moved := w.up(ann+"/phone", "phone"), w.up(ann+"/tablet", "tablet")
	if err := w.core.Flush(t.Context()); err != nil { // the registry is read once
		t.Fatal(err)
	}
	core := newHeldCore(w, func(call, _ string) bool { return call == "AllDevices" })
	w.restartOn(core)
	<-core.entered
	w.link.Sendf("<presence type='unavailable' from='%s' to='"+domain+"'/>", ann+"/phone")
	w.link.Announce(ann+"/other", domain, "tablet")
	bob := w.up("bob@"+host+"/phone", "phone")
	w.notify(delivery.Request{Account: "bob@" + host, Title: "t"})
	s, _ := w.next("notification")
	w.link.Result(s)
	w.wait(bob, "received")
	w.ping(ann + "/other")
	core.release()
	w.eventually("the devices", func() bool { up, _ := w.gate.Up(); return up })
	if view, err := w.core.Device(ann, gone); err != nil || view.Up || view.Address != "" {
		t.Errorf("a device that has gone: %+v, %v", view, err)
	}
	if view, err := w.core.Device(ann, moved); err != nil || !view.Up || view.Address != ann+"/other" {
		t.Errorf("a device on another session: %+v, %v", view, err)
	}
}

// TestNewcomersOverMQTT: a device that comes over MQTT and one over XMPP at once find room
// for one, whichever comes first.
func TestNewcomersOverMQTT(t *testing.T) {
	list := &newcomers.List{}
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxDevices, o.Newcomers = 1, list })
	if _, err := list.Admit(w.core, 1, ann, "over-mqtt", t); err != nil {
		t.Fatal(err)
	}
	w.link.Announce(phone, domain, "phone")
	if s := w.link.Next(); s.XMLName.Local != "presence" || s.Type != "error" {
		t.Errorf("an announcement while the last place is taken: %+v", s)
	}
	list.Leave(ann, "over-mqtt", t)
	core := newHeldCore(w, func(call, _ string) bool { return call == "Online" })
	w.restartOn(core)
	w.link.Announce(phone, domain, "phone")
	<-core.entered // it is not known yet
	if _, err := list.Admit(w.core, 1, ann, "over-mqtt", t); !errors.Is(err, newcomers.ErrTooMany) {
		t.Errorf("over MQTT meanwhile: %v", err)
	}
	core.release()
	w.sync(phone)
	if _, err := list.Admit(w.core, 1, ann, "over-mqtt", t); !errors.Is(err, newcomers.ErrTooMany) {
		t.Errorf("over MQTT afterwards: %v", err)
	}
	if n := list.Accounts(); n != 0 {
		t.Errorf("%d accounts are left", n)
	}
}
