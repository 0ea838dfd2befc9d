package delivery

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
)

// sameMeaning reports whether request r, of which n was made, means the same as the
// stored notification first. A field left out equals the default that first got, so
// that a changed default makes no conflict. JSON is compared by its meaning.
func (c *Core) sameMeaning(first, n *Notification, r Request) (bool, error) {
	switch {
	case first.Account != n.Account, first.Title != n.Title, first.Body != n.Body, first.Subtitle != n.Subtitle,
		first.Sound != n.Sound, first.Category != n.Category, first.CollapseKey != n.CollapseKey,
		first.Thread != n.Thread, first.Link != n.Link, first.Image != n.Image,
		first.Kind != n.Kind, first.PushType != n.PushType, first.BadgeAuto != n.BadgeAuto,
		first.Fallback != n.Fallback, first.HasMessage != n.HasMessage,
		!reflect.DeepEqual(first.Badge, n.Badge), !reflect.DeepEqual(first.Localized, n.Localized),
		pick(first.Level == LevelActive, 0, first.Level) != n.Level:
		return false, nil
	case r.Ack != 0 && first.Ack != r.Ack,
		r.Urgency != 0 && first.Urgency != r.Urgency,
		r.TTL != nil && first.ExpiresAt.Sub(first.AcceptedAt) != *r.TTL,
		r.AckWindow != nil && (first.AckWindow == nil && *r.AckWindow != c.settings.Load().Windows.Ack || first.AckWindow != nil && *first.AckWindow != *r.AckWindow):
		return false, nil
	case len(r.Devices) > 0 && !sameSet(r.Devices, first.Devices):
		return false, nil
	}
	x, y := overlayOf(first), overlayOf(n)
	if !sameJSON(first.Extra, n.Extra) || !sameJSON(x.APNs, y.APNs) || !sameJSON(x.FCM, y.FCM) || !sameJSON(x.WebPush, y.WebPush) {
		return false, nil
	}
	if !n.HasMessage {
		return true, nil
	}
	data, err := c.out.Data(first.Seq)
	return err == nil && sameJSON(data, r.Data), err
}

func overlayOf(n *Notification) Overlay {
	if n.Overlay == nil {
		return Overlay{}
	}
	return *n.Overlay
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// sameJSON compares two JSON values, members in any order.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := parseJSON(a)
	y, errY := parseJSON(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func parseJSON(b json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // no number loses its digits
	return v, dec.Decode(&v)
}
