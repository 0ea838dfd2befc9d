package integration

import (
	"encoding/base64"
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

// chromium is a headless browser, driven over the DevTools protocol. The few calls
// that are needed here do not pay for a library that knows all of them.
type chromium struct {
	t    *testing.T
	conn *websocket.Conn

	mu     sync.Mutex
	last   int
	calls  map[int]chan cdpAnswer
	wrong  []string      // what pages have thrown, and what their policies have forbidden
	worker string        // the registration of the service worker, once ServiceWorker.enable was called
	err    error         // why the connection has ended
	closed chan struct{} // closed when it has
}

type cdpAnswer struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// browse starts a browser with a fresh profile. It ends with the test.
func browse(t *testing.T) *chromium {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool(t, "chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--remote-debugging-port=0", "--user-data-dir="+dir, "--window-size=1200,900", "about:blank")
	cmd.Env = append(environ(t), "HOME="+dir) // it wants one
	p := launch(t, cmd)
	line, _, err := p.stderr.find(0, func(s string) bool { return strings.HasPrefix(s, "DevTools listening on ") })
	if err != nil {
		t.Fatalf("start chromium: %v\n%s", err, p.stderr)
	}
	conn, _, err := websocket.DefaultDialer.Dial(strings.TrimPrefix(line, "DevTools listening on "), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &chromium{t: t, conn: conn, calls: map[int]chan cdpAnswer{}, closed: make(chan struct{})}
	go c.read()
	t.Cleanup(func() {
		_ = conn.WriteJSON(map[string]any{"id": -1, "method": "Browser.close"}) // the process is killed otherwise
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
		}
		_ = conn.Close()
		<-c.closed
		for _, w := range c.wrong {
			t.Errorf("in a page: %s", w)
		}
	})
	return c
}

func (c *chromium) read() {
	defer close(c.closed)
	for {
		var a cdpAnswer
		if err := c.conn.ReadJSON(&a); err != nil {
			c.err = err
			return
		}
		c.mu.Lock()
		answer := c.calls[a.ID]
		delete(c.calls, a.ID)
		// A server that is away is an error, too, and is of the source network.
		if a.Method == "Runtime.exceptionThrown" || a.Method == "Log.entryAdded" &&
			(strings.Contains(string(a.Params), `"source":"security"`) || strings.Contains(string(a.Params), `"source":"javascript"`)) {
			c.wrong = append(c.wrong, string(a.Params))
		}
		if a.Method == "ServiceWorker.workerRegistrationUpdated" {
			var p struct {
				Registrations []struct{ RegistrationID string }
			}
			if json.Unmarshal(a.Params, &p) == nil && len(p.Registrations) > 0 {
				c.worker = p.Registrations[0].RegistrationID
			}
		}
		c.mu.Unlock()
		if answer != nil { // no event
			answer <- a
		}
	}
}

// call makes one call of the protocol, of a page where session is given.
func (c *chromium) call(session, method string, params, result any) {
	c.t.Helper()
	answer := make(chan cdpAnswer, 1)
	c.mu.Lock()
	c.last++
	id := c.last
	c.calls[id] = answer
	request := map[string]any{"id": id, "method": method, "params": params}
	if session != "" {
		request["sessionId"] = session
	}
	err := c.conn.WriteJSON(request)
	c.mu.Unlock()
	if err == nil {
		select {
		case a := <-answer:
			switch {
			case a.Error != nil:
				err = errors.New(a.Error.Message)
			case result != nil:
				err = json.Unmarshal(a.Result, result)
			}
		case <-c.closed:
			err = c.err
		case <-time.After(patience):
			err = fmt.Errorf("no answer within %s", patience)
		}
	}
	if err != nil {
		c.t.Fatalf("chromium: %s: %v", method, err)
	}
}

type dict = map[string]any

// page is a tab.
type page struct {
	*chromium
	target  string
	session string
}

// open opens a tab in the window of the others. Scripts run before the page's own.
func (c *chromium) open(address string, scripts ...string) *page {
	c.t.Helper()
	p := &page{chromium: c}
	var target struct{ TargetID string }
	c.call("", "Target.createTarget", dict{"url": "about:blank"}, &target)
	p.target = target.TargetID
	var session struct{ SessionID string }
	c.call("", "Target.attachToTarget", dict{"targetId": p.target, "flatten": true}, &session)
	p.session = session.SessionID
	p.do("Page.enable", dict{})
	p.do("Runtime.enable", dict{})
	p.do("Log.enable", dict{})
	for _, s := range scripts {
		p.do("Page.addScriptToEvaluateOnNewDocument", dict{"source": s})
	}
	p.visit(address)
	return p
}

func (p *page) do(method string, params dict) {
	p.t.Helper()
	p.call(p.session, method, params, nil)
}

func (p *page) visit(address string) {
	p.t.Helper()
	var r struct{ ErrorText string }
	p.call(p.session, "Page.navigate", dict{"url": address}, &r)
	if r.ErrorText != "" {
		p.t.Fatalf("open %s: %s", address, r.ErrorText)
	}
	p.until(`location.href !== "about:blank" && document.readyState === "complete"`)
}

// push hands a push message to the service worker of an origin, as the browser does once
// it has decrypted one: Chromium cannot subscribe without Google's servers.
func (p *page) push(origin string, plain []byte) {
	p.t.Helper()
	p.do("ServiceWorker.enable", dict{})
	var worker string
	await(p.t, "a service worker", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		worker = p.worker
		return worker != ""
	})
	p.do("ServiceWorker.deliverPushMessage", dict{"origin": origin, "registrationId": worker, "data": string(plain)})
}

// eval evaluates an expression, and waits for it where it is a promise.
func (p *page) eval(expression string, result any) {
	p.t.Helper()
	var r struct {
		Result struct {
			Value json.RawMessage
		}
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.call(p.session, "Runtime.evaluate", dict{"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &r)
	if e := r.ExceptionDetails; e != nil {
		p.t.Fatalf("%s: %s %s", expression, e.Text, e.Exception.Description)
	}
	if result != nil {
		if err := json.Unmarshal(r.Result.Value, result); err != nil {
			p.t.Fatalf("%s: %v in %s", expression, err, r.Result.Value)
		}
	}
}

// until waits until a condition holds in the page. It asks from here: the timers
// of a page in the background are held back.
func (p *page) until(condition string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var holds bool
		p.eval("(async () => Boolean(await ("+condition+")))()", &holds)
		if holds {
			return
		}
		if time.Now().After(deadline) {
			var text string
			p.eval("document.body.innerText", &text)
			p.screenshot("failed")
			p.t.Fatalf("waited %s for %s; the page shows:\n%s", patience, condition, text)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// click clicks on an element as a script can, in a hidden page, too.
func (p *page) click(selector string) {
	p.t.Helper()
	p.eval(fmt.Sprintf("document.querySelector(%q).click()", selector), nil)
}

// front brings the tab to the front of its window: the others are hidden then.
func (p *page) front() {
	p.t.Helper()
	p.call("", "Target.activateTarget", dict{"targetId": p.target}, nil)
}

// look is how a person looks at a page.
type look struct {
	dark  bool
	width int // of a phone; 0: a desktop
}

func (p *page) look(l look) {
	p.t.Helper()
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	p.do("Emulation.setEmulatedMedia", dict{"features": []dict{{"name": "prefers-color-scheme", "value": scheme}}})
	if l.width > 0 {
		p.do("Emulation.setDeviceMetricsOverride", dict{"width": l.width, "height": 812, "deviceScaleFactor": 2, "mobile": true})
	} else {
		p.do("Emulation.setDeviceMetricsOverride", dict{"width": 1100, "height": 800, "deviceScaleFactor": 1, "mobile": false})
	}
}

// screenshot keeps what the page shows under artefacts/.
func (p *page) screenshot(name string) {
	p.t.Helper()
	var shot struct{ Data string }
	p.call(p.session, "Page.captureScreenshot", dict{"format": "png"}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.MkdirAll("artefacts", 0o755); err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join("artefacts", strings.ReplaceAll(p.t.Name(), "/", "-")+"-"+name+".png")
	if err := os.WriteFile(file, png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// await waits until a condition holds that there is no event for.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
