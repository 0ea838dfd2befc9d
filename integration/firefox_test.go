package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// firefox is a headless browser, driven by WebDriver BiDi
// (https://www.w3.org/TR/webdriver-bidi/). The few calls that are needed here do not
// pay for a library that knows all of them.
type firefox struct {
	t    *testing.T
	conn *websocket.Conn

	mu     sync.Mutex
	last   int
	calls  map[int]chan bidiAnswer
	err    error         // why the connection has ended
	closed chan struct{} // closed when it has

	tab string // the browsing context
}

type bidiAnswer struct {
	ID      int             `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   string          `json:"error"`
	Message string          `json:"message"`
}

// startFirefox starts Firefox with a fresh profile whose push service is at pushURL.
// It ends with the test.
func startFirefox(t *testing.T, pushURL string) *firefox {
	t.Helper()
	path := tool(t, "firefox-esr", "firefox-esr")
	dir := t.TempDir()
	preferences := map[string]any{
		"dom.push.serverURL": pushURL, "dom.push.testing.allowInsecureServerURL": true, "dom.push.retryBaseInterval": 100,
		"remote.prefs.recommended": false, "dom.push.connection.enabled": true, // driven by a program it does not connect to push otherwise
		"permissions.default.desktop-notification": 1,     // granted to every page
		"alerts.useSystemBackend":                  false, // there is no desktop to show a notification
		// Nothing of its own on the network.
		"app.update.enabled": false, "app.normandy.enabled": false, "datareporting.policy.dataSubmissionEnabled": false,
		"network.captive-portal-service.enabled": false, "network.connectivity-service.enabled": false,
		"services.settings.server": "http://127.0.0.1:9/", "browser.safebrowsing.downloads.remote.enabled": false,
		"extensions.getAddons.cache.enabled": false, "browser.shell.checkDefaultBrowser": false,
	}
	var text strings.Builder
	for name, value := range preferences {
		v, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "user_pref(%q, %s);\n", name, v)
	}
	if err := os.WriteFile(filepath.Join(dir, "user.js"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-remote", "--profile", dir, "--remote-debugging-port", "0", "about:blank")
	cmd.Env = append(environ(t), "HOME="+dir)
	p := launch(t, cmd)
	const says = "WebDriver BiDi listening on "
	line, _, err := p.stderr.find(0, func(s string) bool { return strings.HasPrefix(s, says) })
	if err != nil {
		t.Fatalf("start firefox: %v\n%s", err, p.stderr)
	}
	conn, _, err := websocket.DefaultDialer.Dial(strings.TrimPrefix(line, says)+"/session", nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &firefox{t: t, conn: conn, calls: map[int]chan bidiAnswer{}, closed: make(chan struct{})}
	go f.read()
	t.Cleanup(func() {
		_ = conn.WriteJSON(dict{"id": 1 << 30, "method": "browser.close", "params": dict{}}) // the process is killed otherwise
		select {
		case <-p.ended:
		case <-time.After(10 * time.Second):
		}
		_ = conn.Close()
		<-f.closed
	})
	f.call("session.new", dict{"capabilities": dict{}}, nil)
	var tree struct{ Contexts []struct{ Context string } }
	f.call("browsingContext.getTree", dict{}, &tree)
	f.tab = tree.Contexts[0].Context
	return f
}

func (f *firefox) read() {
	defer close(f.closed)
	for {
		var a bidiAnswer
		if err := f.conn.ReadJSON(&a); err != nil {
			f.err = err
			return
		}
		f.mu.Lock()
		answer := f.calls[a.ID]
		delete(f.calls, a.ID)
		f.mu.Unlock()
		if answer != nil { // no event
			answer <- a
		}
	}
}

func (f *firefox) call(method string, params, result any) {
	f.t.Helper()
	answer := make(chan bidiAnswer, 1)
	f.mu.Lock()
	f.last++
	f.calls[f.last] = answer
	err := f.conn.WriteJSON(dict{"id": f.last, "method": method, "params": params})
	f.mu.Unlock()
	if err == nil {
		select {
		case a := <-answer:
			switch {
			case a.Error != "":
				err = fmt.Errorf("%s: %s", a.Error, a.Message)
			case result != nil:
				err = json.Unmarshal(a.Result, result)
			}
		case <-f.closed:
			err = f.err
		case <-time.After(patience):
			err = errors.New("no answer within " + patience.String())
		}
	}
	if err != nil {
		f.t.Fatalf("firefox: %s: %v", method, err)
	}
}

func (f *firefox) visit(address string) {
	f.t.Helper()
	f.call("browsingContext.navigate", dict{"context": f.tab, "url": address, "wait": "complete"}, nil)
}

// eval evaluates an expression, and waits for it where it is a promise. The value
// comes as JSON, so that it does not matter how BiDi writes it.
func (f *firefox) eval(expression string, result any) {
	f.t.Helper()
	var r struct {
		Type             string
		Result           struct{ Value string }
		ExceptionDetails struct{ Text string }
	}
	f.call("script.evaluate", dict{
		"expression": "(async () => JSON.stringify((await (" + expression + ")) ?? null))()", "awaitPromise": true, "userActivation": true,
		"target": dict{"context": f.tab},
	}, &r)
	if r.Type != "success" {
		f.t.Fatalf("%s: %s", expression, r.ExceptionDetails.Text)
	}
	if result != nil {
		if err := json.Unmarshal([]byte(r.Result.Value), result); err != nil {
			f.t.Fatalf("%s: %v in %s", expression, err, r.Result.Value)
		}
	}
}

// until waits until a condition holds in the page.
func (f *firefox) until(condition string) {
	f.t.Helper()
	await(f.t, condition, func() bool {
		var holds bool
		f.eval("Boolean(await ("+condition+"))", &holds)
		return holds
	})
}

// click clicks on an element as a person does, so that what needs a gesture works.
func (f *firefox) click(selector string) {
	f.t.Helper()
	f.eval(fmt.Sprintf("document.querySelector(%q).click()", selector), nil)
}
