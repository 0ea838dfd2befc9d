package wire_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestViews: what contract §4 promises, to the letter.
func TestViews(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 30, 0, 1_500_000, time.FixedZone("CET", 3600))
	badge := 0
	full := &delivery.Notification{
		ID: "n1", Account: "alice", Title: "T", Body: "B", Badge: &badge, Sound: "s", Category: "c", CollapseKey: "k",
		Ack: delivery.AckDisplayed, Urgency: delivery.UrgencyNormal, HasMessage: true, AcceptedAt: at, ExpiresAt: at.Add(time.Hour), Devices: []string{"phone"},
	}
	bare := &delivery.Notification{ID: "n2", Account: "bob", Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh, Fallback: true, AcceptedAt: at, ExpiresAt: at}
	view := &delivery.View{
		Notification: full, State: delivery.StatePushed,
		Deliveries: []delivery.DeliveryState{{Device: "phone", State: delivery.StatePushed, Attempts: 2, Pushed: true}},
		Timeline: []delivery.Event{
			{Time: at, Kind: delivery.EventAccepted},
			{Time: at.Add(time.Second), Kind: delivery.EventPushed, Device: "phone", Attempt: 2, Detail: "200"},
		},
	}
	for name, c := range map[string]struct {
		v    any
		want string
	}{
		"accepted":            {wire.NewAccepted(delivery.Receipt{Notification: full, Repeated: true, State: delivery.StatePending, Deliveries: []delivery.DeliveryState{{Device: "phone", State: delivery.StatePending}}}), `{"id":"n1","account":"alice","state":"pending","accepted_at":"2026-11-23T05:30:00.001Z","deliveries":[{"device":"phone","state":"pending"}]}`},
		"accepted, no device": {wire.NewAccepted(delivery.Receipt{Notification: bare, Repeated: true, State: delivery.StateWaiting}), `{"id":"n2","account":"bob","state":"waiting","accepted_at":"2026-11-23T05:30:00.001Z","deliveries":[]}`},
		"full":                {wire.NewNotificationView(view, true), `{"id":"n1","account":"alice","title":"T","body":"B","badge":0,"sound":"s","category":"c","collapse_key":"k","ack":"displayed","urgency":"normal","fallback":false,"has_message":true,"accepted_at":"2026-11-23T05:30:00.001Z","expires_at":"2026-11-23T06:30:00.001Z","state":"pushed","deliveries":[{"device":"phone","state":"pushed","attempts":2,"pushed":true,"verdict":"Pushed to phone at 2026-11-23T05:30:01.001Z, not acknowledged yet"}],"timeline":[{"time":"2026-11-23T05:30:00.001Z","event":"accepted"},{"time":"2026-11-23T05:30:01.001Z","event":"pushed","device":"phone","attempt":2,"detail":"200"}],"verdict":"Pushed to phone at 2026-11-23T05:30:01.001Z, not acknowledged yet"}`},
		"bare":                {wire.NewNotificationView(&delivery.View{Notification: bare, State: delivery.StateCancelled}, false), `{"id":"n2","account":"bob","ack":"received","urgency":"high","accepted_at":"2026-11-23T05:30:00.001Z","expires_at":"2026-11-23T05:30:00.001Z","state":"cancelled","deliveries":[]}`},
		"event":               {wire.NewStreamEvent(delivery.AccountEvent{Account: "alice", Event: delivery.Event{Time: at, Kind: delivery.EventWaiting, Device: "phone", Detail: "why"}}, "n1"), `{"time":"2026-11-23T05:30:00.001Z","event":"waiting","id":"n1","account":"alice","device":"phone","detail":"why"}`},
		"device up": {wire.NewDeviceView(delivery.DeviceView{
			Device: delivery.Device{ID: "phone", Account: "alice", Registrations: []delivery.Registration{{Server: "apns", Kind: delivery.KindAlert, Token: "ab", App: "t", Environment: "sandbox", RegisteredAt: at}}},
			App:    delivery.AppBackground, Up: true, Since: at, LastHeartbeat: at, Keepalive: 90 * time.Second, Remote: "10.0.0.1:9", Outstanding: 3,
		}), `{"device":"phone","account":"alice","apns":{"token":"ab","topic":"t","environment":"sandbox","registered_at":"2026-11-23T05:30:00.001Z"},"registrations":[{"server":"apns","app":"t","environment":"sandbox","kind":"alert","registered_at":"2026-11-23T05:30:00.001Z"}],"via":"mqtt","app":"background","channel":{"state":"up","since":"2026-11-23T05:30:00.001Z","last_heartbeat":"2026-11-23T05:30:00.001Z","keepalive":90,"remote":"10.0.0.1:9"},"outstanding":3}`},
		"device down": {wire.NewDeviceView(delivery.DeviceView{
			Device: delivery.Device{ID: "phone", Account: "alice", Registrations: []delivery.Registration{{Server: "fcm", App: "p", Kind: delivery.KindAlert, Token: "secret", RegisteredAt: at, Suspended: &delivery.Suspension{Since: at, Reason: "SENDER_ID_MISMATCH", NextProbe: at}}, {Server: "apns", Kind: "voip", RegisteredAt: at, Ended: &delivery.Ending{At: at, Reason: "410 Unregistered"}}}}, Since: at,
		}), `{"device":"phone","account":"alice","registrations":[{"server":"fcm","app":"p","kind":"alert","registered_at":"2026-11-23T05:30:00.001Z","suspended":{"since":"2026-11-23T05:30:00.001Z","reason":"SENDER_ID_MISMATCH","next_probe":"2026-11-23T05:30:00.001Z"}},{"server":"apns","kind":"voip","registered_at":"2026-11-23T05:30:00.001Z","ended":{"at":"2026-11-23T05:30:00.001Z","reason":"410 Unregistered"}}],"via":"mqtt","channel":{"state":"down","since":"2026-11-23T05:30:00.001Z"},"outstanding":0}`},
		"device not in memory": {wire.NewDeviceView(delivery.DeviceView{Device: delivery.Device{ID: "phone", Account: "alice"}}), `{"device":"phone","account":"alice","registrations":[],"via":"mqtt","channel":{"state":"down"},"outstanding":0}`},
		"refused line":         {wire.BatchResult{Line: 3, Status: 422, Title: "Unprocessable Entity", Detail: "d"}, `{"line":3,"status":422,"title":"Unprocessable Entity","detail":"d"}`},
	} {
		text, err := json.Marshal(c.v)
		if err != nil || string(text) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, text, c.want)
		}
	}
}

func TestDecodeTakesOneValueAndNothingElse(t *testing.T) {
	for text, good := range map[string]bool{
		`{"app":"x"}`: true, ` {"app":"x"} `: true, `{"app":"x"}}`: false, `{"app":"x"}]`: false, `{"app":"x"} {}`: false, `{"app":"x"} x`: false,
		`{"ap":"x"}`: false, ``: false, `{`: false, `7`: false,
	} {
		var s wire.AppState
		if err := wire.Decode([]byte(text), &s); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
}
