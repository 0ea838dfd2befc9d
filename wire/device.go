package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Time is how every time is written: RFC 3339 in UTC, with milliseconds.
const Time = "2006-01-02T15:04:05.000Z07:00"

// FormatTime writes t in the form Time.
func FormatTime(t time.Time) string { return t.UTC().Format(Time) }

// ParseTime reads a time of the API. It returns the zero time for any other text.
func ParseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Pseudo is the pseudo-notification (contract §3).
type Pseudo struct {
	ID         string `json:"id"`
	Account    string `json:"account"`
	Title      string `json:"title,omitempty"`
	Body       string `json:"body,omitempty"`
	Badge      *int   `json:"badge,omitempty"`
	Sound      string `json:"sound,omitempty"`
	Category   string `json:"category,omitempty"`
	AcceptedAt string `json:"accepted_at"`
	Redelivery bool   `json:"redelivery"`
	// Pushed: a notification server has accepted a push, which may have been shown
	// (contract §2). Decide by the IDs that you have shown.
	Pushed     bool   `json:"pushed"`
	HasMessage bool   `json:"has_message"`
	Ack        string `json:"ack"`
	// Tag is the collapse key or the ID: a newer tip takes the place of an older one
	// with the same tag.
	Tag       string              `json:"tag,omitempty"`
	Subtitle  string              `json:"subtitle,omitempty"`
	Thread    string              `json:"thread,omitempty"` // shown as one conversation; absent: the account
	Link      string              `json:"link,omitempty"`   // a tap opens it
	Image     string              `json:"image,omitempty"`
	Level     string              `json:"level,omitempty"` // passive, time-sensitive or critical; absent: active
	Localized *delivery.Localized `json:"localized,omitempty"`
	Extra     json.RawMessage     `json:"extra,omitempty"` // a JSON object of the app's own
}

// Dismissal is what a device is sent on its dismissals topic: take the notification
// off the screen.
type Dismissal struct {
	ID string `json:"id"`
	// Badge is the number to show now, of a notification with badge "auto".
	Badge *int `json:"badge,omitempty"`
}

// Message is the full message (contract §3).
type Message struct {
	ID         string          `json:"id"`
	Account    string          `json:"account"`
	Data       json.RawMessage `json:"data"`
	AcceptedAt string          `json:"accepted_at"`
}

// Append appends m as JSON. It leaves `&`, `<` and `>` as they are: encoding/json's
// default makes six bytes of each, and a client's Maximum Packet Size counts them.
// The error is that Data is no JSON.
func (m *Message) Append(b []byte) ([]byte, error) {
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return b, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Ack is what a device says on its acks topic.
type Ack struct {
	ID     string `json:"id"`
	Status string `json:"status"` // received, displayed or read
}

// AppState is what a device says on its state topic.
type AppState struct {
	App string `json:"app"` // foreground or background
}

// AckName is the name of an ack kind, as in Pseudo.Ack.
func AckName(k delivery.AckKind) string {
	if k == delivery.AckDisplayed {
		return "displayed"
	}
	return "received"
}

// ParseAckName is the inverse of AckName; "" gives 0, the default. The error is a
// *delivery.FieldError about field.
func ParseAckName(field, name string) (delivery.AckKind, error) {
	switch name {
	case "":
		return 0, nil
	case "received":
		return delivery.AckReceived, nil
	case "displayed":
		return delivery.AckDisplayed, nil
	}
	return 0, fault(field, "must be received or displayed", name)
}

// ParseAppState reads the payload of a state topic.
func ParseAppState(payload []byte) (delivery.AppState, error) {
	var s AppState
	if err := Decode(payload, &s); err != nil {
		return 0, err
	}
	switch s.App {
	case "foreground":
		return delivery.AppForeground, nil
	case "background":
		return delivery.AppBackground, nil
	}
	return 0, fault("app", "must be foreground or background", s.App)
}

// ParseAck reads the payload of an acks topic.
func ParseAck(payload []byte) (id string, kind delivery.AckKind, err error) {
	var a Ack
	if err := Decode(payload, &a); err != nil {
		return "", 0, err
	}
	kind, err = ParseAckStatus(a.Status)
	if a.ID == "" {
		err = errors.Join(&delivery.FieldError{Field: "id", Rule: "must be given"}, err)
	}
	return a.ID, kind, err
}

// ParseAckStatus reads the status of an Ack.
func ParseAckStatus(status string) (delivery.AckKind, error) {
	switch status {
	case "received":
		return delivery.AckReceived, nil
	case "displayed":
		return delivery.AckDisplayed, nil
	case "read":
		return delivery.AckRead, nil
	}
	return 0, fault("status", "must be received, displayed or read", status)
}

func fault(field, rule, got string) *delivery.FieldError {
	return &delivery.FieldError{Field: field, Rule: rule, Got: strconv.Quote(clip(got))}
}
