package webpush

import (
	"net/http"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestTokenFollowsTheWallClock: the token's end is a time of the wall clock, which is set,
// and goes on while the machine is suspended.
func TestTokenFollowsTheWallClock(t *testing.T) {
	for _, tt := range []struct {
		set    time.Duration
		renews bool
	}{
		{-24 * time.Hour, true}, // the end of the token is more than 24 h away
		{-10 * time.Minute, false},
		{10 * time.Minute, false},
		{tokenUse, true},
		{24 * time.Hour, true}, // it has ended
	} {
		now := time.Now()
		p := startService(t).pusher(t, Config{Now: func() time.Time { return now }})
		signer := p.apps[p.list[0].Name]
		first, err := signer.authorization("https://push.example")
		if err != nil {
			t.Fatal(err)
		}
		now = testtool.Stepped(now, tt.set)
		second, err := signer.authorization("https://push.example")
		if err != nil {
			t.Fatal(err)
		}
		if (second != first) != tt.renews {
			t.Errorf("wall clock set by %v: a new token: %v, want %v", tt.set, second != first, tt.renews)
		}
	}
}

// TestRefusedTokenIsRenewed: but not before it is an hour old.
func TestRefusedTokenIsRenewed(t *testing.T) {
	now := time.Now()
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback, Now: func() time.Time { return now }})
	to := subscription(t, s.URL+secretPath)
	push := func(status int) string {
		t.Helper()
		s.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if _, err := p.Push(t.Context(), request(p, to, note())); (err == nil) != (status == http.StatusCreated) {
			t.Fatal(err)
		}
		return s.last.Load().Header.Get("Authorization")
	}
	first := push(http.StatusForbidden)
	now = now.Add(30 * time.Minute)
	if push(http.StatusUnauthorized) != first {
		t.Error("a second token within the hour")
	}
	now = now.Add(31 * time.Minute)
	push(http.StatusForbidden)
	second := push(http.StatusCreated)
	if second == first {
		t.Error("the refused token is still used")
	}
	now = now.Add(2 * time.Hour)
	if push(http.StatusServiceUnavailable); push(http.StatusCreated) != second {
		t.Error("a new token after an answer that does not refuse it")
	}
}

// TestTokenOutlivesItsPusher: a changed configuration makes another Pusher. Apple asks for at
// most one new token an hour.
func TestTokenOutlivesItsPusher(t *testing.T) {
	s := startService(t)
	first := s.pusher(t, Config{})
	app := App{Key: first.apps[first.list[0].Name].key, Contact: "mailto:ops@example.com"}
	header := func(p *Pusher) string {
		t.Helper()
		h, err := p.apps[p.list[0].Name].authorization("https://push.example")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	before := header(first)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for contact, same := range map[string]bool{app.Contact: true, "mailto:other@example.com": false} {
		p, err := New(Config{Apps: []App{{Key: app.Key, Contact: contact}}, Allow: []string{"*.example"}, Former: first})
		if err != nil {
			t.Fatal(err)
		}
		if got := header(p) == before; got != same {
			t.Errorf("%s: the same token: %v, want %v", contact, got, same)
		}
		_ = p.Close()
	}
}
