package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/wire"
)

// pushService starts a stand-in for a push service of Web Push in the test's own
// process, and returns what a server needs to push to it.
func pushService(t *testing.T) (*webpushsim.Server, []string) {
	t.Helper()
	sim, err := webpushsim.Start(webpushsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := credentials.GenerateVAPIDKey()
	if err != nil {
		t.Fatal(err)
	}
	return sim, []string{
		"HEARTLINE_FALLBACK_WEBPUSH_ENABLED=true", "HEARTLINE_FALLBACK_WEBPUSH_KEY=" + string(key),
		"HEARTLINE_FALLBACK_WEBPUSH_CONTACT=mailto:ops@example.com", "HEARTLINE_FALLBACK_WEBPUSH_CA_FILE=" + ca,
		"HEARTLINE_FALLBACK_WEBPUSH_ALLOW_PRIVATE=[\"127.0.0.0/8\"]",
	}
}

// serveTerminal starts a server with the web terminal, or leaves the test out.
func serveTerminal(t *testing.T, env ...string) *server {
	t.Helper()
	s := serve(t, append([]string{"HEARTLINE_HTTP_WEB_TERMINAL=true", "HEARTLINE_DELIVERY_ACK_WINDOW=1m"}, env...)...)
	if status, page := s.call(http.MethodGet, "/terminal/", ""); status != http.StatusOK {
		t.Fatalf("the web terminal: %d", status)
	} else if strings.Contains(string(page), "make web") {
		testtool.LeaveOut(t, "the web terminal is not built", "make web, which needs npm: apt-get install nodejs npm")
	}
	return s
}

// webPush is the registration of a device, nil without one.
func (s *server) webPush(account, device string) *wire.RegistrationView {
	s.t.Helper()
	var v wire.DeviceView
	s.must(http.MethodGet, "/v1/accounts/"+account+"/devices/"+device, "", &v)
	for _, r := range v.Registrations {
		if r.Server == "webpush" {
			return &r
		}
	}
	return nil
}

// Tips in Firefox, as the system shows them: title and tag of each. A page of the same
// origin that is no terminal can ask, too.
const firefoxTips = `navigator.serviceWorker.getRegistration("/terminal/").then((r) => r.getNotifications()).then((all) => all.map((n) => n.title + " " + n.tag))`

// TestFirefox is the whole way: a real browser subscribes in the web terminal, its page
// is closed, and it shows a push that the server has encrypted.
func TestFirefox(t *testing.T) {
	sim, env := pushService(t)
	s := serveTerminal(t, env...)
	f := startFirefox(t, sim.BrowserURL())
	events := s.events("?account=anna")
	terminal := s.http + "/terminal/?account=anna&device=firefox"
	elsewhere := s.http + "/terminal/licences.txt" // of the same origin, and no device
	up := `document.querySelector("#channel").dataset.kind === "up"`

	f.visit(terminal)
	f.until(`!document.querySelector("#toggle").disabled`)
	f.click("#toggle")
	f.until(up)
	f.until(`!document.querySelector("#web-push").hidden`)
	f.click("#web-push")
	f.until(`document.querySelector("#web-push").hasAttribute("data-on") || document.querySelector("#push-problem").textContent`)
	var problem string
	f.eval(`document.querySelector("#push-problem").textContent`, &problem)
	if problem != "" {
		t.Fatal(problem)
	}
	if r := s.webPush("anna", "firefox"); r == nil {
		t.Fatal("the registry has no registration of the browser")
	}

	f.visit(elsewhere)
	s.awaitDown("anna", "firefox")
	id := s.notify(`{"account":"anna","title":"Grüße","body":"while the page was closed","collapse_key":"greeting"}`)
	events.until("pushed", id)
	wantTips := func(want ...string) {
		t.Helper()
		var got []string
		await(t, fmt.Sprintf("the tips %q", want), func() bool {
			f.eval(firefoxTips, &got)
			return slices.Equal(got, want)
		})
	}
	wantTips("Grüße greeting")

	// Back: the channel's copy is the one that the push has shown.
	registered := s.webPush("anna", "firefox").RegisteredAt
	renewed := func() bool {
		now := s.webPush("anna", "firefox").RegisteredAt
		defer func() { registered = now }()
		return now != registered
	}
	f.visit(terminal)
	f.until(up)
	await(t, "the registration, as at each connection", renewed)
	events.until("received", id)
	f.until(fmt.Sprintf("document.getElementById(%q)", "item-"+id))
	var shown string
	f.eval(fmt.Sprintf(`document.querySelector("#item-%s .chip").dataset.shown`, id), &shown)
	if shown != "push" {
		t.Errorf("shown: %q", shown)
	}
	wantTips("Grüße greeting")

	// The push service loses the subscription: the worker makes another.
	sim.ForgetBrowsers()
	await(t, "the registration of another subscription", renewed)

	// A newer one of the same key takes its place on the screen.
	f.visit(elsewhere)
	s.awaitDown("anna", "firefox")
	next := s.notify(`{"account":"anna","title":"Grüße 2","collapse_key":"greeting"}`)
	events.until("pushed", next)
	wantTips("Grüße 2 greeting")

	// Unsubscribed while nobody could tell the server: the push service does.
	f.visit(terminal)
	f.until(up)
	f.click("#toggle")
	s.awaitDown("anna", "firefox")
	f.until(`!document.querySelector("#web-push").hidden`)
	f.click("#web-push")
	f.until(`!document.querySelector("#web-push").hasAttribute("data-on")`)
	await(t, "no subscription", func() bool { return len(sim.Subscriptions()) == 0 })
	last := s.notify(`{"account":"anna","title":"Nobody there"}`)
	events.until("token_removed", last)
	got := sim.Received("")
	if status := got[len(got)-1].Status; status != http.StatusGone {
		t.Errorf("the last push was answered %d", status)
	}
	if r := s.webPush("anna", "firefox"); r == nil || r.Ended == nil {
		t.Errorf("the registration has not ended: %+v", r)
	}
}

// subscribed gives a page's push manager the subscription that the simulator made.
func subscribed(t *testing.T, sim *webpushsim.Server) (script, endpoint string) {
	t.Helper()
	sub, err := sim.Subscribe("")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(sub)
	if err != nil {
		t.Fatal(err)
	}
	return `(() => {
		window.news = 0; // messages of the worker: each push ends with one
		navigator.serviceWorker.addEventListener("message", () => { window.news++; });
		let current = null;
		PushManager.prototype.getSubscription = async () => current;
		PushManager.prototype.subscribe = async ({ applicationServerKey: key }) => {
			const bytes = Uint8Array.from(atob(key.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
			return current = { endpoint: "", options: { applicationServerKey: bytes.buffer }, toJSON: () => (` + string(text) + `), unsubscribe: async () => { current = null; return true; } };
		};
	})()`, sub.Endpoint
}

// workerDevice is a web terminal that takes pushes, in Chromium: the simulator decrypts
// each push of the server, and the test hands it to the service worker.
type workerDevice struct {
	*webDevice
	sim      *webpushsim.Server
	endpoint string
}

func newWorkerDevice(t *testing.T, c *chromium, s *server, sim *webpushsim.Server, account string) *workerDevice {
	t.Helper()
	script, endpoint := subscribed(t, sim)
	d := &workerDevice{webTerminal(c, s, s.http, account, script), sim, endpoint}
	d.until(`!document.querySelector("#web-push").hidden`)
	d.click("#web-push")
	d.until(`document.querySelector("#web-push").hasAttribute("data-on")`)
	return d
}

// pushes waits for the nth push of the server to this browser and returns its plain text.
func (d *workerDevice) pushes(n int) []byte {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := d.sim.WaitFor(ctx, d.endpoint, n)
	if err != nil {
		d.t.Fatalf("the push service has received %d pushes, want %d: %v", len(got), n, err)
	}
	return got[n-1].Message
}

// arrived hands a push to the service worker and waits until it is done with it.
// Asking for the tips meanwhile is no way to wait: Chromium drops those that it is just
// about to show.
func (d *workerDevice) arrived(plain []byte) {
	d.t.Helper()
	var before int
	d.eval("news", &before)
	d.push(d.s.http+"/", plain)
	d.until(fmt.Sprintf("news > %d", before))
}

// away disconnects the device: notifications are then pushed.
func (d *workerDevice) away() {
	d.t.Helper()
	d.click("#toggle")
	d.s.awaitDown(d.account, "web-"+d.account)
}

// onScreen waits until the system shows these tips, each by its title.
func (d *workerDevice) onScreen(want ...string) {
	d.t.Helper()
	var got []string
	defer func() {
		if d.t.Failed() {
			d.t.Logf("the tips are %q", got)
		}
	}()
	await(d.t, fmt.Sprintf("the tips %q", want), func() bool {
		d.eval(fmt.Sprintf(`navigator.serviceWorker.ready.then((r) => r.getNotifications()).then((all) => all.filter((n) => n.data.owner === "%s/web-%[1]s").map((n) => n.title))`, d.account), &got)
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// clicked clicks on the tip in the service worker, and returns what the worker does then. It
// has no click of a user: stand-ins take the calls that a browser allows only after one.
func (p *page) clicked(t *testing.T) (does []string) {
	t.Helper()
	var worker string
	await(t, "the service worker runs", func() bool {
		p.eval("navigator.serviceWorker.getRegistration('/terminal/').then((r) => r.active.postMessage(0))", nil)
		var all struct {
			TargetInfos []struct{ TargetID, Type string }
		}
		p.call("", "Target.getTargets", dict{}, &all)
		for _, target := range all.TargetInfos {
			if target.Type == "service_worker" {
				worker = target.TargetID
			}
		}
		return worker != ""
	})
	in := &page{chromium: p.chromium, target: worker}
	var session struct{ SessionID string }
	p.call("", "Target.attachToTarget", dict{"targetId": worker, "flatten": true}, &session)
	in.session = session.SessionID
	defer p.call("", "Target.detachFromTarget", dict{"sessionId": in.session}, nil)
	in.eval(`(async () => {
		const does = [], work = [];
		Clients.prototype.openWindow = async (address) => void does.push("open " + address);
		WindowClient.prototype.focus = async function () { does.push("focus " + this.url); return this; };
		const [tip] = await registration.getNotifications();
		const click = new NotificationEvent("notificationclick", { notification: tip });
		Object.defineProperty(click, "waitUntil", { value: (p) => work.push(p) });
		dispatchEvent(click);
		await Promise.all(work);
		return does;
	})()`, &does)
	return does
}

// TestTipOpensItsPage: a click on a tip brings the page of its device to the front, or opens
// it. Other pages of the origin stay where they are.
func TestTipOpensItsPage(t *testing.T) {
	s := serveTerminal(t)
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)
	terminal := s.http + "/terminal/"
	anna := terminal + "?account=anna&device=web-anna"
	d := &webDevice{c.open(terminal), s, "anna"}
	events := s.events("?account=anna")
	// tip makes anna's page show a tip. The page may go meanwhile.
	tip := func() {
		t.Helper()
		d.up()
		d.hide()
		events.until("received", s.notify(`{"account":"anna","title":"Order 7","fallback":false}`))
	}
	want := func(does, meanwhile string) {
		t.Helper()
		if got := d.clicked(t); len(got) != 1 || got[0] != does {
			t.Errorf("%s: the worker does %q, want %s", meanwhile, got, does)
		}
	}
	// The page was loaded without the names: the form has them.
	d.until(`!document.querySelector("#toggle").disabled`)
	d.eval(`document.querySelector("#account").value = "anna"; document.querySelector("#device-id").value = "web-anna"`, nil)
	d.click("#toggle")
	tip()
	want("focus "+terminal, "anna's page is open")
	tip()
	d.visit(s.http + "/dashboard/")
	want("open "+anna, "the dashboard is open")
	d.visit(anna)
	tip()
	d.visit(terminal + "?account=ben&device=web-ben")
	want("open "+anna, "ben's page is open")
	d.visit(anna)
	tip()
	want("focus "+anna, "anna's page is open by its address")

	// A notification that the app has made itself is the app's.
	d.eval(`navigator.serviceWorker.ready.then((r) => r.showNotification("The app's own", { data: { url: "/news" } }))`, nil)
	if got := d.clicked(t); len(got) != 0 {
		t.Errorf("the app's own notification: the worker does %q", got)
	}
	var left int
	d.eval(`navigator.serviceWorker.ready.then((r) => r.getNotifications()).then((all) => all.length)`, &left)
	if left != 1 {
		t.Error("the app's own notification is closed")
	}
}

// TestServiceWorker: what the service worker does with a push, in Chromium.
func TestServiceWorker(t *testing.T) {
	sim, env := pushService(t)
	s := serveTerminal(t, env...)
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)
	for _, tt := range []struct {
		name string
		test func(t *testing.T, d *workerDevice)
	}{
		{"tag", func(t *testing.T, d *workerDevice) {
			d.away()
			s.notify(`{"account":"tag","title":"First","collapse_key":"order"}`)
			first := d.pushes(1)
			s.notify(`{"account":"tag","title":"Second","collapse_key":"order"}`)
			second := d.pushes(2)
			s.notify(`{"account":"tag","title":"Other"}`)
			other := d.pushes(3)
			d.arrived(first)
			d.onScreen("First")
			d.arrived(second)
			d.arrived(other)
			d.onScreen("Other", "Second")
			d.arrived(first) // again, and late
			d.onScreen("Other", "Second")
		}},
		// Browsers do not keep the order of pushes: the newer one stays.
		{"order", func(t *testing.T, d *workerDevice) {
			d.away()
			s.notify(`{"account":"order","title":"First","collapse_key":"order"}`)
			first := d.pushes(1)
			s.notify(`{"account":"order","title":"Second","collapse_key":"order"}`)
			second := d.pushes(2)
			d.arrived(second)
			d.onScreen("Second")
			d.arrived(first)
			d.until(`document.querySelectorAll("#items > li").length === 2`)
			d.onScreen("Second")
		}},
		{"once", func(t *testing.T, d *workerDevice) {
			events := s.events("?account=once")
			d.hide()
			d.away()
			id := s.notify(`{"account":"once","title":"Once","ack":"displayed","data":{"n":1}}`)
			d.arrived(d.pushes(1))
			d.onScreen("Once")
			if got := d.chip(id); got != "push" {
				t.Error(got)
			}
			d.click("#toggle")
			events.until("displayed", id) // the push has shown it
			d.wantTips()                  // the page none
			d.onScreen("Once")
			d.show()
			d.message(id)
		}},
		// The channel first: the push that comes late makes no second tip.
		{"late", func(t *testing.T, d *workerDevice) {
			events := s.events("?account=late")
			d.away()
			id := s.notify(`{"account":"late","title":"Late"}`)
			late := d.pushes(1)
			d.click("#toggle")
			events.until("received", id)
			if got := d.chip(id); got != "page" {
				t.Error(got)
			}
			d.arrived(late)
			next := s.notify(`{"account":"late","title":"Next"}`)
			d.chip(next)
			d.onScreen()
		}},
		// A push must be shown also where the page is looked at.
		{"visible", func(t *testing.T, d *workerDevice) {
			d.show()
			d.away()
			id := s.notify(`{"account":"visible","title":"Visible"}`)
			d.arrived(d.pushes(1))
			d.onScreen("Visible")
			if got := d.chip(id); got != "push" {
				t.Error(got)
			}
		}},
		{"dismissal", func(t *testing.T, d *workerDevice) {
			events := s.events("?account=dismissal")
			d.hide()
			d.away()
			id := s.notify(`{"account":"dismissal","title":"Taken back"}`)
			plain := d.pushes(1)
			d.arrived(plain)
			d.onScreen("Taken back")
			d.click("#toggle")
			events.until("received", id)
			s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
			events.until("dismissed", id)
			d.onScreen()
			d.arrived(plain) // late, a second time
			d.onScreen()
			d.until(fmt.Sprintf(`document.querySelector("#item-%s .fate").textContent === "taken back"`, id))
		}},
		// A dismissal that comes as a push, as the server sends it to browsers that allow a
		// push that shows nothing.
		{"dismissal-push", func(t *testing.T, d *workerDevice) {
			d.hide()
			d.away()
			id := s.notify(`{"account":"dismissal-push","title":"Taken back"}`)
			plain := d.pushes(1)
			d.arrived(plain)
			d.onScreen("Taken back")
			d.arrived(fmt.Appendf(nil, `{"heartline":{"account":"dismissal-push","dismiss":true,"id":%q,"tag":%[1]q}}`, id))
			d.onScreen()
			d.arrived(plain) // late
			d.onScreen()
		}},
		// Opened here, the account's other device takes it off its screen.
		{"read", func(t *testing.T, d *workerDevice) {
			other, err := rawmqtt.Dial(s.mqtt, 5)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if _, err := other.Connect(rawmqtt.Connect{ID: "other", Username: "read", Keepalive: 60}); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Subscribe(1, 1, "heartline/devices/other/notifications", "heartline/devices/other/dismissals"); err != nil {
				t.Fatal(err)
			}
			events := s.events("?account=read")
			id := s.notify(`{"account":"read","title":"Read here"}`)
			if err := other.Puback(next(t, other).PacketID); err != nil {
				t.Fatal(err)
			}
			d.chip(id)
			d.click("#item-" + id + " .mark")
			events.until("read", id)
			wantDismissed(t, other, id)
			d.until(fmt.Sprintf(`document.querySelector("#item-%s .fate").textContent === "read"`, id))
		}},
		{"signed-out", func(t *testing.T, d *workerDevice) {
			d.away()
			s.notify(`{"account":"signed-out","title":"Private"}`)
			d.arrived(d.pushes(1))
			d.onScreen("Private")
			d.click("#toggle")
			d.up()
			d.click("#sign-out")
			d.until(`document.querySelector("#channel").dataset.kind === "signed out"`)
			d.onScreen()
			d.until(`document.querySelectorAll("#items > li").length === 0 && !document.querySelector("#web-push").hasAttribute("data-on")`)
			if status, body := s.call(http.MethodGet, "/v1/accounts/signed-out/devices/web-signed-out", ""); status != http.StatusNotFound {
				t.Errorf("the device is known after its sign-out: %d %s", status, body)
			}
		}},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			c.t, s.t = sub, sub
			defer func() { c.t, s.t = t, t }()
			tt.test(sub, newWorkerDevice(sub, c, s, sim, tt.name))
		})
	}
}
