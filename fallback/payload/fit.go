package payload

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
)

// Object is a JSON object.
type Object = map[string]any

// Dismissal is the member `heartline` of a background push that takes n off the screen.
// The badge is the app's to set: Apple does not show one of a background push.
func Dismissal(n *delivery.Notification) Object {
	o := Object{"id": n.ID, "account": n.Account, "dismiss": true, "tag": Tag(n)}
	if n.BadgeAuto && n.Badge != nil {
		o["badge"] = *n.Badge
	}
	return o
}

// Identity is the member `heartline` of every payload: by it an app tells the
// notification from all others, whichever way a copy came.
func Identity(n *delivery.Notification) Object {
	o := Object{
		"id": n.ID, "account": n.Account, "has_message": n.HasMessage,
		"accepted_at": n.AcceptedAt.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
	}
	if len(n.Extra) > 0 {
		o["extra"] = n.Extra
	}
	if n.Link != "" {
		o["link"] = n.Link
	}
	return o
}

// Tag names the tip on a screen that a newer notification replaces: the collapse
// key, or the notification's ID.
func Tag(n *delivery.Notification) string {
	if n.CollapseKey != "" {
		return n.CollapseKey
	}
	return n.ID
}

// Marshal writes v as JSON without the escapes for HTML, which would spend six bytes
// on each of <, > and &.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Fit returns a payload that counts at most limit bytes: it shortens the body until the
// payload fits, then the title. build makes the payload of a title and a body and says
// how many bytes count against the limit. The error wraps fallback.ErrTooLarge if not
// even a shortened text fits.
func Fit(title, body string, limit int, build func(title, body string) (payload []byte, size int, err error)) ([]byte, error) {
	whole, size, err := build(title, body)
	if err != nil || size <= limit {
		return whole, err
	}
	_, size, err = build("", "")
	if err != nil {
		return nil, err
	}
	room := limit - size
	if room < 0 {
		return nil, fmt.Errorf("%w: without title and body it takes %d bytes of %d; shorten the other texts, such as category, sound or extra", fallback.ErrTooLarge, size, limit)
	}
	// A text brings a member name with it, so the first guess may be too large.
	for {
		t := Shorten(title, room)
		b := Shorten(body, room-EscapedSize(t))
		if t == "" && b == "" {
			return nil, fmt.Errorf("%w: %d bytes are left for title and body", fallback.ErrTooLarge, max(0, room))
		}
		short, size, err := build(t, b)
		if err != nil || size <= limit {
			return short, err
		}
		room -= size - limit
	}
}
