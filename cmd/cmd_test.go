package cmd

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome is what one command line did.
type outcome struct {
	code           int
	stdout, stderr string
}

// command runs a command line in the time zone UTC.
func command(t *testing.T, environ []string, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := newProgram(IO{Args: args, Environ: environ, Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr})
	p.local, p.lookEvery = time.UTC, 10*time.Millisecond
	return outcome{p.run(t.Context()), stdout.String(), stderr.String()}
}

// api is a server with canned answers; it keeps the requests.
type api struct {
	*httptest.Server
	mu   sync.Mutex
	seen []request
}

type request struct{ method, uri, token, body string }

func serveAPI(t *testing.T, handler http.HandlerFunc) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		a.mu.Lock()
		a.seen = append(a.seen, request{r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), body.String()})
		a.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(func() {
		a.Close()
		http.DefaultClient.CloseIdleConnections()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return a
}

func (a *api) requests() []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

func (a *api) environ() []string { return []string{config.EnvServer + "=" + a.URL} }

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if status >= 400 {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func check(t *testing.T, got outcome, code int, stdout, stderr string) {
	t.Helper()
	if got.code != code {
		t.Errorf("exit code %d, want %d", got.code, code)
	}
	if got.stdout != stdout {
		t.Errorf("stdout:\n%s\nwant:\n%s", got.stdout, stdout)
	}
	if got.stderr != stderr {
		t.Errorf("stderr:\n%s\nwant:\n%s", got.stderr, stderr)
	}
}

func TestMistakesInTheCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"sned"}, "heartline: unknown command \"sned\" for \"heartline\"; did you mean send?\nheartline: see `heartline --help`\n"},
		{[]string{"--verbose"}, "heartline: unknown flag: --verbose\nheartline: see `heartline --help`\n"},
		{[]string{"serve", "now"}, "heartline: unknown command \"now\" for \"heartline serve\"\nheartline: see `heartline serve --help`\n"},
		{[]string{"config"}, "heartline: say what to do: config check or config print\nheartline: see `heartline config --help`\n"},
		{[]string{"send"}, "heartline: required flag(s) \"account\" not set\nheartline: see `heartline send --help`\n"},
		{[]string{"send", "--account", "a"}, "heartline: there is nothing to send: give --title, --body or --data\nheartline: see `heartline send --help`\n"},
		{[]string{"send", "--account", "a", "--data", "{"}, "heartline: --data: must be JSON, or @ and the name of a file that holds JSON (a text is JSON in quotes: '\"hello\"')\nheartline: see `heartline send --help`\n"},
		{[]string{"send", "--account", "a", "--data", "@missing.json"}, "heartline: --data: open missing.json: no such file or directory\nheartline: see `heartline send --help`\n"},
		{[]string{"send", "--account", "a", "--title", "b", "--badge", "c"}, "heartline: invalid argument \"c\" for \"--badge\" flag: strconv.ParseInt: parsing \"c\": invalid syntax\nheartline: see `heartline send --help`\n"},
		{[]string{"timeline"}, "heartline: give the ID of one notification: heartline timeline ID\nheartline: see `heartline timeline --help`\n"},
		{[]string{"devices", "a", "b"}, "heartline: give one account, or none for the devices of all: heartline devices [ACCOUNT]\nheartline: see `heartline devices --help`\n"},
		{[]string{"devices", "--server", "127.0.0.1:8080"}, "heartline: --server: must be a URL that begins with http:// or https://, got \"127.0.0.1:8080\"\nheartline: see `heartline devices --help`\n"},
		{[]string{"devices", "--token-file", "missing"}, "heartline: --token-file: open missing: no such file or directory\nheartline: see `heartline devices --help`\n"},
	} {
		check(t, command(t, nil, "", tt.args...), 2, "", tt.want)
	}
}

func TestHelp(t *testing.T) {
	got := command(t, nil, "")
	if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "apns-sim") {
		t.Errorf("got %+v", got)
	}
	for _, name := range []string{"serve", "config check", "config print", "apns-sim", "send", "timeline", "devices", "watch", "version"} {
		got := command(t, nil, "", append(strings.Fields(name), "--help")...)
		if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "heartline "+name) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestVersion(t *testing.T) {
	got := command(t, nil, "", "version")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "heartline "+broker.Version()) || !strings.Contains(got.stdout, "go1.") {
		t.Errorf("got %+v", got)
	}
	check(t, command(t, nil, "", "--version"), 0, "heartline "+broker.Version()+"\n", "")
	if got := command(t, nil, "", "version", "--json"); got.code != 0 || !strings.Contains(got.stdout, `"go": "go1.`) {
		t.Errorf("got %+v", got)
	}
}

func TestConfigCheck(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(good, []byte("delivery: {ack_window: 1s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("delivery: {ack_window: 5}\nmqtt: {adress: x}\nlog: {level: loud}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, command(t, nil, "", "config", "check"), 0, "the configuration is right (no file: defaults, environment and flags)\n", "")
	check(t, command(t, nil, "", "config", "check", "--config", good), 0, "the configuration is right ("+good+")\n", "")
	check(t, command(t, []string{"HEARTLINE_CONFIG=" + good}, "", "config", "check"), 0, "the configuration is right ("+good+")\n", "")
	check(t, command(t, []string{"HEARTLINE_CONFIG=" + good}, "", "config", "check", "-c", bad), 2, "", `heartline: the configuration is wrong:
heartline:   mqtt.adress: is no key of Heartline; did you mean mqtt.address?
heartline:   delivery.ack_window: must be a duration with a unit: write a unit, as in 5s, 10m or 24h, got 5
heartline:   log.level: must be debug, info, warn or error, got loud
`)
	check(t, command(t, []string{"HEARTLINE_STORE_ENGINE=bolt"}, "", "config", "check", "-c", good, "--ttl", "1s", "--http-address="), 2, "", `heartline: the configuration is wrong:
heartline:   delivery.ttl: must be longer than delivery.ack_window (1s), got 1s (from --ttl)
heartline:   store.engine: must be pebble, journal, postgres or memory, got bolt (from HEARTLINE_STORE_ENGINE)
`)
	nodes, secret := filepath.Join(dir, "nodes.yaml"), filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(nodes, []byte("store: {engine: postgres}\ncluster: {address: 127.0.0.1:7883}\nxmpp: {components: [{domain: push.example.org, address: 127.0.0.1:5347, secret_file: "+secret+", hosts: [example.org]}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, command(t, []string{"HEARTLINE_STORE_POSTGRES_URL=postgres://h@localhost/h"}, "", "config", "check", "-c", nodes), 2, "",
		"heartline: the configuration is wrong:\nheartline:   xmpp.registration_key_file: must name a file where cluster.address is set, with the same content on every node: each may have to check a push registration that another has signed\n")
	check(t, command(t, nil, "", "config", "check", "-c", "missing.yaml"), 2, "", "heartline: the configuration is wrong:\nheartline:   missing.yaml: cannot be read: no such file or directory\n")
}

func TestConfigPrint(t *testing.T) {
	got := command(t, []string{"HEARTLINE_AUTH_JWT_SECRET=hunter2", "HEARTLINE_AUTH_MODE=jwt"}, "", "config", "print", "--ttl", "1h", "--mqtt-address", "")
	if got.code != 0 || got.stderr != "" {
		t.Errorf("got %+v", got)
	}
	for _, line := range []string{"  ttl: 1h\n", "  address: \"\"\n", "  mode: jwt\n", "HEARTLINE_AUTH_JWT_SECRET\n"} {
		if !strings.Contains(got.stdout, line) {
			t.Errorf("no %q in\n%s", line, got.stdout)
		}
	}
	if strings.Contains(got.stdout, "hunter2") {
		t.Error("the secret is shown")
	}
	check(t, command(t, nil, "", "config", "print", "--defaults"), 0, string(config.Example()), "")
	if got := command(t, nil, "", "config", "print", "--ttl", "1"); got.code != 2 || got.stdout != "" {
		t.Errorf("got %+v", got)
	}
}

// TestFlagsAreKeys: a flag for a key that does not exist would be ignored.
func TestFlagsAreKeys(t *testing.T) {
	known := map[string]bool{}
	for _, k := range config.Keys() {
		known[k.Name] = true
	}
	for _, f := range configFlags() {
		if !known[f.key] {
			t.Errorf("--%s sets %s, which is no key", f.name, f.key)
		}
	}
}

func TestServersThatDoNotAnswer(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	check(t, command(t, nil, "", "devices", "--server", gone.URL), 1, "",
		"heartline: nothing listens on "+host+": start a server with `heartline serve --dev`, or name another with --server\n")

	notOurs := serveAPI(t, answer(200, "<html>"))
	got := command(t, notOurs.environ(), "", "devices")
	if got.code != 1 || !strings.Contains(got.stderr, "is --server right?") {
		t.Errorf("got %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		status int
		header string
		body   string
		want   string
	}{
		{404, "", `{"title":"Not Found","status":404,"detail":"account bob has no devices: ..."}`, "heartline: account bob has no devices: ... (HTTP 404)\n"},
		{422, "", `{"title":"Unprocessable Entity","detail":"validation failed","errors":[{"message":"must be a duration","location":"body.ttl"},{"message":"too long","location":"body.id"}]}`,
			"heartline: validation failed (HTTP 422)\nheartline:   ttl: must be a duration\nheartline:   id: too long\n"},
		{422, "", `{"detail":"body.ttl: must be a duration","errors":[{"message":"must be a duration","location":"body.ttl"}]}`, "heartline: ttl: must be a duration (HTTP 422)\n"},
		{429, "7", `{"detail":"too much is outstanding"}`, "heartline: too much is outstanding (HTTP 429)\nheartline: to be tried again in 7 s\n"},
		{401, "", `{"detail":"no token"}`, "heartline: no token (HTTP 401)\nheartline: name the file that holds an API token with --token-file\n"},
		{502, "", "<h1>Bad gateway</h1>\nnginx\n", "heartline: <h1>Bad gateway</h1> (HTTP 502)\n"},
		{503, "", "", "heartline: Service Unavailable (HTTP 503)\n"},
	} {
		a := serveAPI(t, func(w http.ResponseWriter, r *http.Request) {
			if tt.header != "" {
				w.Header().Set("Retry-After", tt.header)
			}
			answer(tt.status, tt.body)(w, r)
		})
		check(t, command(t, a.environ(), "", "send", "--account", "bob", "--title", "x"), 1, "", tt.want)
	}
}

func TestName(t *testing.T) {
	for program, want := range map[string]string{
		"": "heartline", "heartline": "heartline", "./heartline": "./heartline", "/tmp/go-build123/b001/exe/heartline": "go run .",
	} {
		if got := newProgram(IO{Program: program}).name(); got != want {
			t.Errorf("%q: got %q", program, got)
		}
	}
}

func TestBearerToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := serveAPI(t, answer(200, `{"devices":[]}`))
	for _, tt := range []struct {
		environ []string
		args    []string
		want    string
	}{
		{nil, nil, ""},
		{[]string{"HEARTLINE_TOKEN=from-env"}, nil, "Bearer from-env"},
		{[]string{"HEARTLINE_TOKEN=from-env", "HEARTLINE_TOKEN_FILE=" + file}, nil, "Bearer from-file"},
		{[]string{"HEARTLINE_TOKEN=from-env"}, []string{"--token-file", file}, "Bearer from-file"},
	} {
		got := command(t, append(tt.environ, a.environ()...), "", append([]string{"devices"}, tt.args...)...)
		seen := a.requests()
		if token := seen[len(seen)-1].token; got.code != 0 || token != tt.want {
			t.Errorf("%q %q: sent %q, %+v", tt.environ, tt.args, token, got)
		}
	}
	got := command(t, []string{"HEARTLINE_TOKEN=two\nlines"}, "", "devices")
	if got.code != 2 || strings.Contains(got.stderr, "two") {
		t.Errorf("got %+v", got)
	}
}

// within is how long a test waits for what must happen soon, on a machine with other work.
const within = 2 * time.Minute

// expect fails where ctx ended first.
func expect[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(within):
		t.Fatalf("waited %s for %s", within, what)
		panic("not reached")
	}
}

// started runs a command line that goes on until its context ends.
type started struct {
	cancel context.CancelFunc
	out    *signalled
	errs   *signalled
	code   chan int
}

func start(t *testing.T, set func(*program), environ []string, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &started{cancel: cancel, out: newSignalled(), errs: newSignalled(), code: make(chan int, 1)}
	p := newProgram(IO{Args: args, Environ: environ, Stdin: strings.NewReader(""), Stdout: s.out, Stderr: s.errs})
	p.local = time.UTC
	if set != nil {
		set(p)
	}
	go func() { s.code <- p.run(ctx) }()
	t.Cleanup(cancel)
	return s
}

// signalled is a writer that can be waited on.
type signalled struct {
	mu      sync.Mutex
	text    string
	changed chan struct{}
}

func newSignalled() *signalled { return &signalled{changed: make(chan struct{})} }

func (s *signalled) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(b)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(b), nil
}

func (s *signalled) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

// until waits until the text holds part.
func (s *signalled) until(t *testing.T, part string) string {
	t.Helper()
	for {
		s.mu.Lock()
		text, changed := s.text, s.changed
		s.mu.Unlock()
		if strings.Contains(text, part) {
			return text
		}
		select {
		case <-changed:
		case <-time.After(within):
			t.Fatalf("waited %s for %q, have:\n%s", within, part, text)
		}
	}
}
