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

// TestSilentOrShown: a push is a background push where its backend asks for one, whatever the
// notification's texts, and an alert where its text stands in the overlay alone.
func TestSilentOrShown(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	a := apnsFor(t, s)
	for i, tt := range []struct {
		pushType, title, overlay, want string
	}{
		{"background", "Title", "", "background 5"},
		{"background", "", "", "background 5"},
		{"", "", "", "background 5"},
		{"", "", `{"payload":{"own":1}}`, "background 5"},
		{"", "", `{"payload":{"aps":{"alert":null}}}`, "background 5"},
		{"", "", `{"payload":{"aps":{"alert":{"title-loc-key":"T"}}}}`, "alert 10"},
		{"", "", `{"payload":{"aps":{"badge":3}}}`, "alert 10"},
		{"", "Title", `{"payload":{"aps":{"alert":{"subtitle":"s"}}}}`, "alert 10"},
	} {
		n := note("n")
		n.PushType, n.Title, n.Body = tt.pushType, tt.title, ""
		if tt.overlay != "" {
			n.Overlay = &delivery.Overlay{APNs: []byte(tt.overlay)}
		}
		if err := a.Fits(n); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		_, err := a.Push(t.Context(), fallback.Request{App: a.Apps()[0], Device: "phone", Registration: delivery.Registration{Token: hexToken(i)}, Notification: n, Attempt: 1})
		got := s.ReceivedFor(hexToken(i))
		if err != nil || len(got) != 1 || got[0].PushType+" "+got[0].Priority != tt.want {
			t.Errorf("%+v: got %+v, %v", tt, got, err)
		}
	}
	n := note("n")
	n.PushType, n.Overlay = "background", &delivery.Overlay{APNs: []byte(`{"headers":{"apns-priority":"10"}}`)}
	if fe, ok := errors.AsType[*delivery.FieldError](CheckContent(n)); !ok || fe.Field != "apns.headers.apns-priority" {
		t.Errorf("a background push of priority 10: %v", CheckContent(n))
	}
	n.PushType, n.Title, n.Body, n.BadgeAuto = "", "", "", true
	if err := CheckContent(n); err != nil {
		t.Errorf("a push of priority 10 that shows a badge: %v", err)
	}
}
