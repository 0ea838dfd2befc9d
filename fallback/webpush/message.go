package webpush

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/payload"
)

// overlay is what a backend says for browsers alone (`webpush` of a request).
type overlay struct {
	Headers json.RawMessage `json:"headers"`
	Payload json.RawMessage `json:"payload"`
}

func overlayOf(n *delivery.Notification) (o overlay, err error) {
	if n.Overlay == nil || len(n.Overlay.WebPush) == 0 {
		return o, nil
	}
	if err := json.Unmarshal(n.Overlay.WebPush, &o); err != nil {
		return o, &delivery.FieldError{Field: "webpush", Rule: "must be an object with headers and payload"}
	}
	return o, nil
}

// shows reports whether n has something to show: a browser must show a tip for each
// push (userVisibleOnly), and takes the subscription away where a page does not. The
// title may come from the overlay.
func shows(n *delivery.Notification) bool {
	if n.Title != "" || n.Body != "" {
		return true
	}
	o, err := overlayOf(n)
	if err != nil || len(o.Payload) == 0 {
		return false
	}
	var p struct {
		Notification struct {
			Title string `json:"title"`
		} `json:"notification"`
	}
	return json.Unmarshal(o.Payload, &p) == nil && p.Notification.Title != ""
}

// message is the plain text of a push: a declarative push message, which iOS and
// macOS show without a worker (since 18.4) and which others hand to the worker.
// https://www.w3.org/TR/push-api/#declarative-push-message
//
//	{"web_push":8030,"mutable":true,
//	 "notification":{"title":…,"body":…,"tag":…,"navigate":…,"app_badge":…,…},
//	 "heartline":{"id":…,"account":…,"has_message":…,"accepted_at":…}}
//
// A browser that reads the message itself gives its worker the notification alone. Where the tag
// is not the ID, the notification's data has ID and acceptance, too.
// The text stands once. Body, then title are shortened until it fits limit; the error then
// wraps fallback.ErrTooLarge.
func message(n *delivery.Notification, limit int) ([]byte, error) {
	o, err := overlayOf(n)
	if err != nil {
		return nil, err
	}
	title, body := n.Title, n.Body
	if title == "" { // a notification needs a title
		title, body = body, ""
	}
	build := func(title, body string) ([]byte, int, error) {
		shown := payload.Object{"title": title, "tag": payload.Tag(n), "navigate": "/"}
		if n.Link != "" {
			shown["navigate"] = n.Link
		}
		if body != "" {
			shown["body"] = body
		}
		if n.Image != "" {
			shown["image"] = n.Image
		}
		if n.Badge != nil {
			shown["app_badge"] = *n.Badge
		}
		switch n.Level {
		case delivery.LevelPassive:
			shown["silent"] = true
		case delivery.LevelCritical:
			shown["requireInteraction"] = true
		}
		ours := payload.Identity(n)
		for name, text := range map[string]string{"subtitle": n.Subtitle, "sound": n.Sound, "category": n.Category, "thread": n.Thread} {
			if text != "" {
				ours[name] = text
			}
		}
		if n.Localized != nil {
			ours["localized"] = n.Localized
		}
		if shown["tag"] != n.ID {
			shown["data"] = payload.Object{"heartline": payload.Object{"id": n.ID, "accepted_at": ours["accepted_at"]}}
		}
		all := payload.Object{"web_push": 8030, "mutable": true, "notification": shown, "heartline": ours}
		if err := payload.Merge(all, o.Payload, "webpush.payload", protected...); err != nil {
			return nil, 0, err
		}
		b, err := payload.Marshal(all)
		return b, len(b), err
	}
	return payload.Fit(title, body, limit, build)
}

// dismissal is the plain text of a push that takes n off the screen. It shows nothing.
func dismissal(n *delivery.Notification) ([]byte, error) {
	return payload.Marshal(payload.Object{"heartline": payload.Dismissal(n)})
}

// allowsSilent reports whether the application behind an endpoint may get a push and
// show nothing. Firefox allows a number of them; UnifiedPush distributors hand each to an
// app of their own. Chrome and Edge show a text of their own, and Safari takes the
// subscription away.
func allowsSilent(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	service := Service(u.Host)
	return service == serviceMozilla || service == serviceOther && !strings.HasSuffix(strings.ToLower(u.Hostname()), ".push.apple.com")
}

// CheckContent checks the overlay of n for browsers. It needs no configuration. The error is a
// *delivery.FieldError.
func CheckContent(n *delivery.Notification) error {
	if n.Overlay == nil || len(n.Overlay.WebPush) == 0 {
		return nil
	}
	o, err := overlayOf(n)
	if err != nil {
		return err
	}
	h, err := payload.Headers(o.Headers, "webpush.headers", settable...)
	if err != nil {
		return err
	}
	if u, set := h["Urgency"]; set && !slices.Contains(urgencies, u) {
		return &delivery.FieldError{Field: "webpush.headers.Urgency", Rule: "must be one of " + strings.Join(urgencies, ", "), Got: u}
	}
	return payload.Merge(payload.Object{}, o.Payload, "webpush.payload", protected...)
}

// fits refuses what no request can carry.
func fits(n *delivery.Notification) error {
	if err := CheckContent(n); err != nil {
		return err
	}
	if _, err := message(n, maxPlain); err != nil {
		return fmt.Errorf("web push: %w", err)
	}
	return nil
}

// settable are the header fields that a backend may set; the others carry credentials,
// the encryption, or the delivery's identity.
var settable = []string{"Urgency", "X-WNS-Cache-Policy", "X-WNS-Type"}

// urgencies are those of RFC 8030 §5.3.
var urgencies = []string{"very-low", "low", "normal", "high"}

// protected are the members that a backend cannot set: they say which notification it is, and that
// it is one.
var protected = []string{"heartline", "web_push", "notification.tag"}

var errNothingToShow = fmt.Errorf("a browser must show something for each push: give the notification a title or a body (%w)", fallback.ErrUnsuited)
