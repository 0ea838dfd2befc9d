package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestMendedDefault: a device's token names neither topic nor environment, and the
// configuration's are wrong. Apple refuses, the registration is suspended, and it is
// used with the mended default after a restart: nobody has to register again.
func TestMendedDefault(t *testing.T) {
	for _, c := range []struct{ key, wrong, right, reason string }{
		{"HEARTLINE_FALLBACK_APNS_ENVIRONMENT=", "production", "sandbox", "BadDeviceToken"},
		{"HEARTLINE_FALLBACK_APNS_TOPIC=", "com.example.typo", "com.example.app", "DeviceTokenNotForTopic"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			sim, env := apple(t)
			env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, c.key) })
			s := serve(t, append(env, c.key+c.wrong)...)
			s.register("alice", "phone", deviceToken(1))
			sim.Script(apnssim.Script{Status: http.StatusBadRequest, Reason: c.reason})
			events := s.events("")
			s.notify(`{"account":"alice","title":"x","id":"n"}`)
			events.until("token_suspended", "n")
			s.stop()
			sim.ClearScripts()
			sim.Clear()
			s.env = append(s.env, c.key+c.right) // the last one wins
			s.start()
			await(t, "the push", func() bool {
				return s.notification("n").State == "pushed" || s.notification("n").State == "waiting" && s.notification("n").Deliveries[0].Pushed
			})
			var d wire.DeviceView
			s.must(http.MethodGet, "/v1/accounts/alice/devices/phone", "", &d)
			if d.APNs == nil || d.APNs.Topic != "com.example.app" || len(d.Registrations) != 1 || d.Registrations[0].Suspended != nil {
				t.Errorf("the registry shows %+v", d)
			}
			if got := sim.Received(); len(got) != 1 || got[0].Topic != "com.example.app" {
				t.Errorf("Apple got %+v", got)
			}
			if c.right == "sandbox" && d.APNs.Environment != "sandbox" {
				t.Errorf("the registry shows %+v", d.APNs)
			}
		})
	}
}
