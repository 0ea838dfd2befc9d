package fallback

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRouter(t testing.TB, opts Options) *Router {
	t.Helper()
	if opts.Content == nil {
		opts.Content = content
	}
	r, err := New(opts)
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

// content is the notification whose ID is its Seq.
func content(seq delivery.Seq) (*delivery.Notification, error) { return note(fmt.Sprint(seq)), nil }

// urgentWhere is content whose urgency is high for those Seqs, and normal for others.
func urgentWhere(urgent func(delivery.Seq) bool) func(delivery.Seq) (*delivery.Notification, error) {
	return func(seq delivery.Seq) (*delivery.Notification, error) {
		n := note(fmt.Sprint(seq))
		if !urgent(seq) {
			n.Urgency = delivery.UrgencyNormal
		}
		return n, nil
	}
}

func note(id string) *delivery.Notification {
	at := time.Now()
	return &delivery.Notification{
		ID: id, Account: "anna", Title: "Hello", Body: "World", Urgency: delivery.UrgencyHigh, Fallback: true,
		AcceptedAt: at, ExpiresAt: at.Add(time.Hour),
	}
}

// do pushes and waits for the result.
func do(t testing.TB, r *Router, p delivery.Push) delivery.PushResult {
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

func count(t testing.TB, r *Router, outcome string) (n uint64) {
	t.Helper()
	for _, s := range r.Status() {
		for k, v := range s.Counts {
			if k.Outcome == outcome {
				n += v
			}
		}
	}
	return n
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
