package fcm

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

var accepted = time.Date(2026, 11, 25, 9, 30, 0, 120e6, time.UTC)

func full() *delivery.Notification {
	badge := 3
	return &delivery.Notification{
		ID: "order-7", Account: "anna", Title: "Order <7>", Subtitle: "Bakery", Body: "is on its way", Badge: &badge, Sound: "ping", Category: "ORDER",
		CollapseKey: "order", Thread: "orders", Link: "https://shop.example/orders/7", Image: "https://shop.example/7.png", Level: delivery.LevelTimeSensitive,
		Localized: &delivery.Localized{TitleKey: "ORDER", TitleArgs: []string{"7"}, BodyKey: "WAY"}, Extra: json.RawMessage(`{"trace":"abc"}`),
		Urgency: delivery.UrgencyHigh, HasMessage: true, AcceptedAt: accepted, ExpiresAt: accepted.Add(time.Hour),
	}
}

// TestGolden: what Google is sent, as it stands in testdata. UPDATE_GOLDEN=1 writes it.
func TestGolden(t *testing.T) {
	shown := &project{style: StyleNotification, channel: "orders"}
	handed := &project{style: StyleData}
	token := &delivery.Registration{Form: delivery.FormToken, Token: "token"}
	fid := &delivery.Registration{Form: delivery.FormFID, Token: "fid"}
	wakes := &delivery.Notification{ID: "a", Account: "b", HasMessage: true, Urgency: delivery.UrgencyHigh, AcceptedAt: accepted, ExpiresAt: accepted.Add(90*time.Second + time.Millisecond)}
	never := full()
	never.TTLZero, never.Urgency = true, delivery.UrgencyNormal
	never.Overlay = &delivery.Overlay{FCM: json.RawMessage(`{"payload":{"data":{"own":"x"},"android":{"direct_boot_ok":true,"notification":{"image":null,"color":"#ff0000"}}}}`)}
	for name, build := range map[string]func() ([]byte, error){
		"notification": func() ([]byte, error) { return shown.message(token, full(), false, accepted, maxPayload) },
		"data":         func() ([]byte, error) { return handed.message(fid, full(), false, accepted, maxPayload) },
		"background":   func() ([]byte, error) { return shown.message(token, wakes, false, accepted, maxPayload) },
		"patched":      func() ([]byte, error) { return shown.message(token, never, false, accepted, maxPayload) },
		"dismissal":    func() ([]byte, error) { return shown.message(token, full(), true, accepted, maxPayload) },
	} {
		b, err := build()
		if err != nil {
			t.Fatal(err)
		}
		var pretty any
		if err := json.Unmarshal(b, &pretty); err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(pretty, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".json")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(want)) != string(got) {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

// TestFits: data and notification together stay within Google's limit.
func TestFits(t *testing.T) {
	for _, style := range []string{StyleNotification, StyleData} {
		x := &project{style: style}
		for _, text := range []string{"x", `"<>&\`, "ü", "👩‍👩‍👧", "\x01"} {
			n := full()
			n.Body = strings.Repeat(text, 4500/len(text))
			b, err := x.message(&delivery.Registration{Token: "t"}, n, false, accepted, maxPayload)
			if err != nil {
				t.Fatal(err)
			}
			var m struct {
				Message map[string]any `json:"message"`
			}
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			if size, err := counted(m.Message); err != nil || size > maxPayload || size < maxPayload-64 {
				t.Errorf("%s, %q: %d bytes of %d, %v", style, text, size, maxPayload, err)
			}
		}
	}
	n := full()
	n.Category = strings.Repeat("x", maxPayload)
	if _, err := (&project{style: StyleData}).message(&delivery.Registration{}, n, false, accepted, maxPayload); !errors.Is(err, fallback.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestProtected(t *testing.T) {
	for overlay, field := range map[string]string{
		`{"payload":{"token":"x"}}`:                            "fcm.payload.token",
		`{"payload":{"topic":"all"}}`:                          "fcm.payload.topic",
		`{"payload":{"condition":"x"}}`:                        "fcm.payload.condition",
		`{"payload":{"data":{"heartline":"x"}}}`:               "fcm.payload.data.heartline",
		`{"payload":{"data":null}}`:                            "fcm.payload.data.heartline",
		`{"payload":{"android":{"notification":{"tag":"x"}}}}`: "fcm.payload.android.notification.tag",
		`{"payload":{"data":{"google.x":"x"}}}`:                "fcm.payload.data.google.x",
		`{"payload":{"data":{"from":"x"}}}`:                    "fcm.payload.data.from",
		`{"payload":{"data":{"own":1}}}`:                       "fcm.payload.data.own",
		`{"payload":{"android":{"data":{"own":"x"}}}}`:         "fcm.payload.android.data",
		`{"payload":{"webpush":{"data":{"own":"x"}}}}`:         "fcm.payload.webpush.data",
		`[]`: "fcm",
	} {
		n := full()
		n.Overlay = &delivery.Overlay{FCM: json.RawMessage(overlay)}
		_, err := (&project{style: StyleNotification}).message(&delivery.Registration{}, n, false, accepted, maxPayload)
		fe, ok := errors.AsType[*delivery.FieldError](err)
		if !ok || fe.Field != field {
			t.Errorf("%s: got %v, want a fault of %s", overlay, err, field)
		}
	}
}

func TestCheckForm(t *testing.T) {
	for _, tt := range []struct {
		r    delivery.Registration
		good bool
	}{
		{delivery.Registration{Token: "cXyZ-1_2:APA91b.x"}, true},
		{delivery.Registration{Form: delivery.FormFID, Token: "cXyZ-1_2cXyZ-1_2cXyZ-1"}, true},
		{delivery.Registration{Token: "cXyZ", App: "shop-1"}, true},
		{delivery.Registration{}, false},
		{delivery.Registration{Token: "has space"}, false},
		{delivery.Registration{Token: "a/../b"}, false},
		{delivery.Registration{Token: "secret\r\nX: y"}, false},
		{delivery.Registration{Token: strings.Repeat("a", 1025)}, false},
		{delivery.Registration{Form: delivery.FormFID, Token: "short"}, false},
		{delivery.Registration{Form: "topic", Token: "x"}, false},
		{delivery.Registration{Token: "x", Environment: "production"}, false},
		{delivery.Registration{Token: "x", App: "../x"}, false},
	} {
		_, err := CheckForm(tt.r)
		if (err == nil) != tt.good || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", tt.r, err)
		}
	}
}

// TestShownByOverlay: a notification that comes from the overlay alone is shown like others:
// at once, and under the tag by which a retry takes its place.
func TestShownByOverlay(t *testing.T) {
	for overlay, want := range map[string]string{
		`{"android":{"notification":{"title":"T"}}}`:                       "HIGH under order",
		`{"notification":{"title":"T"}}`:                                   "HIGH under order",
		`{"notification":{"title":"T"},"android":{"priority":"NORMAL"}}`:   "NORMAL under order",
		`{"data":{"own":"x"}}`:                                             "NORMAL under ",
		`{"apns":{"payload":{"aps":{"alert":"x","content-available":1}}}}`: "NORMAL under ",
	} {
		for _, style := range []string{StyleNotification, StyleData} {
			n := &delivery.Notification{ID: "a", Account: "b", CollapseKey: "order", HasMessage: true, Urgency: delivery.UrgencyHigh, AcceptedAt: accepted, ExpiresAt: accepted.Add(time.Hour)}
			n.Overlay = &delivery.Overlay{FCM: json.RawMessage(`{"payload":` + overlay + `}`)}
			b, err := (&project{style: style}).message(&delivery.Registration{Token: "t"}, n, false, accepted, maxPayload)
			if err != nil {
				t.Fatal(err)
			}
			var m struct {
				Message struct {
					Android struct {
						Priority     string
						Notification struct{ Tag string }
					}
				}
			}
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			if got := m.Message.Android.Priority + " under " + m.Message.Android.Notification.Tag; got != want {
				t.Errorf("%s, style %s: got %s, want %s: %s", overlay, style, got, want, b)
			}
		}
	}
}

// TestLargestBadge: Google takes an int32.
func TestLargestBadge(t *testing.T) {
	n, badge := full(), 1<<40
	n.Badge = &badge
	b, err := (&project{style: StyleNotification}).message(&delivery.Registration{Token: "t"}, n, false, accepted, maxPayload)
	if err != nil || !strings.Contains(string(b), `"notification_count":2147483647`) {
		t.Errorf("got %s, %v", b, err)
	}
}
