package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/wire"
)

// listenIn counts the tips that the page shows, and lets the test hold them up.
const listenIn = `
	window.tips = [];
	window.held = Promise.resolve();
	const show = ServiceWorkerRegistration.prototype.showNotification;
	ServiceWorkerRegistration.prototype.showNotification = async function (title, options) {
		window.tips.push(options.tag);
		await window.held;
		return show.call(this, title, options);
	};`

// webDevice is the web terminal in a tab.
type webDevice struct {
	*page
	s       *server
	account string
}

// webTerminal opens a terminal of an account's device web-ACCOUNT, connects it, and
// waits until it is up, with its service worker.
func webTerminal(c *chromium, s *server, base, account string, scripts ...string) *webDevice {
	c.t.Helper()
	d := openTerminal(c, s, base, account, scripts...)
	d.click("#toggle")
	d.up()
	d.eval("navigator.serviceWorker.ready.then(() => true)", nil)
	return d
}

// openTerminal opens the address of a terminal, which asks before it connects.
func openTerminal(c *chromium, s *server, base, account string, scripts ...string) *webDevice {
	c.t.Helper()
	d := &webDevice{c.open(base+"/terminal/?account="+account+"&device=web-"+account, append(scripts, listenIn)...), s, account}
	d.look(look{})
	d.until(`!document.querySelector("#asks").hidden`)
	return d
}

func (d *webDevice) up() {
	d.t.Helper()
	d.until(`document.querySelector("#channel").dataset.kind === "up"`)
}

// hide brings another tab to the front. It waits until the server knows.
func (d *webDevice) hide() {
	d.t.Helper()
	d.open("about:blank#").front()
	d.until(`document.visibilityState === "hidden"`)
	d.awaitApp("background")
}

func (d *webDevice) show() {
	d.t.Helper()
	d.front()
	d.until(`document.visibilityState === "visible"`)
}

func (d *webDevice) awaitApp(state string) {
	d.t.Helper()
	await(d.t, "the app in the "+state, func() bool {
		var v wire.DeviceView
		d.s.must(http.MethodGet, "/v1/accounts/"+d.account+"/devices/web-"+d.account, "", &v)
		return v.App == state
	})
}

// tips are the IDs that there was a system notification for, and how many of them
// the system shows.
func (d *webDevice) tips() (ids []string, shown int) {
	d.t.Helper()
	d.eval("tips", &ids)
	d.eval(`navigator.serviceWorker.ready.then((r) => r.getNotifications()).then((all) => all.filter((n) => n.data.page === location.href).length)`, &shown)
	return ids, shown
}

func (d *webDevice) wantTips(want ...string) {
	d.t.Helper()
	if ids, _ := d.tips(); !slices.Equal(ids, want) {
		d.t.Errorf("tips were shown of %v, want %v", ids, want)
	}
}

// chip waits for the item of a notification, and says how it was shown.
func (d *webDevice) chip(id string) string {
	d.t.Helper()
	item := fmt.Sprintf("document.getElementById(%q)", "item-"+id)
	d.until(item)
	var shown string
	d.eval(item+`.querySelector(".chip").dataset.shown`, &shown)
	return shown
}

// message waits for the full message of a notification.
func (d *webDevice) message(id string) string {
	d.t.Helper()
	pre := fmt.Sprintf("document.querySelector(%q)", "#item-"+id+" .message:not([hidden]) pre")
	d.until(pre)
	var text string
	d.eval(pre+".textContent", &text)
	return text
}

func TestWebTerminal(t *testing.T) {
	sim, env := apple(t)
	s := serveTerminal(t, env...)
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)

	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(sub *testing.T) {
			c.t, s.t = sub, sub
			defer func() { c.t, s.t = t, t }()
			test(sub)
		})
	}
	for name, test := range map[string]func(t *testing.T, d *webDevice){
		"background": func(t *testing.T, d *webDevice) {
			events := s.events("?account=" + d.account)
			d.hide()
			id := s.notify(`{"account":"background","title":"Table for two","body":"Tonight at eight","data":{"table":7},"ack":"displayed"}`)
			events.until("displayed", id)
			if ids, shown := d.tips(); !slices.Equal(ids, []string{id}) || shown != 1 {
				t.Errorf("tips were shown of %v, and the system shows %d", ids, shown)
			}
			d.screenshot("tip")
			s.wantTimeline(id, "accepted", "published", "received", "displayed")
			d.show()
			if got := d.message(id); got != "{\n  \"table\": 7\n}" || d.chip(id) != "tip" {
				t.Errorf("%s %s", got, d.chip(id))
			}
			events.until("message_received", id)
			d.wantTips(id)
			d.screenshot("message")
		},
		"foreground": func(t *testing.T, d *webDevice) {
			events := s.events("?account=" + d.account)
			id := s.notify(`{"account":"foreground","title":"Table for two","data":[1,2]}`)
			if d.message(id); d.chip(id) != "page" {
				t.Error(d.chip(id))
			}
			events.until("message_received", id)
			if ids, shown := d.tips(); len(ids)+shown != 0 {
				t.Errorf("a tip in the foreground: %v", ids)
			}
			d.screenshot("message")
			d.visit(s.http + "/terminal/?account=foreground&device=web-foreground") // again: what was shown is there
			if d.message(id); d.chip(id) != "page" {
				t.Error(d.chip(id))
			}
		},
		"offline": func(t *testing.T, d *webDevice) {
			events := s.events("?account=" + d.account)
			d.click("#toggle")
			s.awaitDown(d.account, "web-"+d.account)
			d.screenshot("away")
			var ids []string
			for i := range 3 {
				ids = append(ids, s.notify(fmt.Sprintf(`{"account":"offline","title":"Number %d","body":"Sent while the device was away","data":{"n":%d}}`, i+1, i+1)))
			}
			d.eval(`void (window.order = [], new MutationObserver(() => {
				for (const m of document.querySelectorAll("#items .message:not([hidden])")) {
					const id = m.closest("li").id.slice("item-".length);
					if (!order.includes(id)) order.push(id);
				}
			}).observe(document.querySelector("#items"), { childList: true, subtree: true, attributes: true }))`, nil)
			d.click("#toggle")
			for _, id := range ids {
				events.until("message_received", id)
			}
			var order []string
			d.eval("order", &order)
			if !slices.Equal(order, ids) {
				t.Errorf("messages came in the order %v, want %v", order, ids)
			}
			for name, l := range map[string]look{"light": {}, "dark": {dark: true}, "phone": {width: 375}, "phone-dark": {width: 375, dark: true}, "narrow": {width: 320}} {
				d.look(l)
				var over int
				d.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth", &over)
				if over > 0 {
					t.Errorf("%s: the page is %d pixels wider than the window", name, over)
				}
				d.screenshot(name)
			}
		},
		"pushed": func(t *testing.T, d *webDevice) {
			events := s.events("?account=" + d.account)
			token := deviceToken(77)
			d.eval(`document.querySelector("#token").value = "`+token+`"; document.querySelector("#push").requestSubmit()`, nil)
			d.until(`document.querySelector("#push-status").textContent === "Registered."`)
			d.hide()
			d.click("#toggle")
			s.awaitDown(d.account, "web-"+d.account)
			id := s.notify(`{"account":"pushed","title":"Gate 12","body":"Boarding","data":"now"}`)
			events.until("pushed", id)
			if got := sim.ReceivedFor(token); len(got) != 1 {
				t.Errorf("Apple has seen %d pushes", len(got))
			}
			d.click("#toggle")
			events.until("received", id)
			if d.chip(id) != "tip" { // it has not shown it, whatever Apple has
				t.Error(d.chip(id))
			}
			if ids, shown := d.tips(); !slices.Equal(ids, []string{id}) || shown != 1 {
				t.Errorf("tips: %v, %d shown", ids, shown)
			}
			d.show()
			d.message(id)
			d.screenshot("message")
		},
		"elsewhere": func(t *testing.T, d *webDevice) {
			other := webTerminal(c, s, s.http, d.account)
			d.until(`document.querySelector("#channel").dataset.kind === "elsewhere"`)
			d.look(look{dark: true})
			d.show()
			d.screenshot("first")
			other.up() // and it stays: the first does not come back by itself
			d.click("#toggle")
			d.up()
			other.until(`document.querySelector("#channel").dataset.kind === "elsewhere"`)
		},
		// The app's state is published while the socket closes: the browser logs no error.
		"closing": func(t *testing.T, d *webDevice) {
			d.click("#toggle")
			d.eval(`void (WebSocket = class extends WebSocket { constructor(...of) { super(...of); window.socket = this; } })`, nil)
			d.click("#toggle")
			d.up()
			d.eval(`{
				const closing = socket;
				window.replaced = () => socket !== closing;
				closing.close();
				Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
				document.dispatchEvent(new Event("visibilitychange"));
				delete document.visibilityState;
				document.dispatchEvent(new Event("visibilitychange"));
			}`, nil)
			d.until("replaced()")
			d.up()
		},
		// An address, from a link in a mail, say, takes a device over from nobody.
		"asks": func(t *testing.T, d *webDevice) {
			other := openTerminal(c, s, s.http, d.account)
			s.notify(`{"account":"asks","title":"Still here"}`)
			d.until(`document.querySelector("#items h3")`)
			var kind string
			for _, p := range []*webDevice{d, other} {
				p.eval(`document.querySelector("#channel").dataset.kind`, &kind)
				if want := map[*webDevice]string{d: "up", other: "closed"}[p]; kind != want {
					t.Errorf("the channel is %s, want %s", kind, want)
				}
			}
			other.screenshot("asked")
			d.visit(s.http + "/terminal/?account=asks&device=web-asks") // it was left connected
			d.up()
		},
		"accessible": accessible,
	} {
		run(name, func(t *testing.T) { test(t, webTerminal(c, s, s.http, name)) })
	}

	// localhost is another origin, which no permission was granted to.
	run("blocked", func(t *testing.T) {
		d := webTerminal(c, s, strings.Replace(s.http, "127.0.0.1", "localhost", 1), "blocked")
		events := s.events("?account=blocked")
		d.hide()
		id := s.notify(`{"account":"blocked","title":"No tips","ack":"displayed","fallback":false}`)
		events.until("received", id)
		if d.chip(id) != "blocked" {
			t.Error(d.chip(id))
		}
		s.wantTimeline(id, "accepted", "published", "received") // nobody has seen it
		d.show()
		events.until("displayed", id)
		d.screenshot("permission")
	})

	run("restart", func(t *testing.T) {
		d := webTerminal(c, s, s.http, "restart")
		d.look(look{width: 375})
		s.stop()
		d.until(`document.querySelector("#channel").dataset.kind === "down"`)
		d.screenshot("lost")
		s.args[slices.Index(s.args, "--http-address")+1] = strings.TrimPrefix(s.http, "http://") // the page knows where it was
		s.start()
		d.up()
		id := s.notify(`{"account":"restart","title":"Back again"}`)
		d.chip(id)
		d.screenshot("back")
	})
}

// TestCopies: the ack of the web terminal waits for the tip, and the copy that comes meanwhile makes
// no second one.
func TestCopies(t *testing.T) {
	s := serveTerminal(t, "HEARTLINE_DELIVERY_ACK_WINDOW=2s")
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)
	d := webTerminal(c, s, s.http, "copies")
	events := s.events("?account=" + d.account)
	d.eval("void (held = new Promise((r) => { window.release = r; }))", nil)
	d.hide()
	id := s.notify(`{"account":"copies","title":"Once","fallback":false}`)
	events.until("waiting", id)
	if slices.Contains(kinds(s.notification(id)), "received") {
		t.Error("acknowledged before it was shown")
	}
	d.show() // a heartbeat: it is tried again
	events.until("redelivered", id)
	d.eval("release()", nil)
	events.until("received", id)
	next := s.notify(`{"account":"copies","title":"Twice"}`)
	if got := d.chip(next); got != "page" { // after the copy
		t.Error(got)
	}
	d.wantTips(id)
}

// TestSiteDataCleared: the user clears the site's data while the page is open. The page goes
// on with an empty record and shows each notification.
func TestSiteDataCleared(t *testing.T) {
	s := serveTerminal(t)
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)
	for _, types := range []string{"indexeddb", "all"} {
		d := webTerminal(c, s, s.http, types)
		events := s.events("?account=" + types)
		arrives := func(want string) {
			t.Helper()
			id := s.notify(`{"account":"` + types + `","title":"Hello","ack":"displayed","fallback":false}`)
			ev := events.find(func(ev wire.StreamEvent) bool {
				return ev.ID == id && (ev.Event == "displayed" || ev.Event == "nacked")
			})
			if ev.Event == "nacked" {
				t.Fatalf("%s: the page refuses a notification: %+v", types, ev)
			}
			if got := d.chip(id); got != want {
				t.Errorf("%s: it is shown as %q, want %q", types, got, want)
			}
			s.wantTimeline(id, "accepted", "published", "received", "displayed")
		}
		arrives("page")
		d.do("Storage.clearDataForOrigin", dict{"origin": s.http, "storageTypes": types})
		arrives("page")
		d.hide()
		arrives("tip")
	}
}

// TestClockSetBack: a browser has a full record from a time when its clock was ahead. New
// notifications stay on record, and in their order.
func TestClockSetBack(t *testing.T) {
	s := serveTerminal(t)
	d := webTerminal(browse(t), s, s.http, "clock")
	const items = `new Promise((resolve, reject) => {
		const r = indexedDB.open("heartline-terminal");
		r.onerror = () => reject(r.error);
		r.onsuccess = () => { const t = r.result.transaction("items", "readwrite"); t.onabort = () => reject(t.error); use(t.objectStore("items"), resolve, t); };
	})`
	d.eval(`(() => { const use = (items, resolve, t) => {
		const ahead = Date.now() + 86400_000;
		for (let n = 0; n < 2000; n++) items.put({ owner: "clock/web-clock", id: "old" + n, arrived: ahead + n });
		t.oncomplete = () => resolve();
	}; return `+items+`; })()`, nil)
	var want []string
	for _, title := range []string{"One", "Two", "Three"} {
		id := s.notify(`{"account":"clock","title":"` + title + `"}`)
		d.chip(id)
		want = append(want, id)
	}
	var got []string
	d.eval(`(() => { const use = (items, resolve) => {
		items.index("order").getAll(IDBKeyRange.bound(["clock/web-clock"], ["clock/web-clock", []])).onsuccess = (e) => resolve(e.target.result.slice(-4).map((i) => i.id));
	}; return `+items+`; })()`, &got)
	if want = append([]string{"old1999"}, want...); !slices.Equal(got, want) {
		t.Errorf("the newest on record are %q, want %q", got, want)
	}
}

// TestTipsWithoutWorker: where a browser has no service workers, as in a private window, the
// page shows the tips itself, and takes them away again.
func TestTipsWithoutWorker(t *testing.T) {
	s := serveTerminal(t)
	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": s.http, "permissions": []string{"notifications"}}, nil)
	d := openTerminal(c, s, s.http, "private", `
		delete Navigator.prototype.serviceWorker;
		window.taken = [];
		const close = Notification.prototype.close;
		Notification.prototype.close = function () { window.taken.push(this.title); return close.call(this); };`)
	d.click("#toggle")
	d.up()
	d.hide()
	first := s.notify(`{"account":"private","title":"First","collapse_key":"order","fallback":false}`)
	second := s.notify(`{"account":"private","title":"Second","collapse_key":"order","fallback":false}`)
	other := s.notify(`{"account":"private","title":"Other","fallback":false}`)
	for _, id := range []string{first, second, other} {
		if got := d.chip(id); got != "tip" {
			t.Errorf("it is shown as %q", got)
		}
	}
	for _, id := range []string{first, second, other} { // the second one has taken the place of the first
		s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
	}
	d.until(`JSON.stringify(window.taken) === '["Second","Other"]'`)
}

// accessible looks at the page as a screen reader does.
func accessible(t *testing.T, d *webDevice) {
	t.Helper()
	d.look(look{})
	id := d.s.notify(`{"account":"accessible","title":"Lunch","body":"At noon","data":1}`)
	d.message(id)
	var tree struct {
		Nodes []struct {
			Ignored bool
			Role    struct{ Value string }
			Name    struct{ Value string }
		}
	}
	d.do("Accessibility.enable", dict{})
	d.call(d.session, "Accessibility.getFullAXTree", dict{}, &tree)
	var have []string
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		have = append(have, n.Role.Value+" "+n.Name.Value)
		switch n.Role.Value {
		case "button", "textbox", "link", "article", "region":
			if n.Name.Value == "" {
				t.Errorf("a %s has no name", n.Role.Value)
			}
		}
	}
	for _, want := range []string{
		"banner ", "main ", "contentinfo ", "region web-accessible of accessible", "region Notifications", "heading Heartline web terminal",
		"textbox Account", "textbox Device", "button Disconnect", "article Lunch", "status ", "link Skip to the notifications",
	} {
		if !slices.Contains(have, want) {
			t.Errorf("no %q among %q", want, have)
		}
	}
	var announced string
	d.eval(`document.querySelector("[aria-live=polite]").textContent`, &announced)
	if announced != "Message of Lunch" {
		t.Errorf("announced: %q", announced)
	}
	// The keyboard reaches everything, and it can be seen where it is.
	d.do("Input.dispatchKeyEvent", dict{"type": "rawKeyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9})
	var focused string
	d.eval("document.activeElement.textContent", &focused)
	if focused != "Skip to the notifications" {
		t.Errorf("Tab goes to %q first", focused)
	}
	d.screenshot("focus")
}

// TestWebTerminalIsOff: a server that is not configured for the page does not serve it.
func TestWebTerminalIsOff(t *testing.T) {
	s := serve(t)
	if status, _ := s.call(http.MethodGet, "/terminal/", ""); status != http.StatusNotFound {
		t.Errorf("got %d", status)
	}
}
