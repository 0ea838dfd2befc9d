package receipts_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// Example sends one event to a backend.
func Example() {
	taken := make(chan string)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		signed := strings.HasPrefix(r.Header.Get("Webhook-Signature"), "v1,")
		taken <- fmt.Sprint(strings.Split(string(body), ",")[0], " signed: ", signed)
	}))
	defer backend.Close()

	outbox, err := store.New(store.Options{Open: memory.Open})
	if err != nil {
		panic(err)
	}
	defer func() { _ = outbox.Close() }()
	core := delivery.New(delivery.Options{}, outbox, nil, slog.New(slog.DiscardHandler))
	tail := receipts.NewTail(core)
	defer tail.Stop()

	r, err := receipts.New(
		receipts.Options{Core: core, Tail: tail, Retain: time.Hour, Logger: slog.New(slog.DiscardHandler)},
		[]receipts.Webhook{{Name: "backend", URL: backend.URL, Secrets: [][]byte{bytes.Repeat([]byte("s"), 32)}}},
	)
	if err != nil {
		panic(err)
	}
	r.Start()
	defer r.Stop(context.Background())

	outbox.Commit(&delivery.Batch{Accept: []delivery.Acceptance{{Notification: &delivery.Notification{
		Seq: 1, ID: "n1", Account: "alice", Title: "Hello", AcceptedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}}}}, func(error) {})
	fmt.Println(<-taken)
	// Output: {"type":"accepted" signed: true
}
