package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestDashboardNamesTheCause plants failures. One page names the cause of each, as the
// walk-through in docs/operating.md says.
func TestDashboardNamesTheCause(t *testing.T) { //nolint:tparallel // its cases share one browser
	t.Parallel()
	c := browse(t)
	open := func(t *testing.T, s *server, path string) board {
		t.Helper()
		dashboardBuilt(t, s)
		c.t = t
		b := board{c.open(s.http + "/dashboard/#" + path), s}
		b.look(look{})
		return b
	}
	says := func(b board, where, what string) {
		b.t.Helper()
		b.until(fmt.Sprintf("document.querySelector(%q)?.innerText.includes(%q)", where, what))
		b.screenshot("page")
	}

	t.Run("the key for Apple is wrong", func(t *testing.T) {
		_, env := apple(t)
		for i, e := range env {
			if strings.HasPrefix(e, "HEARTLINE_FALLBACK_APNS_TEAM_ID=") {
				env[i] = "HEARTLINE_FALLBACK_APNS_TEAM_ID=WRONGTEAM1"
			}
		}
		s := serve(t, env...)
		s.register("alice", "phone", deviceToken(1))
		events := s.events("")
		s.notify(`{"account":"alice","title":"x","id":"key"}`)
		events.until("push_retry", "key")
		b := open(t, s, "/")
		says(b, ".health", "InvalidProviderToken")
		says(b, "main", "paused")
	})

	t.Run("the device is half open", func(t *testing.T) {
		s := serve(t, "HEARTLINE_DELIVERY_ACK_WINDOW=300ms")
		d, err := rawmqtt.Dial(s.mqtt, 5)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Connect(rawmqtt.Connect{ID: "phone", Username: "alice", Keepalive: 60}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Subscribe(1, 1, "heartline/devices/phone/notifications"); err != nil {
			t.Fatal(err)
		}
		events := s.events("")
		s.notify(`{"account":"alice","title":"x","id":"half"}`) // never acknowledged
		events.until("ack_timeout", "half")
		b := open(t, s, "/notifications/half")
		says(b, ".timeline", "No acknowledgement in the window")
		b.to("/accounts/alice/devices/phone", ".facts")
		says(b, ".facts", "up")
	})

	t.Run("the registration is gone", func(t *testing.T) {
		sim, env := apple(t)
		s := serve(t, env...)
		s.register("alice", "phone", deviceToken(1))
		sim.Script(apnssim.Script{Status: http.StatusGone, Reason: "Unregistered", Timestamp: time.Now().Add(time.Minute).UnixMilli()})
		events := s.events("")
		s.notify(`{"account":"alice","title":"x","id":"gone"}`)
		events.until("waiting", "gone")
		b := open(t, s, "/accounts/alice/devices/phone")
		says(b, "main", "Unregistered")
		says(b, "main", "ended")
	})

	t.Run("the disk is nearly full", func(t *testing.T) {
		s := serve(t, "HEARTLINE_STORE_MIN_FREE=1000TiB")
		b := open(t, s, "/")
		says(b, ".health", "not ready")
		says(b, ".health", "the disk is nearly full")
	})

	t.Run("the authentication service is down", func(t *testing.T) {
		var down atomic.Bool
		who := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			fmt.Fprint(w, `{"account":"operator","role":"admin"}`)
		}))
		defer who.Close()
		s := serve(t, "HEARTLINE_AUTH_MODE=http", "HEARTLINE_AUTH_HTTP_URL="+who.URL)
		dashboardBuilt(t, s)
		c.t = t
		b := board{c.open(s.http + "/"), s}
		b.until(`document.activeElement?.id === "token"`)
		b.do("Input.insertText", dict{"text": "an-operator"})
		b.press("Enter")
		b.until(`document.querySelector(".tiles strong")`)
		down.Store(true)
		d, err := rawmqtt.Dial(s.mqtt, 5)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if pk, err := d.Connect(rawmqtt.Connect{ID: "phone", Username: "alice", Keepalive: 60}); err != nil || pk.ReasonCode == 0 {
			t.Fatalf("a login while nobody can check it: 0x%02x %v", pk.ReasonCode, err)
		}
		says(b, ".health", "auth.http.url says 502")
		s.stderr.until(t, "authentication service failed, logins that it decides are refused until it answers")
		status, ready := s.call(http.MethodGet, "/readyz", "")
		if status != http.StatusOK || !strings.Contains(string(ready), "auth.http.url says 502") {
			t.Errorf("/readyz: %d %s", status, ready)
		}
		if _, figures := s.call(http.MethodGet, "/metrics", ""); !strings.Contains(string(figures), "\nheartline_auth_service_up 0\n") {
			t.Error("the metric says that it is up")
		}
	})
}
