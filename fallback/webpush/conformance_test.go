package webpush

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/fallbacktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	s := startService(t)
	var mu sync.Mutex
	var sent []string
	s.answers(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, r.Header.Get("Topic"))
		w.WriteHeader(http.StatusCreated)
	})
	good := subscription(t, s.URL+secretPath)
	bad := func(change func(*delivery.Registration)) delivery.Registration {
		r := good.Clone()
		change(&r)
		return r
	}
	fallbacktest.Run(t, fallbacktest.Harness{
		New:   func(t *testing.T) fallback.Pusher { return s.pusher(t, Config{AllowPrivate: loopback}) },
		Token: good,
		Bad: []delivery.Registration{
			bad(func(r *delivery.Registration) { r.Token = "" }),
			bad(func(r *delivery.Registration) { r.Token = "http://push.example/x" }),
			bad(func(r *delivery.Registration) { r.Token = "https://u:p@push.example/x" }),
			bad(func(r *delivery.Registration) { r.Token = "https://push.example/" + strings.Repeat("a", 1000) }),
			bad(func(r *delivery.Registration) { r.P256dh = nil }),
			bad(func(r *delivery.Registration) { r.Auth = r.Auth[1:] }),
			bad(func(r *delivery.Registration) { r.App = "BXXXXXXXXXXXXXXX" }),
			bad(func(r *delivery.Registration) { r.Environment = "production" }),
		},
		Hang: func() {
			s.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		},
		Sent: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), sent...)
		},
	})
}
