package wire

import (
	"encoding/json"
	"errors"
	"fmt"
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
	CollapseKey string          `json:"collapse_key,omitempty" doc:"A newer notification with the same key takes the place of one that is not final: 1 to 64 of A-Za-z0-9._:-"`
	TTL         string          `json:"ttl,omitempty" doc:"A Go duration, at most 720h; 24h if absent" example:"1h30m"`
	Ack         string          `json:"ack,omitempty" enum:"received,displayed" doc:"The ack that ends a delivery: the PUBACK, or the device's word that it has shown it"`
	Urgency     string          `json:"urgency,omitempty" enum:"high,normal" doc:"APNs priority 10 or 5; high if absent"`
	Fallback    *bool           `json:"fallback,omitempty" doc:"false: over the channel only, never a push; true if absent"`
	Devices     []string        `json:"devices,omitempty" doc:"Narrows the account's devices; all if absent"`
	Badge       *int            `json:"badge,omitempty" minimum:"0" doc:"Number on the app's icon"`
	Sound       string          `json:"sound,omitempty" maxLength:"128" doc:"Sound to play"`
	Category    string          `json:"category,omitempty" maxLength:"128" doc:"Category of actions"`
}

// Notification is the body of POST /v1/notifications.
type Notification struct {
	Account string `json:"account" doc:"Who is notified" minLength:"1" maxLength:"128"`
	Content
}

// Request turns c into what the core is asked. Its errors wrap
// delivery.ErrInvalid; there may be several, joined.
func (c Content) Request(account string) (delivery.Request, error) {
	r := delivery.Request{
		Account: account, Title: c.Title, Body: c.Body, Data: c.Data, ID: c.ID, CollapseKey: c.CollapseKey,
		NoFallback: c.Fallback != nil && !*c.Fallback, Devices: c.Devices, Badge: c.Badge, Sound: c.Sound, Category: c.Category,
	}
	var errs []error
	var err error
	if c.TTL != "" {
		if ttl, err := time.ParseDuration(c.TTL); err != nil {
			errs = append(errs, fmt.Errorf("%w: ttl: must be a duration such as 90s or 24h, got %q", delivery.ErrInvalid, clip(c.TTL)))
		} else if ttl <= 0 {
			errs = append(errs, fmt.Errorf("%w: ttl: must be above 0 and at most 720h (30 days), got %s", delivery.ErrInvalid, c.TTL))
		} else {
			r.TTL = &ttl
		}
	}
	if r.Ack, err = ParseAckName(c.Ack); err != nil {
		errs = append(errs, fmt.Errorf("%w: ack: %w", delivery.ErrInvalid, err))
	}
	switch c.Urgency {
	case "":
	case "high":
		r.Urgency = delivery.UrgencyHigh
	case "normal":
		r.Urgency = delivery.UrgencyNormal
	default:
		errs = append(errs, fmt.Errorf("%w: urgency: must be high or normal, got %q", delivery.ErrInvalid, clip(c.Urgency)))
	}
	return r, errors.Join(errs...)
}

// ParseContent reads what a backend has published.
func ParseContent(payload []byte, account string) (delivery.Request, error) {
	c, plain := plainContent(payload, nil)
	if !plain {
		c = Content{}
		if err := Decode(payload, &c); err != nil {
			return delivery.Request{}, fmt.Errorf("%w: %w", delivery.ErrInvalid, err)
		}
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
