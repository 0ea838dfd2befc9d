package fcm

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/payload"
)

// The styles of a message (key fallback.fcm.style).
const (
	// StyleNotification is shown by Android while the app is in the background.
	StyleNotification = "notification"
	// StyleData is handed to the app, which shows it: it can drop what the channel has
	// shown before.
	StyleData = "data"
)

const (
	// maxPayload is what keys and values of data and notification may count together.
	// https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type
	maxPayload = 4096
	// shortPayload is tried once where Google finds the first one too big all the same.
	shortPayload = 2048
	// maxTTL is the longest that Google keeps a message.
	maxTTL = 28 * 24 * time.Hour
)

// overlay is what a backend says for FCM alone (`fcm` of a request): payload is put
// over the message.
type overlay struct {
	Payload json.RawMessage `json:"payload"`
}

// protected are the members that a backend cannot set: they say which device, and
// which notification it is. data of android or webpush would take the place of data.
// https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages
var protected = []string{"token", "fid", "topic", "condition", "name", "data.heartline", "android.notification.tag", "android.data", "webpush.data"}

func overlayOf(n *delivery.Notification) (o overlay, err error) {
	if n.Overlay == nil || len(n.Overlay.FCM) == 0 {
		return o, nil
	}
	if err := json.Unmarshal(n.Overlay.FCM, &o); err != nil {
		return o, &delivery.FieldError{Field: "fcm", Rule: "must be an object with payload"}
	}
	return o, nil
}

// CheckContent checks the overlay of n for FCM. It needs no configuration. The error is a
// *delivery.FieldError.
func CheckContent(n *delivery.Notification) error {
	if n.Overlay == nil || len(n.Overlay.FCM) == 0 {
		return nil
	}
	o, err := overlayOf(n)
	if err != nil {
		return err
	}
	m := payload.Object{}
	if err := payload.Merge(m, o.Payload, "fcm.payload", protected...); err != nil {
		return err
	}
	_, err = counted(m)
	return err
}

// background reports whether n shows nothing: it only wakes the app.
func background(n *delivery.Notification) bool {
	return n.Title == "" && n.Body == "" && n.Badge == nil && n.Sound == "" && n.Localized == nil
}

// message is the body of the request for one device (projects.messages.send). The
// body, then the title are shortened until it counts at most limit bytes; the error
// then wraps fallback.ErrTooLarge.
//
// collapse_key is not sent: a device has four of them, and Google delays bursts of one
// without a word. The tag replaces on the screen instead.
// https://firebase.google.com/docs/cloud-messaging/customize-messages/collapsible-message-types
func (x *project) message(r *delivery.Registration, n *delivery.Notification, dismiss bool, now time.Time, limit int) ([]byte, error) {
	o, err := overlayOf(n)
	if err != nil {
		return nil, err
	}
	silent := dismiss || background(n) && !overlayShows(o)
	build := func(title, body string) ([]byte, int, error) {
		identity := payload.Identity(n)
		android := payload.Object{"priority": priority(n, silent), "ttl": ttl(n, now)}
		switch {
		case dismiss:
			identity = payload.Dismissal(n)
		case x.style == StyleData || background(n):
			describe(identity, n, title, body)
		default:
			android["notification"] = x.shown(n, title, body)
		}
		text, err := payload.Marshal(identity)
		if err != nil {
			return nil, 0, err
		}
		m := payload.Object{"data": payload.Object{"heartline": string(text)}, "android": android}
		if !dismiss {
			if err := payload.Merge(m, o.Payload, "fcm.payload", protected...); err != nil {
				return nil, 0, err
			}
			tag(m, n)
		}
		size, err := counted(m)
		if err != nil {
			return nil, 0, err
		}
		if r.Form == delivery.FormFID {
			m["fid"] = r.Token
		} else {
			m["token"] = r.Token
		}
		b, err := payload.Marshal(payload.Object{"message": m})
		return b, size, err
	}
	return payload.Fit(n.Title, n.Body, limit, build)
}

// overlayShows reports whether the overlay brings something that Android shows.
func overlayShows(o overlay) bool {
	var m struct {
		Notification map[string]any `json:"notification"`
		Android      struct {
			Notification map[string]any `json:"notification"`
		} `json:"android"`
	}
	_ = json.Unmarshal(o.Payload, &m) // there may be none; Merge refuses what is no object
	return len(m.Notification) > 0 || len(m.Android.Notification) > 0
}

// tag gives a notification that comes from the overlay alone the tag by which a retry, or
// a newer one, takes its place on the screen.
func tag(m payload.Object, n *delivery.Notification) {
	android, _ := m["android"].(payload.Object) // Merge leaves it an object
	shown, _ := android["notification"].(payload.Object)
	if shown == nil {
		if m["notification"] == nil {
			return
		}
		shown = payload.Object{}
		android["notification"] = shown
	}
	shown["tag"] = payload.Tag(n)
}

// shown is android.notification.
func (x *project) shown(n *delivery.Notification, title, body string) payload.Object {
	o := payload.Object{"tag": payload.Tag(n)}
	set := func(name, value string) {
		if value != "" {
			o[name] = value
		}
	}
	set("title", title)
	set("body", body)
	set("sound", n.Sound)
	set("image", n.Image)
	set("click_action", n.Category)
	set("channel_id", x.channel)
	if n.Badge != nil {
		o["notification_count"] = min(*n.Badge, math.MaxInt32) // Google takes an int32
	}
	if l := n.Localized; l != nil {
		set("title_loc_key", l.TitleKey)
		set("body_loc_key", l.BodyKey)
		if len(l.TitleArgs) > 0 {
			o["title_loc_args"] = l.TitleArgs
		}
		if len(l.BodyArgs) > 0 {
			o["body_loc_args"] = l.BodyArgs
		}
	}
	switch n.Level {
	case delivery.LevelPassive:
		o["notification_priority"] = "PRIORITY_LOW"
	case delivery.LevelTimeSensitive:
		o["notification_priority"] = "PRIORITY_HIGH"
	case delivery.LevelCritical:
		o["notification_priority"] = "PRIORITY_MAX"
	}
	return o
}

// describe adds what the app shows by itself.
func describe(o payload.Object, n *delivery.Notification, title, body string) {
	for name, text := range map[string]string{
		"title": title, "body": body, "subtitle": n.Subtitle, "sound": n.Sound, "category": n.Category,
		"thread": n.Thread, "image": n.Image, "tag": payload.Tag(n),
	} {
		if text != "" {
			o[name] = text
		}
	}
	if n.Badge != nil {
		o["badge"] = *n.Badge
	}
	if n.Localized != nil {
		o["localized"] = n.Localized
	}
	if n.Level != 0 {
		o["level"] = n.Level.String()
	}
}

// priority is HIGH for what wakes a phone and shows something. Google lowers an app
// that wakes phones for nothing.
// https://firebase.google.com/docs/cloud-messaging/android-message-priority
func priority(n *delivery.Notification, silent bool) string {
	if silent || n.Urgency == delivery.UrgencyNormal {
		return "NORMAL"
	}
	return "HIGH"
}

// ttl is how long Google keeps the message, in whole seconds rounded up; "0s" is now or
// never.
func ttl(n *delivery.Notification, now time.Time) string {
	if n.TTLZero {
		return "0s"
	}
	left := min(n.ExpiresAt.Sub(now), maxTTL)
	return strconv.FormatInt(max(1, int64((left+time.Second-1)/time.Second)), 10) + "s"
}

// counted is what counts against Google's limit: keys and values of data, and the
// notification.
func counted(m payload.Object) (int, error) {
	size := 0
	data, _ := m["data"].(payload.Object)
	for k, v := range data {
		text, ok := v.(string)
		if !ok {
			return 0, &delivery.FieldError{Field: "fcm.payload.data." + k, Rule: "must be a string"}
		}
		if k == "from" || k == "message_type" || strings.HasPrefix(k, "google") || strings.HasPrefix(k, "gcm") {
			return 0, &delivery.FieldError{Field: "fcm.payload.data." + k, Rule: "must not be from, message_type, or begin with google or gcm: Google keeps these names"}
		}
		size += len(k) + len(text)
	}
	android, _ := m["android"].(payload.Object)
	for _, shown := range []any{m["notification"], android["notification"]} {
		if shown == nil {
			continue
		}
		b, err := payload.Marshal(shown)
		if err != nil {
			return 0, fmt.Errorf("count a message: %w", err)
		}
		size += len(b)
	}
	return size, nil
}
