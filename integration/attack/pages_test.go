package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestAllowedOrigins: pages of mqtt.allowed_origins open the WebSocket, and no others.
func TestAllowedOrigins(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
		a.cfg.MQTT.AllowedOrigins = []string{"https://app.example.org", "*.example.net"}
	})
	for origin, want := range map[string]int{
		"https://app.example.org":              http.StatusSwitchingProtocols,
		"https://x.example.net":                http.StatusSwitchingProtocols,
		"":                                     http.StatusSwitchingProtocols, // no browser
		"http://" + a.broker.HTTPAddr():        http.StatusSwitchingProtocols, // its own pages
		"http://app.example.org":               http.StatusForbidden,
		"https://app.example.org.evil.example": http.StatusForbidden,
		"https://evil.example":                 http.StatusForbidden,
		"https://evilexample.net":              http.StatusForbidden,
		"https://app.example.org:8443":         http.StatusForbidden,
		"null":                                 http.StatusForbidden,
	} {
		if want == http.StatusForbidden {
			rows.Add(1)
		}
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+a.broker.HTTPAddr()+"/mqtt", header)
		if err == nil {
			_ = ws.Close()
		}
		if resp == nil || resp.StatusCode != want {
			t.Errorf("Origin %q: %v %v, want %d", origin, resp, err, want)
		}
	}
}

// evil is a page of another site. It tries each way to the server on %s that a browser
// has, and writes down how each ended.
const evil = `<!doctype html><title>evil</title><body></body><script>
const at = %q, other = at.replace("127.0.0.1", "localhost"), ended = {};
const body = JSON.stringify({account: "alice", title: "of another site"});
const tries = {
	"read notifications": () => fetch(at + "/v1/notifications").then(r => r.text()),
	"read by another name": () => fetch(other + "/v1/notifications").then(r => r.text()),
	"read with credentials": () => fetch(at + "/v1/notifications", {credentials: "include"}).then(r => r.text()),
	"read metrics": () => fetch(at + "/metrics").then(r => r.text()),
	"read OpenAPI": () => fetch(at + "/v1/devices").then(r => r.text()),
	"post JSON": () => fetch(at + "/v1/notifications", {method: "POST", headers: {"Content-Type": "application/json"}, body}).then(r => r.text()),
	"post plain": () => fetch(at + "/v1/notifications", {method: "POST", headers: {"Content-Type": "text/plain"}, body}).then(r => r.text()),
	"post opaque": () => fetch(at + "/v1/notifications", {method: "POST", mode: "no-cors", body}).then(r => r.type == "opaque" ? Promise.reject("unread") : r.text()),
	"delete": () => fetch(at + "/v1/accounts/alice/devices/alice-phone", {method: "DELETE"}).then(r => r.text()),
	"put a device": () => fetch(at + "/v1/accounts/evil/devices/evil-phone", {method: "PUT", body: "{}"}).then(r => r.text()),
	"beacon": () => { navigator.sendBeacon(at + "/v1/notifications", body); return Promise.reject("unread"); },
	"events": () => new Promise((ok, no) => { const e = new EventSource(at + "/v1/events"); e.onopen = ok; e.onerror = () => { e.close(); no("error"); }; }),
	"MQTT": () => new Promise((ok, no) => { const w = new WebSocket(at.replace("http", "ws") + "/mqtt", "mqtt"); w.onopen = ok; w.onerror = no; }),
	"script": () => new Promise((ok, no) => { const s = document.createElement("script"); s.src = at + "/v1/notifications"; s.onload = ok; s.onerror = no; document.body.append(s); }),
	"image": () => new Promise((ok, no) => { const s = new Image(); s.src = at + "/v1/notifications"; s.onload = ok; s.onerror = no; }),
	"form": () => new Promise((ok, no) => {
		const f = document.createElement("form"), i = document.createElement("input"), w = document.createElement("iframe");
		w.name = "w"; f.target = "w"; f.method = "POST"; f.enctype = "text/plain"; f.action = at + "/v1/notifications";
		i.name = '{"account":"alice","title":"form","x":"'; i.value = '"}';
		f.append(i); document.body.append(w, f); f.submit(); setTimeout(() => no("unread"), 500);
	}),
};
Promise.all(Object.entries(tries).map(([name, t]) => t().then(() => { ended[name] = "gained"; }, () => { ended[name] = "refused"; })))
	.then(() => { document.body.textContent = "ended " + JSON.stringify(ended); });
</script>`

// dom loads a page and returns it as it is when its scripts have run.
func dom(t *testing.T, address string) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		testtool.LeaveOut(t, "chromium is missing", "apt-get install chromium")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir="+dir, "--host-resolver-rules=MAP rebound.example 127.0.0.1", "--virtual-time-budget=20000", "--dump-dom", address)
	cmd.Env = append(cmd.Environ(), "HOME="+dir) // it writes there
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return html.UnescapeString(string(out))
}

// TestPages: a page of another site, in a browser on the machine of the server, reads
// nothing and changes nothing, though the server asks nobody for credentials.
func TestPages(t *testing.T) {
	a := start(t, func(*target) {})
	a.victim("")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, evil, "http://"+a.broker.HTTPAddr())
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = site.Serve(l) }()
	t.Cleanup(func() { _ = site.Close(); <-done })

	page := dom(t, "http://"+l.Addr().String()+"/")
	m := regexp.MustCompile(`ended (\{.*\})`).FindStringSubmatch(page)
	var ended map[string]string
	if m == nil || json.Unmarshal([]byte(m[1]), &ended) != nil || len(ended) < 16 {
		t.Fatalf("the page did not end: %s", page)
	}
	for try, how := range ended {
		rows.Add(1)
		if how != "refused" {
			t.Errorf("a page of another site, %s: %s", try, how)
		}
	}
	_, port, _ := net.SplitHostPort(a.broker.HTTPAddr())
	for _, path := range []string{"/v1/notifications", "/v1/devices", "/", "/terminal/"} { // its name leads here: the browser takes it for one site
		rows.Add(1)
		if page := dom(t, "http://rebound.example:"+port+path); strings.Contains(page, "alice") || strings.Contains(page, "<script") {
			t.Errorf("%s under a name that was pointed here: %s", path, page)
		}
	}
	if n := a.call("GET", "/v1/notifications", "", ""); !strings.Contains(n.body, `"notifications":[]`) {
		t.Errorf("notifications were made: %s", n.body)
	}
	if d := a.call("GET", "/v1/devices", "", ""); strings.Contains(d.body, "evil") || !strings.Contains(d.body, "alice-phone") {
		t.Errorf("devices: %s", d.body)
	}
	a.unharmed("pages")
}
