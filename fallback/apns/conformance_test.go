package apns_test

import (
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apns"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/fallback/fallbacktest"
)

func TestAPNsConforms(t *testing.T) {
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	fallbacktest.Run(t, fallbacktest.Harness{
		New: func(t *testing.T) fallback.Pusher {
			k := sim.Key()
			a, err := apns.New(apns.Config{
				Endpoint: sim.URL(), CAPEM: sim.CAPEM(),
				Apps: []apns.App{{Topic: "com.example.app", KeyPEM: k.PEM, KeyID: k.KeyID, TeamID: k.TeamID}},
			})
			if err != nil {
				t.Fatal(err)
			}
			return a
		},
		Token: delivery.Registration{Token: "00FFAA"},
		Bad: []delivery.Registration{
			{}, {Token: "xyz"}, {Token: "00ff0"}, {Token: "00ffaa/.."},
			{Token: "00ffaa", App: "com.example.else"}, {Token: "00ffaa", Environment: "moon"},
		},
		Hang: func() { sim.Script(apnssim.Script{Action: apnssim.ActionHang}) },
		Sent: func() (ids []string) {
			for _, r := range sim.Received() {
				ids = append(ids, r.APNsID+" "+r.CollapseID)
			}
			return ids
		},
	})
}
