package fcmsim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// message is what projects.messages.send takes, as far as Heartline sends it.
// https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
type message struct {
	Token        string            `json:"token"`
	FID          string            `json:"fid"`
	Data         map[string]string `json:"data"`
	Notification json.RawMessage   `json:"notification"`
	Android      struct {
		CollapseKey           string          `json:"collapse_key"`
		Priority              string          `json:"priority"`
		TTL                   string          `json:"ttl"`
		Notification          json.RawMessage `json:"notification"`
		FCMOptions            json.RawMessage `json:"fcm_options"`
		DirectBootOK          bool            `json:"direct_boot_ok"`
		BandwidthConstrained  bool            `json:"bandwidth_constrained_ok"`
		RestrictedPackageName string          `json:"restricted_package_name"`
	} `json:"android"`
	APNs       json.RawMessage `json:"apns"`    // for an iOS app of the project
	WebPush    json.RawMessage `json:"webpush"` // for a page of the project
	FCMOptions json.RawMessage `json:"fcm_options"`
}

// shown is android.notification: Google refuses a member that it does not know, or of
// another type.
// https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#androidnotification
type shown struct {
	Title                 string          `json:"title"`
	Body                  string          `json:"body"`
	Icon                  string          `json:"icon"`
	Color                 string          `json:"color"`
	Sound                 string          `json:"sound"`
	Tag                   string          `json:"tag"`
	ClickAction           string          `json:"click_action"`
	BodyLocKey            string          `json:"body_loc_key"`
	BodyLocArgs           []string        `json:"body_loc_args"`
	TitleLocKey           string          `json:"title_loc_key"`
	TitleLocArgs          []string        `json:"title_loc_args"`
	ChannelID             string          `json:"channel_id"`
	Ticker                string          `json:"ticker"`
	Sticky                bool            `json:"sticky"`
	EventTime             string          `json:"event_time"`
	LocalOnly             bool            `json:"local_only"`
	NotificationPriority  string          `json:"notification_priority"`
	DefaultSound          bool            `json:"default_sound"`
	DefaultVibrateTimings bool            `json:"default_vibrate_timings"`
	DefaultLightSettings  bool            `json:"default_light_settings"`
	VibrateTimings        []string        `json:"vibrate_timings"`
	Visibility            string          `json:"visibility"`
	NotificationCount     int32           `json:"notification_count"`
	LightSettings         json.RawMessage `json:"light_settings"`
	Image                 string          `json:"image"`
	BypassProxy           bool            `json:"bypass_proxy_notification"`
	Proxy                 string          `json:"proxy"`
}

const (
	maxPayload = 4096
	maxTTL     = 2_419_200 // seconds, 28 days
)

// fault is a refusal of google.rpc: status text, message and field.
type fault struct{ message, field string }

// check returns the registration that a message is for.
func check(m *message) (to string, f *fault) {
	switch {
	case m.Token != "" && m.FID != "" || m.Token == "" && m.FID == "":
		return "", &fault{"Exactly one of token, fid, topic or condition is required", "message"}
	case m.Token != "":
		to = m.Token
	default:
		to = m.FID
	}
	size := len(m.Notification) + len(m.Android.Notification)
	for k, v := range m.Data {
		if k == "from" || k == "message_type" || strings.HasPrefix(k, "google") || strings.HasPrefix(k, "gcm") {
			return "", &fault{"Invalid data payload key: " + k, "message.data[0].key"}
		}
		size += len(k) + len(v)
	}
	if size > maxPayload {
		return "", &fault{"Android message is too big", ""}
	}
	switch m.Android.Priority {
	case "", "HIGH", "NORMAL", "high", "normal":
	default:
		return "", &fault{"Invalid value at 'message.android.priority'", "message.android.priority"}
	}
	if m.Android.TTL != "" {
		n, err := strconv.ParseUint(strings.TrimSuffix(m.Android.TTL, "s"), 10, 32)
		if err != nil || !strings.HasSuffix(m.Android.TTL, "s") || n > maxTTL {
			return "", &fault{fmt.Sprintf("Invalid value at 'message.android.ttl': %q", m.Android.TTL), "message.android.ttl"}
		}
	}
	return to, nil
}
