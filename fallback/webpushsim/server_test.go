package webpushsim_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/fallbacktest"
	"github.com/heartline-mqtt/heartline/fallback/webpush"
	"github.com/heartline-mqtt/heartline/fallback/webpushsim"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/simkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, contact string) (*webpushsim.Server, *webpush.Pusher) {
	t.Helper()
	return startAs(t, "", contact)
}

func startAs(t *testing.T, service, contact string) (*webpushsim.Server, *webpush.Pusher) {
	t.Helper()
	s, err := webpushsim.Start(webpushsim.Options{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	text, err := credentials.GenerateVAPIDKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := credentials.ParseVAPIDKey(text)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	p, err := webpush.New(webpush.Config{Apps: []webpush.App{{Key: key, Contact: contact}}, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return s, p
}

func registration(t *testing.T, s *webpushsim.Server, key string) delivery.Registration {
	t.Helper()
	sub, err := s.Subscribe(key)
	if err != nil {
		t.Fatal(err)
	}
	p256dh, err := base64.RawURLEncoding.DecodeString(sub.Keys.P256dh)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := base64.RawURLEncoding.DecodeString(sub.Keys.Auth)
	if err != nil {
		t.Fatal(err)
	}
	return delivery.Registration{Server: delivery.ServerWebPush, Kind: delivery.KindAlert, Token: sub.Endpoint, P256dh: p256dh, Auth: auth}
}

func push(t *testing.T, p *webpush.Pusher, r delivery.Registration, id string) *fallback.PushError {
	t.Helper()
	now := time.Now()
	n := &delivery.Notification{ID: id, Account: "anna", Title: "Über", Body: "🎉", CollapseKey: "", AcceptedAt: now, ExpiresAt: now.Add(time.Hour)}
	_, err := p.Push(t.Context(), fallback.Request{App: p.Apps()[0], Device: "browser", Registration: r, Notification: n, Attempt: 1})
	pe, _ := errors.AsType[*fallback.PushError](err)
	if err != nil && pe == nil {
		t.Fatal(err)
	}
	return pe
}

// TestPushes: a strict push service takes Heartline's pushes and decrypts the right content.
func TestPushes(t *testing.T) {
	s, p := start(t, "mailto:ops@example.com")
	r := registration(t, s, p.PublicKey())
	for _, id := range []string{"a", "b", "a"} {
		if pe := push(t, p, r, id); pe != nil {
			t.Fatal(pe)
		}
	}
	shown := s.Shown(r.Token)
	if len(shown) != 2 || shown[1].Tag != "a" || len(s.Received("")) != 3 || shown[0].Protocol != "HTTP/2.0" {
		t.Errorf("the browser shows %+v", shown)
	}
	var m struct {
		Notification struct{ Title, Body string } `json:"notification"`
	}
	if err := json.Unmarshal(shown[0].Message, &m); err != nil || m.Notification.Title != "Über" || m.Notification.Body != "🎉" {
		t.Errorf("got %s, %v", shown[0].Message, err)
	}
	s.Unsubscribe(r.Token)
	if pe := push(t, p, r, "c"); pe == nil || !pe.TokenGone {
		t.Errorf("after unsubscribing: %v", pe)
	}
}

// TestOtherKey: in the words of each push service, a subscription with another key is no
// fault of the application server.
func TestOtherKey(t *testing.T) {
	for _, service := range []string{webpushsim.ServiceApple, webpushsim.ServiceGoogle, webpushsim.ServiceMozilla} {
		s, p := startAs(t, service, "mailto:ops@example.com")
		if pe := push(t, p, registration(t, s, "another key"), "a"); pe == nil || !pe.Suspend || pe.ConfigFault {
			t.Errorf("%s: a subscription with another key: %v", service, pe)
		}
		if pe := push(t, p, registration(t, s, p.PublicKey()), "b"); pe != nil {
			t.Errorf("%s: %v", service, pe)
		}
	}
	if _, err := webpushsim.Start(webpushsim.Options{Service: "nobody"}); err == nil {
		t.Error("a service that nobody knows is taken")
	}
}

func TestScripts(t *testing.T) {
	s, p := start(t, "mailto:ops@example.com")
	r := registration(t, s, p.PublicKey())
	if err := s.Scripts.Add(simkit.Script{Status: 429, RetryAfter: "7", Times: 1}, simkit.Script{Action: simkit.ActionDrop, Times: 1}, simkit.Script{Action: simkit.ActionReset, Times: 1}); err != nil {
		t.Fatal(err)
	}
	if pe := push(t, p, r, "a"); pe == nil || !pe.Throttled || pe.RetryAfter != 7*time.Second {
		t.Errorf("got %v", pe)
	}
	if pe := push(t, p, r, "b"); pe == nil || pe.StatusCode != 0 || len(s.Shown(r.Token)) != 1 {
		t.Errorf("accepted, and no answer: %v", pe)
	}
	if pe := push(t, p, r, "c"); pe == nil || len(s.Shown(r.Token)) != 1 {
		t.Errorf("reset: %v", pe)
	}
	if pe := push(t, p, r, "d"); pe != nil || len(s.Scripts.List()) != 0 {
		t.Errorf("the scripts are used up: %v", pe)
	}
}

func TestSilentConnection(t *testing.T) {
	s, p := start(t, "mailto:ops@example.com")
	fallbacktest.SilentConnection(t, p, registration(t, s, p.PublicKey()), s.Silence, func() error {
		return s.Scripts.Add(simkit.Script{Action: simkit.ActionSilence, Times: 1})
	})
}

// TestRefusals: requests that a real push service refuses.
func TestRefusals(t *testing.T) {
	s, p := start(t, "mailto:ops@example.com")
	r := registration(t, s, "")
	if pe := push(t, p, r, "a"); pe != nil {
		t.Fatal(pe)
	}
	client := s.Client()
	post := func(change func(http.Header), body string) int {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.Token, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("TTL", "60")
		q.Header.Set("Content-Encoding", "aes128gcm")
		change(q.Header)
		res, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		return res.StatusCode
	}
	for name, tt := range map[string]struct {
		change func(http.Header)
		body   string
		want   int
	}{
		"no TTL":           {func(h http.Header) { h.Del("TTL") }, "", 400},
		"a long TTL":       {func(h http.Header) { h.Set("TTL", "2592001") }, "", 400},
		"a long topic":     {func(h http.Header) { h.Set("Topic", strings.Repeat("x", 33)) }, "", 400},
		"a bad topic":      {func(h http.Header) { h.Set("Topic", "a b") }, "", 400},
		"a bad urgency":    {func(h http.Header) { h.Set("Urgency", "now") }, "", 400},
		"an old encoding":  {func(h http.Header) { h.Set("Content-Encoding", "aesgcm") }, "", 400},
		"no authorization": {func(http.Header) {}, "", 401},
		"a bad token":      {func(h http.Header) { h.Set("Authorization", "vapid t=x, k=x") }, "", 403},
		"too large":        {func(http.Header) {}, strings.Repeat("x", 4097), 413},
	} {
		if got := post(tt.change, tt.body); got != tt.want {
			t.Errorf("%s: got %d, want %d", name, got, tt.want)
		}
	}
}

// TestControl: the control API answers people and programs on this machine, and not the
// pages of other sites.
func TestControl(t *testing.T) {
	s, _ := start(t, "mailto:ops@example.com")
	do := func(method, path, body string, change func(*http.Request)) (int, string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL()+path, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		change(q)
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	defer http.DefaultClient.CloseIdleConnections()
	plain := func(*http.Request) {}
	if code, text := do("POST", "/subscriptions", `{"application_server_key":""}`, plain); code != 201 || !strings.Contains(text, `"p256dh"`) {
		t.Errorf("got %d %s", code, text)
	}
	if code, text := do("POST", "/scripts", `[{"status":503,"delay":"5ms"},{"action":"hang"}]`, plain); code != 204 {
		t.Errorf("got %d %s", code, text)
	}
	for _, body := range []string{`{"status":99}`, `{"action":"explode"}`, `{"statu":503}`, `{"times":-1}`, `{`, ``} {
		if code, text := do("POST", "/scripts", body, plain); code != 400 || !strings.Contains(text, `"error"`) {
			t.Errorf("%s: got %d %s", body, code, text)
		}
	}
	if code, text := do("GET", "/wait?n=1&timeout=10ms", "", plain); code != 408 {
		t.Errorf("got %d %s", code, text)
	}
	for name, change := range map[string]func(*http.Request){
		"a page of another site": func(q *http.Request) { q.Header.Set("Origin", "https://evil.example") },
		"a sandboxed page":       func(q *http.Request) { q.Header.Set("Origin", "null") },
		"a rebound name":         func(q *http.Request) { q.Host = "evil.example" },
	} {
		if code, _ := do("DELETE", "/scripts", "", change); code != 403 {
			t.Errorf("%s: got %d", name, code)
		}
	}
	if len(s.Scripts.List()) != 2 {
		t.Error("a page of another site changed the scripts")
	}
}
