package wire_test

import (
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestFaultsOfABody: each is a FieldError that names the member, on one line, without a
// word of Go's.
func TestFaultsOfABody(t *testing.T) {
	for body, want := range map[string]string{
		`{"title":"a","title":"b"}`:                     "title: must be given once, and is given twice",
		`{"title":"a","Title":"b"}`:                     "Title: must be given once, and is given twice",
		`{"localized":{"body_key":"a","body_key":"b"}}`: "localized.body_key: must be given once, and is given twice",
		`{"data":1,"title":"a","data":2}`:               "data: must be given once, and is given twice",
		`{"extra":{"a":{"b":1,"b":2}}}`:                 "extra.a.b: must be given once, and is given twice",
		`{"extra":{"a":[{"b":1},{"b":1,"b":2}]}}`:       "b: must be given once, and is given twice",
		`{"extra":{"":"a","a":1,"":2}}`:                 "extra.: must be given once, and is given twice",
		`{"titel":"a"}`:                                 "titel: is not a member that is known here",
		`{"title":7}`:                                   "title: must be a string, got number",
		`{"fallback":"no"}`:                             "fallback: must be true or false, got string",
		`{"devices":"phone"}`:                           "devices: must be an array, got string",
		`{"localized":[]}`:                              "localized: must be an object, got array",
		`["title"]`:                                     "body: must be an object, got array",
		``:                                              "body: must be JSON, and is empty",
		`{"title":"a"`:                                  "body: must be JSON, and ends too early",
		`{"title":"a",}`:                                "body: must be JSON, and is not at byte 14",
		`{"title":"a"} {}`:                              "body: must be one JSON value, and more than one value follows",
		`{"title":"a","ttl":5}`:                         "ttl: must be a string, got number",
		`{"title":"a","ack_window":[0]}`:                "ack_window: must be a string, got array",
		`{"title":"a","ttl":"5"}`:                       `ttl: must be a duration such as 90s or 24h, got "5"`,
		`{"title":"a","ttl":"1 s","ack":"seen","badge":1.5}`: `ttl: must be a duration such as 90s or 24h, got "1 s"|ack: must be received or displayed, got "seen"|badge: must be a whole number of 0 or more, or "auto", got 1.5`,
		`{"title":"a","level":"loud"}`:                       `level: must be passive, active, time-sensitive or critical, got "loud"`,
		`{"title":"a","ack_window":"2 h"}`:                   `ack_window: must be a duration such as 90s or 24h, got "2 h"`,
		`{"title":"a","apns":7}`:                             "apns: must be an object",
		`{"title":"a","apns":{"typ":"x"}}`:                   "apns.typ: is not a member that is known here",
	} {
		_, err := wire.ParseContent([]byte(body), "anna")
		if err == nil {
			t.Errorf("%s is taken", body)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), "\n", "|"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", body, got, want)
		}
		if _, ok := errors.AsType[*delivery.FieldError](err); !ok || !errors.Is(err, delivery.ErrInvalid) {
			t.Errorf("%s: %T", body, err)
		}
	}
}

// TestDataIsTheAppsOwn: what an app says twice in its data is no fault.
func TestDataIsTheAppsOwn(t *testing.T) {
	r, err := wire.ParseContent([]byte(`{"data":{"a":1,"a":2},"title":"x\u0021","badge":"auto","ttl":"0s"}`), "anna")
	if err != nil || string(r.Data) != `{"a":1,"a":2}` || !r.BadgeAuto || r.TTL == nil || *r.TTL != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestDeepObjects: what a payload costs does not grow with the square of its depth. A device's
// own may be megabytes long.
func TestDeepObjects(t *testing.T) {
	const depth = 2000
	name := strings.Repeat("k", 90)
	payload := []byte(`{"apns":` + strings.Repeat(`{"`+name+`":`, depth) + "1" + strings.Repeat("}", depth+1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := wire.ParsePushToken(payload)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("it is taken")
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
		t.Errorf("%d bytes took %d bytes of memory", len(payload), took)
	}
}

// TestZeroIsANumber: the contract writes ttl: 0 and ack_window: 0.
func TestZeroIsANumber(t *testing.T) {
	r, err := wire.ParseContent([]byte(`{"title":"a","ttl":0,"ack_window":0}`), "anna")
	if err != nil || r.TTL == nil || *r.TTL != 0 || r.AckWindow == nil || *r.AckWindow != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = wire.ParseContent([]byte(`{"title":"a","ttl":null}`), "anna")
	if err != nil || r.TTL != nil {
		t.Errorf("null: %+v, %v", r, err)
	}
}

func TestOverlay(t *testing.T) {
	r, err := wire.ParseContent([]byte(`{"title":"a","apns":{"kind":"voip","push_type":"voip"},"fcm":{"payload":{"x":1}}}`), "anna")
	if err != nil || r.Kind != "voip" || r.PushType != "voip" || r.Overlay.APNs != nil || string(r.Overlay.FCM) != `{"payload":{"x":1}}` {
		t.Errorf("%+v, %v", r, err)
	}
	// The registration of the push type's own kind: Apple refuses the alert's token.
	for _, kind := range []string{"voip", "pushtotalk", "location", "widgets", "complication"} {
		if r, err := wire.ParseContent([]byte(`{"title":"a","apns":{"push_type":"`+kind+`"}}`), "anna"); err != nil || r.Kind != kind {
			t.Errorf("%s: kind %q, %v", kind, r.Kind, err)
		}
	}
	for _, none := range []string{
		`"apns":null,"fcm":null,"webpush":null,"extra":null`, `"apns":{},"fcm":{},"webpush":{ },"extra":{}`,
		`"apns":{"payload":{},"headers":null},"fcm":{"payload":{}},"webpush":{"headers":{}}`,
	} {
		if r, err := wire.ParseContent([]byte(`{"title":"a",`+none+`}`), "anna"); err != nil || r.Overlay != nil || r.Extra != nil {
			t.Errorf("%s: %+v, %v", none, r, err)
		}
	}
	for text, field := range map[string]string{
		`"fcm":{"token":"x"}`:                                               "fcm.token",
		`"fcm":{"message":{"token":"x"}}`:                                   "fcm.message",
		`"webpush":{"endpoint":"https://x"}`:                                "webpush.endpoint",
		`"fcm":[]`:                                                          "fcm",
		`"apns":{"kind":"Voip"}`:                                            "apns.kind",
		`"apns":{"push_type":"liveactivity"}`:                               "apns.kind",
		`"apns":{"push_type":"voip","kind":"alert"}`:                        "apns.kind",
		`"apns":{"push_type":"liveactivity","kind":"liveactivity:"}`:        "apns.kind",
		`"apns":{"kind":"voip","push_type":"voip","token":"aa"},"fcm":null`: "apns.token",
	} {
		_, err := wire.ParseContent([]byte(`{"title":"a",`+text+`}`), "anna")
		if e, ok := errors.AsType[*delivery.FieldError](err); !ok || e.Field != field {
			t.Errorf("%s: %v, want a fault of %s", text, err, field)
		}
	}
}

// TestTextIsUTF8: bytes that are none are refused, and not replaced.
func TestTextIsUTF8(t *testing.T) {
	for _, payload := range []string{"{\"title\":\"\xff\"}", "{\"title\":\"a\",\"badge\":1,\"body\":\"\xc3\"}"} {
		if r, err := wire.ParseContent([]byte(payload), "anna"); err == nil {
			t.Errorf("%q is taken: %+v", payload, r)
		}
	}
}

func TestLevel(t *testing.T) {
	for account, level := range map[string]string{"anna": "anna", "+49": "%2B49", "a/b#c%d": "a%2Fb%23c%25d", "%2B": "%252B", "é": "é"} {
		if got := wire.Level(account); got != level {
			t.Errorf("%s is written %s, want %s", account, got, level)
		}
		if got, ok := wire.ParseLevel(level); !ok || got != account {
			t.Errorf("%s is read %s, %v", level, got, ok)
		}
	}
	if got, ok := wire.ParseLevel("%2b"); !ok || got != "+" {
		t.Errorf("lower case: %s, %v", got, ok)
	}
	for _, level := range []string{"%", "%2", "%41", "a%zz", "%2B%"} {
		if got, ok := wire.ParseLevel(level); ok {
			t.Errorf("%s is read as %s", level, got)
		}
	}
}

func FuzzLevel(f *testing.F) {
	f.Add("+49/#%25")
	f.Fuzz(func(t *testing.T, account string) {
		level := wire.Level(account)
		if got, ok := wire.ParseLevel(level); !ok || got != account || strings.ContainsAny(level, "/+#") {
			t.Errorf("%q is written %q and read %q, %v", account, level, got, ok)
		}
	})
}

func TestPushTokenRoundTrip(t *testing.T) {
	for _, token := range []wire.PushToken{
		{Server: "apns", Kind: "alert", Registration: &delivery.Registration{Server: "apns", Kind: "alert", Token: "ab", App: "t", Environment: "sandbox"}},
		{Server: "apns", Kind: "voip", Registration: &delivery.Registration{Server: "apns", Kind: "voip", Token: "ab"}},
		{Server: "fcm", Kind: "alert", Registration: &delivery.Registration{Server: "fcm", Kind: "alert", Token: "x", App: "p", Form: "fid"}},
		{Server: "webpush", Kind: "alert", Registration: &delivery.Registration{Server: "webpush", Kind: "alert", Token: "https://push.example/x", P256dh: make([]byte, 65), Auth: make([]byte, 16)}},
		{Server: "fcm"}, {Server: "apns", Kind: "voip"},
	} {
		text, err := json.Marshal(token)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ParsePushToken(text)
		if err != nil || got.Server != token.Server || got.Kind != token.Kind || (got.Registration == nil) != (token.Registration == nil) {
			t.Errorf("%s: %+v, %v", text, got, err)
		} else if r := got.Registration; r != nil && (r.Token != token.Registration.Token || r.App != token.Registration.App || r.Form != token.Registration.Form) {
			t.Errorf("%s: %+v", text, r)
		}
	}
}
