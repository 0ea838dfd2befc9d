package apns

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	shared "github.com/heartline-mqtt/heartline/fallback/payload"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

func TestPayloadGolden(t *testing.T) {
	seven, zero := 7, 0
	at := time.Date(2026, 11, 23, 4, 5, 6, 789_123_456, time.FixedZone("CET", 3600))
	base := delivery.Notification{ID: "n-1", Account: "anna", Title: "Title", Body: "Body", AcceptedAt: at}
	with := func(fn func(*delivery.Notification)) *delivery.Notification {
		n := base
		fn(&n)
		return &n
	}
	for name, n := range map[string]*delivery.Notification{
		"plain": &base,
		"all": with(func(n *delivery.Notification) {
			n.Badge, n.Sound, n.Category, n.HasMessage = &seven, "ding.caf", "INVITE", true
		}),
		"title_only": with(func(n *delivery.Notification) { n.Body = "" }),
		"body_only":  with(func(n *delivery.Notification) { n.Title = "" }),
		"background": with(func(n *delivery.Notification) { n.Title, n.Body = "", "" }),
		"badge_only": with(func(n *delivery.Notification) { n.Title, n.Body, n.Badge = "", "", &zero }),
		"escaped": with(func(n *delivery.Notification) {
			n.Title, n.Body = `<b>&"\`, "tab\tline\nbell\x07 \u2028 é 👍🏽 \xff"
		}),
		"content": with(func(n *delivery.Notification) {
			n.Subtitle, n.Thread, n.Link, n.Image, n.Level = "Subtitle", "orders", "https://shop.example/7", "https://shop.example/7.png", delivery.LevelTimeSensitive
			n.Localized = &delivery.Localized{TitleKey: "T", TitleArgs: []string{"7", "<"}, SubtitleKey: "S", BodyKey: "B", BodyArgs: []string{"x"}}
			n.Extra = json.RawMessage(`{"trace":"abc"}`)
		}),
		"critical": with(func(n *delivery.Notification) { n.Level, n.Sound = delivery.LevelCritical, "alarm.caf" }),
		"passive":  with(func(n *delivery.Notification) { n.Level = delivery.LevelPassive }),
		"localized": with(func(n *delivery.Notification) {
			n.Title, n.Body, n.Localized = "", "", &delivery.Localized{BodyKey: "B"}
		}),
		"overlay": with(func(n *delivery.Notification) {
			n.Overlay = &delivery.Overlay{APNs: json.RawMessage(`{"payload":{"aps":{"sound":{"name":"x","volume":0.5},"category":null,"relevance-score":1},"own":[1]}}`)}
			n.Category = "INVITE"
		}),
		"liveactivity": with(func(n *delivery.Notification) {
			n.Title, n.Body, n.PushType, n.Kind = "", "", "liveactivity", "liveactivity:7"
			n.Overlay = &delivery.Overlay{APNs: json.RawMessage(`{"payload":{"aps":{"event":"update","timestamp":1,"content-state":{"eta":3}}}}`)}
		}),
		"voip":       with(func(n *delivery.Notification) { n.PushType, n.Kind = "voip", "voip" }),
		"long_body":  with(func(n *delivery.Notification) { n.Body = strings.Repeat("äöü ", 1000) }),
		"long_title": with(func(n *delivery.Notification) { n.Title = strings.Repeat("\"", 3000) }),
		"long_quotes": with(func(n *delivery.Notification) {
			n.Title, n.Body = strings.Repeat("T", 1000), strings.Repeat("\"\n", 1000)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := payload(n, maxPayload)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) > maxPayload {
				t.Errorf("%d bytes", len(got))
			}
			file := filepath.Join("testdata", "payload_"+name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(got, '\n'), want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestPayloadCannotFit(t *testing.T) {
	n := note("n")
	n.Category = strings.Repeat("c", 4000)
	if _, err := payload(n, maxPayload); !errors.Is(err, fallback.ErrTooLarge) || !strings.Contains(err.Error(), "category") {
		t.Error(err)
	}
	// Room for nothing but the rest: a title that cannot be shortened to anything.
	n = note("n")
	fixed := len(appendPayload(nil, n, "", ""))
	if _, err := payload(n, fixed+2); !errors.Is(err, fallback.ErrTooLarge) {
		t.Error(err)
	}
}

// TestOverlay: what identifies a delivery, and its credentials, cannot be overridden.
func TestOverlay(t *testing.T) {
	for text, field := range map[string]string{
		`{"payload":{"heartline":{"id":"x"}}}`:       "apns.payload.heartline",
		`{"payload":{"heartline":null}}`:             "apns.payload.heartline",
		`{"payload":1}`:                              "apns.payload",
		`{"headers":{"authorization":"bearer x"}}`:   "apns.headers",
		`{"headers":{"apns-id":"x"}}`:                "apns.headers",
		`{"headers":{"apns-collapse-id":"x"}}`:       "apns.headers",
		`{"headers":{"apns-topic":"x"}}`:             "apns.headers",
		`{"headers":{"apns-priority":"11"}}`:         "apns.headers.apns-priority",
		`{"headers":{"APNs-Priority":"11"}}`:         "apns.headers.apns-priority",
		`{"headers":{"apns-priority":"+5"}}`:         "apns.headers.apns-priority",
		`{"headers":{"apns-expiration":"tomorrow"}}`: "apns.headers.apns-expiration",
		`[]`: "apns",
	} {
		n := note("n")
		n.Overlay = &delivery.Overlay{APNs: json.RawMessage(text)}
		_, err := payload(n, maxPayload)
		if err == nil {
			_, err = headers(n)
		}
		if fe, ok := errors.AsType[*delivery.FieldError](err); !ok || fe.Field != field {
			t.Errorf("%s: got %v, want a fault of %s", text, err, field)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add("Title", "Body", "id", "account", "", "", 4096)
	f.Add("<&>", "\x00\xff\u2028", "id", "a\"b", "s", "c", 300)
	f.Add(strings.Repeat("👨‍👩‍👧", 300), strings.Repeat("\\", 2000), "id", "account", "", "", 1024)
	f.Fuzz(func(t *testing.T, title, body, id, account, sound, category string, limit int) {
		limit = max(0, min(limit, maxPayload))
		n := &delivery.Notification{ID: id, Account: account, Title: title, Body: body, Sound: sound, Category: category}
		got, err := payload(n, limit)
		if err != nil {
			if !errors.Is(err, fallback.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		if len(got) > limit {
			t.Fatalf("%d bytes of %d", len(got), limit)
		}
		if !utf8.Valid(got) {
			t.Fatal("not UTF-8")
		}
		var v struct {
			APS struct {
				Alert struct{ Title, Body string }
				Sound string
			}
			Heartline struct{ ID, Account string }
		}
		if err := json.Unmarshal(got, &v); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		clean := func(s string) string { return string([]rune(s)) } // what is no UTF-8 becomes U+FFFD
		if v.Heartline.ID != clean(id) || v.Heartline.Account != clean(account) || v.APS.Sound != clean(sound) {
			t.Fatalf("changed: %s", got)
		}
		for _, p := range [][2]string{{v.APS.Alert.Title, clean(title)}, {v.APS.Alert.Body, clean(body)}} {
			if p[0] != p[1] && !strings.HasPrefix(p[1], strings.TrimSuffix(p[0], shared.Ellipsis)) {
				t.Fatalf("%q is not the beginning of %q", p[0], p[1])
			}
		}
	})
}

func TestRequestHeaders(t *testing.T) {
	x := &appClient{app: fallback.App{Server: delivery.ServerAPNs, Name: topic, Environment: EnvironmentSandbox}}
	n := note("order-7")
	n.ExpiresAt = time.Unix(1_800_000_000, 200_000_000) // apns-expiration is in whole seconds, and must not come early
	q := x.request(&fallback.Request{Device: "phone", Registration: delivery.Registration{Token: "aa"}, Notification: n})
	if q.Priority != 10 || q.PushType != "alert" || q.CollapseID != "order-7" || q.Expiration.Unix() != 1_800_000_001 || q.Topic != topic {
		t.Errorf("%+v", q)
	}
	if again := x.request(&fallback.Request{Device: "phone", Registration: delivery.Registration{Token: "bb"}, Notification: n}); again.ApnsID != q.ApnsID {
		t.Error("the apns-id of a delivery must not depend on the token")
	}
	if other := x.request(&fallback.Request{Device: "tablet", Registration: delivery.Registration{Token: "aa"}, Notification: n}); other.ApnsID == q.ApnsID {
		t.Error("two deliveries of a notification have the same apns-id")
	}
	// The same in every version: a retry may come from a newer one.
	if q.ApnsID != "9a9fcd50-a986-5d44-aed8-1cc33eb7a73b" {
		t.Error(q.ApnsID)
	}
	n.Urgency, n.CollapseKey = delivery.UrgencyNormal, "orders"
	if q := x.request(&fallback.Request{Device: "phone", Registration: delivery.Registration{Token: "aa"}, Notification: n}); q.Priority != 5 || q.CollapseID != "orders" {
		t.Errorf("%+v", q)
	}
	n.Urgency, n.Title, n.Body = delivery.UrgencyHigh, "", ""
	if q := x.request(&fallback.Request{Device: "phone", Registration: delivery.Registration{Token: "aa"}, Notification: n}); q.Priority != 5 || q.PushType != "background" {
		t.Errorf("%+v", q)
	}
}

// TestRequestOfPushTypes: topic, priority and expiration are those that Apple asks for.
func TestRequestOfPushTypes(t *testing.T) {
	x := &appClient{app: fallback.App{Server: delivery.ServerAPNs, Name: topic, Environment: EnvironmentSandbox}}
	for pushType, want := range map[string]string{"": topic, "alert": topic, "voip": topic + ".voip", "liveactivity": topic + ".push-type.liveactivity", "pushtotalk": topic + ".voip-ptt", "location": topic + ".location-query", "widgets": topic + ".push-type.widgets"} {
		n := note("n")
		n.PushType = pushType
		q := x.request(&fallback.Request{Device: "phone", Notification: n})
		if q.Topic != want || string(q.PushType) != cmp.Or(pushType, "alert") {
			t.Errorf("%q: got topic %s, push type %s", pushType, q.Topic, q.PushType)
		}
	}
	n := note("n")
	n.TTLZero = true
	n.Overlay = &delivery.Overlay{APNs: json.RawMessage(`{"headers":{"apns-priority":"1"}}`)}
	r := &fallback.Request{Device: "phone", Notification: n}
	if h := extraHeaders(r); h["apns-expiration"] != "0" || h["apns-priority"] != "1" {
		t.Errorf("got %v", h)
	}
	shown := x.request(r)
	r.Dismiss = true
	if q := x.request(r); q.PushType != "background" || q.Priority != 5 || q.CollapseID != "" || q.ApnsID == shown.ApnsID || extraHeaders(r) != nil {
		t.Errorf("a dismissal: %+v", q)
	}
}

// TestNumbersBeneathAnOverlay: an overlay leaves the numbers of the rest as they are.
func TestNumbersBeneathAnOverlay(t *testing.T) {
	n := note("n")
	n.Extra = json.RawMessage(`{"order":9007199254740993}`)
	n.Overlay = &delivery.Overlay{APNs: json.RawMessage(`{"payload":{"room":1234567890123456789}}`)}
	got, err := payload(n, maxPayload)
	if err != nil || !bytes.Contains(got, []byte(`"order":9007199254740993`)) || !bytes.Contains(got, []byte(`"room":1234567890123456789`)) {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestFitsWithItsBadge: a number that is counted at the push needs room, too.
func TestFitsWithItsBadge(t *testing.T) {
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{apnsFor(t, startSim(t, apnssim.Options{}))}})
	n := note("n")
	n.Title, n.Body = "T", ""
	fill := func(size int) {
		n.Overlay = &delivery.Overlay{APNs: json.RawMessage(fmt.Sprintf(`{"payload":{"own":%q}}`, strings.Repeat("x", size)))}
	}
	fill(0)
	empty, err := payload(n, maxPayload)
	if err != nil {
		t.Fatal(err)
	}
	fill(maxPayload - len(empty))
	if err := r.CheckPayload(n); err != nil {
		t.Errorf("without a badge: %v", err)
	}
	n.BadgeAuto = true
	if err := r.CheckPayload(n); !errors.Is(err, fallback.ErrTooLarge) {
		t.Errorf("with a badge that is counted: %v, want ErrTooLarge", err)
	}
}
