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
		DirectBootOK          bool            `json:"direct_boot_ok"`
		BandwidthConstrained  bool            `json:"bandwidth_constrained_ok"`
		RestrictedPackageName string          `json:"restricted_package_name"`
	} `json:"android"`
	FCMOptions json.RawMessage `json:"fcm_options"`
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
