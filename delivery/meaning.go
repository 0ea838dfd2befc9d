package delivery

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// sameMeaning reports whether request r, of which n was made, means the same as the
// stored notification first. A field left out equals the default that first got, so
// that a changed default makes no conflict. It does not equal a value that is no default. JSON
// is compared by its meaning.
func (c *Core) sameMeaning(first, n *Notification, r Request) (bool, error) {
	settings := c.settings.Load()
	ttl := first.ExpiresAt.Sub(first.AcceptedAt)
	switch {
	case first.Account != n.Account, first.Title != n.Title, first.Body != n.Body, first.Subtitle != n.Subtitle,
		first.Sound != n.Sound, first.Category != n.Category, first.CollapseKey != n.CollapseKey,
		threadOf(first) != threadOf(n), first.Link != n.Link, first.Image != n.Image,
		first.Kind != n.Kind, first.PushType != n.PushType, first.BadgeAuto != n.BadgeAuto,
		first.Fallback != n.Fallback, first.HasMessage != n.HasMessage,
		!reflect.DeepEqual(first.Badge, n.Badge), !sameLocalized(first.Localized, n.Localized),
		pick(first.Level == LevelActive, 0, first.Level) != n.Level:
		return false, nil
	case first.Ack != n.Ack && (r.Ack != 0 || first.AckGiven),
		max(first.Urgency, UrgencyHigh) != n.Urgency,
		r.TTL != nil && ttl != *r.TTL, r.TTL == nil && first.TTLGiven && ttl != settings.TTL,
		n.PushType == "" && *cmp.Or(first.AckWindow, &settings.Windows.Ack) != *cmp.Or(r.AckWindow, &settings.Windows.Ack):
		return false, nil
	case len(r.Devices) > 0 && !sameSet(r.Devices, first.Devices), len(r.Devices) == 0 && first.Narrowed:
		return false, nil
	}
	x, y := overlayOf(first), overlayOf(n)
	if !sameObject(first.Extra, n.Extra) || !sameObject(x.APNs, y.APNs) || !sameObject(x.FCM, y.FCM) || !sameObject(x.WebPush, y.WebPush) {
		return false, nil
	}
	if !n.HasMessage {
		return true, nil
	}
	data, err := c.out.Data(first.Seq)
	return err == nil && sameJSON(data, r.Data), err
}

// threadOf is the thread of n, the default written out.
func threadOf(n *Notification) string { return pick(n.Thread == "", n.Account, n.Thread) }

// sameLocalized compares texts; an empty list is none, as no text at all is.
func sameLocalized(a, b *Localized) bool {
	if a == nil {
		a = &Localized{}
	}
	if b == nil {
		b = &Localized{}
	}
	return a.TitleKey == b.TitleKey && a.SubtitleKey == b.SubtitleKey && a.BodyKey == b.BodyKey &&
		slices.Equal(a.TitleArgs, b.TitleArgs) && slices.Equal(a.SubtitleArgs, b.SubtitleArgs) && slices.Equal(a.BodyArgs, b.BodyArgs)
}

// sameObject is sameJSON for objects that may be absent; one without members is none.
func sameObject(a, b json.RawMessage) bool {
	none := json.RawMessage("{}")
	return sameJSON(pick(a == nil, none, a), pick(b == nil, none, b))
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
	return errX == nil && errY == nil && sameValue(x, y)
}

// sameValue compares decoded JSON. Numbers are equal by their value: 1, 1.0 and 1e0 are one.
func sameValue(x, y any) bool {
	switch a := x.(type) {
	case json.Number:
		b, ok := y.(json.Number)
		return ok && (a == b || sameNumber(a.String(), b.String()))
	case map[string]any:
		b, ok := y.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, there := b[k]; !there || !sameValue(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := y.([]any)
		return ok && slices.EqualFunc(a, b, sameValue)
	}
	return x == y // a string, true, false or null
}

// sameNumber compares numbers of JSON without rounding. It takes no power of ten: 1e999999999
// is short to write.
func sameNumber(a, b string) bool {
	negA, digitsA, expA, okA := splitNumber(a)
	negB, digitsB, expB, okB := splitNumber(b)
	return okA && okB && digitsA == digitsB && (digitsA == "" || negA == negB && expA == expB)
}

// splitNumber returns the digits of a number without zeros at either end, and the power of
// ten of the last one. Zero has no digits.
func splitNumber(s string) (negative bool, digits string, exponent int, ok bool) {
	if rest, minus := strings.CutPrefix(s, "-"); minus {
		s, negative = rest, true
	}
	mantissa, power, found := strings.Cut(strings.ToLower(s), "e")
	if found {
		var err error
		if exponent, err = strconv.Atoi(strings.TrimPrefix(power, "+")); err != nil || exponent > math.MaxInt/2 || exponent < math.MinInt/2 {
			return false, "", 0, false
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	trimmed := strings.TrimRight(digits, "0")
	return negative, trimmed, exponent + len(digits) - len(trimmed), true
}

func parseJSON(b json.RawMessage) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // no number loses its digits
	return v, dec.Decode(&v)
}
