package integration

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// dismissing connects a device of alice that subscribes to its dismissals, too.
func (s *server) dismissing(device string) *rawmqtt.Client {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	if _, err := c.Connect(rawmqtt.Connect{ID: device, Username: "alice", Keepalive: 60}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Subscribe(1, 1, "heartline/devices/"+device+"/notifications", "heartline/devices/"+device+"/dismissals"); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// wantDismissed reads the next packet of a device, which is to be a dismissal.
func wantDismissed(t *testing.T, c *rawmqtt.Client, id string) packets.Packet {
	t.Helper()
	pk := next(t, c)
	var d wire.Dismissal
	if err := json.Unmarshal(pk.Payload, &d); err != nil || d.ID != id || pk.FixedHeader.Qos != 1 {
		t.Fatalf("got %+v (%s), want the dismissal of %s", pk, pk.Payload, id)
	}
	return pk
}

// dismissals are the background pushes that take a notification off the screen.
func dismissals(sim *apnssim.Server, token string) (ids []string) {
	for _, r := range sim.ReceivedFor(token) {
		var body struct {
			APS       map[string]any `json:"aps"`
			Heartline struct {
				ID      string `json:"id"`
				Dismiss bool   `json:"dismiss"`
			} `json:"heartline"`
		}
		if json.Unmarshal(r.Payload, &body) == nil && body.Heartline.Dismiss && r.Status == 200 &&
			r.PushType == "background" && r.Priority == "5" && body.APS["content-available"] == 1.0 && len(body.APS) == 1 {
			ids = append(ids, body.Heartline.ID)
		}
	}
	return ids
}

// TestDismissalAcrossKills: one device says `read`, and it is taken away on the others:
// over the channel, again after a kill -9 until the PUBACK, and by one background push
// where the channel is down.
func TestDismissalAcrossKills(t *testing.T) {
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "tablet", deviceToken(1))
	events := s.events("?account=alice")
	phone, watch := s.dismissing("phone"), s.dismissing("watch")
	s.notify(`{"id":"n","account":"alice","title":"Dinner?"}`)
	for _, c := range []*rawmqtt.Client{phone, watch} {
		if err := c.Puback(next(t, c).PacketID); err != nil {
			t.Fatal(err)
		}
	}
	events.until("pushed", "n")
	if err := phone.Publish(7, 1, "heartline/devices/phone/acks", []byte(`{"id":"n","status":"read"}`)); err != nil {
		t.Fatal(err)
	}
	if pk := next(t, phone); pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 {
		t.Fatalf("got %+v, want the PUBACK of read", pk)
	}
	wantDismissed(t, watch, "n") // no PUBACK
	await(t, "the background push", func() bool { return len(dismissals(sim, deviceToken(1))) == 1 })
	await(t, "the push on record", func() bool {
		for _, e := range s.notification("n").Timeline {
			if e.Event == "dismissal_sent" && e.Device == "tablet" {
				return true
			}
		}
		return false
	})

	s.kill()
	s.start()
	watch = s.dismissing("watch")
	wantDismissed(t, watch, "n")
	s.kill() // before the PUBACK again
	s.start()
	events = s.events("?account=alice")
	watch = s.dismissing("watch")
	pk := wantDismissed(t, watch, "n")
	if err := watch.Puback(pk.PacketID); err != nil {
		t.Fatal(err)
	}
	events.untilOf("dismissed", "n", "watch")

	// The tablet is back: it gets the dismissal over the channel, and no second push.
	tablet := s.dismissing("tablet")
	pk = wantDismissed(t, tablet, "n")
	if err := tablet.Puback(pk.PacketID); err != nil {
		t.Fatal(err)
	}
	events.untilOf("dismissed", "n", "tablet")
	if got := dismissals(sim, deviceToken(1)); len(got) != 1 {
		t.Errorf("%d background pushes, want 1", len(got))
	}
	s.must(http.MethodPost, "/v1/notifications/n/dismissal", "", nil) // the phone alone may still show it
	pk = wantDismissed(t, s.dismissing("phone"), "n")
	if pk.TopicName != "heartline/devices/phone/dismissals" {
		t.Errorf("topic %s", pk.TopicName)
	}
	v := s.notification("n")
	count := map[string]int{}
	for _, e := range v.Timeline {
		count[e.Event+" "+e.Device]++
	}
	for want, n := range map[string]int{"read phone": 1, "dismissed watch": 1, "dismissed tablet": 1, "cancelled tablet": 1, "dismissal_sent tablet": 2, "displayed phone": 1} {
		if count[want] != n {
			t.Errorf("%d × %s, want %d:%s", count[want], want, n, timelineText(v))
		}
	}
}

// TestCancelTakesItOffScreens: also while it is erased, so that the push can read
// nothing of it.
func TestCancelTakesItOffScreens(t *testing.T) {
	sim, env := apple(t)
	s := serve(t, env...)
	s.register("alice", "tablet", deviceToken(1))
	events := s.events("?account=alice")
	s.notify(`{"id":"n","account":"alice","title":"Wrong person"}`)
	events.until("pushed", "n")
	s.must(http.MethodDelete, "/v1/notifications/n?erase=true", "", nil)
	await(t, "the background push", func() bool { return len(dismissals(sim, deviceToken(1))) == 1 })
	wantDismissed(t, s.dismissing("tablet"), "n")
}

// TestTerminalDismisses: `heartline terminal` takes the tip away when another device of
// the account has read it.
func TestTerminalDismisses(t *testing.T) {
	s := serve(t)
	phone := s.play("--background")
	phone.line("up")
	tablet := s.play("--background", "--device", "tablet", "--ack", "read")
	tablet.line("up")
	id := s.notify(`{"account":"alice","title":"Hello"}`)
	tablet.line("tip")
	if got := phone.line("tip").Notification; got.ID != id {
		t.Errorf("got %+v", got)
	}
	if got := phone.line("dismiss").Dismissal; got.ID != id {
		t.Errorf("got %+v", got)
	}
}
