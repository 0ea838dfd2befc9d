package xmpp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmpptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain = "push.example.org"
	host   = "example.org"
	ann    = "ann@example.org"
	phone  = ann + "/phone"
	token  = "aa11bb22cc33dd44ee55ff6600112233445566778899aabbccddeeff00112233"
)

// apple accepts every push and tells the test.
type apple struct{ pushes chan delivery.Push }

func (a *apple) Push(_ context.Context, p delivery.Push, done func(delivery.PushResult)) {
	a.pushes <- p
	go done(delivery.PushResult{Outcome: delivery.PushAccepted, Detail: "200"})
}

// events lets a test wait for lines of timelines.
type events struct {
	mu      sync.Mutex
	all     []delivery.Event
	changed chan struct{}
}

func (o *events) Observe(_ string, e delivery.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, e)
	close(o.changed)
	o.changed = make(chan struct{})
}

type world struct {
	*testing.T
	core   *delivery.Core
	out    *store.Outbox
	apple  *apple
	events *events
	server *xmpptest.Server
	gate   *xmpp.Gate
	link   *xmpptest.Link
	opts   xmpp.Options
	rules  delivery.Options
}

// newWorld starts a core with a component that is connected to a server of the test.
func newWorld(t *testing.T, change ...func(*xmpp.Options, *delivery.Options)) *world {
	t.Helper()
	w := &world{T: t, apple: &apple{make(chan delivery.Push, 10_000)}, events: &events{changed: make(chan struct{})}}
	var err error
	if w.out, err = store.New(store.Options{Open: memory.Open, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	w.server = xmpptest.New(t, domain, "secret")
	w.opts = xmpp.Options{
		Domain: domain, Address: w.server.Addr(), Secret: []byte("secret"), Hosts: []string{host}, Key: []byte("key"),
		ReconnectInitial: time.Millisecond, ReconnectMax: 10 * time.Millisecond, Hold: time.Minute,
	}
	w.rules = delivery.Options{
		Windows: delivery.Windows{Ack: time.Minute, Fallback: time.Minute}, Ack: delivery.AckReceived, TTL: time.Hour,
		MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: 1440 * time.Hour,
	}
	for _, c := range change {
		c(&w.opts, &w.rules)
	}
	w.start()
	t.Cleanup(func() {
		w.gate.Stop()
		if err := w.core.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := w.out.Close(); err != nil {
			t.Error(err)
		}
	})
	w.link = w.server.Accept()
	return w
}

// start starts a core and a gate over the store.
func (w *world) start() {
	w.Helper()
	w.core = delivery.New(w.rules, w.out, w.apple, slog.New(slog.DiscardHandler))
	w.core.Observe(w.events)
	if err := w.core.Start(); err != nil {
		w.Fatal(err)
	}
	w.gate = xmpp.New(w.core, w.opts)
	w.gate.Start()
}

// restart stops all but the store and the server, as a restart of Heartline does, and starts it.
func (w *world) restart() {
	w.Helper()
	w.gate.Stop()
	w.link.Ended()
	if err := w.core.Stop(context.Background()); err != nil {
		w.Fatal(err)
	}
	w.start()
	w.link = w.server.Accept()
	w.eventually("the devices", func() bool { up, _ := w.gate.Up(); return up })
}

// wait waits for a line in a timeline of a device, and returns it.
func (w *world) wait(device, kind string) delivery.Event {
	w.Helper()
	return w.waitFor(kind, func(e delivery.Event) bool { return e.Device == device && e.Kind.String() == kind })
}

func (w *world) waitFor(what string, match func(delivery.Event) bool) delivery.Event {
	w.Helper()
	timeout := time.After(xmpptest.Patience)
	for {
		w.events.mu.Lock()
		i, changed := slices.IndexFunc(w.events.all, match), w.events.changed
		if i >= 0 {
			e := w.events.all[i]
			w.events.mu.Unlock()
			return e
		}
		w.events.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			w.Fatalf("no %s; the events: %v", what, w.kinds(""))
		}
	}
}

// kinds are the events of a device so far; "" means all.
func (w *world) kinds(device string) (kinds []string) {
	w.events.mu.Lock()
	defer w.events.mu.Unlock()
	for _, e := range w.events.all {
		if device == "" || e.Device == device {
			kinds = append(kinds, e.Kind.String())
		}
	}
	return kinds
}

// up announces a client and waits until its device is up.
func (w *world) up(full, deviceID string) string {
	w.Helper()
	w.link.Announce(full, domain, deviceID)
	w.sync(full)
	return xmpp.DeviceID(strings.Split(full, "/")[0], deviceID)
}

// sync returns when the gate has handled all earlier stanzas.
func (w *world) sync(full string) {
	w.Helper()
	w.ping(full)
	w.eventually("the end of all calls", w.gate.Idle)
}

// ping returns when the gate has read all earlier stanzas, and handled those of the user.
func (w *world) ping(full string) {
	w.Helper()
	w.link.Sendf("<iq type='get' from='%s' to='%s' id='sync'><ping xmlns='urn:xmpp:ping'/></iq>", full, domain)
	if s := w.link.Next(); s.ID != "sync" || s.Type != "result" {
		w.Fatalf("a ping was answered with %.500s", fmt.Sprintf("%+v", s))
	}
}

// register runs the command of XEP-0050 and returns node and secret.
func (w *world) register(full, deviceID string) (node, secret string) {
	w.Helper()
	w.link.Sendf("<iq type='set' from='%s' to='"+domain+"' id='r1'><command xmlns='http://jabber.org/protocol/commands' node='register-push-apns' action='execute'><x xmlns='jabber:x:data' type='submit'><field var='token'><value>"+token+"</value></field><field var='device-id'><value>%s</value></field><field var='topic'><value>com.example.app</value></field></x></command></iq>", full, deviceID)
	s := w.link.Next()
	if s.Type != "result" || s.ID != "r1" || s.To != full {
		w.Fatalf("register: %+v", s)
	}
	for _, f := range s.Child("command").Child("x").Children {
		switch v := f.Child("value").Text; {
		case strings.Contains(f.Raw, v) && node == "" && strings.HasPrefix(v, "x-"):
			node = v
		case v != domain:
			secret = v
		}
	}
	return node, secret
}

func (w *world) notify(r delivery.Request) *delivery.Notification {
	w.Helper()
	receipt, err := w.core.Accept(context.Background(), r)
	if err != nil {
		w.Fatal(err)
	}
	return receipt.Notification
}

// next reads the next IQ to a client and decodes its JSON.
func (w *world) next(element string) (xmpptest.Stanza, map[string]any) {
	w.Helper()
	s := w.link.Next()
	c := s.Child(element)
	if s.XMLName.Local != "iq" || s.Type != "set" || c.XMLName.Space != "urn:heartline:1" {
		w.Fatalf("want an IQ with %s, got %+v", element, s)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(c.Text), &body); err != nil {
		w.Fatalf("%q: %v", c.Text, err)
	}
	return s, body
}

// eventually waits for what leaves no event.
func (w *world) eventually(what string, done func() bool) {
	w.Helper()
	for deadline := time.Now().Add(xmpptest.Patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s did not come", what)
		}
	}
}

// TestAckOverXMPP: the result of the IQ is the ack; the message follows it.
func TestAckOverXMPP(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	title := "a<b>&'\"\x7f \ufffe\uffff 😀"
	n := w.notify(delivery.Request{Account: ann, Title: title, Data: json.RawMessage(`{"k":"` + "\u0001"[:0] + `v<\u0000"}`)})
	s, body := w.next("notification")
	if s.To != phone || s.From != domain || body["id"] != n.ID || body["title"] != title {
		t.Errorf("%+v, %v", s, body)
	}
	w.link.Result(s)
	w.wait(device, "received")
	s, body = w.next("message")
	if data, ok := body["data"].(map[string]any); !ok || data["k"] != "v<\x00" {
		t.Errorf("message: %v", body)
	}
	w.link.Result(s)
	w.wait(device, "message_received")
	if e := w.wait(device, "published"); e.Detail != "via xmpp" {
		t.Errorf("the timeline says %q", e.Detail)
	}
	view, err := w.core.Device(ann, device)
	if err != nil || view.Via != delivery.ViaXMPP || view.Address != phone || !view.Up || view.Remote != phone {
		t.Errorf("registry: %+v, %v", view, err)
	}
}

// TestAnswersOfOthersAreNoAcks: an answer counts only with our id and from the full JID
// that was asked.
func TestAnswersOfOthersAreNoAcks(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	w.up(ann+"/tablet", "tablet")
	w.notify(delivery.Request{Account: ann, Devices: []string{device}, Title: "t"})
	s, _ := w.next("notification")
	for _, from := range []string{ann, ann + "/other", ann + "/tablet", "eve@evil.example/x", host, ""} {
		w.link.Sendf("<iq type='result' from='%s' to='"+domain+"' id='%s'/>", from, s.ID)
		w.link.Sendf("<iq type='error' from='%s' to='"+domain+"' id='%s'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", from, s.ID)
	}
	w.link.Sendf("<iq type='get' from='%s' to='"+domain+"' id='%s'><x xmlns='y'/></iq>", phone, s.ID)
	if answer := w.link.Next(); answer.Type != "error" || answer.ID != s.ID {
		t.Errorf("a request with our id: %+v", answer)
	}
	w.sync(phone)
	if got := w.kinds(device); !slices.Equal(got, []string{"published"}) {
		t.Errorf("events %v", got)
	}
	w.link.Result(s)
	w.wait(device, "received")
}

// TestNackPushes: the server's error says that the session is gone; the push goes out at
// once, and the address is forgotten.
func TestNackPushes(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	w.link.Error(s, "cancel", "service-unavailable")
	if p := <-w.apple.pushes; p.Device != device {
		t.Errorf("pushed to %s", p.Device)
	}
	w.wait(device, "pushed")
	w.sync(phone)
	view, err := w.core.Device(ann, device)
	if err != nil || view.Up || view.Address != "" {
		t.Errorf("registry: %+v, %v", view, err)
	}
	// A client that does not know our namespace keeps its session, and gets a push.
	w.up2(phone, "phone")
	s, _ = w.next("notification") // the first once more, as it was not acked
	w.link.Error(s, "cancel", "feature-not-implemented")
	w.waitFor("second nack", func(e delivery.Event) bool { return e.Kind == delivery.EventNacked && e.Attempt == 2 })
	if view, err = w.core.Device(ann, device); err != nil || !view.Up {
		t.Errorf("registry: %+v, %v", view, err)
	}
}

// TestEcho: the server pushes our own stanza back. That ends the ack window and is no
// notification, also when it comes several times; the resumed session's answer acks late and
// brings the channel back.
func TestEcho(t *testing.T) {
	for _, all := range []bool{false, true} {
		w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.NotifyAll = all })
		node, secret := w.register(phone, "phone")
		device := w.up(phone, "phone")
		if node != device {
			t.Fatalf("node %s, device %s", node, device)
		}
		w.notify(delivery.Request{Account: ann, Title: "t"})
		s, _ := w.next("notification")
		for i := range 3 {
			w.link.Publish("e1", host, domain, node, secret, "", "")
			if answer := w.link.Next(); answer.Type != "result" || answer.ID != "e1" {
				t.Fatalf("echo %d was answered with %+v", i, answer)
			}
		}
		w.wait(device, "pushed")
		if got := w.gate.Stats().Publishes; got["echo"] != 3 || got["accepted"] != 0 {
			t.Errorf("publishes: %v", got)
		}
		w.link.Result(s) // the client has resumed
		if e := w.wait(device, "received"); e.Attempt != 1 {
			t.Errorf("%+v", e)
		}
		w.sync(phone)
		w.notify(delivery.Request{Account: ann, Title: "next"})
		s, body := w.next("notification")
		if body["title"] != "next" {
			t.Errorf("%v", body)
		}
		w.link.Result(s)
		if len(w.apple.pushes) != 1 {
			t.Errorf("%d pushes", len(w.apple.pushes))
		}
	}
}

// TestPublishBecomesNotification: the server cannot reach the user.
func TestPublishBecomesNotification(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.ShowBody, o.ShowSender = true, true })
	node, secret := w.register(phone, "phone")
	w.link.Publish("p1", host, domain, node, secret, "bob@example.org/x", "hello")
	if s := w.link.Next(); s.Type != "result" || s.ID != "p1" || s.To != host {
		t.Fatalf("%+v", s)
	}
	p := <-w.apple.pushes
	n, err := w.core.Notification(p.Seq)
	if err != nil || n.Account != ann || n.Title != "New message" || n.Body != "hello" || n.Subtitle != "bob@example.org" {
		t.Errorf("%+v, %v", n, err)
	}
	w.wait(node, "pushed")
	// Without text: nothing to show.
	w.link.Publish("p2", host, domain, node, secret, "", "")
	if s := w.link.Next(); s.Type != "result" || s.ID != "p2" {
		t.Fatalf("%+v", s)
	}
	// The client comes and takes it.
	device := w.up2(phone, "phone")
	s, body := w.next("notification")
	if body["pushed"] != true {
		t.Errorf("%v", body)
	}
	w.link.Result(s)
	w.wait(device, "received")
}

// up2 announces a client for which something is outstanding.
func (w *world) up2(full, deviceID string) string {
	w.link.Announce(full, domain, deviceID)
	return xmpp.DeviceID(strings.Split(full, "/")[0], deviceID)
}

// TestPublishesThatAreRefused: without the secret the answer is the same for a known and
// an unknown device.
func TestPublishesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	node, secret := w.register(phone, "phone")
	for _, tt := range []struct{ from, node, secret string }{
		{host, "x-unknown", secret}, {host, node, secret + "x"}, {host, node, ""}, {"evil.example", node, secret}, {host, "", ""},
	} {
		w.link.Publish("p", tt.from, domain, tt.node, tt.secret, "", "text")
		s := w.link.Next()
		if s.Type != "error" || s.Child("error").Type != "cancel" || s.Child("error").Child("item-not-found").XMLName.Local == "" {
			t.Errorf("%v: %+v", tt, s)
		}
	}
	w.link.Publish("p", "eve@example.org/x", domain, node, secret, "", "text")
	if s := w.link.Next(); s.Type != "error" {
		t.Errorf("a user's publish: %+v", s)
	}
	if len(w.apple.pushes) != 0 {
		t.Error("pushed")
	}
	w.gate.Quiesce()
	w.link.Publish("p", host, domain, node, secret, "", "text")
	if s := w.link.Next(); s.Type != "error" || s.Child("error").Type != "wait" {
		t.Errorf("while stopping: %+v", s)
	}
}

// TestStorm: 30 messages to an absent user are 30 publishes, and at most one notification an
// interval. Each is answered, with its notification on the disk.
func TestStorm(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MinInterval = 300 * time.Millisecond })
	node, secret := w.register(phone, "phone")
	for range 30 {
		w.link.Publish("p", host, domain, node, secret, "bob@example.org", "New message")
	}
	for range 30 {
		if s := w.link.Next(); s.Type != "result" {
			t.Fatalf("%+v", s)
		}
	}
	got := w.gate.Stats().Publishes
	if got["accepted"]+got["joined"] != 30 || got["accepted"] > 3 || got["accepted"] < 1 {
		t.Errorf("%v", got)
	}
}

// TestOtherUsersDevice: whoever registers or announces another's device-id has a device of
// his own.
func TestOtherUsersDevice(t *testing.T) {
	w := newWorld(t)
	annNode, annSecret := w.register(phone, "phone")
	device := w.up(phone, "phone")
	if other := w.up("eve@example.org/x", "phone"); other == device {
		t.Fatal("two users have one device")
	}
	if other := w.up("eve@example.org/y", device); other == device {
		t.Fatal("two users have one device")
	}
	w.notify(delivery.Request{Account: ann, Title: "t"})
	s, _ := w.next("notification")
	if s.To != phone {
		t.Errorf("it went to %s", s.To)
	}
	w.link.Sendf("<iq type='set' from='eve@example.org/x' to='"+domain+"' id='a'><ack xmlns='urn:heartline:1' id='%s' status='displayed'/></iq>", jsonID(t, s))
	if answer := w.link.Next(); answer.Type != "error" {
		t.Errorf("eve acked: %+v", answer)
	}
	if got := w.kinds(device); !slices.Equal(got, []string{"published"}) {
		t.Errorf("%v", got)
	}
	_, secret := w.register("eve@example.org/x", "phone")
	if secret == annSecret {
		t.Error("two accounts have one secret")
	}
	w.link.Publish("p", host, domain, annNode, secret, "", "text")
	if answer := w.link.Next(); answer.Type != "error" || answer.Child("error").Type != "cancel" {
		t.Errorf("another account's secret: %+v", answer)
	}
}

// TestPhoneChangesAccount: another user logs in on the phone, whose token moves to him. The
// server still pushes for the former user: a result, which waits for her return, and nothing
// for the phone's new user. Once she has signed out, her server is told to stop.
func TestPhoneChangesAccount(t *testing.T) {
	w := newWorld(t)
	const eve = "eve@" + host
	annNode, annSecret := w.register(phone, "phone")
	eveNode, eveSecret := w.register(eve+"/x", "phone")
	w.link.Publish("former", host, domain, annNode, annSecret, "", "text")
	if answer := w.link.Next(); answer.ID != "former" || answer.Type != "result" {
		t.Errorf("a publish for the former user: %+v", answer)
	}
	w.wait(annNode, "waiting")
	w.link.Publish("new", host, domain, eveNode, eveSecret, "", "text")
	if answer := w.link.Next(); answer.ID != "new" || answer.Type != "result" {
		t.Errorf("a publish for the new user: %+v", answer)
	}
	if p := <-w.apple.pushes; p.Device != eveNode || p.Account != eve {
		t.Errorf("pushed for %s of %s", p.Device, p.Account)
	}
	w.wait(eveNode, "pushed")
	if got := w.kinds(annNode); !slices.Equal(got, []string{"waiting"}) || len(w.apple.pushes) != 0 {
		t.Errorf("the former user's timeline: %v, and %d more pushes", got, len(w.apple.pushes))
	}
	w.up2(phone, "phone")
	s, _ := w.next("notification")
	w.link.Result(s)
	w.wait(annNode, "received")
	w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='out'><sign-out xmlns='urn:heartline:1'/></iq>")
	if answer := w.link.Next(); answer.ID != "out" || answer.Type != "result" {
		t.Errorf("signing out: %+v", answer)
	}
	w.link.Publish("gone", host, domain, annNode, annSecret, "", "text")
	if answer := w.link.Next(); answer.ID != "gone" || answer.Child("error").Type != "cancel" || answer.Child("error").Child("item-not-found").XMLName.Local == "" {
		t.Errorf("a publish for a user who has signed out: %+v", answer)
	}
}

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// TestFaultsAreLoggedOnce: a link that does not come back is in the log once, however often it is
// tried, and again when the fault is another.
func TestFaultsAreLoggedOnce(t *testing.T) {
	log := &logged{}
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	for condition, words := range map[string]string{
		"conflict": "another process is connected", "not-authorized": "refuses the secret", "host-unknown": "(host-unknown)", "system-shutdown": "shutting down",
	} {
		before := w.server.Refused()
		w.server.Refuse(condition)
		w.link.Close()
		w.eventually("five attempts", func() bool { return w.server.Refused() >= before+5 })
		if up, cause := w.gate.Up(); up || !strings.Contains(cause, words) {
			t.Errorf("%s: up %v, %q", condition, up, cause)
		}
		w.server.Refuse("")
		w.link = w.server.Accept()
		if n := log.count(words); n != 1 {
			t.Errorf("%s is in the log %d times", condition, n)
		}
	}
	if n := log.count("connection to the XMPP server lost"); n != 8 {
		t.Errorf("%d lines for four broken links with a fault each: %s", n, log.text.String())
	}
}

func jsonID(t *testing.T, s xmpptest.Stanza) string {
	t.Helper()
	var body struct{ ID string }
	if err := json.Unmarshal([]byte(s.Child("notification").Text), &body); err != nil {
		t.Fatal(err)
	}
	return body.ID
}

// TestStrangers: federated users get nothing but what everyone may know.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	for _, stanza := range []string{
		"<presence from='eve@evil.example/x' to='push.example.org'><device xmlns='urn:heartline:1' id='phone'/></presence>",
		"<presence from='ann@example.org' to='push.example.org'><device xmlns='urn:heartline:1' id='phone'/></presence>",
		"<presence type='unavailable' from='eve@evil.example/x' to='push.example.org'/>",
		"<message from='eve@evil.example/x' to='push.example.org'><body>x</body></message>",
		"<message type='error' from='eve@evil.example/x' to='push.example.org'/>",
		"<presence type='subscribe' from='eve@evil.example/x' to='push.example.org'/>",
		"<unknown xmlns='y'/>",
	} {
		w.link.Send(stanza)
	}
	for _, request := range []string{
		"<command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'/>",
		"<ack xmlns='urn:heartline:1' id='x' status='displayed'/>", "<state xmlns='urn:heartline:1' app='foreground'/>", "<sign-out xmlns='urn:heartline:1'/>",
	} {
		w.link.Send("<iq type='set' from='eve@evil.example/x' to='push.example.org' id='q'>" + request + "</iq>")
		if s := w.link.Next(); s.Type != "error" {
			t.Errorf("%s: %+v", request, s)
		}
	}
	// A flood is cut, and others are served.
	for range 200 {
		w.link.Send("<iq type='get' from='eve@evil.example/x' to='push.example.org' id='q'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
	}
	refused := 0
	for range 200 {
		if s := w.link.Next(); s.Type == "error" {
			refused++
		}
	}
	if refused < 100 {
		t.Errorf("%d of 200 requests were refused", refused)
	}
	if view, err := w.core.Device(ann, device); err != nil || !view.Up {
		t.Errorf("%+v, %v", view, err)
	}
	w.sync(phone)
}

// TestFlap: a link that comes back within the ack window costs no push, and unanswered
// requests are sent again in their order.
func TestFlap(t *testing.T) {
	w := newWorld(t)
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	for range 16 {
		w.notify(delivery.Request{Account: ann, Title: "t"})
	}
	var first []string
	for range 16 {
		_, body := w.next("notification")
		first = append(first, body["id"].(string))
	}
	w.link.Close()
	w.notify(delivery.Request{Account: ann, Title: "last"})
	w.link = w.server.Accept()
	var again []string
	for range 16 {
		s, body := w.next("notification")
		again = append(again, body["id"].(string))
		w.link.Result(s)
	}
	if !slices.Equal(first, again) {
		t.Errorf("sent again as %v, want %v", again, first)
	}
	s, body := w.next("notification")
	if body["title"] != "last" {
		t.Errorf("%v", body)
	}
	w.link.Result(s)
	w.waitFor("17 acks", func(delivery.Event) bool {
		n := 0
		for _, e := range w.events.all {
			if e.Device == device && e.Kind == delivery.EventReceived {
				n++
			}
		}
		return n == 17
	})
	if len(w.apple.pushes) != 0 {
		t.Errorf("%d pushes", len(w.apple.pushes))
	}
}

// TestFlapOfMany: with 1,000 deliveries open the link's return refuses none of
// them, so that none is pushed, and all are acked.
func TestFlapOfMany(t *testing.T) {
	w := newWorld(t)
	const users, each = 100, 10
	account := func(i int) string { return fmt.Sprint("user", i, "@", host) }
	for i := range users {
		w.up(account(i)+"/phone", "phone")
	}
	for i := range users {
		for range each {
			w.notify(delivery.Request{Account: account(i), Title: "t"})
		}
	}
	for range users * each {
		w.next("notification")
	}
	w.link.Close()
	w.link = w.server.Accept()
	for range users * each {
		s, _ := w.next("notification")
		w.link.Result(s)
	}
	w.eventually("the acks", func() bool {
		n := 0
		for _, kind := range w.kinds("") {
			if kind == "received" {
				n++
			}
		}
		return n == users*each
	})
	for _, kind := range []string{"nacked", "ack_timeout", "waiting", "push_requested"} { // each would be a push
		if slices.Contains(w.kinds(""), kind) {
			t.Errorf("a delivery was %s", kind)
		}
	}
}

// TestLongOutage: while the link stays down, notifications are pushed; when it is back the
// devices get the unacknowledged ones.
func TestLongOutage(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.Hold = 50 * time.Millisecond })
	w.register(phone, "phone")
	device := w.up(phone, "phone")
	w.server.Refuse("system-shutdown")
	w.link.Close()
	n := w.notify(delivery.Request{Account: ann, Title: "t"})
	<-w.apple.pushes
	w.wait(device, "pushed")
	if up, cause := w.gate.Up(); up || cause == "" {
		t.Errorf("up %v, %q", up, cause)
	}
	w.server.Refuse("")
	w.link = w.server.Accept()
	s, body := w.next("notification")
	if body["id"] != n.ID || body["pushed"] != true {
		t.Errorf("%v", body)
	}
	w.link.Result(s)
	w.wait(device, "received")
}

// TestRestart: another process takes the component up; devices are where they were, and
// their secrets still hold.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	node, secret := w.register(phone, "phone")
	device := w.up(phone, "phone")
	gone := w.up(ann+"/tablet", "tablet")
	w.link.Sendf("<presence type='unavailable' from='%s' to='"+domain+"'/>", ann+"/tablet")
	w.sync(phone)
	w.gate.Stop()
	w.link.Ended()
	if err := w.core.Register("mqtt", "x"); err != nil { // an MQTT device among them
		t.Fatal(err)
	}
	if view, err := w.core.Device(ann, device); err != nil || view.Address != phone {
		t.Fatalf("%+v, %v", view, err)
	}
	if view, err := w.core.Device(ann, gone); err != nil || view.Address != "" || view.Up {
		t.Fatalf("%+v, %v", view, err)
	}
	if err := w.core.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := xmpp.New(w.core, w.opts)
	second.Start()
	defer second.Stop()
	w.link = w.server.Accept()
	w.eventually("the devices", func() bool { up, _ := second.Up(); return up })
	w.notify(delivery.Request{Account: ann, Devices: []string{device}, Title: "t"})
	s, _ := w.next("notification")
	if s.To != phone {
		t.Errorf("to %s", s.To)
	}
	w.link.Result(s)
	w.wait(device, "received")
	w.link.Publish("p", host, domain, node, secret, "", "text")
	s, _ = w.next2()
	if s.Type != "result" && s.Type != "set" {
		t.Errorf("%+v", s)
	}
}

// next2 reads the next stanza whatever it is.
func (w *world) next2() (xmpptest.Stanza, bool) { w.Helper(); return w.link.Next(), true }

// TestDeviceRequests: acks, app state, sign-out, and malformed ones.
func TestDeviceRequests(t *testing.T) {
	w := newWorld(t)
	device := w.up(phone, "phone")
	ask := func(request string) xmpptest.Stanza {
		t.Helper()
		w.link.Send("<iq type='set' from='" + phone + "' to='" + domain + "' id='q'>" + request + "</iq>")
		return w.link.Next()
	}
	n := w.notify(delivery.Request{Account: ann, Title: "t", Ack: delivery.AckDisplayed})
	s, _ := w.next("notification")
	w.link.Result(s)
	w.wait(device, "received")
	if s := ask("<ack xmlns='urn:heartline:1' id='" + n.ID + "' status='displayed'/>"); s.Type != "result" {
		t.Errorf("%+v", s)
	}
	w.wait(device, "displayed")
	for request, condition := range map[string]string{
		"<ack xmlns='urn:heartline:1' id='" + n.ID + "' status='seen'/>":                                   "bad-request",
		"<ack xmlns='urn:heartline:1' id='nothing' status='displayed'/>":                                   "item-not-found",
		"<state xmlns='urn:heartline:1' app='sideways'/>":                                                  "bad-request",
		"<nonsense xmlns='urn:heartline:1'/>":                                                              "service-unavailable",
		"<command xmlns='http://jabber.org/protocol/commands' node='other'/>":                              "item-not-found",
		"<command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'/>":                 "bad-request",
		"<command xmlns='http://jabber.org/protocol/commands' node='register-push-apns' action='cancel'/>": "bad-request",
	} {
		if s := ask(request); s.Type != "error" || s.Child("error").Child(condition).XMLName.Local == "" {
			t.Errorf("%s: %+v", request, s)
		}
	}
	if s := ask("<state xmlns='urn:heartline:1' app='foreground'/>"); s.Type != "result" {
		t.Errorf("%+v", s)
	}
	if view, err := w.core.Device(ann, device); err != nil || view.App != delivery.AppForeground {
		t.Errorf("%+v, %v", view, err)
	}
	if s := ask("<sign-out xmlns='urn:heartline:1'/>"); s.Type != "result" {
		t.Errorf("%+v", s)
	}
	if _, err := w.core.Device(ann, device); err == nil {
		t.Error("the device is still known")
	}
	w.link.Announce(strings.Repeat("a", 130)+"@example.org/x", domain, "phone")
	if s := w.link.Next(); s.XMLName.Local != "presence" || s.Type != "error" || !strings.Contains(s.Raw, "at most 128 bytes") {
		t.Errorf("an account that is too long: %+v", s)
	}
}

// TestHostileServer: each ends the link; the gate dials again and goes on.
func TestHostileServer(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxStanzaSize = 10_000 })
	for name, sent := range map[string]string{
		"too large":     "<message><body>" + strings.Repeat("x", 10_001),
		"attribute":     "<message a='" + strings.Repeat("x", 10_001) + "'/>",
		"too deep":      strings.Repeat("<a>", 33),
		"comment":       "<!-- x -->",
		"nested":        "<message><!-- x --></message>",
		"DTD":           "<!DOCTYPE a [<!ENTITY b 'c'>]>",
		"instruction":   "<message><?php x ?></message>",
		"entity":        "<message>&b;</message>",
		"not balanced":  "<message></iq>",
		"end":           "</stream:stream>",
		"stream error":  "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
		"no XML":        "HTTP/1.1 400 Bad Request\r\n\r\n<",
		"invalid UTF-8": "<message>\xff</message>",
	} {
		w.link.Send(sent)
		w.link.Ended()
		w.link = w.server.Accept()
		if up, cause := w.gate.Up(); !up && cause == "" {
			t.Errorf("%s: no cause", name)
		}
	}
	w.up(phone, "phone")
}

// TestHostileSender: faults of a user's or a stranger's stanza end nothing: the server lets them
// through, and the link is everybody's.
func TestHostileSender(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) { o.MaxStanzaSize = 10_000 })
	device := w.up(phone, "phone")
	for _, from := range []string{"eve@evil.example/x", "evil.example", "eve@example.org/x"} {
		head := " from='" + from + "' to='" + domain + "'"
		for name, sent := range map[string]string{
			"too large":     "<message" + head + "><body>" + strings.Repeat("x", 50_000) + "</body></message>",
			"too many":      "<message" + head + ">" + strings.Repeat("<a b='>'/>", 5_000) + "</message>",
			"attribute":     "<message" + head + " a='" + strings.Repeat(">", 50_000) + "'/>",
			"before from":   "<message a='" + strings.Repeat(">", 50_000) + "'" + head + "/>",
			"many of them":  "<message" + strings.Repeat(" a='&apos;'", 5_000) + head + " />",
			"too deep":      "<message" + head + ">" + strings.Repeat("<a>", 500) + strings.Repeat("</a>", 500) + "</message>",
			"deep in CDATA": "<message" + head + "><![CDATA[" + strings.Repeat("</message>", 5_000) + "]]></message>",
			"entity":        "<message" + head + ">&b;</message>",
			"no name":       "<message" + head + "><a:b:c/></message>",
			"invalid UTF-8": "<message" + head + ">\xff</message>",
		} {
			w.link.Send(sent)
			w.sync(strings.ReplaceAll(name, " ", "-") + strings.Map(func(r rune) rune {
				if r == '@' || r == '/' {
					return -1
				}
				return r
			}, from) + "@" + host + "/x") // another user each time: each is limited
		}
		w.link.Send("<iq type='set' id='big'" + head + "><x>" + strings.Repeat("x", 50_000) + "</x></iq>")
		if s := w.link.Next(); s.ID != "big" || s.Type != "error" || s.To != from || s.Child("error").Type != "wait" || s.Child("error").Child("policy-violation").XMLName.Local == "" {
			t.Errorf("%s: %+v", from, s)
		}
	}
	if view, err := w.core.Device(ann, device); err != nil || !view.Up {
		t.Errorf("%+v, %v", view, err)
	}
	if got := w.gate.Stats().Dropped; got != 33 {
		t.Errorf("%d dropped", got)
	}
}

// TestDeafServer: a server that answers no ping is dialed again.
func TestDeafServer(t *testing.T) {
	w := newWorld(t, func(o *xmpp.Options, _ *delivery.Options) {
		o.PingInterval, o.PingTimeout = 20*time.Millisecond, 5*time.Second
	})
	s := w.link.Next()
	if s.To != host || s.Child("ping").XMLName.Local == "" {
		t.Fatalf("%+v", s)
	}
	w.link.Error(s, "cancel", "service-unavailable") // any answer will do
	if s = w.link.Next(); s.Child("ping").XMLName.Local == "" {
		t.Fatalf("%+v", s)
	}
	w.link.Ended()
	w.server.Accept()
}

// TestCheck names the fault in words.
func TestCheck(t *testing.T) {
	server := xmpptest.New(t, domain, "secret")
	o := xmpp.Options{Domain: domain, Address: server.Addr(), Secret: []byte("secret"), Hosts: []string{host}}
	server.SetHosts(host)
	if _, err := xmpp.Check(t.Context(), o); err != nil {
		t.Error(err)
	}
	two := o
	two.Hosts = []string{"exmaple.org", host}
	if _, err := xmpp.Check(t.Context(), two); err == nil || err.Error() != "hosts: exmaple.org is no host of this server: compare hosts with the server's configuration (remote-server-not-found)" {
		t.Errorf("a host that the server does not have: %v", err)
	}
	for want, change := range map[string]func(*xmpp.Options){
		"refuses the secret":        func(o *xmpp.Options) { o.Secret = []byte("wrong") },
		"no component of this name": func(o *xmpp.Options) { o.Domain = "other.example.org" },
		"nothing listens there":     func(o *xmpp.Options) { o.Address = "127.0.0.1:1" },
	} {
		wrong := o
		change(&wrong)
		if _, err := xmpp.Check(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestStop is safe in every order.
func TestStop(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for range 3 {
		all.Go(w.gate.Stop)
	}
	all.Wait()
	w.gate.Start() // too late
	never := xmpp.New(w.core, w.opts)
	never.Stop()
	never.Start()
	never.Stop()
	for range 100 { // whichever comes first: nothing is left running (goleak), and no race
		g := xmpp.New(w.core, w.opts)
		all.Go(g.Start)
		g.Stop()
		all.Wait()
		g.Stop()
	}
}
