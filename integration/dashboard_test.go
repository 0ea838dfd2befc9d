package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// hostile is content that a page must show as text.
const hostile = `<img src=x onerror="window.pwned=1">"><svg onload=window.pwned=1>`

// board is the dashboard in a tab.
type board struct {
	*page
	s *server
}

// to opens a page of the dashboard and waits for an element of it.
func (b board) to(path, element string) {
	b.t.Helper()
	b.eval(fmt.Sprintf("location.hash = %q; undefined", "#"+path), nil)
	b.until(fmt.Sprintf("document.querySelector(%q)", element))
}

// text is what an element shows.
func (b board) text(selector string) (text string) {
	b.t.Helper()
	b.eval(fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector), &text)
	return text
}

// press presses keys, as a person without a mouse does.
func (b board) press(keys ...string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13}
	for _, k := range keys {
		down := dict{"type": "keyDown", "key": k, "code": k, "windowsVirtualKeyCode": codes[k]}
		if k == "Enter" {
			down["text"] = "\r"
		}
		b.do("Input.dispatchKeyEvent", down)
		b.do("Input.dispatchKeyEvent", dict{"type": "keyUp", "key": k, "code": k, "windowsVirtualKeyCode": codes[k]})
	}
}

// tabTo presses Tab until an element has the focus.
func (b board) tabTo(selector string) {
	b.t.Helper()
	for range 60 {
		var here bool
		b.eval(fmt.Sprintf("document.activeElement?.matches(%q) ?? false", selector), &here)
		if here {
			return
		}
		b.press("Tab")
	}
	b.t.Fatalf("Tab does not come to %s", selector)
}

// accessible runs axe-core. Serious faults fail.
func (b board) accessible(axe string) {
	b.t.Helper()
	b.eval(axe+"; undefined", nil)
	var faults []string
	b.eval(`axe.run().then((r) => r.violations.filter((v) => ["serious", "critical"].includes(v.impact)).map((v) => v.id + " " + v.nodes[0].html))`, &faults)
	for _, f := range faults {
		b.t.Errorf("axe: %s", f)
	}
}

func (b board) harmless() {
	b.t.Helper()
	var wrong bool
	b.eval(`window.pwned !== undefined || document.querySelector("main img, main script, main svg[onload]") !== null`, &wrong)
	if wrong {
		b.t.Error("content became a part of the page")
	}
	var over int
	b.eval("document.documentElement.scrollWidth - innerWidth", &over)
	if over > 0 {
		b.t.Errorf("the page is %d px too wide", over)
	}
}

func dashboardBuilt(t *testing.T, s *server) {
	t.Helper()
	if status, page := s.call(http.MethodGet, "/dashboard/", ""); status != http.StatusOK {
		t.Fatalf("the dashboard: %d", status)
	} else if strings.Contains(string(page), "make web") {
		testtool.LeaveOut(t, "the web pages are not built", "make web, which needs npm: apt-get install nodejs npm")
	}
}

func TestDashboard(t *testing.T) { //nolint:tparallel // its cases share one server and one browser
	t.Parallel()
	_, env := apple(t)
	s := serve(t, append(env, "HEARTLINE_DELIVERY_FALLBACK_WINDOW=200ms")...)
	dashboardBuilt(t, s)
	axe, err := os.ReadFile("../broker/internal/web/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatal(err) // make web has installed it
	}
	account, device := "mallory "+hostile, strings.ReplaceAll(hostile, "/", "-")
	path := "/v1/accounts/" + url.PathEscape(account) + "/devices/" + url.PathEscape(device)
	s.must(http.MethodPut, path, fmt.Sprintf(`{"apns":{"token":%q}}`, deviceToken(1)), nil)
	body, err := json.Marshal(map[string]any{
		"id": "hostile", "account": account, "title": hostile, "subtitle": hostile, "body": hostile + strings.Repeat("long", 200),
		"extra": map[string]any{hostile: hostile}, "link": "javascript:window.pwned=1",
	})
	if err != nil {
		t.Fatal(err)
	}
	events := s.events("")
	s.notify(string(body))
	events.until("waiting", "hostile")

	c := browse(t)
	b := board{c.open(s.http + "/"), s}
	b.until(`document.querySelector('[data-event="pushed"] strong')?.textContent === "1"`)

	t.Run("the numbers are those of /metrics", func(t *testing.T) {
		_, metrics := s.call(http.MethodGet, "/metrics", "")
		for _, event := range []string{"accepted", "pushed", "received", "expired"} {
			shown := b.text(`[data-event="` + event + `"] strong`)
			m := regexp.MustCompile(`(?m)^heartline_events_total\{event="` + event + `"\} (\d+)$`).FindSubmatch(metrics)
			if m == nil || string(m[1]) != shown {
				t.Errorf("%s: the page shows %q, /metrics says %q", event, shown, m)
			}
		}
	})

	t.Run("live", func(t *testing.T) {
		s.notify(fmt.Sprintf(`{"account":%q,"title":"second","id":"second"}`, account))
		b.until(`document.querySelector('[data-metric="heartline_deliveries_outstanding"] strong').textContent === "2"`)
		b.until(`document.querySelector('[data-event="accepted"] strong').textContent === "2" && document.querySelector('.live a[href="#/notifications/second"]')`)
	})

	account, device = url.PathEscape(account), url.PathEscape(device)
	for _, l := range []look{{width: 390, dark: true}, {}} {
		for _, view := range []struct{ name, path, element string }{
			{"overview", "/", ".tiles strong"},
			{"journey", "/notifications/hostile", ".timeline li"},
			{"device", "/accounts/" + account + "/devices/" + device, "main table"},
			{"account", "/accounts/" + account, "main table"},
			{"notifications", "/notifications", "main table"},
			{"empty", "/notifications?state=expired", ".empty"},
			{"devices", "/devices", "main table"},
			{"nowhere", "/nowhere", "h1"},
		} {
			name := fmt.Sprintf("%s, %d px, dark %v", view.name, l.width, l.dark)
			t.Run(name, func(t *testing.T) {
				c.t = t
				defer func() { c.t = b.s.t }()
				b.look(l)
				b.to("/nothing", "h1")
				b.to(view.path, view.element)
				b.harmless()
				b.accessible(string(axe))
				b.screenshot(view.name)
			})
		}
	}

	t.Run("why it did not arrive", func(t *testing.T) {
		b.to("/notifications/hostile", ".timeline li")
		if v := b.text(".verdict"); !strings.HasPrefix(v, "Waiting for ") || !strings.Contains(v, ", a push was accepted at ") {
			t.Errorf("the verdict is %q", v)
		}
	})

	t.Run("with the keyboard alone", func(t *testing.T) {
		b.visit(s.http + "/dashboard/")
		b.until(`document.querySelector(".tiles strong")`)
		b.tabTo("#query")
		b.do("Input.insertText", dict{"text": "second"})
		b.press("Enter")
		b.until(`document.querySelector(".timeline li")`) // the only match opens
		b.tabTo("#cancel")
		b.press("Enter")
		b.until(`document.querySelector("dialog[open]")`)
		b.tabTo("dialog .danger")
		b.press("Enter")
		b.until(`document.querySelector(".verdict").textContent.startsWith("Cancelled for ")`)
		if n := s.notification("second"); n.State != "cancelled" {
			t.Errorf("the state is %s", n.State)
		}
	})
}

// TestDashboardOfTwoNodes: a healthy node has no fault. When one node is killed, the other's
// dashboard names the relay to it.
func TestDashboardOfTwoNodes(t *testing.T) {
	t.Parallel()
	_, onPostgres := database(t)
	one, two := twoNodes(t, append(onPostgres, "HEARTLINE_CLUSTER_LEASE=1m")) // a node is known so long after its end
	dashboardBuilt(t, one)
	c := browse(t)
	b := board{c.open(one.http + "/"), one}
	b.until(`document.querySelector(".health .pill.good") && !document.querySelector(".health .notice")`)
	await(t, "no faults, once the partitions are balanced", func() bool {
		_, ready := one.call(http.MethodGet, "/readyz", "")
		return strings.Contains(string(ready), `"lease":"renewed"`) && !strings.Contains(string(ready), `"faults"`)
	})
	two.kill()
	b.until(`document.querySelector(".health .pill.wait") && [...document.querySelectorAll(".health .notice")].some((n) => n.textContent.startsWith("relay b: down"))`)
}

// TestDashboardWebhooks: the overview shows how far a webhook is behind.
func TestDashboardWebhooks(t *testing.T) {
	v := newReceiver(t)
	v.answers(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "out of order", http.StatusInternalServerError)
		return false
	})
	s := serve(t, "HEARTLINE_CONFIG="+webhookConfig(t, v.server.URL, ""))
	dashboardBuilt(t, s)
	s.register("alice", "phone", deviceToken(1))
	s.notify(`{"account":"alice","title":"x"}`)
	c := browse(t)
	b := board{c.open(s.http + "/"), s}
	row := `document.querySelector('[data-metric="heartline_webhook_lag_seconds"]')?.closest("tr")`
	b.until(row + `?.textContent.startsWith("backend" + "failing or disabled")`)
	b.until(`(` + row + `?.querySelector("[data-metric]").textContent ?? "0 ms") !== "0 ms"`)
}

// TestDashboardSignIn: with auth the page shows nothing without a token, and keeps it
// for its tab.
func TestDashboardSignIn(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, []byte("users: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := heartline(t, environ(t), "token", "create", "operator", "--file", users)
	token := strings.TrimSpace(made.out)
	if made.code != 0 || token == "" {
		t.Fatalf("%+v", made)
	}
	s := serve(t, "HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH="+users)
	dashboardBuilt(t, s)
	c := browse(t)
	b := board{c.open(s.http + "/"), s}
	b.until(`document.activeElement?.id === "token"`)
	b.do("Input.insertText", dict{"text": "wrong"})
	b.press("Enter")
	b.until(`document.querySelector(".sign-in .problem")`)
	b.until(`document.activeElement?.id === "token"`)
	b.do("Input.insertText", dict{"text": token})
	b.press("Enter")
	b.until(`document.querySelector(".tiles strong")`)
	var cookies string
	b.eval("document.cookie + JSON.stringify(Object.entries(localStorage))", &cookies)
	if cookies != "[]" {
		t.Errorf("the page keeps %s", cookies)
	}
	if n, err := strconv.Atoi(b.text(`[data-event="accepted"] strong`)); err != nil || n != 0 {
		t.Errorf("accepted: %d %v", n, err)
	}
	b.click("#sign-out")
	b.until(`document.activeElement?.id === "token"`)

	// A browser that blocks the data of the site: the page keeps the token.
	b = board{c.open(s.http+"/dashboard/", `Object.defineProperty(window, "sessionStorage", { get() { throw new DOMException("denied", "SecurityError"); } })`), s}
	b.until(`document.activeElement?.id === "token"`)
	b.do("Input.insertText", dict{"text": token})
	b.press("Enter")
	b.until(`document.querySelector(".tiles strong")`)
	b.to("/devices", ".empty")
	b.click("#sign-out")
	b.until(`document.activeElement?.id === "token"`)
}
