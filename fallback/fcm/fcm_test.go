package fcm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deviceToken = "cXyZ-1_2:APA91b-secret"

// google is the token endpoint and messages:send, whose answers a test writes.
type google struct {
	*httptest.Server
	key   *rsa.PrivateKey
	life  atomic.Int64 // of an access token, seconds
	oauth atomic.Pointer[http.HandlerFunc]
	send  atomic.Pointer[http.HandlerFunc]

	mu       sync.Mutex
	issued   int      // access tokens so far
	revoked  int      // those up to this one are refused
	messages []string // bodies
}

func startGoogle(t testing.TB) *google {
	t.Helper()
	g := &google{}
	g.life.Store(3599)
	var err error
	if g.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if fn := g.oauth.Load(); fn != nil {
			(*fn)(w, r)
			return
		}
		claims := jwt.MapClaims{}
		_, err := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(g.URL+"/token"), jwt.WithIssuedAt()).
			ParseWithClaims(r.FormValue("assertion"), claims, func(*jwt.Token) (any, error) { return &g.key.PublicKey, nil })
		if err != nil || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || claims["scope"] != scope {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"Invalid JWT: %s"}`, strings.ReplaceAll(fmt.Sprint(err), `"`, "'"))
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.issued++
		_, _ = fmt.Fprintf(w, `{"access_token":"ya29.%d","expires_in":%d,"token_type":"Bearer"}`, g.issued, g.life.Load())
	})
	mux.HandleFunc("POST /v1/projects/shop-1/messages:send", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		g.messages = append(g.messages, string(body))
		var n int
		_, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer ya29.%d", &n)
		good := err == nil && n > g.revoked && n <= g.issued
		g.mu.Unlock()
		if !good {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":{"code":401,"status":"UNAUTHENTICATED","message":"Request had invalid authentication credentials."}}`)
			return
		}
		if fn := g.send.Load(); fn != nil {
			(*fn)(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"name":"projects/shop-1/messages/0:17"}`)
	})
	g.Server = httptest.NewUnstartedServer(mux)
	g.EnableHTTP2 = true
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

func (g *google) tokens() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.issued
}

func (g *google) requests() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.messages)
}

func (g *google) answerOAuth(fn http.HandlerFunc) { g.oauth.Store(&fn) }
func (g *google) answerSend(status int, header http.Header, body string) {
	var fn http.HandlerFunc = func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	g.send.Store(&fn)
}

func (g *google) accountFile(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(g.key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "shop-1", "private_key_id": "k1", "client_email": "push@shop-1.iam.gserviceaccount.com",
		"token_uri": g.URL + "/token", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (g *google) pusher(t testing.TB, now func() time.Time, style string) *Pusher {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(g.Certificate())
	p, err := New(Config{Apps: []App{{ServiceAccount: g.accountFile(t), Style: style, Channel: "orders"}}, Endpoint: g.URL, RootCAs: roots, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func note() *delivery.Notification {
	now := time.Now()
	return &delivery.Notification{ID: "n1", Account: "anna", Title: "Title", Body: "Body", Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: now, ExpiresAt: now.Add(time.Hour)}
}

func request(p *Pusher, n *delivery.Notification) fallback.Request {
	return fallback.Request{
		App: p.list[0], Device: "phone", Notification: n, Attempt: 1,
		Registration: delivery.Registration{Server: delivery.ServerFCM, App: "shop-1", Kind: delivery.KindAlert, Form: delivery.FormToken, Token: deviceToken},
	}
}

func refusal(t *testing.T, p *Pusher) *fallback.PushError {
	t.Helper()
	_, err := p.Push(t.Context(), request(p, note()))
	pe, ok := errors.AsType[*fallback.PushError](err)
	if !ok {
		t.Fatalf("got %v, want a *fallback.PushError", err)
	}
	if strings.Contains(pe.Error(), "secret") || strings.Contains(pe.Error(), "ya29") {
		t.Errorf("the error shows a secret: %v", pe)
	}
	return pe
}

func verdict(pe *fallback.PushError) string {
	switch {
	case pe.TokenGone:
		return "gone"
	case pe.Suspend && pe.NotToken:
		return "suspend, not the token's fault"
	case pe.Suspend:
		return "suspend"
	case pe.ConfigFault:
		return "pause"
	case pe.Permanent:
		return "permanent"
	case pe.Busy:
		return "busy " + pe.RetryAfter.String()
	case pe.Throttled:
		return "throttle " + pe.RetryAfter.String()
	}
	return "retry " + pe.RetryAfter.String()
}

// TestReactions is every answer of Google's table, and the reaction to it. One slip in a
// project brings the same 403 or 404 for every token: only UNREGISTERED ends one.
func TestReactions(t *testing.T) {
	coded := func(status int, text, message, code string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":%q,"details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}]}}`, status, message, text, code)
	}
	after := func(s string) http.Header { return http.Header{"Retry-After": {s}} }
	const details = `{"error":{"code":%d,"status":%q,"message":%q,"details":[{"@type":"type.googleapis.com/google.rpc.%s"}]}}`
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   string
	}{
		{"unregistered", 404, nil, coded(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"), "gone"},
		{"project unknown", 404, nil, `{"error":{"code":404,"status":"NOT_FOUND","message":"Requested entity was not found."}}`, "pause"},
		{"a proxy's 404", 404, nil, `<html>`, "pause"},
		{"sender mismatch", 403, nil, coded(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"), "suspend"},
		{"no permission", 403, nil, fmt.Sprintf(details, 403, "PERMISSION_DENIED", "Permission denied", `ErrorInfo","reason":"IAM_PERMISSION_DENIED`), "pause"},
		{"API off", 403, nil, fmt.Sprintf(details, 403, "PERMISSION_DENIED", "API has not been used", `ErrorInfo","reason":"SERVICE_DISABLED`), "pause"},
		{"malformed token", 400, nil, coded(400, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", "INVALID_ARGUMENT"), "suspend"},
		{"malformed fid", 400, nil, `{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"Invalid value","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.fid"}]}]}}`, "suspend"},
		{"malformed field", 400, nil, `{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"Invalid value","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.data[0].value"}]}]}}`, "permanent"},
		{"too big", 400, nil, coded(400, "INVALID_ARGUMENT", "Android message is too big", "INVALID_ARGUMENT"), "permanent"},
		{"no APNs key in the project", 401, nil, coded(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR"), "suspend, not the token's fault"},
		{"unauthenticated", 401, nil, `{"error":{"code":401,"status":"UNAUTHENTICATED"}}`, "pause"},
		{"quota", 429, nil, coded(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), "busy 1m0s"},
		{"quota, with a time", 429, after("120"), coded(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), "busy 2m0s"},
		{"quota, with a RetryInfo", 429, nil, `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"90s"}]}}`, "busy 1m30s"},
		{"a proxy asks for credentials", 407, nil, `<html>`, "pause"},
		{"another server's connection", 421, nil, "", "retry 0s"},
		{"unavailable, with a RetryInfo", 503, nil, `{"error":{"code":503,"status":"UNAVAILABLE","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"2.5s"}]}}`, "retry 2.5s"},
		{"sender mismatch, said in another status", 400, nil, coded(400, "INVALID_ARGUMENT", "SenderId mismatch", "SENDER_ID_MISMATCH"), "suspend"},
		{"a proxy's 410", 410, nil, `<html>`, "permanent"},
		{"rate of a device", 429, after("5"), coded(429, "RESOURCE_EXHAUSTED", "Device message rate exceeded", "QUOTA_EXCEEDED"), "throttle 5s"},
		{"rate of a device, said by the quota", 429, after("5"), `{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED","details":[` +
			`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"},` +
			`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"device:1","description":"Device message rate exceeded"}]}]}}`, "throttle 5s"},
		{"rate of the project, said by the quota", 429, nil, `{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED","details":[` +
			`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"project:1","description":"Message rate exceeded"}]}]}}`, "busy 1m0s"},
		{"a device token that Apple does not take", 400, nil, `{"error":{"code":400,"message":"Request contains an invalid argument.","status":"INVALID_ARGUMENT","details":[` +
			`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"},` +
			`{"@type":"type.googleapis.com/google.firebase.fcm.v1.ApnsError","statusCode":400,"reason":"BadDeviceToken"}]}}`, "suspend"},
		{"unavailable", 503, after("7"), coded(503, "UNAVAILABLE", "busy", "UNAVAILABLE"), "retry 7s"},
		{"internal", 500, nil, coded(500, "INTERNAL", "oops", "INTERNAL"), "retry 0s"},
		{"a proxy's 502", 502, nil, `<html>`, "retry 0s"},
		{"a portal's page", 200, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, "<html>Sign in</html>", "pause"},
		{"redirect", 302, http.Header{"Location": {"https://elsewhere.example/"}}, "", "pause"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := startGoogle(t)
			g.answerSend(tt.status, tt.header, tt.body)
			if pe := refusal(t, g.pusher(t, nil, "")); verdict(pe) != tt.want {
				t.Errorf("got %s, want %s (%v)", verdict(pe), tt.want, pe)
			}
		})
	}
}

// TestTooBigIsTriedShorter: once, with a payload that only announces the notification.
func TestTooBigIsTriedShorter(t *testing.T) {
	g := startGoogle(t)
	p := g.pusher(t, nil, "")
	var fn http.HandlerFunc = func(w http.ResponseWriter, _ *http.Request) {
		if g.requests() == 1 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"Android message is too big"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"name":"projects/shop-1/messages/0:18"}`)
	}
	g.send.Store(&fn)
	n := note()
	n.Body = strings.Repeat("x", 4000)
	receipt, err := p.Push(t.Context(), request(p, n))
	if err != nil || receipt != "0:18" || g.requests() != 2 || len(g.messages[1]) > shortPayload+512 {
		t.Errorf("got %q, %v after %d requests", receipt, err, g.requests())
	}
}

// TestAnswerCutOff: a 200 is an acceptance, also without the rest of the answer. A refusal is no
// verdict without its reason.
func TestAnswerCutOff(t *testing.T) {
	g := startGoogle(t)
	p := g.pusher(t, nil, "")
	cut := func(status int) {
		var fn http.HandlerFunc = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		g.send.Store(&fn)
	}
	cut(http.StatusOK)
	if _, err := p.Push(t.Context(), request(p, note())); err != nil || g.requests() != 1 {
		t.Errorf("a 200: %v after %d requests", err, g.requests())
	}
	for _, status := range []int{400, 401, 403, 404, 429} {
		cut(status)
		if pe := refusal(t, p); verdict(pe) != "retry 7s" || pe.StatusCode != status {
			t.Errorf("%d: got %s (%v)", status, verdict(pe), pe)
		}
	}
}

// TestFingerprint: an endpoint of another server can be the reason that every token is refused.
func TestFingerprint(t *testing.T) {
	g := startGoogle(t)
	prints := map[string]bool{}
	for _, endpoint := range []string{"", googleEndpoint, googleEndpoint + "/", "https://127.0.0.1:1", "https://127.0.0.1:2"} {
		p, err := New(Config{Apps: []App{{ServiceAccount: g.accountFile(t)}}, Endpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
		prints[p.Fingerprint(p.list[0])] = true
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	// Google's stays as it was before endpoints were a part of it.
	if len(prints) != 3 || !prints["shop-1 push@shop-1.iam.gserviceaccount.com k1"] {
		t.Errorf("got %v", prints)
	}
}

// TestOneTokenForAll: pushes at once share one access token, and one that has been
// revoked is replaced once.
func TestOneTokenForAll(t *testing.T) {
	g := startGoogle(t)
	p := g.pusher(t, nil, "")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if receipt, err := p.Push(t.Context(), request(p, note())); err != nil || receipt != "0:17" {
				t.Errorf("got %q, %v", receipt, err)
			}
		})
	}
	wg.Wait()
	if n := g.tokens(); n != 1 {
		t.Errorf("%d access tokens were asked for", n)
	}
	g.mu.Lock()
	g.revoked = g.issued
	g.mu.Unlock()
	if _, err := p.Push(t.Context(), request(p, note())); err != nil || g.tokens() != 2 {
		t.Errorf("after a revocation: %v, %d tokens", err, g.tokens())
	}
}

// TestTokenEndpointDown: the access token is renewed ahead; while that fails the old one
// is used to its end, and the operator is told.
func TestTokenEndpointDown(t *testing.T) {
	g := startGoogle(t)
	var mu sync.Mutex
	now := time.Now()
	pass := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	p := g.pusher(t, func() time.Time { mu.Lock(); defer mu.Unlock(); return now }, "")
	push := func() error { _, err := p.Push(t.Context(), request(p, note())); return err }
	renewal := func() {
		x := &p.apps["shop-1"].access
		x.mu.Lock()
		over := x.renewal
		x.mu.Unlock()
		if over != nil {
			<-over
		}
	}
	if err := push(); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	g.answerOAuth(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	pass(3599*time.Second - renewAhead/2)
	for range 20 { // of which one asks for a token
		if err := push(); err != nil {
			t.Fatalf("the old token still lives: %v", err)
		}
		renewal()
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d requests to the token endpoint within %s", n, renewPause)
	}
	if w := p.Credentials(p.list[0]).Warning; !strings.Contains(w, "cannot be renewed") {
		t.Errorf("warning %q", w)
	}
	pass(renewAhead)
	if pe := refusal(t, p); verdict(pe) != "retry 0s" {
		t.Errorf("a token endpoint that is down is a passing failure, got %v", pe)
	}
	g.answerOAuth(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token and in a reasonable timeframe."}`)
	})
	if pe := refusal(t, p); verdict(pe) != "pause" || !strings.Contains(pe.Help, "clock") {
		t.Errorf("a revoked key or a wrong clock: got %v", pe)
	}
	g.oauth.Store(nil)
	mu.Lock()
	now = time.Now()
	mu.Unlock()
	g.mu.Lock()
	g.revoked = g.issued
	g.mu.Unlock()
	if err := push(); err != nil {
		t.Errorf("the endpoint is back: %v", err)
	}
	if w := p.Credentials(p.list[0]).Warning; w != "" {
		t.Errorf("warning %q", w)
	}
}

// TestClockIsWrong: a machine whose clock is off by ten minutes is told so.
func TestClockIsWrong(t *testing.T) {
	g := startGoogle(t)
	p := g.pusher(t, func() time.Time { return time.Now().Add(10 * time.Minute) }, "")
	if pe := refusal(t, p); verdict(pe) != "pause" || !strings.Contains(pe.Help, "clock") {
		t.Errorf("got %v", pe)
	}
}

// TestCloseWaits: Close ends a request for a token, and no goroutine is left (goleak).
func TestCloseWaits(t *testing.T) {
	g := startGoogle(t)
	p := g.pusher(t, nil, "")
	asked := make(chan struct{})
	g.answerOAuth(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		_, _ = io.Copy(io.Discard, r.Body) // net/http watches the connection from here on
		<-r.Context().Done()
	})
	ended := make(chan error, 1)
	go func() { _, err := p.Push(context.Background(), request(p, note())); ended <- err }()
	<-asked
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("a push without a token was accepted")
	}
}

// TestNoAnswerSaysWhy: the timeline, and what an operator sees of the lane, name the cause.
func TestNoAnswerSaysWhy(t *testing.T) {
	for _, withToken := range []bool{false, true} {
		g := startGoogle(t)
		p := g.pusher(t, nil, "")
		if withToken {
			if _, err := p.Push(t.Context(), request(p, note())); err != nil {
				t.Fatal(err)
			}
		}
		g.Close()
		r, err := fallback.New(fallback.Options{Pushers: []fallback.Pusher{p}, Content: func(delivery.Seq) (*delivery.Notification, error) { return note(), nil }})
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan delivery.PushResult, 1)
		r.Push(t.Context(), delivery.Push{Device: "phone", Attempt: 1, Registration: request(p, note()).Registration}, func(res delivery.PushResult) { result <- res })
		want := "no answer: ask for an access token: "
		if withToken {
			want = "no answer: "
		}
		if res := <-result; res.Outcome != delivery.PushRetry || !strings.HasPrefix(res.Detail, want) || len(res.Detail) == len(want) || strings.Contains(res.Detail, "access token") == withToken {
			t.Errorf("with an access token %v: %+v", withToken, res)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
