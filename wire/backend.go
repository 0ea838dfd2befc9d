package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Content is the body of POST /v1/notifications without the account: what a
// backend publishes to an account's notifications topic.
type Content struct {
	Title       string          `json:"title,omitempty" doc:"Shown in the tip; with body at most 2 KiB"`
	Body        string          `json:"body,omitempty" doc:"Shown in the tip; with title at most 2 KiB"`
	Data        json.RawMessage `json:"data,omitempty" doc:"The full message: any JSON value of at most 256 KiB, delivered after the ack when the app is in the foreground"`
	ID          string          `json:"id,omitempty" doc:"Makes the request idempotent: 1 to 64 of A-Za-z0-9._:-; a UUIDv7 is made if absent"`
	CollapseKey string          `json:"collapse_key,omitempty" doc:"A newer notification with the same key replaces one that is not final: 1 to 64 of A-Za-z0-9._:-"`
	TTL         Duration        `json:"ttl,omitempty" doc:"A Go duration, at most 720h; 24h if absent. 0, also as a number: one attempt and no more" example:"\"1h30m\""`
	Ack         string          `json:"ack,omitempty" enum:"received,displayed" doc:"The ack that ends a delivery: received is the device's PUBACK, displayed is sent by the app when it has shown the notification"`
	Urgency     string          `json:"urgency,omitempty" enum:"high,normal" doc:"APNs priority 10 or 5; high if absent"`
	Fallback    *bool           `json:"fallback,omitempty" doc:"false: over the channel only, never a push; true if absent"`
	Devices     []string        `json:"devices,omitempty" doc:"Narrows the account's devices; all if absent"`
	Badge       any             `json:"badge,omitempty" doc:"Number on the app's icon, 0 or more; auto: the server counts"`
	Sound       string          `json:"sound,omitempty" maxLength:"128" doc:"Sound to play"`
	Category    string          `json:"category,omitempty" maxLength:"128" doc:"Category of actions"`

	Subtitle  string              `json:"subtitle,omitempty" doc:"Shown in the tip: at most 256 bytes"`
	Thread    string              `json:"thread,omitempty" maxLength:"128" doc:"Shown as one conversation; the account if absent"`
	Link      string              `json:"link,omitempty" doc:"A URL or deep link that a tap opens: at most 2,048 bytes"`
	Image     string              `json:"image,omitempty" doc:"An https URL of at most 2,048 bytes"`
	Level     string              `json:"level,omitempty" enum:"passive,active,time-sensitive,critical" doc:"active if absent"`
	Localized *delivery.Localized `json:"localized,omitempty" doc:"Keys and arguments of texts that the app holds: at most 1 KiB"`
	Extra     json.RawMessage     `json:"extra,omitempty" doc:"A JSON object of at most 1 KiB that every copy carries: for the app's own routing or ciphertext"`
	AckWindow Duration            `json:"ack_window,omitempty" doc:"A Go duration up to 1h: how long the device may take to acknowledge before a push is requested; the configured window if absent. 0, also as a number: a push at once" example:"\"10s\""`
	APNs      json.RawMessage     `json:"apns,omitempty" doc:"What only APNs knows, put over what Heartline makes: kind, push_type, headers, payload"`
	FCM       json.RawMessage     `json:"fcm,omitempty" doc:"What only FCM knows, put over what Heartline makes"`
	WebPush   json.RawMessage     `json:"webpush,omitempty" doc:"What only Web Push knows, put over what Heartline makes"`
}

// Duration is a Go duration in JSON, such as "90s". Zero may be the number 0.
type Duration string

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(text []byte) error {
	if string(text) == "0" {
		*d = "0"
		return nil
	}
	return json.Unmarshal(text, (*string)(d))
}

// Notification is the body of POST /v1/notifications.
type Notification struct {
	Account string `json:"account" doc:"The account to notify" minLength:"1" maxLength:"128"`
	Content
}

// Request turns c into what the core is asked. Its errors are of type
// *delivery.FieldError; there may be several, joined.
func (c Content) Request(account string) (delivery.Request, error) {
	r := delivery.Request{
		Account: account, Title: c.Title, Body: c.Body, Data: c.Data, ID: c.ID, CollapseKey: c.CollapseKey,
		NoFallback: c.Fallback != nil && !*c.Fallback, Devices: c.Devices, Sound: c.Sound, Category: c.Category,
		Subtitle: c.Subtitle, Thread: c.Thread, Link: c.Link, Image: c.Image, Localized: c.Localized, Extra: c.Extra,
	}
	if empty(r.Extra) {
		r.Extra = nil
	}
	var errs []error
	var err error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if c.Devices != nil && len(c.Devices) == 0 { // a backend that has found no device means none, not all
		note(&delivery.FieldError{Field: "devices", Rule: "must not be empty: leave it out for all devices"})
	}
	r.TTL, err = parseDuration("ttl", c.TTL)
	note(err)
	r.Ack, err = ParseAckName("ack", c.Ack)
	note(err)
	r.Urgency, err = parseUrgency(c.Urgency)
	note(err)
	r.Badge, r.BadgeAuto, err = parseBadge(c.Badge)
	note(err)
	r.Level, err = parseLevel(c.Level)
	note(err)
	r.AckWindow, err = parseDuration("ack_window", c.AckWindow)
	note(err)
	note(c.overlay(&r))
	return r, errors.Join(errs...)
}

// parseDuration returns nil for "". The core checks the range.
func parseDuration(field string, text Duration) (*time.Duration, error) {
	value := string(text)
	if value == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return nil, fault(field, "must be a duration such as 90s or 24h", value)
	}
	return &d, nil
}

func parseUrgency(name string) (delivery.Urgency, error) {
	switch name {
	case "":
		return 0, nil
	case "high":
		return delivery.UrgencyHigh, nil
	case "normal":
		return delivery.UrgencyNormal, nil
	}
	return 0, fault("urgency", "must be high or normal", name)
}

// parseBadge reads a number or "auto".
func parseBadge(badge any) (n *int, auto bool, err error) {
	switch b := badge.(type) {
	case nil:
		return nil, false, nil
	case string:
		if b == "auto" {
			return nil, true, nil
		}
	case int:
		return &b, false, nil
	case *int:
		return b, false, nil
	case float64:
		if i := int(b); float64(i) == b && b >= 0 && b <= math.MaxInt32 {
			return &i, false, nil
		}
	}
	got, _ := json.Marshal(badge) // it was JSON
	return nil, false, &delivery.FieldError{Field: "badge", Rule: `must be a whole number of 0 or more, or "auto"`, Got: clip(string(got))}
}

var levels = map[string]delivery.Level{
	"": 0, "passive": delivery.LevelPassive, "active": delivery.LevelActive,
	"time-sensitive": delivery.LevelTimeSensitive, "critical": delivery.LevelCritical,
}

func parseLevel(name string) (delivery.Level, error) {
	l, ok := levels[name]
	if !ok {
		return 0, fault("level", "must be passive, active, time-sensitive or critical", name)
	}
	return l, nil
}

// LevelName is the name of a level, as in Content.Level.
func LevelName(l delivery.Level) string {
	for name, known := range levels {
		if known == l && name != "" {
			return name
		}
	}
	return "active"
}

// overlay reads the members of the notification servers into r.
func (c Content) overlay(r *delivery.Request) error {
	if c.APNs == nil && c.FCM == nil && c.WebPush == nil {
		return nil
	}
	var apple struct {
		Kind     string          `json:"kind"`
		PushType string          `json:"push_type"`
		Headers  json.RawMessage `json:"headers"`
		Payload  json.RawMessage `json:"payload"`
	}
	var google struct {
		Payload json.RawMessage `json:"payload"`
	}
	var browser struct {
		Headers json.RawMessage `json:"headers"`
		Payload json.RawMessage `json:"payload"`
	}
	var errs []error
	read := func(field string, value json.RawMessage, into any) {
		if empty(value) {
			return
		}
		if text := bytes.TrimLeft(value, space); len(text) == 0 || text[0] != '{' {
			errs = append(errs, &delivery.FieldError{Field: field, Rule: "must be an object"})
		} else if err := Decode(value, into); err != nil {
			errs = append(errs, below(field, err))
		}
	}
	read("apns", c.APNs, &apple)
	read("fcm", c.FCM, &google)
	read("webpush", c.WebPush, &browser)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	r.Kind, r.PushType = apple.Kind, apple.PushType
	if r.PushType == "liveactivity" && !strings.HasPrefix(r.Kind, "liveactivity:") {
		return &delivery.FieldError{Field: "apns.kind", Rule: "must name the activity's registration, such as liveactivity:order-7, with push_type liveactivity", Got: clip(r.Kind)}
	}
	if r.PushType != delivery.KindAlert && delivery.ValidKind(r.PushType) {
		// Such a push needs a token of its own: the alert's is refused.
		if r.Kind == "" {
			r.Kind = r.PushType
		}
		if r.Kind != r.PushType {
			return &delivery.FieldError{Field: "apns.kind", Rule: "must be the same as push_type, or absent", Got: clip(r.Kind)}
		}
	}
	if r.Kind != "" && !delivery.ValidKind(r.Kind) {
		return fault("apns.kind", delivery.KindRule, r.Kind)
	}
	// An overlay that puts nothing over the request is none.
	keep := func(value json.RawMessage, parts ...json.RawMessage) json.RawMessage {
		for _, part := range parts {
			if !empty(part) {
				return value
			}
		}
		return nil
	}
	o := delivery.Overlay{
		APNs: keep(c.APNs, apple.Headers, apple.Payload), FCM: keep(c.FCM, google.Payload), WebPush: keep(c.WebPush, browser.Headers, browser.Payload),
	}
	if o.APNs != nil || o.FCM != nil || o.WebPush != nil {
		r.Overlay = &o
	}
	return nil
}

// empty reports whether a member says nothing: it is absent, null, or an object without
// members.
func empty(value json.RawMessage) bool {
	if len(value) > 16 { // but for white space that nobody sends
		return false
	}
	text := string(bytes.Trim(value, space))
	return text == "" || text == "null" || strings.HasPrefix(text, "{") && strings.Trim(text, "{}"+space) == ""
}

// ParseContent reads what a backend has published. With an error the request holds
// the ID alone, if the payload told it.
func ParseContent(payload []byte, account string) (delivery.Request, error) {
	if c, plain := plainContent(payload, nil); plain {
		return c.Request(account)
	}
	var c Content
	if err := Decode(payload, &c); err != nil {
		return delivery.Request{ID: clip(c.ID)}, err
	}
	return c.Request(account)
}

// UrgencyName is the name of an urgency, as in Content.Urgency.
func UrgencyName(u delivery.Urgency) string {
	if u == delivery.UrgencyNormal {
		return "normal"
	}
	return "high"
}
