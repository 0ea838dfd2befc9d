package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is an API on a core, over real HTTP.
type service struct {
	*testing.T
	core    *delivery.Core
	store   *testStore
	api     *api.API
	metrics *metrics.Metrics
	server  *httptest.Server
	log     *logBuffer
	buffer  atomic.Int64 // of the server's side of new connections, in bytes; 0: as it is
}

// apple takes every push.
type apple struct{}

func (apple) Push(_ context.Context, _ delivery.Push, done func(delivery.PushResult)) {
	go done(delivery.PushResult{Outcome: delivery.PushAccepted, Detail: "200"})
}

// logBuffer is written by many.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, change ...func(*api.Options, *delivery.Options)) *service {
	t.Helper()
	s := &service{T: t, store: newStore(t), metrics: metrics.New(), log: &logBuffer{}}
	rules := delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived, TTL: 24 * time.Hour,
		MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: 60 * 24 * time.Hour,
	}
	opts := api.Options{Logger: slog.New(slog.NewTextHandler(s.log, nil)), Version: "1.2.3", Metrics: s.metrics}
	for _, c := range change {
		c(&opts, &rules)
	}
	s.core = delivery.New(rules, s.store, apple{}, slog.New(slog.DiscardHandler))
	s.core.Observe(s.metrics)
	if err := s.core.Start(); err != nil {
		t.Fatal(err)
	}
	if opts.Core == nil {
		opts.Core = s.core
	}
	s.api = api.New(opts)
	s.server = httptest.NewUnstartedServer(s.api)
	s.server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if n := s.buffer.Load(); n > 0 {
			_ = c.(*net.TCPConn).SetWriteBuffer(int(n))
		}
		return ctx
	}
	s.server.Start()
	t.Cleanup(func() {
		s.api.Close()
		s.server.Close()
		if err := s.core.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reply is an answer and its body.
type reply struct {
	*http.Response
	text string
}

func (s *service) do(method, path, body string, header ...string) reply {
	s.Helper()
	r, err := http.NewRequest(method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.server.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{resp, string(text)}
}

// want asserts a status and decodes the body.
func (s *service) want(r reply, status int, v any) {
	s.Helper()
	if r.StatusCode != status {
		s.Fatalf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, status, r.text)
	}
	if v == nil {
		return
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		s.Errorf("content type %q", ct)
	}
	if err := json.Unmarshal([]byte(r.text), v); err != nil {
		s.Fatalf("%v in %s", err, r.text)
	}
	if strings.Contains(r.text, "$schema") {
		s.Errorf("$schema in %s", r.text)
	}
}

// wantProblem asserts a problem and the beginning of its detail.
func (s *service) wantProblem(r reply, status int, detail string) {
	s.Helper()
	if r.StatusCode != status {
		s.Errorf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, status, r.text)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/problem+json" {
		s.Errorf("content type %q", ct)
	}
	var p struct {
		Title, Detail, Code string
		Status              int
	}
	if err := json.Unmarshal([]byte(r.text), &p); err != nil {
		s.Fatalf("%v in %s", err, r.text)
	}
	if p.Status != status || p.Title != http.StatusText(status) {
		s.Errorf("status %d, title %q in the body", p.Status, p.Title)
	}
	if api.CodeStatus(p.Code) != status {
		s.Errorf("code %q with status %d", p.Code, status)
	}
	if strings.Contains(p.Detail, "\n") {
		s.Errorf("more than one line: %q", p.Detail)
	}
	if !strings.HasPrefix(p.Detail, detail) {
		s.Errorf("detail:\n got %s\nwant %s", p.Detail, detail)
	}
}

func (s *service) device(account, id string) {
	s.Helper()
	if err := s.core.PutDevice(context.Background(), account, id, nil); err != nil {
		s.Fatal(err)
	}
}

func TestNotificationFromPostToDelete(t *testing.T) {
	s := serve(t)
	s.device("alice", "phone")
	s.device("alice", "tablet")
	var accepted struct {
		ID, Account, State string
		AcceptedAt         time.Time `json:"accepted_at"`
		Deliveries         []struct{ Device, State string }
	}
	body := `{"account":"alice","title":"Hi","body":"there","data":{"n":1e999},"id":"order-1","ttl":"90s","badge":0,"fallback":false}`
	first := s.do("POST", "/v1/notifications", body)
	s.want(first, 202, &accepted)
	if got := fmt.Sprint(accepted.ID, accepted.Account, accepted.State, accepted.Deliveries); got != "order-1alicepending[{phone pending} {tablet pending}]" {
		t.Error(got)
	}
	again := s.do("POST", "/v1/notifications", body)
	s.want(again, 200, nil)
	if again.text != first.text {
		t.Errorf("the first answer was %s, the second %s", first.text, again.text)
	}
	s.wantProblem(s.do("POST", "/v1/notifications", strings.Replace(body, "Hi", "Ho", 1)), 409, "notification order-1 was accepted at ")

	var got map[string]any
	s.want(s.do("GET", "/v1/notifications/order-1", ""), 200, &got)
	for k, want := range map[string]any{
		"id": "order-1", "account": "alice", "title": "Hi", "body": "there", "badge": 0.0, "ack": "received", "urgency": "high", "fallback": false,
		"has_message": true, "state": "waiting",
	} {
		if got[k] != want {
			t.Errorf("%s: %v, want %v", k, got[k], want)
		}
	}
	if got["data"] != nil || len(got["timeline"].([]any)) != 3 || len(got["deliveries"].([]any)) != 2 {
		t.Errorf("%v", got)
	}
	s.want(s.do("DELETE", "/v1/notifications/order-1", ""), 204, nil)
	s.want(s.do("DELETE", "/v1/notifications/order-1", ""), 204, nil)
	s.want(s.do("GET", "/v1/notifications/order-1", ""), 200, &got)
	if got["state"] != "cancelled" {
		t.Error(got["state"])
	}
	s.wantProblem(s.do("GET", "/v1/notifications/none", ""), 404, `there is no notification "none": it was not accepted here`)
	s.wantProblem(s.do("DELETE", "/v1/notifications/none", ""), 404, `there is no notification "none": it was not accepted here`)
}
