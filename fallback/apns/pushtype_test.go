package apns

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// TestTopicsOfPushTypes: the stand-in knows each push type's topic on its own account.
func TestTopicsOfPushTypes(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	for i, pushType := range slices.Sorted(maps.Keys(topicSuffixes)) {
		n := note("n")
		n.PushType = pushType
		if pushType == pushTypeBackground {
			n.Title, n.Body = "", ""
		}
		if pushType == "liveactivity" {
			n.Overlay = &delivery.Overlay{APNs: []byte(`{"payload":{"aps":{"event":"update","timestamp":1}}}`)}
		}
		if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: hexToken(i)}, Notification: n, Attempt: 1}); err != nil {
			t.Errorf("%s: %v", pushType, err)
		}
	}
}

// TestRefusedPushType: what Apple says of one push type's topic says nothing of the app,
// nor of a registration of another kind.
func TestRefusedPushType(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	for _, tt := range []struct{ pushType, kind, reason, want string }{
		{"voip", "voip", "TopicDisallowed", "permanent"},
		{"", "alert", "TopicDisallowed", "suspend"},
		{"", "voip", "TopicDisallowed", "permanent"},
		{"controls", "alert", "BadTopic", "permanent"},
		{"controls", "alert", "DeviceTokenNotForTopic", "permanent"},
		{"voip", "alert", "DeviceTokenNotForTopic", "permanent"},
		{"", "voip", "DeviceTokenNotForTopic", "permanent"},
		{"voip", "voip", "DeviceTokenNotForTopic", "suspend"},
		{"liveactivity", "liveactivity:a", "DeviceTokenNotForTopic", "suspend"},
		{"", "alert", "DeviceTokenNotForTopic", "suspend"},
		{"", "alert", "BadTopic", "pause"},
	} {
		s.ClearScripts()
		s.Script(apnssim.Script{Status: 400, Reason: tt.reason})
		n := note("n")
		if n.PushType = tt.pushType; n.PushType == "liveactivity" {
			n.Overlay = &delivery.Overlay{APNs: []byte(`{"payload":{"aps":{"event":"update","timestamp":1}}}`)}
		}
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: deviceToken, Kind: tt.kind}, Notification: n, Attempt: 1})
		pe, ok := errors.AsType[*fallback.PushError](err)
		if !ok {
			t.Fatalf("got %v", err)
		}
		if got := map[string]bool{"permanent": pe.Permanent, "suspend": pe.Suspend, "pause": pe.ConfigFault}; !got[tt.want] || pe.Permanent && pe.Suspend || pe.Permanent && pe.ConfigFault {
			t.Errorf("%s to %s, %s: got %+v, want %s", tt.pushType, tt.kind, tt.reason, pe, tt.want)
		}
	}
}

// TestTopicDisallowed: a registration whose token Apple does not take for the app's own topic,
// such as a VoIP token registered as an alert token, does not hold up the others. The app pauses
// where most tokens are refused: the credentials may not push to it.
func TestTopicDisallowed(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, s)}})
	disallowed := apnssim.Script{Token: hexToken(1), Status: 400, Reason: "TopicDisallowed"}
	s.Script(disallowed)
	if res := do(t, r, pushTo(hexToken(1), "n")); res.Outcome != delivery.PushTokenSuspended || !strings.Contains(res.Detail, "TopicDisallowed") {
		t.Errorf("%+v", res)
	}
	if res := do(t, r, pushTo(hexToken(2), "n")); res.Outcome != delivery.PushAccepted {
		t.Errorf("the next one: %+v", res)
	}
	disallowed.Token = ""
	s.Script(disallowed)
	for i := range 4 {
		p := pushTo(hexToken(10+i), "n")
		p.Account = fmt.Sprint(i)
		do(t, r, p)
	}
	if got := r.Status()[0].State; got != "paused" {
		t.Errorf("5 of 6 tokens are refused: the app is %s, want paused", got)
	}
}
