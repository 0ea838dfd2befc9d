package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// decoded checks what every decoder owes: an error that says so, or a value that
// is the same after being written and read again.
func decoded[T any](t *testing.T, v T, err error, encode func(T) []byte, decode func([]byte) (T, error)) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("got error %v, want one that wraps ErrDamaged", err)
		}
		return
	}
	again, err := decode(encode(v))
	if err != nil {
		t.Fatalf("what was written is not read: %v", err)
	}
	if !reflect.DeepEqual(again, v) {
		t.Fatalf("read %+v, wrote it, and read %+v", v, again)
	}
}

var when = time.Date(2026, 11, 3, 9, 30, 0, 123456789, time.UTC)

func FuzzNotification(f *testing.F) {
	badge := -3
	n := &delivery.Notification{
		Seq: 7, ID: "n-1", Account: "ann", Title: "t", Body: "b", Badge: &badge, Sound: "s", Category: "c", CollapseKey: "k",
		Ack: delivery.AckDisplayed, Urgency: delivery.UrgencyNormal, Fallback: true, HasMessage: true,
		AcceptedAt: when, ExpiresAt: when, Devices: []string{"a", "", "b"},
		Subtitle: "s", Thread: "t", Link: "https://example.com", Image: "https://example.com/i.png", Level: delivery.LevelCritical,
		Localized: &delivery.Localized{TitleKey: "T", TitleArgs: []string{"", "1"}, SubtitleKey: "S", SubtitleArgs: []string{"2"}, BodyKey: "B", BodyArgs: []string{"3"}},
		Extra:     json.RawMessage(`{"a":1}`), BadgeAuto: true, AckWindow: new(time.Duration), TTLZero: true, Kind: "voip", PushType: "voip",
		Overlay:  &delivery.Overlay{APNs: json.RawMessage(`{}`), FCM: json.RawMessage(`{"b":1}`), WebPush: json.RawMessage(`{}`)},
		Mark:     &delivery.RequestMark{Client: "c", PacketID: 65535, Payload: 1 << 63},
		Narrowed: true, Held: true, AckGiven: true, TTLGiven: true,
	}
	if again := new(delivery.Notification); DecodeNotification(again, 7, AppendNotification(nil, n)) != nil || !reflect.DeepEqual(again, n) {
		f.Errorf("wrote %+v, read %+v", n, again)
	}
	f.Add(AppendNotification(nil, n))
	f.Add(AppendNotification(nil, &delivery.Notification{}))
	decode := func(b []byte) (*delivery.Notification, error) {
		n := new(delivery.Notification)
		return n, DecodeNotification(n, 7, b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decode(b)
		decoded(t, n, err, func(n *delivery.Notification) []byte { return AppendNotification(nil, n) }, decode)
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(AppendRecord(nil, &delivery.Record{
		State: delivery.StatePushed, Attempts: 300, PushAttempts: 2, PushAccepted: true, PushRefused: delivery.RefusedRegistration, Received: true,
		Ack: delivery.AckReceived, Fallback: true, Message: delivery.MessageSent, CollapseKey: "k", Deadline: when, ExpiresAt: when,
	}))
	f.Add([]byte{})
	key := delivery.Key{Seq: 7, Device: "d"}
	decode := func(b []byte) (*delivery.Record, error) {
		r := new(delivery.Record)
		return r, DecodeRecord(r, key, b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		decoded(t, r, err, func(r *delivery.Record) []byte { return AppendRecord(nil, r) }, decode)
	})
}

func FuzzEvents(f *testing.F) {
	encode := func(events []delivery.Event) (b []byte) {
		var scratch []byte
		for i := range events {
			b, scratch = AppendEvent(b, scratch, &events[i])
		}
		return b
	}
	decode := func(b []byte) ([]delivery.Event, error) { return DecodeEvents(nil, 7, b) }
	f.Add(encode([]delivery.Event{
		{Number: 8, Time: when, Kind: delivery.EventPushFailed, Device: "d", Attempt: 2, Detail: "410 Unregistered"}, {Number: 9},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := decode(b)
		decoded(t, events, err, encode, decode)
	})
}

func FuzzDevice(f *testing.F) {
	d := &delivery.Device{ID: "d", Account: "ann", ReportsApp: true, SeenAt: when, Via: delivery.ViaXMPP, Address: "ann@example.com/phone", Foreground: true, Unread: delivery.Unread{{Seq: 300, ID: 7}, {Seq: 1 << 60, ID: 1<<32 - 1}}, Registrations: []delivery.Registration{
		{Server: delivery.ServerAPNs, Token: "00", App: "com.example", Environment: "sandbox", Kind: delivery.KindAlert, RegisteredAt: when,
			Suspended: &delivery.Suspension{Since: when, Reason: "BadDeviceToken", Config: "f", NextProbe: when.Add(1)}},
		{Server: delivery.ServerWebPush, Token: "https://push.example.com/1", App: "BNc", Kind: "voip", P256dh: []byte{4, 1}, Auth: []byte{2}},
		{Server: delivery.ServerFCM, Kind: "widgets", Form: delivery.FormFID, Ended: &delivery.Ending{At: when, Reason: "UNREGISTERED"}},
		{},
	}}
	if again := new(delivery.Device); DecodeDevice(again, "d", AppendDevice(nil, d)) != nil || !reflect.DeepEqual(again, d) {
		f.Errorf("wrote %+v, read %+v", d, again)
	}
	f.Add(AppendDevice(nil, d))
	// Format 1.
	f.Add(append(appendString(appendString(appendBool(appendString(nil, deviceAccount, "ann"), devicePush, true), deviceServer, "apns"), deviceToken, "00"), AppendDevice(nil, d)...))
	decode := func(b []byte) (*delivery.Device, error) {
		d := new(delivery.Device)
		return d, DecodeDevice(d, "d", b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decode(b)
		decoded(t, d, err, func(d *delivery.Device) []byte { return AppendDevice(nil, d) }, decode)
	})
}

func FuzzFinish(f *testing.F) {
	k := delivery.Key{Seq: 7, Device: "d"}
	f.Add(AppendFinish(nil, &delivery.Finish{At: when, State: delivery.StateAcked, Attempts: 300, Pushed: true}))
	decode := func(b []byte) (delivery.Finish, error) { return DecodeFinish(k, b) }
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(b)
		decoded(t, v, err, func(v delivery.Finish) []byte { return AppendFinish(nil, &v) }, decode)
	})
}

func FuzzCommit(f *testing.F) {
	type commit struct {
		at   time.Time
		refs []Ref
	}
	encode := func(c commit) []byte {
		b, _ := AppendCommit(nil, nil, c.at, c.refs)
		return b
	}
	decode := func(b []byte) (c commit, err error) {
		c.at, c.refs, err = DecodeCommit(nil, b)
		return c, err
	}
	f.Add(encode(commit{when, []Ref{{7, 0}, {7, 9}, {1 << 62, 1<<62 + 1}, {1<<62 + 5, 3}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode(b)
		decoded(t, c, err, encode, decode)
	})
}

func FuzzCounters(f *testing.F) {
	f.Add(AppendCounters(nil, Counters{Accepted: 1, Finished: 2, Last: 3, Pruned: 4, Writes: 5}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCounters(b)
		decoded(t, c, err, func(c Counters) []byte { return AppendCounters(nil, c) }, DecodeCounters)
	})
}

func FuzzName(f *testing.F) {
	f.Add("phone", []byte("rest"))
	f.Add("a\x00\xff\x01", []byte{0, 1})
	f.Fuzz(func(t *testing.T, name string, rest []byte) {
		got, left, err := CutName(append(AppendName(nil, name), rest...))
		if err != nil || string(got) != name || !bytes.Equal(left, rest) {
			t.Fatalf("%q and %q came back as %q and %q (error %v)", name, rest, got, left, err)
		}
		if _, _, err := CutName(rest); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("got error %v, want one that wraps ErrDamaged", err)
		}
	})
}
