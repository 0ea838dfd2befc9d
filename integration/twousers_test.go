package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

var inFlight = regexp.MustCompile(`(?m)^heartline_push_in_flight\{.*\} [1-9]`)

// TestTwoUsersOfOnePhone: alice signs out of a phone while pushes wait for her, and bob
// signs in with the same phone and the same push token. Nothing of alice's reaches the
// token after her sign-out, over MQTT and over HTTP.
func TestTwoUsersOfOnePhone(t *testing.T) {
	token := deviceToken(7)
	connect := func(t *testing.T, s *server, account string) *rawmqtt.Client {
		c, err := rawmqtt.Dial(s.mqtt, 5)
		if err != nil {
			t.Fatal(err)
		}
		if ack, err := c.Connect(rawmqtt.Connect{ID: "phone", Username: account, Keepalive: 60, SessionExpiry: 3600}); err != nil || ack.ReasonCode != 0 {
			t.Fatalf("%s connects: %+v, %v", account, ack, err)
		}
		return c
	}
	publish := func(t *testing.T, c *rawmqtt.Client, topic, payload string) {
		if err := c.Publish(9, 1, topic, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		if pk, err := c.Read(patience); err != nil || pk.ReasonCode >= 0x80 {
			t.Fatalf("publish to %s: %+v, %v", topic, pk, err)
		}
	}
	for _, way := range []struct {
		name    string
		signIn  func(t *testing.T, s *server, account string)
		signOut func(t *testing.T, s *server, account string)
	}{
		{"MQTT", func(t *testing.T, s *server, account string) {
			c := connect(t, s, account)
			defer c.Close()
			publish(t, c, "heartline/devices/phone/push-token", fmt.Sprintf(`{"apns":{"token":%q}}`, token))
		}, func(t *testing.T, s *server, account string) {
			c := connect(t, s, account)
			defer c.Close()
			publish(t, c, "heartline/devices/phone/sign-out", `{}`)
		}},
		{"HTTP", func(_ *testing.T, s *server, account string) {
			s.register(account, "phone", token)
		}, func(_ *testing.T, s *server, account string) {
			s.must(http.MethodDelete, "/v1/accounts/"+account+"/devices/phone", "", nil)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			sim, env := apple(t)
			s := serve(t, append(env, "HEARTLINE_FALLBACK_APNS_RETRY_INITIAL=100ms", "HEARTLINE_FALLBACK_APNS_RETRY_MAX=200ms")...)
			way.signIn(t, s, "alice")
			s.awaitDown("alice", "phone")
			sim.Script(apnssim.Script{Status: 503, Reason: "ServiceUnavailable", Times: 1_000_000})
			var hers []string
			for i := range 40 {
				hers = append(hers, s.notify(fmt.Sprintf(`{"account":"alice","title":"for alice %d"}`, i)))
			}
			await(t, "a refused push", func() bool { return len(sim.ReceivedFor(token)) > 0 })
			way.signOut(t, s, "alice")
			signedOut := time.Now()
			await(t, "the end of the requests that were under way", func() bool { // they still get the script's answer
				_, metrics := s.call(http.MethodGet, "/metrics", "")
				return strings.Contains(string(metrics), "\nheartline_push_in_flight{") && !inFlight.Match(metrics)
			})
			sim.ClearScripts()
			way.signIn(t, s, "bob")
			his := s.notify(`{"account":"bob","title":"for bob"}`)
			await(t, "bob's push", func() bool { return s.notification(his).State == "pushed" })
			for _, id := range hers {
				if n := s.notification(id); n.State != "cancelled" {
					t.Errorf("%s of alice is %s after her sign-out", id, n.State)
				}
			}
			for _, p := range sim.ReceivedFor(token) {
				var payload struct{ Heartline struct{ ID string } }
				if err := json.Unmarshal(p.Payload, &payload); err != nil {
					t.Fatal(err)
				}
				if p.Status == http.StatusOK && payload.Heartline.ID != his {
					t.Errorf("%s of alice was shown at %s, her sign-out was answered at %s", payload.Heartline.ID, p.Time, signedOut)
				}
			}
			var list wire.NotificationList
			s.must(http.MethodGet, "/v1/notifications?account=bob", "", &list)
			if len(list.Notifications) != 1 || list.Notifications[0].ID != his {
				t.Errorf("bob has %+v", list.Notifications)
			}
			s.stop()
		})
	}
}
