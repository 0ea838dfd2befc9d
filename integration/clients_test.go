package integration

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// clientPackage is the folder of the JavaScript client, in which node finds the client by
// its name.
const clientPackage = "../clients/js"

// javaScript returns the JavaScript examples of docs/clients.md by their marks.
func javaScript(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```js([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		blocks[strings.TrimSpace(m[1])] = m[2]
	}
	return blocks
}

// clientBuilt leaves the test out where the JavaScript client is not built.
func clientBuilt(t *testing.T) {
	t.Helper()
	testtool.Path(t, "node", "nodejs npm")
	if _, err := os.Stat(filepath.Join(clientPackage, "dist", "index.js")); err != nil {
		testtool.LeaveOut(t, "the JavaScript client is not built", "make client, which needs npm: apt-get install nodejs npm")
	}
}

// node runs a module that can import the JavaScript client.
func node(t *testing.T, source string, env ...string) *process {
	t.Helper()
	clientBuilt(t)
	dir, err := os.MkdirTemp(clientPackage, ".example-") //nolint:usetesting // below the package, where node looks for its name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "example.mjs"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "example.mjs")
	cmd.Dir = dir
	cmd.Env = environ(t, env...)
	return launch(t, cmd)
}

// TestJavaScriptPackage runs the tests of the JavaScript client against the program.
func TestJavaScriptPackage(t *testing.T) {
	t.Parallel()
	clientBuilt(t)
	if _, err := os.Stat(filepath.Join(clientPackage, "node_modules", "typescript")); err != nil {
		testtool.LeaveOut(t, "what the JavaScript client is built with is not installed", "make client, which needs npm: apt-get install nodejs npm")
	}
	cmd := exec.CommandContext(t.Context(), "node", "test/run.mjs")
	cmd.Dir, cmd.Env = clientPackage, append(os.Environ(), "PROGRAM="+binary)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "fail 0") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestJavaScriptClient runs the example for Node.js of docs/clients.md.
func TestJavaScriptClient(t *testing.T) {
	block := javaScript(t)[""]
	s := serve(t)
	source := strings.NewReplacer("wss://mqtt.example.com/mqtt", strings.Replace(s.http, "http", "ws", 1)+"/mqtt").Replace(block)
	p := node(t, source)
	events := s.events("?account=alice")
	p.stdout.until(t, "channel up")
	id := s.notify(`{"account":"alice","title":"Order 7","body":"It is ready","ack":"displayed"}`)
	p.stdout.until(t, "tip Order 7 It is ready")
	events.until("displayed", id)
	s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
	p.stdout.until(t, "dismiss "+id)
	events.until("dismissed", id)
	p.signal(t, os.Interrupt)
	if code := p.wait(t); code != 0 || p.stderr.String() != "" {
		t.Errorf("it ends with %d and says %s", code, p.stderr)
	}
}

// TestJavaScriptPage runs the page and the worker of docs/clients.md in Chromium, behind a
// proxy that has the page and the server in one origin.
func TestJavaScriptPage(t *testing.T) {
	clientBuilt(t)
	blocks, dir := javaScript(t), t.TempDir()
	sim, env := pushService(t)
	s := serve(t, append(env, "HEARTLINE_DELIVERY_ACK_WINDOW=1m")...)
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	mux.Handle("/mqtt", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", strings.TrimPrefix(s.http, "http://")
		r.Out.Header.Del("Origin")
	}})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	r := heartline(t, env, "config", "check")
	key := regexp.MustCompile(`\bB[A-Za-z0-9_-]{86}\b`).FindString(r.out + r.errors)
	if key == "" {
		t.Fatalf("no public key in %+v", r)
	}
	adapt := strings.NewReplacer("wss://mqtt.example.com/mqtt", strings.Replace(web.URL, "http", "ws", 1)+"/mqtt", "BNcRd…", key)
	for name, text := range map[string]string{
		"index.html": `<!doctype html><title>-</title><p id=list></p><button id=push>Push</button><script type=module src=/page.js></script>`,
		"page.src":   adapt.Replace(blocks["page"]), "worker.src": adapt.Replace(blocks["worker"]),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	node(t, `
import * as esbuild from "esbuild";
import { readFile } from "node:fs/promises";
const dir = `+"`"+dir+"`"+`;
for (const [from, to] of [["page.src", "page.js"], ["worker.src", "sw.js"]]) {
  await esbuild.build({ stdin: { contents: await readFile(dir + "/" + from, "utf8"), resolveDir: process.cwd() }, outfile: dir + "/" + to, bundle: true, format: "esm" });
}
await esbuild.build({ stdin: { contents: 'import "@heartline-mqtt/client/timer"', resolveDir: process.cwd() }, outfile: dir + "/timer.js", bundle: true });
console.log("built");`).stdout.until(t, "built")

	c := browse(t)
	c.call("", "Browser.grantPermissions", dict{"origin": web.URL, "permissions": []string{"notifications"}}, nil)
	script, endpoint := subscribed(t, sim)
	p := c.open(web.URL+"/", script)
	p.until(`document.title === "up"`)
	p.eval("navigator.serviceWorker.ready.then(() => true)", nil)
	events := s.events("?account=alice")
	id := s.notify(`{"account":"alice","title":"Order 7","ack":"displayed"}`)
	events.until("displayed", id)
	p.until(`document.querySelector("#list").textContent === "Order 7"`)

	p.click("#push")
	await(t, "the registration", func() bool { return s.webPush("alice", "alice-web") != nil })
	c.open("about:blank#").front()
	p.until(`document.visibilityState === "hidden"`)
	id = s.notify(`{"account":"alice","title":"Order 8"}`)
	events.until("received", id)
	tips := func(want string) {
		t.Helper()
		p.until(`navigator.serviceWorker.ready.then((r) => r.getNotifications()).then((all) => all.map((n) => n.title).join() === "` + want + `")`)
	}
	tips("Order 8")
	s.must(http.MethodPost, "/v1/notifications/"+id+"/dismissal", "", nil)
	events.until("dismissed", id)
	tips("")

	p.visit(web.URL + "/timer.js") // the page is closed
	s.awaitDown("alice", "alice-web")
	id = s.notify(`{"account":"alice","title":"Order 9"}`)
	events.until("pushed", id)
	if got := sim.Received(endpoint); len(got) != 1 {
		t.Fatalf("%d pushes", len(got))
	}
	p.push(web.URL+"/", sim.Received(endpoint)[0].Message)
	p.visit(web.URL + "/")
	tips("Order 9")
	events.until("received", id) // the channel's copy, which makes no second tip
	tips("Order 9")
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
`+javaScript(t)["bare"]+`
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
