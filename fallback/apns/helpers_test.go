package apns

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	topic       = "com.example.app"
	deviceToken = "00ff10ab"
)

func startSim(t testing.TB, opts apnssim.Options) *apnssim.Server {
	t.Helper()
	s, err := apnssim.Start(opts)
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

// apnsFor is the Apple side for a simulator, of one app in both environments.
func apnsFor(t testing.TB, s *apnssim.Server, topics ...string) *Client {
	t.Helper()
	if len(topics) == 0 {
		topics = []string{topic}
	}
	k := s.Key()
	cfg := Config{Endpoint: s.URL(), CAPEM: s.CAPEM()}
	for _, tp := range topics {
		cfg.Apps = append(cfg.Apps, App{Topic: tp, KeyPEM: k.PEM, KeyID: k.KeyID, TeamID: k.TeamID})
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func newRouter(t testing.TB, opts fallback.Options) *fallback.Router {
	t.Helper()
	opts.Content = content
	r, err := fallback.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func note(id string) *delivery.Notification {
	at := time.Now()
	return &delivery.Notification{
		ID: id, Account: "anna", Title: "Hello", Body: "World", Urgency: delivery.UrgencyHigh, Fallback: true,
		AcceptedAt: at, ExpiresAt: at.Add(time.Hour),
	}
}

// contents holds the notifications that the pushes of pushTo name by their Seq.
var (
	contents sync.Map
	lastSeq  atomic.Uint64
)

func content(seq delivery.Seq) (*delivery.Notification, error) {
	n, ok := contents.Load(seq)
	if !ok {
		return nil, delivery.ErrNotFound
	}
	return n.(*delivery.Notification), nil
}

func pushTo(token, id string) delivery.Push { return pushNote(token, note(id)) }

func pushNote(token string, n *delivery.Notification) delivery.Push {
	seq := delivery.Seq(lastSeq.Add(1))
	contents.Store(seq, n)
	return delivery.Push{
		Seq: seq, Device: "phone", Attempt: 1, ExpiresAt: n.ExpiresAt,
		Registration: delivery.Registration{Server: delivery.ServerAPNs, Token: token, App: topic, Environment: EnvironmentProduction},
	}
}

// do pushes and waits for the result.
func do(t testing.TB, r *fallback.Router, p delivery.Push) delivery.PushResult {
	t.Helper()
	c := make(chan delivery.PushResult, 1)
	r.Push(context.Background(), p, func(res delivery.PushResult) { c <- res })
	select {
	case res := <-c:
		return res
	case <-time.After(time.Minute):
		t.Fatal("no result")
		return delivery.PushResult{}
	}
}

// logBuffer is a logger's output.
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

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func hexToken(i int) string { return fmt.Sprintf("%08x", i) }
