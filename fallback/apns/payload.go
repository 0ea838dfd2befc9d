package apns

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/delivery"
	shared "github.com/heartline-mqtt/heartline/fallback/payload"
)

const (
	// maxPayload is Apple's limit for the body of a request, maxVoIP that of a VoIP
	// push.
	maxPayload = 4096
	maxVoIP    = 5120
	// shortPayload is tried once where Apple finds the first payload too large all the
	// same: enough to wake the app, which gets the rest over its channel.
	shortPayload = 1024
)

// background reports whether a push of n shows nothing, so that it may only wake the app: n
// has nothing to show at Apple, or its backend asks for such a push. Apple takes a background
// push with the key content-available alone: one with a badge or a sound is an alert without
// text. A badge that the server counts is not in n yet when it is accepted.
func background(n *delivery.Notification) bool {
	if n.PushType != "" {
		return n.PushType == pushTypeBackground
	}
	return n.Title == "" && n.Subtitle == "" && n.Body == "" && n.Localized == nil && n.Badge == nil && !n.BadgeAuto && n.Sound == "" && !overlayShows(n)
}

// overlayShows reports whether the overlay brings something to show.
func overlayShows(n *delivery.Notification) bool {
	o, err := overlayOf(n)
	if err != nil || len(o.Payload) == 0 {
		return false
	}
	var p struct {
		APS map[string]any `json:"aps"`
	}
	_ = json.Unmarshal(o.Payload, &p) // CheckContent has refused what is no object
	return p.APS["alert"] != nil || p.APS["badge"] != nil || p.APS["sound"] != nil
}

// The push types that Heartline treats in a way of their own.
const (
	pushTypeAlert      = "alert"
	pushTypeBackground = "background"
	pushTypeVoIP       = "voip"
)

// topicSuffixes are what apns-topic has behind the bundle ID, by push type.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
var topicSuffixes = map[string]string{
	pushTypeAlert: "", pushTypeBackground: "", "controls": ".push-type.controls",
	pushTypeVoIP: ".voip", "complication": ".complication", "fileprovider": ".pushkit.fileprovider",
	"location": ".location-query", "liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt", "widgets": ".push-type.widgets",
}

// overlay is what a backend says for Apple alone (`apns` of a request).
type overlay struct {
	Kind     string          `json:"kind"`
	PushType string          `json:"push_type"`
	Headers  json.RawMessage `json:"headers"`
	Payload  json.RawMessage `json:"payload"`
}

func overlayOf(n *delivery.Notification) (o overlay, err error) {
	if n.Overlay == nil || len(n.Overlay.APNs) == 0 {
		return o, nil
	}
	if err := json.Unmarshal(n.Overlay.APNs, &o); err != nil {
		return o, &delivery.FieldError{Field: "apns", Rule: "must be an object with kind, push_type, headers and payload"}
	}
	return o, nil
}

// settable are the header fields that a backend may set. The others carry the
// credentials, the device, or the delivery's identity.
var settable = []string{"apns-priority", "apns-expiration"}

// headers reads the overlay's header fields; the error is a *delivery.FieldError.
func headers(n *delivery.Notification) (map[string]string, error) {
	o, err := overlayOf(n)
	if err != nil {
		return nil, err
	}
	h, err := shared.Headers(o.Headers, "apns.headers", settable...)
	if err != nil {
		return nil, err
	}
	for name, value := range h {
		number, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil || number < 0 || strconv.FormatInt(number, 10) != value: // Apple takes no +5 and no 05
			return nil, &delivery.FieldError{Field: "apns.headers." + name, Rule: "must be a number", Got: value}
		case name == "apns-priority" && !slices.Contains([]int64{1, 5, 10}, number):
			return nil, &delivery.FieldError{Field: "apns.headers." + name, Rule: "must be 1, 5 or 10", Got: value}
		}
	}
	return h, nil
}

// protected are the members that a backend cannot set: they say which notification it is.
var protected = []string{"heartline"}

// CheckContent checks the push type of n and its overlay for Apple. It needs no configuration. The
// error is a *delivery.FieldError.
func CheckContent(n *delivery.Notification) error {
	if _, known := topicSuffixes[n.PushType]; !known && n.PushType != "" {
		return &delivery.FieldError{Field: "apns.push_type", Rule: "must be one of Apple's push types, such as alert, background, voip, liveactivity, location, pushtotalk or widgets", Got: n.PushType}
	}
	if n.Overlay == nil || len(n.Overlay.APNs) == 0 {
		return nil
	}
	h, err := headers(n)
	if err != nil {
		return err
	}
	if h["apns-priority"] == "10" && background(n) {
		return &delivery.FieldError{Field: "apns.headers.apns-priority", Rule: "must be 1 or 5 for a push that shows nothing: Apple refuses 10", Got: "10"}
	}
	o, err := overlayOf(n)
	if err != nil {
		return err
	}
	return shared.Merge(shared.Object{}, o.Payload, "apns.payload", protected...)
}

// payload returns the body of n's request, of at most limit bytes: it shortens the
// notification's body until it fits, then the title, never the ID. The error wraps
// ErrTooLarge if the rest is too long, or is a *delivery.FieldError.
//
//	{"aps":{"alert":{"title":…,"subtitle":…,"body":…},"badge":…,"sound":…,"category":…,
//	        "thread-id":…,"mutable-content":1,"interruption-level":…},
//	 "heartline":{"id":…,"account":…,"has_message":…,"accepted_at":…,…}}
//
// thread-id is the account where the notification names no thread, so that a phone with
// several accounts groups by them. mutable-content lets the app's service extension
// acknowledge, and drop a copy that the channel has shown. interruption-level is
// `active` by default, which needs no entitlement.
//
// The JSON is written here and not by encoding/json, which costs a multiple, but for
// an overlay.
func payload(n *delivery.Notification, limit int) ([]byte, error) {
	if n.PushType == pushTypeVoIP && limit == maxPayload {
		limit = maxVoIP
	}
	o, err := overlayOf(n)
	if err != nil {
		return nil, err
	}
	build := func(title, body string) ([]byte, int, error) {
		b := appendPayload(make([]byte, 0, 384+len(title)+len(body)), n, title, body)
		if len(o.Payload) > 0 {
			all, err := shared.Decode(b)
			if err != nil {
				return nil, 0, fmt.Errorf("put the overlay over the payload: %w", err)
			}
			if err := shared.Merge(all, o.Payload, "apns.payload", protected...); err != nil {
				return nil, 0, err
			}
			if b, err = shared.Marshal(all); err != nil {
				return nil, 0, fmt.Errorf("put the overlay over the payload: %w", err)
			}
		}
		return b, len(b), nil
	}
	b, err := shared.Fit(n.Title, n.Body, limit, build)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func appendPayload(b []byte, n *delivery.Notification, title, body string) []byte {
	b = append(b, `{"aps":{`...)
	start := len(b)
	text := func(name, value string) {
		if value == "" {
			return
		}
		if last := b[len(b)-1]; last != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"', ':')
		b = appendString(b, value)
	}
	list := func(name string, values []string) {
		if len(values) == 0 {
			return
		}
		if last := b[len(b)-1]; last != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"', ':', '[')
		for i, v := range values {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, v)
		}
		b = append(b, ']')
	}
	if background(n) {
		b = append(b, `"content-available":1`...)
	} else {
		if n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Localized != nil {
			b = append(b, `"alert":{`...)
			text("title", title)
			text("subtitle", n.Subtitle)
			text("body", body)
			if l := n.Localized; l != nil {
				text("title-loc-key", l.TitleKey)
				list("title-loc-args", l.TitleArgs)
				text("subtitle-loc-key", l.SubtitleKey)
				list("subtitle-loc-args", l.SubtitleArgs)
				text("loc-key", l.BodyKey)
				list("loc-args", l.BodyArgs)
			}
			b = append(b, '}')
		}
		if n.Badge != nil {
			b = append(comma(b, start), `"badge":`...)
			b = strconv.AppendInt(b, int64(*n.Badge), 10)
		}
		switch {
		case n.Level == delivery.LevelCritical:
			sound := n.Sound
			if sound == "" {
				sound = "default"
			}
			b = append(comma(b, start), `"sound":{"critical":1,"name":`...)
			b = append(appendString(b, sound), `,"volume":1}`...)
		case n.Sound != "":
			b = append(comma(b, start), `"sound":`...)
			b = appendString(b, n.Sound)
		}
		if n.Category != "" {
			b = append(comma(b, start), `"category":`...)
			b = appendString(b, n.Category)
		}
		if n.PushType == "" || n.PushType == pushTypeAlert {
			thread := n.Thread
			if thread == "" {
				thread = n.Account
			}
			b = append(comma(b, start), `"thread-id":`...)
			b = appendString(b, thread)
			level := n.Level
			if level == 0 {
				level = delivery.LevelActive
			}
			b = append(b, `,"mutable-content":1,"interruption-level":"`...)
			b = append(append(b, level.String()...), '"')
		}
	}
	b = append(b, `},"heartline":{"id":`...)
	b = appendString(b, n.ID)
	b = append(b, `,"account":`...)
	b = appendString(b, n.Account)
	b = append(b, `,"has_message":`...)
	b = strconv.AppendBool(b, n.HasMessage)
	b = append(b, `,"accepted_at":"`...)
	b = n.AcceptedAt.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, '"')
	text("link", n.Link)
	text("image", n.Image)
	if len(n.Extra) > 0 {
		b = append(append(b, `,"extra":`...), n.Extra...)
	}
	return append(b, '}', '}')
}

// dismissal returns the body of a background push that takes n off the screen.
func dismissal(n *delivery.Notification) ([]byte, error) {
	return shared.Marshal(shared.Object{
		"aps":       shared.Object{"content-available": 1},
		"heartline": shared.Dismissal(n),
	})
}

// comma separates a member from the one before it in the object that begins at start.
func comma(b []byte, start int) []byte {
	if len(b) > start {
		return append(b, ',')
	}
	return b
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		b = appendRune(b, r)
		i += size
	}
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

func appendRune(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\u2028':
		return append(b, `\u2028`...)
	case '\u2029':
		return append(b, `\u2029`...)
	}
	if r < 0x20 {
		return append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
	}
	return utf8.AppendRune(b, r)
}
