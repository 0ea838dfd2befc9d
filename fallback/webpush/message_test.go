package webpush

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

var accepted = time.Date(2026, 11, 25, 9, 30, 0, 120e6, time.UTC)

func full() *delivery.Notification {
	badge := 3
	return &delivery.Notification{
		ID: "order-7", Account: "anna", Title: "Order <7>", Subtitle: "Bakery", Body: "is on its way", Badge: &badge, Sound: "ping", Category: "ORDER",
		CollapseKey: "order", Thread: "orders", Link: "https://shop.example/orders/7", Image: "https://shop.example/7.png", Level: delivery.LevelCritical,
		Localized: &delivery.Localized{TitleKey: "ORDER", TitleArgs: []string{"7"}}, Extra: json.RawMessage(`{"trace":"abc"}`),
		HasMessage: true, AcceptedAt: accepted, ExpiresAt: accepted.Add(time.Hour),
	}
}

// TestGolden: what a browser is sent, as it stands in testdata. UPDATE_GOLDEN=1 writes it.
func TestGolden(t *testing.T) {
	silent := &delivery.Notification{ID: "a", Account: "b", Body: "text alone", Level: delivery.LevelPassive, AcceptedAt: accepted}
	patched := full()
	patched.Overlay = &delivery.Overlay{WebPush: json.RawMessage(`{"payload":{"notification":{"lang":"de","image":null,"actions":[{"action":"open","title":"Open"}]},"app":{"x":1}}}`)}
	for name, n := range map[string]*delivery.Notification{"full": full(), "silent": silent, "patched": patched} {
		b, err := message(n, maxPlain)
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

// TestFits: the longest texts are shortened until the plain text fits, at the boundary of
// a character, and no more than needed.
func TestFits(t *testing.T) {
	for _, text := range []string{"x", `"<>&\`, "ü", "👩‍👩‍👧", "\u2028", "\x01"} {
		for _, titled := range []bool{true, false} {
			n := full()
			n.Body = strings.Repeat(text, 4000/len(text))
			if !titled {
				n.Title, n.Body = n.Body, n.Title
			}
			b, err := message(n, maxPlain)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > maxPlain || len(b) < maxPlain-32 || !utf8.Valid(b) || !json.Valid(b) {
				t.Errorf("%q, titled %v: %d bytes of %d", text, titled, len(b), maxPlain)
			}
		}
	}
	n := full()
	n.Category = strings.Repeat("x", maxPlain)
	if err := fits(n); !errors.Is(err, fallback.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

// TestProtected: what identifies a delivery, and its credentials, cannot be overridden.
func TestProtected(t *testing.T) {
	for overlay, field := range map[string]string{
		`{"payload":{"heartline":{"id":"other"}}}`:     "webpush.payload.heartline",
		`{"payload":{"notification":{"tag":"other"}}}`: "webpush.payload.notification.tag",
		`{"payload":{"notification":"x"}}`:             "webpush.payload.notification.tag",
		`{"payload":{"notification":null}}`:            "webpush.payload.notification.tag",
		`{"payload":{"web_push":1}}`:                   "webpush.payload.web_push",
		`{"payload":[1]}`:                              "webpush.payload",
		`{"headers":{"authorization":"x"}}`:            "webpush.headers",
		`{"headers":{"Topic":"x"}}`:                    "webpush.headers",
		`{"headers":{"Urgency":"low\r\nTopic: x"}}`:    "webpush.headers.Urgency",
		`{"headers":{"Urgency":1}}`:                    "webpush.headers",
		`{"headers":{"urgency":"urgent"}}`:             "webpush.headers.Urgency",
		`"x"`:                                          "webpush",
	} {
		n := full()
		n.Overlay = &delivery.Overlay{WebPush: json.RawMessage(overlay)}
		fe, ok := errors.AsType[*delivery.FieldError](fits(n))
		if !ok || fe.Field != field {
			t.Errorf("%s: got %v, want a fault of %s", overlay, fe, field)
		}
	}
}

// TestNothingToShow: a push that shows nothing costs a page its subscription.
func TestNothingToShow(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	n := note()
	n.Title, n.Body = "", ""
	if pe := refusal(t, p, subscription(t, s.URL+"/x"), n); verdict(pe) != "permanent" || s.calls.Load() != 0 {
		t.Errorf("got %v after %d requests", pe, s.calls.Load())
	}
	n.Overlay = &delivery.Overlay{WebPush: json.RawMessage(`{"payload":{"notification":{"title":"of the overlay"}}}`)}
	if _, err := p.Push(t.Context(), request(p, subscription(t, s.URL+"/x"), n)); err != nil {
		t.Errorf("a title that stands in the overlay: %v", err)
	}
	for _, endpoint := range []string{"https://fcm.googleapis.com/fcm/send/x", "https://web.push.apple.com/x", "https://other.push.apple.com/x", "https://x.notify.windows.com/w"} {
		r := request(p, subscription(t, endpoint), note())
		r.Dismiss = true
		if _, err := p.Push(t.Context(), r); !errors.Is(err, errNothingToShow) {
			t.Errorf("%s: a dismissal went out: %v", endpoint, err)
		}
	}
}

// TestDismissal: where a push may show nothing. It takes the place of a notification
// that the push service still keeps, and not that of a newer one.
func TestDismissal(t *testing.T) {
	s := startService(t)
	p := s.pusher(t, Config{AllowPrivate: loopback})
	n := note()
	r := request(p, subscription(t, s.URL+"/x"), n)
	topicOf := func(dismiss bool) string {
		t.Helper()
		r.Dismiss = dismiss
		if _, err := p.Push(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return s.last.Load().Header.Get("Topic")
	}
	if shown, taken := topicOf(false), topicOf(true); shown != taken {
		t.Errorf("topics %q and %q, want the same", shown, taken)
	}
	n.CollapseKey = "door"
	if shown, taken := topicOf(false), topicOf(true); shown == taken || len(taken) != 32 {
		t.Errorf("topics %q and %q, want two", shown, taken)
	}
	plain, err := dismissal(n)
	if want := `{"heartline":{"account":"anna","dismiss":true,"id":"n1","tag":"door"}}`; err != nil || string(plain) != want {
		t.Errorf("got %s, %v, want %s", plain, err, want)
	}
	if !allowsSilent("https://updates.push.services.mozilla.com/wpush/v2/x") {
		t.Error("Firefox allows a push that shows nothing")
	}
}
