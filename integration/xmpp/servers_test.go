// Package xmpp_test runs the loop against the real ejabberd and Prosody of this machine.
// A test whose server is not installed is left out by name.
package xmpp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmppkit"
)

// patience is how long anything may take that should happen soon, on a machine with other work.
const patience = 2 * time.Minute

// world is a real server, Heartline and the stand-in for Apple's server.
type world struct {
	t      *testing.T
	server *xmppkit.Server
	sim    *apnssim.Server
	cfg    *config.Config
	broker *broker.Broker
	n      int

	mu      sync.Mutex
	clients []*xmppkit.Client
}

func users() []string {
	names := make([]string, 12)
	for i := range names {
		names[i] = fmt.Sprint("user", i)
	}
	return names
}

// canMount reports whether this user may give a process a hosts file of its own.
func canMount() bool {
	return exec.Command("unshare", "-m", "mount", "--bind", "/etc/hosts", "/etc/hosts").Run() == nil
}

// leaveOutWithoutHosts leaves the test out where ejabberd cannot be set up as docs/xmpp.md
// says. Without the line in its hosts file it asks the DNS for a component whose link is
// down, hears that there is no such name, and deletes the registration.
func leaveOutWithoutHosts(t *testing.T, kind string) {
	t.Helper()
	if kind == xmppkit.Ejabberd && !canMount() {
		testtool.LeaveOut(t, "ejabberd's hosts file cannot be set", "root, outside a chroot")
	}
}

// leaveOut leaves the test out where the server is not installed.
func leaveOut(t *testing.T, kind string) {
	t.Helper()
	if err := xmppkit.Installed(kind); err != nil {
		testtool.LeaveOut(t, kind+" is missing", strings.SplitN(err.Error(), ": ", 3)[2])
	}
}

// newWorld starts all three. Edits are functions that change the server's configuration, a
// text, or Heartline's.
func newWorld(t *testing.T, kind string, edits ...any) *world {
	t.Helper()
	leaveOut(t, kind)
	w := &world{t: t}
	var err error
	o := xmppkit.Options{Hosts: kind == xmppkit.Ejabberd && canMount(), Users: users()}
	for _, e := range edits {
		switch edit := e.(type) {
		case func(string) string:
			o.Edit = edit
		case func(*xmppkit.Options):
			edit(&o)
		}
	}
	if w.server, err = xmppkit.Start(t.Context(), kind, t.TempDir(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if w.sim, err = apnssim.Start(apnssim.Options{Topics: []string{"com.example.heartline"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.sim.Close() })
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "apns-ca.pem"), w.sim.Key()
	if err := os.WriteFile(ca, w.sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cfg = config.Default()
	w.cfg.DataDir, w.cfg.MQTT.Address, w.cfg.HTTP.Address = filepath.Join(dir, "data"), "", ""
	apns := &w.cfg.Fallback.APNs
	apns.Enabled, apns.Key, apns.KeyID, apns.TeamID = true, config.Secret(key.PEM), key.KeyID, key.TeamID
	apns.Topic, apns.Endpoint, apns.CAFile = "com.example.heartline", w.sim.URL(), ca
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(w.server.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cfg.XMPP.Components = []config.XMPPComponent{{Domain: w.server.Component, Address: w.server.ComponentAddress, SecretFile: secret, Hosts: []string{w.server.Host}}}
	// Longer than a busy machine needs for an ack, and shorter than what the servers wait for.
	w.cfg.Delivery.AckWindow, w.cfg.Delivery.FallbackWindow = 15*time.Second, time.Minute
	w.cfg.XMPP.Reconnect = config.Retry{Initial: 50 * time.Millisecond, Max: time.Second}
	for _, e := range edits {
		if edit, ok := e.(func(*config.Config)); ok {
			edit(w.cfg)
		}
	}
	w.start()
	t.Cleanup(func() {
		w.stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.clients {
			c.Kill()
		}
	})
	return w
}

func (w *world) start() {
	w.t.Helper()
	b, err := broker.New(w.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.broker = b
	w.await("the link", func() bool {
		checks, err := b.Ready()
		return err == nil && checks["xmpp "+w.server.Component] == "up"
	})
}

func (w *world) stop() {
	w.t.Helper()
	if w.broker == nil {
		return
	}
	if err := w.broker.Close(context.Background()); err != nil {
		w.t.Error(err)
	}
	w.broker = nil
}

// await waits for something that another process does.
func (w *world) await(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s did not come within %s", what, patience)
		}
	}
}

// phone is one user's client.
type phone struct {
	w       *world
	user    string
	account string
	device  string
	token   string
	*xmppkit.Client
}

// phone logs a new user in; with push it registers its token and its server's push.
func (w *world) phone(push bool) *phone {
	w.t.Helper()
	user := users()[w.n]
	w.n++
	p := &phone{w: w, user: user, account: user + "@" + w.server.Host, token: strings.Repeat(fmt.Sprintf("%02x", w.n), 32)}
	p.device = xmpp.DeviceID(p.account, "phone")
	p.login(nil)
	if push {
		node, err := p.Register(w.server.Component, "phone", p.token)
		if err != nil || node != p.device {
			w.t.Fatalf("register: node %q, %v", node, err)
		}
	}
	return p
}

func (p *phone) login(resume *xmppkit.Session) {
	p.w.t.Helper()
	c, err := xmppkit.Dial(p.w.t.Context(), p.w.server.Account(p.user, "phone"), true, resume)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.Client = c
	p.w.mu.Lock()
	p.w.clients = append(p.w.clients, c)
	p.w.mu.Unlock()
}

// announce brings the device up, and ordinary presence with it.
func (p *phone) announce() {
	p.w.t.Helper()
	if err := p.Send("<presence/>"); err != nil {
		p.w.t.Fatal(err)
	}
	if err := p.Announce(p.w.server.Component, "phone"); err != nil {
		p.w.t.Fatal(err)
	}
	p.w.await("the device", func() bool {
		d, err := p.w.broker.Core().Device(p.account, p.device)
		return err == nil && d.Up
	})
}

func (p *phone) down() {
	p.w.t.Helper()
	p.w.await("the end of the channel", func() bool {
		d, err := p.w.broker.Core().Device(p.account, p.device)
		return err == nil && !d.Up
	})
}

func (p *phone) notify(data string) string {
	p.w.t.Helper()
	r := delivery.Request{Account: p.account, Title: "hello"}
	if data != "" {
		r.Data = json.RawMessage(data)
	}
	n, err := p.w.broker.Notify(context.Background(), r)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return n.ID
}

func (w *world) view(id string) *delivery.View {
	w.t.Helper()
	v, err := w.broker.Timeline(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func kinds(v *delivery.View) (all []string) {
	for _, e := range v.Timeline {
		all = append(all, e.Kind.String())
	}
	return all
}

// until waits for an event and returns the timeline.
func (w *world) until(id, kind string) *delivery.View {
	w.t.Helper()
	var v *delivery.View
	w.await(kind, func() bool { v = w.view(id); return slices.Contains(kinds(v), kind) })
	return v
}

func (w *world) want(id string, want ...string) {
	w.t.Helper()
	if got := kinds(w.view(id)); !slices.Equal(got, want) {
		w.t.Errorf("timeline %v, want %v", got, want)
	}
}

// after returns how long after its acceptance the notification had an event.
func after(v *delivery.View, kind string) time.Duration {
	for _, e := range v.Timeline {
		if e.Kind.String() == kind {
			return e.Time.Sub(v.AcceptedAt)
		}
	}
	return -1
}

// notifications are those of an account, oldest first.
func (w *world) notifications(account string) []*delivery.View {
	w.t.Helper()
	page, _, err := w.broker.Core().List(context.Background(), delivery.Filter{Account: account, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Reverse(page)
	return page
}

func (p *phone) pushes() int { return len(p.w.sim.ReceivedFor(p.token)) }

// chat has another user write to p.
func (p *phone) chat(from *phone, text string) {
	p.w.t.Helper()
	if err := from.Send("<message type='chat' to='" + p.account + "' id='" + text + "'><body>" + text + "</body></message>"); err != nil {
		p.w.t.Fatal(err)
	}
}

// sync returns when the server has handled all earlier stanzas of the client. A server
// without the module answers the ping with an error, which will do.
func (p *phone) sync() { _, _ = p.IQ("get", p.w.server.Host, "<ping xmlns='urn:xmpp:ping'/>") }

// putAway has the client go inactive (XEP-0352). Prosody holds up the stanzas that it is writing
// at that moment, an IQ too. So it must know of it first.
func (p *phone) putAway() {
	p.w.t.Helper()
	if err := p.Send("<inactive xmlns='urn:xmpp:csi:0'/>"); err != nil {
		p.w.t.Fatal(err)
	}
	p.sync()
}

// eachKind runs a test for both servers. Such tests wait most of the time, so they run
// in parallel, as many as the machine has processors.
func eachKind(t *testing.T, test func(*testing.T, string)) {
	for _, kind := range []string{xmppkit.Ejabberd, xmppkit.Prosody} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// eachServer runs a test against both.
func eachServer(t *testing.T, test func(*world)) {
	eachKind(t, func(t *testing.T, kind string) { test(newWorld(t, kind)) })
}
