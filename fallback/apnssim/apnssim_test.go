package apnssim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client is an HTTP/2 client that nothing here wrote.
func client(t *testing.T, s *Server) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CAPEM()) {
		t.Fatal("the CA is no PEM")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func sign(t *testing.T, k Key, alg, kid, iss string, iat time.Time) string {
	t.Helper()
	block, _ := pem.Decode(k.PEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	e := base64.RawURLEncoding
	signed := e.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"kid":%q}`, alg, kid)) + "." + e.EncodeToString(fmt.Appendf(nil, `{"iss":%q,"iat":%d}`, iss, iat.Unix()))
	sum := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	v.FillBytes(sig[32:])
	return signed + "." + e.EncodeToString(sig)
}

var bearers sync.Map // *Server → the provider token of its requests

type answer struct {
	status int
	reason string
	id     string
	header http.Header
	body   string
}

// post sends a good request that edit may spoil.
func post(t *testing.T, s *Server, c *http.Client, edit func(*http.Request)) answer {
	t.Helper()
	a, err := tryPost(t, s, c, edit)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryPost(t *testing.T, s *Server, c *http.Client, edit func(*http.Request)) (answer, error) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/3/device/00aa", strings.NewReader(`{"aps":{"alert":"x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	k := s.Key()
	// One token for a server: each signature makes another one.
	bearer, ok := bearers.Load(s)
	if !ok {
		bearer = "bearer " + sign(t, k, "ES256", k.KeyID, k.TeamID, s.opts.Now())
		bearers.Store(s, bearer)
	}
	q.Header.Set("authorization", bearer.(string))
	q.Header.Set("apns-topic", "com.example.app")
	if edit != nil {
		edit(q)
	}
	res, err := c.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	if res.ProtoMajor != 2 {
		t.Errorf("HTTP/%d", res.ProtoMajor)
	}
	var v struct{ Reason string }
	_ = json.Unmarshal(body, &v) // empty with 200
	return answer{res.StatusCode, v.Reason, res.Header.Get("apns-id"), res.Header, string(body)}, nil
}

func header(name, value string) func(*http.Request) {
	return func(q *http.Request) { q.Header.Set(name, value) }
}

func body(s string) func(*http.Request) {
	return func(q *http.Request) {
		q.Body, q.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
	}
}

func path(s string) func(*http.Request) {
	return func(q *http.Request) { q.URL.Path = s }
}

func TestChecks(t *testing.T) {
	s := start(t, Options{Topics: []string{"com.example.app", "com.example.app.voip"}})
	k := s.Key()
	other, err := NewKey("OTHER", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	auth := func(v string) func(*http.Request) { return header("authorization", v) }
	jwt := func(key Key, alg, kid, iss string, iat time.Time) func(*http.Request) {
		return auth("bearer " + sign(t, key, alg, kid, iss, iat))
	}
	for name, c := range map[string]struct {
		edit func(*http.Request)
		want string
	}{
		"good": {nil, "200 "},
		"good with all": {func(q *http.Request) {
			q.Header.Set("apns-priority", "5")
			q.Header.Set("apns-expiration", "0")
			q.Header.Set("apns-push-type", "background")
			body(`{"aps":{"content-available":1}}`)(q)
		}, "200 "},
		"method":      {func(q *http.Request) { q.Method = "PUT" }, "405 MethodNotAllowed"},
		"path":        {path("/3/devices/00aa"), "404 BadPath"},
		"path below":  {path("/3/device/00aa/x"), "404 BadPath"},
		"no device":   {path("/3/device/"), "400 MissingDeviceToken"},
		"odd":         {path("/3/device/00a"), "400 BadDeviceToken"},
		"not hex":     {path("/3/device/00ax"), "400 BadDeviceToken"},
		"no auth":     {func(q *http.Request) { q.Header.Del("authorization") }, "403 MissingProviderToken"},
		"basic":       {auth("basic eA=="), "403 MissingProviderToken"},
		"no jwt":      {auth("bearer x"), "403 InvalidProviderToken"},
		"HS256":       {jwt(k, "HS256", k.KeyID, k.TeamID, now), "403 InvalidProviderToken"},
		"no kid":      {jwt(k, "ES256", "", k.TeamID, now), "403 InvalidProviderToken"},
		"wrong team":  {jwt(k, "ES256", k.KeyID, "X", now), "403 InvalidProviderToken"},
		"wrong key":   {jwt(other, "ES256", k.KeyID, k.TeamID, now), "403 InvalidProviderToken"},
		"old":         {jwt(k, "ES256", k.KeyID, k.TeamID, now.Add(-61*time.Minute)), "403 ExpiredProviderToken"},
		"future":      {jwt(k, "ES256", k.KeyID, k.TeamID, now.Add(10*time.Minute)), "403 InvalidProviderToken"},
		"unknown key": {jwt(other, "ES256", "OTHER", "TEAM", now), "200 "}, // no keys are configured
		"no topic":    {func(q *http.Request) { q.Header.Del("apns-topic") }, "400 MissingTopic"},
		"bad topic":   {header("apns-topic", "a b"), "400 BadTopic"},
		"other topic": {header("apns-topic", "com.other"), "400 TopicDisallowed"},
		"twice":       {func(q *http.Request) { q.Header.Add("apns-topic", "com.other") }, "400 DuplicateHeaders"},
		"push type":   {header("apns-push-type", "shout"), "400 InvalidPushType"},
		"priority":    {header("apns-priority", "7"), "400 BadPriority"},
		"background at once": {func(q *http.Request) {
			q.Header.Set("apns-push-type", "background")
			q.Header.Set("apns-priority", "10")
		}, "400 BadPriority"},
		"expiration": {header("apns-expiration", "soon"), "400 BadExpirationDate"},
		"id":         {header("apns-id", "7"), "400 BadMessageId"},
		"collapse":   {header("apns-collapse-id", strings.Repeat("x", 65)), "400 BadCollapseId"},
		"empty":      {body(""), "400 PayloadEmpty"},
		"no JSON":    {body("{"), "400 PayloadEmpty"},
		"no object":  {body("[]"), "400 PayloadEmpty"},
		"4096":       {body(`{"x":"` + strings.Repeat("y", 4096-8) + `"}`), "200 "},
		"4097":       {body(`{"x":"` + strings.Repeat("y", 4097-8) + `"}`), "413 PayloadTooLarge"},
		"huge":       {body(strings.Repeat("y", 200_000)), "413 PayloadTooLarge"},
		"voip": {func(q *http.Request) {
			path("/3/device/00bb")(q)
			q.Header.Set("apns-push-type", "voip")
			q.Header.Set("apns-topic", "com.example.app.voip")
			body(`{"x":"` + strings.Repeat("y", 5000) + `"}`)(q)
		}, "200 "},
	} {
		t.Run(name, func(t *testing.T) {
			a := post(t, s, client(t, s), c.edit)
			if got := fmt.Sprintf("%d %s", a.status, a.reason); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if len(a.id) != 36 {
				t.Errorf("apns-id %q", a.id)
			}
		})
	}
	for _, r := range s.Received() {
		if r.Header["authorization"] != "" {
			t.Fatal("a provider token is kept")
		}
	}
}

func TestConfiguredKeys(t *testing.T) {
	mine, err := NewKey("MINE", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Keys: []Key{mine}})
	c := client(t, s)
	if a := post(t, s, c, nil); a.status != 200 {
		t.Errorf("%+v", a)
	}
	other, err := NewKey("OTHER", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	if a := post(t, s, client(t, s), header("authorization", "bearer "+sign(t, other, "ES256", "OTHER", "TEAM", time.Now()))); a.reason != "InvalidProviderToken" {
		t.Errorf("%+v", a)
	}
}

// TestProviderTokensOfAConnection: changed too soon, by another key, by another
// team.
func TestProviderTokensOfAConnection(t *testing.T) {
	s := start(t, Options{})
	k := s.Key()
	c := client(t, s)
	use := func(kid, team string, age time.Duration) string {
		return post(t, s, c, header("authorization", "bearer "+sign(t, k, "ES256", kid, team, time.Now().Add(-age)))).reason
	}
	if r := use(k.KeyID, k.TeamID, 10*time.Minute); r != "" {
		t.Error(r)
	}
	if r := use(k.KeyID, k.TeamID, 0); r != "TooManyProviderTokenUpdates" {
		t.Error(r)
	}
	if r := use(k.KeyID, k.TeamID, 10*time.Minute+2*time.Second); r != "" {
		t.Error("an older one is no update:", r)
	}
	if r := use("RELATED", k.TeamID, 0); r != "UnrelatedKeyIdInToken" {
		t.Error(r)
	}
	if r := use("RELATED", "ELSE", 0); r != "InvalidProviderToken" {
		t.Error(r)
	}
}

func TestScripts(t *testing.T) {
	s := start(t, Options{})
	c := client(t, s)
	s.Script(
		Script{Token: "00AA", Status: 410, Reason: "Unregistered", Timestamp: 1700000000123, Times: 1},
		Script{Status: 503, Reason: "Shutdown", RetryAfter: "9", Times: 2},
		Script{Status: 502, Body: "<html>", Times: 1},
	)
	if a := post(t, s, c, nil); a.status != 410 || a.body != `{"reason":"Unregistered","timestamp":1700000000123}` {
		t.Errorf("%+v", a)
	}
	for range 2 {
		if a := post(t, s, c, nil); a.reason != "Shutdown" || a.header.Get("retry-after") != "9" {
			t.Errorf("%+v", a)
		}
	}
	if a := post(t, s, c, nil); a.body != "<html>" {
		t.Errorf("%+v", a)
	}
	if a := post(t, s, c, nil); a.status != 200 || len(s.Scripts()) != 0 {
		t.Errorf("%+v %v", a, s.Scripts())
	}
	s.Script(Script{Delay: 30 * time.Millisecond})
	began := time.Now()
	if a := post(t, s, c, nil); a.status != 200 || time.Since(began) < 30*time.Millisecond {
		t.Errorf("%+v", a)
	}
	s.ClearScripts()
	if n := len(s.Received()); n != 6 {
		t.Errorf("%d received", n)
	}
}

func TestActions(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		action Action
		want   string // of the error; "": the client gets through by itself
		shown  int
	}{
		{ActionReset, "INTERNAL_ERROR", 0},
		{ActionRefuse, "", 1},
		{ActionGoAway, "", 1},
		{ActionHang, "deadline", 0},
		{ActionSilence, "deadline", 0},
		{ActionDrop, "EOF", 1},
	} {
		s.Clear()
		s.ClearScripts()
		s.Script(Script{Action: c.action, Times: 1})
		_, err := tryPost(t, s, client(t, s), func(q *http.Request) {
			patience := time.Minute
			if c.want == "deadline" {
				patience = time.Second
			}
			ctx, cancel := context.WithTimeout(q.Context(), patience)
			t.Cleanup(cancel)
			b := []byte(`{"aps":{}}`)
			*q = *q.WithContext(ctx)
			q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
			q.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
		})
		var se http2.StreamError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.action, err)
		case c.want != "" && err == nil:
			t.Errorf("%s: no error", c.action)
		case c.want == "INTERNAL_ERROR" && (!errors.As(err, &se) || se.Code != http2.ErrCodeInternal):
			t.Errorf("%s: %v", c.action, err)
		case c.want == "deadline" && !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("%s: %v", c.action, err)
		}
		if n := len(s.Shown("00aa")); n != c.shown {
			t.Errorf("%s: %d shown", c.action, n)
		}
	}
}

// TestShown: of those with the same collapse ID a device shows the last.
func TestShown(t *testing.T) {
	s := start(t, Options{})
	c := client(t, s)
	for _, id := range []string{"a", "b", "a", "", ""} {
		post(t, s, c, header("apns-collapse-id", id))
	}
	s.Script(Script{Status: 410, Reason: "Unregistered"})
	post(t, s, c, nil)
	var got []string
	for _, r := range s.Shown("00AA") {
		got = append(got, fmt.Sprint(r.CollapseID, r.Number))
	}
	if strings.Join(got, " ") != "b2 a3 4 5" {
		t.Errorf("%v", got)
	}
}

func TestHTTP2Only(t *testing.T) {
	s := start(t, Options{})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Post(s.URL()+"/3/device/00", "application/json", strings.NewReader("{}"))
	if err == nil {
		_ = res.Body.Close()
		if res.StatusCode != http.StatusHTTPVersionNotSupported {
			t.Errorf("HTTP/1.1 got %d", res.StatusCode)
		}
	}
	if len(s.Received()) != 0 {
		t.Error("a request over HTTP/1.1 was taken")
	}
}

func TestJournalIsBounded(t *testing.T) {
	s := start(t, Options{MaxReceived: 10})
	c := client(t, s)
	for range 50 {
		post(t, s, c, nil)
	}
	got, err := s.Wait(t.Context(), 50)
	if err != nil || len(got) > 10 || got[len(got)-1].Number != 50 {
		t.Errorf("%d kept, %v", len(got), err)
	}
}

func TestWait(t *testing.T) {
	s := start(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	got := make(chan error, 1)
	go func() { _, err := s.WaitFor(t.Context(), "00AA", 1); got <- err }()
	post(t, s, client(t, s), nil)
	if err := <-got; err != nil {
		t.Error(err)
	}
	closed := make(chan error, 1)
	go func() { _, err := s.Wait(context.Background(), 99); closed <- err }()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-closed; err == nil {
		t.Error("nothing is to be waited for after Close")
	}
}

// TestControl goes through the control API as another process would.
func TestControl(t *testing.T) {
	s := start(t, Options{})
	api := func(method, path, body string) (int, string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	defer http.DefaultClient.CloseIdleConnections()

	var info Info
	if _, b := api("GET", "/", ""); json.Unmarshal([]byte(b), &info) != nil || info.Endpoint != s.URL() || info.KeyID == "" {
		t.Errorf("%s", b)
	}
	if _, b := api("GET", "/ca.pem", ""); b != string(s.CAPEM()) {
		t.Error(b)
	}
	if _, b := api("GET", "/key.p8", ""); b != string(s.Key().PEM) {
		t.Error("another key")
	}
	if code, b := api("POST", "/scripts", `[{"token":"00aa","status":429,"reason":"TooManyRequests","retry_after":"3","times":1,"delay":"1ms"},{"status":200}]`); code != 204 {
		t.Errorf("%d %s", code, b)
	}
	if _, b := api("GET", "/scripts", ""); b != `[{"token":"00aa","status":429,"reason":"TooManyRequests","retry_after":"3","times":1,"delay":"1ms"},{"status":200}]`+"\n" {
		t.Error(b)
	}
	for _, bad := range []string{``, `{"statuss":1}`, `{"status":7}`, `{"action":"explode"}`, `{"delay":"5"}`, `[{"times":-1}]`} {
		if code, b := api("POST", "/scripts", bad); code != 400 || !strings.Contains(b, `"error"`) {
			t.Errorf("%s: %d %s", bad, code, b)
		}
	}
	if _, b := api("GET", "/received", ""); b != "[]\n" {
		t.Error(b)
	}
	c := client(t, s)
	if a := post(t, s, c, nil); a.status != 429 {
		t.Errorf("%+v", a)
	}
	post(t, s, c, nil)
	var got []Received
	if code, b := api("GET", "/wait?n=2&token=00aa&timeout=5s", ""); code != 200 || json.Unmarshal([]byte(b), &got) != nil || len(got) != 2 || got[0].Reason != "TooManyRequests" {
		t.Errorf("%d %s", code, b)
	}
	if code, b := api("GET", "/wait?n=3&timeout=1ms", ""); code != 408 || !strings.Contains(b, "2 of 3") {
		t.Errorf("%d %s", code, b)
	}
	if _, b := api("GET", "/shown?token=00aa", ""); json.Unmarshal([]byte(b), &got) != nil || len(got) != 1 || string(got[0].Payload) != `{"aps":{"alert":"x"}}` {
		t.Error(b)
	}
	for _, call := range [][2]string{{"POST", "/streams"}, {"POST", "/topics"}, {"POST", "/goaway"}, {"POST", "/silence"}, {"POST", "/disconnect"}, {"POST", "/expire"}, {"DELETE", "/scripts"}, {"DELETE", "/received"}} {
		in := map[string]string{"/streams": `{"max":5}`, "/topics": `{"topics":["com.else"]}`}[call[1]]
		if code, b := api(call[0], call[1], in); code != 204 {
			t.Errorf("%v: %d %s", call, code, b)
		}
	}
	if _, b := api("GET", "/received", ""); b != "[]\n" {
		t.Error(b)
	}
	if a := post(t, s, client(t, s), nil); a.reason != "ExpiredProviderToken" {
		t.Errorf("%+v", a)
	}
	bearers.Delete(s)
	if a := post(t, s, client(t, s), nil); a.reason != "TopicDisallowed" {
		t.Errorf("%+v", a)
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, Options{ControlAddress: "off"}, func(s *Server) {
		if s.ControlURL() != "" || s.URL() == "" {
			t.Error(s.ControlURL(), s.URL())
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
	if err := Run(t.Context(), Options{Address: "nonsense"}, nil); err == nil {
		t.Error("no error for a bad address")
	}
}
