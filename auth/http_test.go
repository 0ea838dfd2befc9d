package auth_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/config"
)

func TestHTTP(t *testing.T) {
	var elsewhere atomic.Bool
	answers := make(chan func(w http.ResponseWriter, asked map[string]string), 1)
	asked := make(chan map[string]string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			elsewhere.Store(true)
			return
		}
		var q map[string]string
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &q)
		}
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, body, err)
		}
		asked <- q
		(<-answers)(w, q)
	}))
	defer server.Close()
	a := newAuth(t, config.Auth{Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: server.URL + "/ask", Timeout: 5 * time.Second}})
	says := func(status int, body string) func(http.ResponseWriter, map[string]string) {
		return func(w http.ResponseWriter, _ map[string]string) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer  func(http.ResponseWriter, map[string]string)
		want    string
		account string
		service bool
	}{
		"empty 200":      {says(200, ""), "yes", "alice", false},
		"200":            {says(200, `{}`), "yes", "alice", false},
		"account":        {says(200, `{"account":"a-17","more":1}`), "yes", "a-17", false},
		"service":        {says(200, `{"role":"service"}`), "yes", "alice", true},
		"device":         {says(200, `{"role":"device"}`), "yes", "alice", false},
		"unknown role":   {says(200, `{"role":"root"}`), `unavailable: in the answer of auth.http.url, role: must be device, service or admin, got "root"`, "", false},
		"no accounts":    {says(200, `{"role":"service","accounts":[]}`), "unavailable: in the answer of auth.http.url, accounts: must not be empty: leave it out for all accounts", "", false},
		"null accounts":  {says(200, `{"role":"service","accounts":null}`), "unavailable: in the answer of auth.http.url, accounts: must not be empty: leave it out for all accounts", "", false},
		"limited admin":  {says(200, `{"role":"admin","accounts":["a*"]}`), "unavailable: in the answer of auth.http.url, accounts: must not be set for an admin, whose calls are about all accounts: use the role service", "", false},
		"EMQX allows":    {says(200, `{"result":"allow","is_superuser":false}`), "yes", "alice", false},
		"EMQX denies":    {says(200, `{"result":"deny"}`), "denied: auth.http.url says 200 and no (result or ok in its answer)", "", false},
		"EMQX ignores":   {says(200, `{"result":"ignore"}`), "denied: auth.http.url says 200 and no (result or ok in its answer)", "", false},
		"null result":    {says(200, `{"result":null,"ok":null}`), "yes", "alice", false},
		"VerneMQ allows": {says(200, `{"result": "ok"}`), "yes", "alice", false},
		"VerneMQ denies": {says(200, `{"result": {"error":"not_allowed"}}`), "denied: auth.http.url says 200 and no (result or ok in its answer)", "", false},
		"go-auth allows": {says(200, `{"Ok":true,"Error":""}`), "yes", "alice", false},
		"go-auth denies": {says(200, `{"Ok":false,"Error":"wrong"}`), "denied: auth.http.url says 200 and no (result or ok in its answer)", "", false},
		"401":            {says(401, ""), "denied: auth.http.url says 401", "", false},
		"403":            {says(403, `{"role":"service"}`), "denied: auth.http.url says 403", "", false},
		"404":            {says(404, ""), "unavailable: auth.http.url says 404, which is neither 200 nor 401 or 403", "", false},
		"500":            {says(500, "{}"), "unavailable: auth.http.url says 500, which is neither 200 nor 401 or 403", "", false},
		"201":            {says(201, "{}"), "unavailable: auth.http.url says 201, which is neither 200 nor 401 or 403", "", false},
		"not JSON":       {says(200, "ok"), "unavailable: the answer of auth.http.url is not the JSON that is expected", "", false},
		"JSON of a kind": {says(200, `{"account":7}`), "unavailable: the answer of auth.http.url is not the JSON that is expected", "", false},
		"without an end": {says(200, strings.Repeat(" ", 70_000)), "unavailable: the answer of auth.http.url cannot be read to its end", "", false},
		"somewhere else": {func(w http.ResponseWriter, _ map[string]string) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(307)
		}, "unavailable: auth.http.url says 307, which is neither 200 nor 401 or 403", "", false},
		"cut off": {func(http.ResponseWriter, map[string]string) { panic(http.ErrAbortHandler) }, "unavailable: auth.http.url does not answer: EOF", "", false},
	} {
		answers <- c.answer
		id, err := a.Connect(context.Background(), auth.Credentials{ClientID: "phone", Username: "alice", Password: []byte("pw"), Remote: "10.0.0.1:5"})
		if said(err) != c.want {
			t.Errorf("%s: %s, want %s", name, said(err), c.want)
		}
		if !same(id, auth.Identity{Account: c.account, Service: c.service}) {
			t.Errorf("%s: %+v", name, id)
		}
		q := <-asked
		if len(q) != 4 || q["client_id"] != "phone" || q["username"] != "alice" || q["password"] != "pw" || q["remote"] != "10.0.0.1:5" {
			t.Errorf("%s: asked %v", name, q)
		}
	}
	if elsewhere.Load() {
		t.Error("the password was carried on to another place")
	}
	answers <- says(200, `{"role":"service"}`)
	id, err := a.Bearer(context.Background(), "tok", "10.0.0.2:6")
	if q := <-asked; err != nil || !id.Service || q["token"] != "tok" || q["password"] != "" || q["remote"] != "10.0.0.2:6" {
		t.Errorf("%+v %v %v", id, err, q)
	}
}

func TestHTTPSilenceIsARefusal(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	a := newAuth(t, config.Auth{Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: server.URL, Timeout: 50 * time.Millisecond}})
	if _, err := a.Connect(context.Background(), auth.Credentials{Username: "alice"}); said(err) != "unavailable: auth.http.url does not answer: context deadline exceeded" {
		t.Error(said(err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Bearer(ctx, "t", ""); err == nil {
		t.Error("let in")
	}
}

func TestHTTPConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  config.AuthFromHTTP
		want string
	}{
		{config.AuthFromHTTP{URL: "", Timeout: time.Second}, "auth.http.url: must be a URL that begins with http:// or https://"},
		{config.AuthFromHTTP{URL: "ftp://x", Timeout: time.Second}, "auth.http.url: must be a URL that begins with http:// or https://"},
		{config.AuthFromHTTP{URL: "http://x"}, "auth.http.timeout: must be above 0, got 0s"},
	} {
		if _, err := auth.New(config.Auth{Mode: config.AuthHTTP, HTTP: c.cfg}, auth.Options{}); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestHTTPAsksOnceForOneQuestion(t *testing.T) {
	var asked atomic.Int64
	answer := make(chan int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(<-answer)
	}))
	defer server.Close()
	a := newAuth(t, config.Auth{Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: server.URL, Timeout: 5 * time.Second, Cache: time.Minute}})
	ask := func(password, remote string) error {
		_, err := a.Connect(context.Background(), auth.Credentials{ClientID: "c", Username: "alice", Password: []byte(password), Remote: remote})
		return err
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if err := ask("pw", "10.0.0.1:1"); err != nil {
				t.Error(err)
			}
		})
	}
	answer <- 200
	all.Wait()
	if err := ask("pw", "10.0.0.1:77"); err != nil || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	all.Go(func() { answer <- 401 })
	for range 2 { // a no is kept, too
		if err := ask("wrong", "10.0.0.1:1"); !errors.Is(err, auth.ErrDenied) || asked.Load() != 2 {
			t.Errorf("%v, asked %d times", err, asked.Load())
		}
	}
	all.Go(func() { answer <- 500 })
	if err := ask("other", "10.0.0.1:1"); !errors.Is(err, auth.ErrUnavailable) {
		t.Error(err)
	}
	all.Go(func() { answer <- 200 })
	if err := ask("other", "10.0.0.1:1"); err != nil { // a failure is not kept
		t.Error(err)
	}
	for _, password := range []string{"a\xff", "a\xfe"} {
		if err := ask(password, "10.0.0.1:1"); !errors.Is(err, auth.ErrDenied) || asked.Load() != 4 {
			t.Errorf("%q: %v", password, err)
		}
	}
	all.Wait()
}

// TestOutage: an auth service that gives no answers is in the log once, told by Outage,
// and forgotten at its next answer; failed logins are counted by their reason.
func TestOutage(t *testing.T) {
	status := atomic.Int32{}
	status.Store(http.StatusUnauthorized)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	defer server.Close()
	var log strings.Builder
	a, err := auth.New(config.Auth{Mode: config.AuthHTTP, HTTP: config.AuthFromHTTP{URL: server.URL, Timeout: 10 * time.Second}},
		auth.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	login := func(code int32) {
		status.Store(code)
		if _, err := a.Connect(context.Background(), auth.Credentials{Username: "alice"}); (err == nil) != (code == 200) {
			t.Errorf("answered %d, and the login has error %v", code, err)
		}
	}
	login(401)
	if _, err := a.Outage(); err != nil {
		t.Errorf("a refusal is taken for an outage: %v", err)
	}
	login(500)
	login(500)
	if since, err := a.Outage(); !errors.Is(err, auth.ErrUnavailable) || time.Since(since) > time.Minute {
		t.Errorf("outage: %v since %s", err, since)
	}
	if _, err := a.Bearer(context.Background(), "t", ""); err == nil {
		t.Error("let in")
	}
	login(200)
	if _, err := a.Outage(); err != nil {
		t.Errorf("it answers, and the outage is still %v", err)
	}
	if password, bearer := a.Failures(); password != (auth.Failures{Denied: 1, Unavailable: 2}) || bearer != (auth.Failures{Unavailable: 1}) {
		t.Errorf("failures: %+v, %+v", password, bearer)
	}
	text := log.String()
	if strings.Count(text, "level=ERROR msg=\"authentication service failed") != 1 || strings.Count(text, "authentication service answers again") != 1 {
		t.Errorf("the log is\n%s", text)
	}
}
