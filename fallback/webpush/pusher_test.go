package webpush

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
)

// service is a push service whose answers a test writes.
type service struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	calls  atomic.Int64
	last   atomic.Pointer[http.Request]
}

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		s.last.Store(r)
		_, _ = io.Copy(io.Discard, r.Body)
		if fn := s.answer.Load(); fn != nil {
			(*fn)(w, r)
			return
		}
		w.WriteHeader(http.StatusCreated)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *service) answers(fn http.HandlerFunc) { s.answer.Store(&fn) }

func (s *service) pusher(t *testing.T, cfg Config) *Pusher {
	t.Helper()
	text, err := credentials.GenerateVAPIDKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := credentials.ParseVAPIDKey(text)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Apps = []App{{Key: key, Contact: "mailto:ops@example.com"}}
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(s.Certificate())
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

const secretPath = "/push/capability-secret"

// subscription is what a browser of the service at base hands to a device.
func subscription(t *testing.T, endpoint string) delivery.Registration {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return delivery.Registration{Server: delivery.ServerWebPush, Kind: delivery.KindAlert, Token: endpoint, P256dh: key.PublicKey().Bytes(), Auth: make([]byte, authSize)}
}

func note() *delivery.Notification {
	now := time.Now()
	return &delivery.Notification{ID: "n1", Account: "anna", Title: "Title", Body: "Body", Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: now, ExpiresAt: now.Add(time.Hour)}
}

func request(p *Pusher, r delivery.Registration, n *delivery.Notification) fallback.Request {
	return fallback.Request{App: p.list[0], Device: "browser", Registration: r, Notification: n, Attempt: 1}
}

// refusal is the error of a push that is refused.
func refusal(t *testing.T, p *Pusher, r delivery.Registration, n *delivery.Notification) *fallback.PushError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := p.Push(ctx, request(p, r, n))
	pe, ok := errors.AsType[*fallback.PushError](err)
	if !ok {
		t.Fatalf("got %v, want a *fallback.PushError", err)
	}
	if s := pe.Error(); strings.Contains(s, "secret") || strings.Contains(s, "127.0.0.1") {
		t.Errorf("the error shows the endpoint or an address: %s", s)
	}
	return pe
}

// verdict is what an error asks for, in a word.
func verdict(pe *fallback.PushError) string {
	switch {
	case pe.TokenGone:
		return "gone"
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

// TestReactions is every answer that push services document, and the reaction to it.
func TestReactions(t *testing.T) {
	wns := http.Header{"X-Wns-Status": {"throttled"}}
	for _, tt := range []struct {
		name    string
		service string
		status  int
		header  http.Header
		body    string
		want    string
	}{
		{"accepted", "", 201, nil, "", "accepted"},
		{"accepted by a UnifiedPush distributor", "", 200, nil, "", "accepted"},
		{"accepted for later", "", 202, nil, "", "accepted"},
		{"gone", "", 410, nil, "", "gone"},
		{"unknown", "", 404, nil, `{"errno":102}`, "gone"},
		{"Mozilla: VAPID", serviceMozilla, 401, nil, `{"errno":109}`, "pause"},
		{"Apple: token", serviceApple, 403, nil, `{"reason":"BadJwtToken"}`, "pause"},
		{"Apple: other key", serviceApple, 403, nil, `{"reason":"VapidPkHashMismatch"}`, "suspend"},
		{"Google: other key", serviceGoogle, 403, nil, "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.", "suspend"},
		{"Apple: other key, as a 400", serviceApple, 400, nil, `{"reason":"VapidPkHashMismatch"}`, "suspend"},
		{"Apple: JWT, as a 400", serviceApple, 400, nil, `{"reason":"BadJwtToken"}`, "pause"},
		{"Apple: header, as a 400", serviceApple, 400, nil, `{"reason":"BadAuthorizationHeader"}`, "pause"},
		{"Apple: Topic", serviceApple, 400, nil, `{"reason":"BadWebPushTopic"}`, "permanent"},
		{"Mozilla: VAPID, as a 400", serviceMozilla, 400, nil, `{"errno":109}`, "pause"},
		{"Google: another sender", serviceGoogle, 403, nil, "MismatchSenderId", "suspend"},
		{"Google: old endpoint", serviceGoogle, 400, nil, "UnauthorizedRegistration", "suspend"},
		{"Mozilla: other key", serviceMozilla, 401, nil, `{"code":401,"errno":109,"error":"Unauthorized","message":"VAPID public key mismatch","more_info":"http://autopush.readthedocs.io/en/latest/http.html#error-codes"}`, "suspend"},
		{"Mozilla: JWT", serviceMozilla, 401, nil, `{"code":401,"errno":109,"error":"Unauthorized","message":"InvalidSignature","more_info":"http://autopush.readthedocs.io/en/latest/http.html#error-codes"}`, "pause"},
		{"Google: other key, in older words", serviceGoogle, 403, nil, "the key in the authorization header does not correspond to the sender ID used to subscribe this user. Please ensure you are using the correct sender ID and server Key from the Firebase console.\n", "suspend"},
		{"Google: old endpoint, as a page", serviceGoogle, 400, nil, "<HTML>\n<HEAD>\n<TITLE>UnauthorizedRegistration</TITLE>\n</HEAD>\n<BODY BGCOLOR=\"#FFFFFF\" TEXT=\"#000000\">\n<H1>UnauthorizedRegistration</H1>\n<H2>Error 400</H2>\n</BODY>\n</HTML>\n", "suspend"},
		{"Google: old endpoint, in words", serviceGoogle, 400, nil, "Unauthorized Registration", "suspend"},
		{"WNS: other key", serviceWindows, 401, http.Header{"X-Wns-Error-Description": {"JWT Authentication Failed, the public key does not match that of the channel Url"}}, "", "suspend"},
		{"WNS: JWT", serviceWindows, 401, http.Header{"X-Wns-Error-Description": {"JWT Authentication Failed, unable to validate token signature"}}, "", "pause"},
		{"a proxy's page", serviceGoogle, 403, nil, "<html><head><title>403 Forbidden</title></head></html>", "suspend"},
		{"Google: a URL of another interface", serviceGoogle, 401, nil, `{"error":{"code":401,"message":"Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.","status":"UNAUTHENTICATED"}}`, "suspend"},
		{"a page of nginx", "", 401, nil, "<html>\r\n<head><title>401 Authorization Required</title></head>", "suspend"},
		{"401 without a word", "", 401, nil, "", "suspend"},
		{"403 without a word", "", 403, nil, "", "suspend"},
		{"Mozilla: TTL", serviceMozilla, 400, nil, `{"errno":111}`, "permanent"},
		{"method", "", 405, nil, "", "permanent"},
		{"too large", "", 413, nil, "", "permanent"},
		{"media type", "", 415, nil, "", "permanent"},
		{"throttled", "", 429, http.Header{"Retry-After": {"30"}}, "", "throttle 30s"},
		{"throttled without a time", "", 429, nil, "", "throttle 0s"},
		{"ntfy, without a subscriber", "", 507, nil, `{"code":50701,"http":507,"error":"cannot publish to UnifiedPush topic without previously active subscriber"}`, "throttle 0s"},
		{"WNS takes it", serviceWindows, 201, http.Header{"X-Wns-Status": {"received"}, "X-Wns-Notificationstatus": {"received"}}, "", "accepted"},
		{"WNS drops it", serviceWindows, 201, http.Header{"X-Wns-Notificationstatus": {"dropped"}}, "", "throttle 15m0s"},
		{"WNS throttles, and says 200", serviceWindows, 200, http.Header{"X-Wns-Status": {"channelThrottled"}}, "", "throttle 15m0s"},
		{"another service with such a field", "", 201, http.Header{"X-Wns-Status": {"dropped"}}, "", "accepted"},
		{"WNS throttles", serviceWindows, 406, wns, "", "throttle 15m0s"},
		{"WNS throttles the app", serviceWindows, 406, http.Header{"X-Wns-Status": {"appthrottled"}, "Retry-After": {"900"}}, "", "busy 15m0s"},
		{"not acceptable elsewhere", serviceMozilla, 406, nil, "", "permanent"},
		{"timeout", "", 408, nil, "", "retry 0s"},
		{"fault", "", 500, nil, "", "retry 0s"},
		{"gateway", "", 502, nil, "<html>", "retry 0s"},
		{"overload", serviceMozilla, 503, http.Header{"Retry-After": {"120"}}, "", "retry 2m0s"},
		{"redirect", "", 307, http.Header{"Location": {"https://169.254.169.254/"}}, "", "permanent"},
		{"a proxy asks for credentials", "", 407, nil, "", "suspend"},
		{"teapot", "", 418, nil, "", "permanent"},
	} {
		err := reaction(tt.service, tt.status, tt.header, []byte(tt.body), time.Now())
		got := "accepted"
		if pe, ok := errors.AsType[*fallback.PushError](err); ok {
			got = verdict(pe)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s (%v)", tt.name, got, tt.want, err)
		}
	}
}

// TestServices: push services of one name share lanes where there are too many, so a device
// must not be able to make up more of them.
func TestServices(t *testing.T) {
	for host, want := range map[string]string{
		"fcm.googleapis.com": serviceGoogle, "fcm.googleapis.com:8443": serviceOther, "x.fcm.googleapis.com": serviceOther,
		"updates.push.services.mozilla.com": serviceMozilla, "made-up.push.services.mozilla.com": serviceOther,
		"web.push.apple.com": serviceApple, "made-up.push.apple.com": serviceOther,
		"wns2-par02p.notify.windows.com": serviceWindows, "wns2-par02p.notify.windows.com:8443": serviceOther, "notify.windows.com.evil.example": serviceOther,
	} {
		if got := Service(host); got != want {
			t.Errorf("%s: got %s, want %s", host, got, want)
		}
	}
}

// TestOneAccountDoesNotStopAService: a device may register any URL of a push service, also of
// another interface, which asks for credentials of its own.
func TestOneAccountDoesNotStopAService(t *testing.T) {
	s := startService(t)
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/good" {
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":401,"status":"UNAUTHENTICATED"}}`)
	})
	p := s.pusher(t, Config{AllowPrivate: loopback})
	r, err := fallback.New(fallback.Options{
		Pushers: []fallback.Pusher{p}, MaxConcurrent: 1, PauseInitial: time.Hour,
		Content: func(delivery.Seq) (*delivery.Notification, error) { return note(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(t.Context()) }()
	push := func(account, path string) <-chan delivery.PushResult {
		result := make(chan delivery.PushResult, 1)
		to := subscription(t, s.URL+path)
		to.App = p.list[0].Name
		r.Push(t.Context(), delivery.Push{Device: "d", Account: account, Attempt: 1, Registration: to}, func(res delivery.PushResult) { result <- res })
		return result
	}
	for i := range 20 {
		push("a", fmt.Sprintf("/bad%d", i))
	}
	select {
	case res := <-push("b", "/good"):
		if res.Outcome != delivery.PushAccepted {
			t.Errorf("got %+v", res)
		}
	case <-time.After(time.Minute):
		t.Errorf("no result; %+v", r.Status())
	}
}

// TestAnswerCutOff: an acceptance needs no more than its status. A refusal is no verdict without
// its reason, where the reason decides.
func TestAnswerCutOff(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	for status, want := range map[int]string{201: "accepted", 400: "retry 7s", 401: "retry 7s", 403: "retry 7s", 404: "gone", 410: "gone", 429: "throttle 7s"} {
		s.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		got := "accepted"
		_, err := p.Push(t.Context(), request(p, subscription(t, s.URL+secretPath), note()))
		if pe, ok := errors.AsType[*fallback.PushError](err); ok {
			got = verdict(pe)
		}
		if got != want {
			t.Errorf("%d: got %s, want %s (%v)", status, got, want, err)
		}
	}
}

// TestTooLargeIsTriedShorter: once, where there is something to shorten.
func TestTooLargeIsTriedShorter(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	var sizes []int64
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		sizes = append(sizes, r.ContentLength)
		if r.ContentLength > 3000 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	request := func(body string) fallback.Request {
		n := note()
		n.Body = body
		return fallback.Request{App: p.list[0], Device: "browser", Registration: subscription(t, s.URL+secretPath), Notification: n, Attempt: 1}
	}
	if _, err := p.Push(t.Context(), request(strings.Repeat("x", 3500))); err != nil || len(sizes) != 2 {
		t.Errorf("%v after requests of %v bytes", err, sizes)
	}
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		sizes = append(sizes, r.ContentLength)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	sizes = nil
	_, err := p.Push(t.Context(), request("short"))
	if pe, ok := errors.AsType[*fallback.PushError](err); !ok || !pe.Permanent || len(sizes) != 1 {
		t.Errorf("%v after requests of %v bytes", err, sizes)
	}
}

// TestReasonTellsNoSecret: a push service may repeat the endpoint in its answer.
func TestReasonTellsNoSecret(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	endpoint := s.URL + secretPath
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, "no such subscription %s\n\x1b[31m", endpoint)
	})
	if pe := refusal(t, p, subscription(t, endpoint), note()); pe.Reason != "no such subscription …" {
		t.Errorf("got %q", pe.Reason)
	}
}

func TestRequest(t *testing.T) {
	s := startService(t)
	now := time.Now()
	p := s.pusher(t, Config{AllowPrivate: loopback, Now: func() time.Time { return now }})
	to := subscription(t, s.URL+secretPath)
	push := func(change func(*delivery.Notification)) http.Header {
		t.Helper()
		n := note()
		n.ExpiresAt = now.Add(90*time.Second + time.Millisecond)
		change(n)
		if _, err := p.Push(t.Context(), request(p, to, n)); err != nil {
			t.Fatal(err)
		}
		r := s.last.Load()
		if r.ProtoMajor != 2 || r.Method != http.MethodPost || r.URL.Path != secretPath {
			t.Errorf("got %s %s HTTP/%d", r.Method, r.URL.Path, r.ProtoMajor)
		}
		return r.Header
	}
	h := push(func(*delivery.Notification) {})
	for name, want := range map[string]string{"Content-Encoding": "aes128gcm", "Ttl": "91", "Urgency": "high"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if topic := h.Get("Topic"); len(topic) != 32 {
		t.Errorf("Topic: got %q, want 32 characters", topic)
	}
	first, topic := h.Get("Authorization"), h.Get("Topic")
	if h := push(func(n *delivery.Notification) { n.ID, n.CollapseKey = "n2", "n1" }); h.Get("Authorization") != first || h.Get("Topic") != topic {
		t.Error("the VAPID token of an origin must be kept, and the topic follow the collapse key")
	}
	if h := push(func(n *delivery.Notification) { n.Urgency, n.TTLZero = delivery.UrgencyNormal, true }); h.Get("Urgency") != "normal" || h.Get("Ttl") != "0" {
		t.Errorf("got %v", h)
	}
	if h := push(func(n *delivery.Notification) { n.ExpiresAt = now.Add(30 * 24 * time.Hour) }); h.Get("Ttl") != "2419200" {
		t.Errorf("TTL: got %s, want 28 days", h.Get("Ttl"))
	}
	if h := push(func(n *delivery.Notification) { n.ExpiresAt = now }); h.Get("Ttl") != "1" {
		t.Errorf("TTL: got %s, want 1: 0 would mean now or never", h.Get("Ttl"))
	}
	now = now.Add(tokenUse)
	if h := push(func(*delivery.Notification) {}); h.Get("Authorization") == first {
		t.Error("the VAPID token was not renewed after", tokenUse)
	}
}

// TestForbiddenAddresses: nothing inside our network is ever connected to.
func TestForbiddenAddresses(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{})
	port := s.URL[strings.LastIndexByte(s.URL, ':'):]
	for _, host := range []string{"127.0.0.1", "localhost", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.0.0.1", "[64:ff9b::7f00:1]"} {
		pe := refusal(t, p, subscription(t, "https://"+host+port+secretPath), note())
		want := "suspend"
		if host == "localhost" { // a name may have another address at the next try
			want = "retry 0s"
		}
		if verdict(pe) != want || pe.Reason != "address not allowed" {
			t.Errorf("%s: got %s: %v", host, verdict(pe), pe)
		}
	}
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:10.0.0.1]"} {
		if _, err := p.Normalize(subscription(t, "https://"+host+"/x")); err == nil {
			t.Errorf("%s was registered", host)
		}
	}
	if n := s.calls.Load(); n != 0 {
		t.Errorf("the service got %d requests", n)
	}
}

// TestWrongAnswerOfTheDNS: a captive portal or a sinkhole may answer for a while. The subscription
// stays in use.
func TestWrongAnswerOfTheDNS(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	address := "198.18.0.1"
	tr := transport(p.guard, roots)
	tr.DialContext = func(ctx context.Context, network, hostPort string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(hostPort)
		if err != nil {
			return nil, err
		}
		return p.guard.dialer().DialContext(ctx, network, net.JoinHostPort(address, port))
	}
	p.client.Transport = h2pool.NewTransport(tr)
	to := subscription(t, "https://example.com"+s.URL[strings.LastIndexByte(s.URL, ':'):]+secretPath) // a name of its certificate
	if pe := refusal(t, p, to, note()); verdict(pe) != "retry 0s" || pe.Reason != "address not allowed" {
		t.Errorf("got %v", pe)
	}
	address = "127.0.0.1"
	if _, err := p.Push(t.Context(), request(p, to, note())); err != nil {
		t.Errorf("the DNS answers again: %v", err)
	}
}

// TestNoRedirect: a redirect leads nowhere, also to an address that would be allowed.
func TestNoRedirect(t *testing.T) {
	s, other := startService(t), startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+secretPath, http.StatusPermanentRedirect)
	})
	if pe := refusal(t, p, subscription(t, s.URL+secretPath), note()); verdict(pe) != "permanent" || other.calls.Load() != 0 {
		t.Errorf("got %s, and the target had %d requests", verdict(pe), other.calls.Load())
	}
}

func TestConnectionFailures(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	closed := httptest.NewTLSServer(http.NotFoundHandler())
	closed.Close()
	if pe := refusal(t, p, subscription(t, closed.URL+secretPath), note()); pe.Reason != "connection refused" || verdict(pe) != "retry 0s" {
		t.Errorf("got %v", pe)
	}
	text, err := credentials.GenerateVAPIDKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := credentials.ParseVAPIDKey(text)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := New(Config{Apps: []App{{Key: key, Contact: "mailto:ops@example.com"}}, AllowPrivate: loopback, RootCAs: x509.NewCertPool()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	if pe := refusal(t, stranger, subscription(t, s.URL+secretPath), note()); pe.Reason != "certificate" {
		t.Errorf("got %v", pe)
	}
	if tr := transport(p.guard, nil); tr.Proxy != nil || tr.TLSClientConfig.MinVersion != tls.VersionTLS12 {
		t.Error("a proxy would resolve names behind the guard's back")
	}
}

func TestNormalize(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{Allow: []string{"*.push.example"}})
	good := subscription(t, "https://A.push.example:443/x")
	got, err := p.Normalize(good)
	if err != nil || got.Token != "https://a.push.example/x" || got.App != p.list[0].Name {
		t.Errorf("got %+v, %v", got, err)
	}
	good.App = p.PublicKey()
	if got, err = p.Normalize(good); err != nil || got.App != p.list[0].Name {
		t.Errorf("a subscription that names the whole key: %q, %v", got.App, err)
	}
	for name, change := range map[string]func(*delivery.Registration){
		"another key":      func(r *delivery.Registration) { r.App = strings.Repeat("B", 20) },
		"a host elsewhere": func(r *delivery.Registration) { r.Token = "https://push.evil.example/secret" },
		"a short p256dh":   func(r *delivery.Registration) { r.P256dh = r.P256dh[:64] },
		"a point off the curve": func(r *delivery.Registration) {
			r.P256dh = append([]byte{4}, make([]byte, 64)...)
		},
		"a short auth":   func(r *delivery.Registration) { r.Auth = r.Auth[:15] },
		"an environment": func(r *delivery.Registration) { r.Environment = "production" },
	} {
		r := good.Clone()
		change(&r)
		if _, err := p.Normalize(r); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesOfAKey: a subscription names its application server key by its first characters,
// from 8 to all of them, or not at all. Each is pushed to.
func TestNamesOfAKey(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	r, err := fallback.New(fallback.Options{
		Pushers: []fallback.Pusher{p},
		Content: func(delivery.Seq) (*delivery.Notification, error) { return note(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(t.Context()) }()
	public := p.PublicKey()
	for i, app := range []string{"", public[:8], public[:appName], public[:20], public} {
		to := subscription(t, fmt.Sprintf("%s/%d", s.URL, i))
		to.App = app
		if _, err := r.Complete(to); err != nil {
			t.Errorf("%q is refused: %v", app, err)
		}
		result := make(chan delivery.PushResult, 1)
		r.Push(t.Context(), delivery.Push{Device: "d", Account: "anna", Attempt: 1, Registration: to}, func(res delivery.PushResult) { result <- res })
		if res := <-result; res.Outcome != delivery.PushAccepted {
			t.Errorf("%q: %+v", app, res)
		}
	}
}

// TestSubscriptionOfAFormerKey: where a new key comes first, and the former one after it, the
// subscriptions that the former one made go on. They name no key.
func TestSubscriptionOfAFormerKey(t *testing.T) {
	s := startService(t)
	former := s.pusher(t, Config{AllowPrivate: loopback})
	next := s.pusher(t, Config{AllowPrivate: loopback})
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("Authorization"), ", k="+former.PublicKey()) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions.")
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	cfg := Config{AllowPrivate: loopback, RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(s.Certificate())
	for _, p := range []*Pusher{next, former} {
		cfg.Apps = append(cfg.Apps, App{Key: p.apps[p.list[0].Name].key, Contact: "mailto:ops@example.com"})
	}
	both, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = both.Close() })
	to := subscription(t, s.URL+secretPath)
	for i, requests := range []int32{2, 3, 4} { // the first push finds the key
		if _, err := both.Push(t.Context(), request(both, to, note())); err != nil {
			t.Errorf("push %d: %v", i+1, err)
		}
		if got := s.calls.Load(); int32(got) != requests {
			t.Errorf("%d requests after push %d, want %d", got, i+1, requests)
		}
	}
	if pe := refusal(t, next, to, note()); verdict(pe) != "suspend" {
		t.Errorf("without the former key: %v", pe)
	}
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		reason := "VapidPkHashMismatch"
		if strings.HasSuffix(r.Header.Get("Authorization"), ", k="+former.PublicKey()) {
			reason = "BadJwtToken"
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, `{"reason":%q}`, reason)
	})
	for what, to := range map[string]delivery.Registration{"a new one": subscription(t, s.URL+"/x"), "one that it has made": to} {
		if pe := refusal(t, both, to, note()); verdict(pe) != "suspend" {
			t.Errorf("a fault of the former key, %s: %v, want a suspension: it must not pause the other", what, pe)
		}
	}
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), ", k="+former.PublicKey()) {
			w.Header().Set("X-WNS-Status", "appthrottled")
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		w.Header().Set("X-WNS-Error-Description", "JWT Authentication Failed, the public key does not match that of the channel Url")
		w.WriteHeader(http.StatusUnauthorized)
	})
	for what, to := range map[string]delivery.Registration{"a new one": subscription(t, s.URL+"/y"), "one that it has made": to} {
		if pe := refusal(t, both, to, note()); verdict(pe) != "throttle 15m0s" {
			t.Errorf("the former key is throttled, %s: %v, want that this subscription waits", what, pe)
		}
	}
	if next.Fingerprint(next.list[0]) == both.Fingerprint(next.list[0]) {
		t.Error("a suspension is not lifted when the former key is added")
	}
}
