package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// notification checks a request and makes its notification.
func (c *Core) notification(r Request) (*Notification, error) {
	if err := checkRequest(&r); err != nil {
		return nil, err
	}
	n := &Notification{
		ID: r.ID, Account: r.Account, Title: r.Title, Body: r.Body, Badge: r.Badge, Sound: r.Sound, Category: r.Category,
		CollapseKey: r.CollapseKey, Ack: pick(r.Ack != 0, r.Ack, c.settings.Load().Ack), Urgency: pick(r.Urgency != 0, r.Urgency, UrgencyHigh),
		Fallback: !r.NoFallback, HasMessage: r.Data != nil,
		Subtitle: r.Subtitle, Thread: r.Thread, Link: r.Link, Image: r.Image, Level: pick(r.Level == LevelActive, 0, r.Level),
		Localized: r.Localized, Extra: r.Extra, BadgeAuto: r.BadgeAuto, AckWindow: r.AckWindow,
		TTLZero: r.TTL != nil && *r.TTL == 0, Kind: pick(r.Kind == KindAlert, "", r.Kind), PushType: pick(r.PushType == KindAlert, "", r.PushType),
		Overlay: r.Overlay, Mark: r.Mark, AckGiven: r.Ack != 0, TTLGiven: r.TTL != nil,
	}
	if n.PushType != "" { // always pushed
		n.AckWindow = new(time.Duration(0))
	}
	if n.ID == "" {
		n.ID = placeholderID // the one it gets tells its Seq, which it does not have yet
	}
	if c.opts.CheckContent != nil {
		if err := c.opts.CheckContent(n); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return n, nil
}

// checkRequest returns the faults of a request: a FieldError for each, in
// the order of the fields in contract §4.
func checkRequest(r *Request) error {
	var errs []error
	fault := func(wrong bool, field, rule string, got any) {
		if wrong {
			errs = append(errs, fieldErrorf(field, rule, got))
		}
	}
	atMost := func(limit, size int, field string) {
		if size > limit { // or every request would pay for the text
			fault(true, field, fmt.Sprintf("at most %d bytes", limit), size)
		}
	}
	text := func(field, value string) { fault(!utf8.ValidString(value), field, "must be UTF-8", nil) }
	id := func(field, value string) {
		fault(value != "" && !validID(value), field, "must be 1 to 64 of A-Za-z0-9._:-", value)
	}

	if err := ValidAccount(r.Account); err != nil {
		errs = append(errs, err)
	}
	text("title", r.Title)
	both := len(r.Title) + len(r.Body)
	tooLong := func(field, other string) {
		fault(true, field, fmt.Sprintf("at most %d bytes together with %s; put the rest into data", MaxText, other), both)
	}
	if both > MaxText && len(r.Title) > len(r.Body) {
		tooLong("title", "body")
	}
	text("body", r.Body)
	if both > MaxText && len(r.Title) <= len(r.Body) {
		tooLong("body", "title")
	}
	atMost(MaxData, len(r.Data), "data")
	fault(r.Data != nil && len(r.Data) <= MaxData && !json.Valid(r.Data), "data", "must be a JSON value", nil)
	fault(r.Title == "" && r.Body == "" && r.Data == nil && !r.Localized.shows(), "title", "title, body or data must be given", nil)
	id("id", r.ID)
	id("collapse_key", r.CollapseKey)
	if r.TTL != nil {
		fault(*r.TTL < 0 || *r.TTL > MaxTTL, "ttl", "must be 0 to 720h (30 days)", *r.TTL)
	}
	if r.Badge != nil {
		fault(*r.Badge < 0, "badge", "must be 0 or more", *r.Badge)
	}
	text("sound", r.Sound)
	atMost(MaxName, len(r.Sound), "sound")
	text("category", r.Category)
	atMost(MaxName, len(r.Category), "category")
	text("subtitle", r.Subtitle)
	atMost(MaxSubtitle, len(r.Subtitle), "subtitle")
	text("thread", r.Thread)
	atMost(MaxName, len(r.Thread), "thread")
	text("link", r.Link)
	atMost(MaxLink, len(r.Link), "link")
	text("image", r.Image)
	atMost(MaxLink, len(r.Image), "image")
	fault(r.Image != "" && !strings.HasPrefix(r.Image, "https://"), "image", "must be an https URL", nil)
	fault(r.Level > LevelCritical, "level", "must be passive, active, time-sensitive or critical", int(r.Level))
	if r.Localized != nil {
		size, _ := json.Marshal(r.Localized) // strings
		atMost(MaxLocalized, len(size), "localized")
	}
	atMost(MaxExtra, len(r.Extra), "extra")
	fault(r.Extra != nil && !isObject(r.Extra), "extra", "must be a JSON object", nil)
	if r.AckWindow != nil {
		fault(*r.AckWindow < 0 || *r.AckWindow > MaxAckWindow, "ack_window", "must be 0 to 1h", *r.AckWindow)
	}
	atMost(MaxName, len(r.Kind), "apns.kind")
	if o := r.Overlay; o != nil {
		fault(o.APNs != nil && !isObject(o.APNs), "apns", "must be a JSON object", nil)
		fault(o.FCM != nil && !isObject(o.FCM), "fcm", "must be a JSON object", nil)
		fault(o.WebPush != nil && !isObject(o.WebPush), "webpush", "must be a JSON object", nil)
	}
	return errors.Join(errs...)
}

func isObject(b json.RawMessage) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(b, &object) == nil && object != nil
}

func validID(id string) bool {
	if len(id) > MaxID {
		return false
	}
	for _, b := range []byte(id) {
		switch {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '.', b == '_', b == ':', b == '-':
		default:
			return false
		}
	}
	return id != ""
}

// clip keeps an error readable.
func clip(s string) string {
	if len(s) > MaxID {
		return strings.ToValidUTF8(s[:MaxID], "") + "…"
	}
	return s
}
