package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// TestWaitingIsPushedLater: a delivery that waits is pushed when its device registers a
// token, when another token comes after a 410, and when Apple is switched on again.
func TestWaitingIsPushedLater(t *testing.T) {
	sim, env := apple(t)
	s := serve(t) // Apple is off
	s.must(http.MethodPut, "/v1/accounts/alice/devices/phone", `{}`, nil)
	s.notify(`{"id":"early","account":"alice","title":"Hello"}`)
	s.register("alice", "phone", deviceToken(1))
	s.notify(`{"id":"off","account":"alice","title":"Hello"}`)
	s.stop()

	s.env = append(s.env, env...)
	s.start()
	for _, id := range []string{"early", "off"} {
		await(t, "the push of "+id+" once Apple is on", func() bool { return s.notification(id).Deliveries[0].Pushed })
	}

	s.must(http.MethodPut, "/v1/accounts/bob/devices/watch", `{}`, nil)
	s.notify(`{"id":"no-token","account":"bob","title":"Hello"}`)
	await(t, "no-token to wait", func() bool { return s.notification("no-token").State == "waiting" })
	sim.Script(apnssim.Script{Token: deviceToken(2), Status: http.StatusGone, Reason: "Unregistered", Timestamp: time.Now().Add(time.Hour).UnixMilli()})
	s.register("bob", "watch", deviceToken(2))
	await(t, "the 410", func() bool {
		n := s.notification("no-token")
		return n.State == "waiting" && n.Timeline[len(n.Timeline)-2].Event == "token_removed"
	})
	s.register("bob", "watch", deviceToken(3))
	await(t, "the push to the new token", func() bool { return s.notification("no-token").Deliveries[0].Pushed })
}

// TestExtensionAckLeavesTheSession: an app extension acknowledges over HTTP, and the
// app's MQTT connection and session go on.
func TestExtensionAckLeavesTheSession(t *testing.T) {
	s := serve(t)
	events := s.events("?account=alice")
	app := s.raw(5, "alice", "phone")
	s.notify(`{"id":"n","account":"alice","title":"Hello","ack":"displayed"}`)
	if err := app.Puback(next(t, app).PacketID); err != nil {
		t.Fatal(err)
	}
	if status, body := s.call(http.MethodPost, "/v1/notifications/n/acks", `{"device":"phone","status":"displayed"}`); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	events.until("displayed", "n")
	if err := app.Ping(); err != nil {
		t.Fatal(err)
	}
	if pk := next(t, app); pk.FixedHeader.Type != packets.Pingresp {
		t.Fatalf("got %+v, want a PINGRESP on the same connection", pk)
	}
	s.notify(`{"id":"later","account":"alice","title":"Hello"}`)
	if pk := next(t, app); string(pk.Properties.CorrelationData) != "later" {
		t.Errorf("got %+v", pk)
	}
}
