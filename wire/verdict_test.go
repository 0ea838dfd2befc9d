package wire_test

import (
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

// TestVerdict: one line says what became of a notification, with the reason where there
// is one, and an ack that came after the end.
func TestVerdict(t *testing.T) {
	start := time.Date(2026, 11, 23, 5, 30, 0, 0, time.UTC)
	clock := func(at time.Time) string { return at.Format("15:04:05") }
	type event struct{ name, detail string }
	for _, c := range []struct {
		name, ack, state string
		events           []event // one a second, the first a second after acceptance
		want             string
	}{
		{"acked", "received", "acked", []event{{"published", ""}, {"received", ""}}, "Received by phone 2.0 s after acceptance, over the channel"},
		{"acked by either", "received", "acked", []event{{"published", ""}, {"ack_timeout", ""}, {"push_requested", ""}, {"pushed", "200"}, {"received", "late"}}, "Received by phone 5.0 s after acceptance, over the channel or by push"},
		{"shown", "displayed", "acked", []event{{"published", ""}, {"received", ""}, {"displayed", ""}}, "Shown on phone 3.0 s after acceptance, over the channel"},
		{"no way to push", "received", "waiting", []event{{"waiting", "no push token"}}, "Waiting for phone since 05:30:01 (no push token)"},
		{"pushed before", "received", "waiting", []event{{"push_requested", ""}, {"pushed", "200"}, {"fallback_timeout", ""}, {"waiting", ""}}, "Waiting for phone since 05:30:04, a push was accepted at 05:30:02"},
		{"suspended", "received", "waiting", []event{{"push_requested", ""}, {"push_failed", "400 BadDeviceToken"}, {"token_suspended", "400 BadDeviceToken"}, {"waiting", ""}}, "Waiting for phone since 05:30:04 (400 BadDeviceToken)"},
		{"suspended, of a former version", "received", "waiting", []event{{"push_failed", "400 BadDeviceToken"}, {"waiting", ""}, {"token_suspended", "400 BadDeviceToken"}}, "Waiting for phone since 05:30:03 (400 BadDeviceToken)"},
		{"refused content", "received", "waiting", []event{{"push_requested", ""}, {"push_failed", "413 PayloadTooLarge"}, {"waiting", ""}}, "Waiting for phone since 05:30:03 (413 PayloadTooLarge)"},
		{"expired", "received", "expired", []event{{"published", ""}, {"pushed", "200"}, {"expired", "ttl 0"}}, "Expired for phone (ttl 0), a push was accepted at 05:30:02"},
		{"expired, acked late", "received", "expired", []event{{"published", ""}, {"expired", "ttl 0"}, {"received", "late"}, {"displayed", ""}}, "Expired for phone (ttl 0), acknowledged after that at 05:30:03"},
		{"expired, only received late", "displayed", "expired", []event{{"published", ""}, {"expired", "ttl 0"}, {"received", "late"}}, "Expired for phone (ttl 0)"},
		{"cancelled before the answer", "received", "cancelled", []event{{"push_requested", ""}, {"cancelled", "displaced"}, {"pushed", "200"}}, "Cancelled for phone (displaced), a push was accepted at 05:30:03"},
		{"cancelled and taken away", "received", "cancelled", []event{{"published", ""}, {"cancelled", "read on tablet"}, {"dismissal_sent", ""}, {"dismissed", ""}}, "Cancelled for phone (read on tablet)"},
		{"pushing", "received", "pushing", []event{{"push_requested", ""}, {"push_retry", "503 ServiceUnavailable"}}, "Being pushed to phone: 503 ServiceUnavailable"},
	} {
		n := &wire.NotificationView{Ack: c.ack, AcceptedAt: wire.FormatTime(start), Deliveries: []wire.DeliveryView{{Device: "phone", State: c.state}}}
		for i, e := range c.events {
			n.Timeline = append(n.Timeline, wire.TimelineEvent{Time: wire.FormatTime(start.Add(time.Duration(i+1) * time.Second)), Event: e.name, Device: "phone", Detail: e.detail})
		}
		if got := wire.Verdict(n, clock); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestVerdictOfAHeldOne: it waits since it was accepted, for the device that has come since.
func TestVerdictOfAHeldOne(t *testing.T) {
	at := time.Date(2026, 11, 23, 5, 30, 0, 0, time.UTC)
	n := &wire.NotificationView{
		Ack: "received", AcceptedAt: wire.FormatTime(at), Deliveries: []wire.DeliveryView{{Device: "phone", State: "waiting"}},
		Timeline: []wire.TimelineEvent{{Time: wire.FormatTime(at), Event: "accepted"}, {Time: wire.FormatTime(at), Event: "waiting", Detail: "no push token"}},
	}
	if got, want := wire.Verdict(n, func(at time.Time) string { return at.Format("15:04:05") }), "Waiting for phone since 05:30:00 (no push token)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestVerdictWithoutADevice: it was held for an account's first device.
func TestVerdictWithoutADevice(t *testing.T) {
	for state, want := range map[string]string{
		"waiting": "Waiting: the account has no device yet", "superseded": "Superseded before the account had a device",
		"expired": "Expired before the account had a device",
	} {
		if got := wire.Verdict(&wire.NotificationView{State: state}, nil); got != want {
			t.Errorf("%s: %s", state, got)
		}
	}
}
