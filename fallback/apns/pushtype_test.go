package apns

import (
	"errors"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// TestTopicsOfPushTypes: the stand-in knows each push type's topic on its own account.
func TestTopicsOfPushTypes(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	for pushType := range topicSuffixes {
		n := note("n")
		n.PushType = pushType
		if pushType == pushTypeBackground {
			n.Title, n.Body = "", ""
		}
		if pushType == "liveactivity" {
			n.Overlay = &delivery.Overlay{APNs: []byte(`{"payload":{"aps":{"event":"update","timestamp":1}}}`)}
		}
		if _, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: deviceToken}, Notification: n, Attempt: 1}); err != nil {
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
