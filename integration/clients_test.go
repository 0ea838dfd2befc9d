package integration

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// javaScript returns the JavaScript examples of docs/clients.md, in their order.
func javaScript(t *testing.T) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	rest := string(page)
	for {
		_, after, found := strings.Cut(rest, "\n```js\n")
		if !found {
			return blocks
		}
		var block string
		block, rest, _ = strings.Cut(after, "\n```\n")
		blocks = append(blocks, block)
	}
}

// node runs a module that can import the packages of the web pages.
func node(t *testing.T, source string) *process {
	t.Helper()
	path := testtool.Path(t, "node", "nodejs npm")
	modules := filepath.Join("..", "broker", "internal", "web", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "mqtt")); err != nil {
		testtool.LeaveOut(t, "MQTT.js is not installed", "make web, which needs npm: apt-get install nodejs npm")
	}
	dir, err := os.MkdirTemp(modules, ".example-") //nolint:usetesting // below the modules, where node looks for them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "example.mjs")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, file)
	cmd.Env = environ(t)
	return launch(t, cmd)
}

// TestJavaScriptClient runs the MQTT.js example of docs/clients.md.
func TestJavaScriptClient(t *testing.T) {
	blocks := javaScript(t)
	if len(blocks) != 2 {
		t.Fatalf("docs/clients.md has %d examples in JavaScript, want 2", len(blocks))
	}
	s := serve(t)
	source := strings.Replace(blocks[1], "wss://mqtt.example.com/mqtt", strings.Replace(s.http, "http", "ws", 1)+"/mqtt", 1)
	p := node(t, source)
	events := s.events("?account=alice")
	await(t, "the device", func() bool {
		status, body := s.call(http.MethodGet, "/v1/accounts/alice/devices/phone", "")
		return status == http.StatusOK && strings.Contains(string(body), `"up"`)
	})
	id := s.notify(`{"account":"alice","title":"Order 7","body":"It is ready","ack":"displayed"}`)
	p.stdout.until(t, "tip Order 7 It is ready")
	events.until("displayed", id)
	s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
	p.stdout.until(t, "dismiss "+id)
	events.until("dismissed", id)
	if text := p.stderr.String(); text != "" {
		t.Errorf("it says %s", text)
	}
}

// TestJavaScriptWorker runs the service worker of docs/clients.md on stand-ins for the
// browser's objects.
func TestJavaScriptWorker(t *testing.T) {
	p := node(t, `
const ids = new Set(), tips = new Map(), on = {}, work = [];
const noted = async (id) => ids.has(id), note = async (id) => { ids.add(id); };
const self = {
  addEventListener: (name, fn) => { on[name] = fn; },
  clients: { openWindow: async (to) => console.log("open " + to) },
  registration: {
    getNotifications: async ({ tag }) => [...tips.values()].filter((tip) => tip.tag === tag),
    showNotification: async (title, o) => { console.log("show " + title + (o.silent ? " silently" : "")); tips.set(o.tag, { ...o, close: () => tips.delete(o.tag) }); },
  },
};
`+javaScript(t)[0]+`
const message = { web_push: 8030, notification: { title: "Order 7", tag: "order" }, heartline: { id: "7" } };
const push = async () => { on.push({ data: { json: () => message }, waitUntil: (p) => work.push(p) }); await Promise.all(work); console.log("tips " + tips.size); };
await push(); // shown
await push(); // again, still there
tips.clear();
await push(); // again, and its user has taken it away

on.notificationclick({ notification: { data: { id: "7" }, close() {} }, waitUntil: (p) => work.push(p) });
await Promise.all(work);
console.log("end");
`)
	p.stdout.until(t, "end")
	want := "show Order 7\ntips 1\nshow Order 7 silently\ntips 1\nshow Order 7 silently\ntips 0\nopen /\nend"
	if got := p.stdout.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s\n%s", got, want, p.stderr)
	}
}
