package wire

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Time is how every time is written: RFC 3339 in UTC, with milliseconds.
const Time = "2006-01-02T15:04:05.000Z07:00"

// FormatTime writes t in the form Time.
func FormatTime(t time.Time) string { return t.UTC().Format(Time) }

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
	// Pushed: APNs has already shown it; show no second tip.
	Pushed     bool   `json:"pushed"`
	HasMessage bool   `json:"has_message"`
	Ack        string `json:"ack"`
}

// Message is the full message (contract §3).
type Message struct {
	ID         string          `json:"id"`
	Account    string          `json:"account"`
	Data       json.RawMessage `json:"data"`
	AcceptedAt string          `json:"accepted_at"`
}

// Ack is what a device says on its acks topic.
type Ack struct {
	ID     string `json:"id"`
	Status string `json:"status"` // received or displayed
}

// AppState is what a device says on its state topic.
type AppState struct {
	App string `json:"app"` // foreground or background
}

// PushToken is what a device says on its push-token topic, and what the registry
// shows. APNs null removes the token.
type PushToken struct {
	APNs *APNsToken `json:"apns"`
}

// APNsToken is a device token of Apple's push service.
type APNsToken struct {
	Token       string `json:"token" doc:"Device token, hexadecimal" pattern:"^[0-9A-Fa-f]+$" maxLength:"200"`
	Topic       string `json:"topic,omitempty" doc:"Bundle ID; the configured one if absent" maxLength:"255"`
	Environment string `json:"environment,omitempty" enum:"production,sandbox" doc:"The configured one if absent"`
}

// Registered is the token as the core keeps it; nil for nil.
func (t *APNsToken) Registered() *delivery.Registration {
	if t == nil {
		return nil
	}
	return &delivery.Registration{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: strings.ToLower(t.Token), App: t.Topic, Environment: t.Environment}
}

// AckName is the name of an ack kind, as in Pseudo.Ack.
func AckName(k delivery.AckKind) string {
	if k == delivery.AckDisplayed {
		return "displayed"
	}
	return "received"
}

// ParseAckName is the inverse of AckName; "" gives 0, the default.
func ParseAckName(name string) (delivery.AckKind, error) {
	switch name {
	case "":
		return 0, nil
	case "received":
		return delivery.AckReceived, nil
	case "displayed":
		return delivery.AckDisplayed, nil
	}
	return 0, fmt.Errorf("must be received or displayed, got %q", clip(name))
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
	return 0, fmt.Errorf("app: must be foreground or background, got %q", clip(s.App))
}

// ParseAck reads the payload of an acks topic.
func ParseAck(payload []byte) (id string, kind delivery.AckKind, err error) {
	var a Ack
	if err := Decode(payload, &a); err != nil {
		return "", 0, err
	}
	if a.ID == "" {
		return "", 0, fmt.Errorf("id: must be given")
	}
	if kind, err = ParseAckName(a.Status); err != nil || kind == 0 {
		return "", 0, fmt.Errorf("status: must be received or displayed, got %q", clip(a.Status))
	}
	return a.ID, kind, nil
}

// ParsePushToken reads the payload of a push-token topic; nil removes the token.
func ParsePushToken(payload []byte) (*delivery.Registration, error) {
	var members map[string]json.RawMessage
	if err := Decode(payload, &members); err != nil {
		return nil, err
	}
	if _, ok := members["apns"]; !ok {
		return nil, fmt.Errorf(`apns: must be given, {"apns":null} removes the token`)
	}
	var t PushToken
	if err := Decode(payload, &t); err != nil {
		return nil, err
	}
	return t.APNs.Registered(), nil
}

// Decode reads one JSON value and nothing else, without fields that v lacks.
func Decode(payload []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if mistaken, ok := errors.AsType[*json.UnmarshalTypeError](err); ok { // its own text names Go types
			return fmt.Errorf("%s: must not be a JSON %s", cmp.Or(mistaken.Field, "body"), mistaken.Value)
		}
		return fmt.Errorf("body is not the JSON that is expected: %w", err)
	}
	// Token, not More: More takes a stray closing bracket for the end.
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("body holds more than one JSON value")
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
