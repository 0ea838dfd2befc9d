package receipts_test

import (
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// TestSignature compares with the example of the Standard Webhooks libraries.
func TestSignature(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1614265330, 0)
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := receipts.Signatures([][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	both := receipts.Signatures([][]byte{secret, key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`))
	if first, second, ok := strings.Cut(both, " "); !ok || second != want || first == second {
		t.Errorf("while the secret changes: %s", both)
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 30, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-5": 0, "0": 0, "90": 90 * time.Second, "86401": 24 * time.Hour, "2147483648": 24 * time.Hour,
		"9223372036854775807": 24 * time.Hour, "99999999999999999999": 24 * time.Hour, "-99999999999999999999": 0,
		"Fri, 27 Nov 2026 09:31:00 GMT": time.Minute, "Fri, 27 Nov 2026 09:29:00 GMT": 0, "Fri, 27 Nov 2099 09:31:00 GMT": 24 * time.Hour,
	} {
		if got := receipts.RetryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// TestAnswers: what a receiver can answer, and what an operator is told.
func TestAnswers(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	slow := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body); <-slow })
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: half\r\n")
		_ = c.Close()
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "half of the body")
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for w, more := io.Writer(w), true; more; {
			_, err := io.WriteString(w, strings.Repeat("x", 1<<16))
			more = err == nil
		}
	})
	mux.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of\norder", 500) })
	receiver := httptest.NewServer(mux)
	defer receiver.Close()
	defer close(slow)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + nobody.Addr().String()
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}

	outbox, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outbox.Close() }()
	core := delivery.New(delivery.Options{}, outbox, nil, slog.New(slog.DiscardHandler))
	tail := receipts.NewTail(core)
	defer tail.Stop()
	for _, c := range []struct {
		url    string
		status int
		err    string
	}{
		{receiver.URL + "/ok", 200, ""},
		{receiver.URL + "/redirect", 308, "answered 308: redirects are not followed, set url to the address itself"},
		{receiver.URL + "/slow?key=k", 0, "no answer within 300ms"},
		{receiver.URL + "/half", 0, "the connection was closed before the answer"},
		{receiver.URL + "/cut", 200, ""},
		{receiver.URL + "/endless", 200, ""},
		{receiver.URL + "/500", 500, "answered 500: out of"},
		{closed, 0, "dial tcp "},
	} {
		timeout := time.Minute
		if strings.Contains(c.url, "slow") {
			timeout = 300 * time.Millisecond
		}
		r, err := receipts.New(receipts.Options{Core: core, Tail: tail, Retain: time.Hour, Logger: slog.New(slog.DiscardHandler)},
			[]receipts.Webhook{{Name: "backend", URL: c.url, Secrets: [][]byte{secret}, Timeout: timeout}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Test(t.Context(), "backend")
		if err != nil || got.Status != c.status || !strings.HasPrefix(got.Error, c.err) || (got.Error == "") != (c.err == "") || strings.Contains(got.Error, "\n") {
			t.Errorf("%s: %+v, %v; want %d %s", c.url, got, err, c.status, c.err)
		}
		r.Stop(context.Background())
	}
	if followed.Load() != 0 {
		t.Error("a redirect was followed")
	}
}
