package wire

import (
	"fmt"
	"strings"
	"time"
)

// Verdict says in one line what became of a notification. clock writes its times; it
// gets the zero time where one is not known.
func Verdict(n *NotificationView, clock func(time.Time) string) string {
	if len(n.Deliveries) == 0 {
		switch n.State {
		case "expired", "superseded", "cancelled":
			return strings.ToUpper(n.State[:1]) + n.State[1:] + " before the account had a device"
		}
		return "Waiting: the account has no device yet"
	}
	parts := make([]string, len(n.Deliveries))
	for i, d := range n.Deliveries {
		parts[i] = deliveryVerdict(n, d, clock)
	}
	return strings.Join(parts, "; ")
}

// deliveryVerdict says what became of one delivery.
func deliveryVerdict(n *NotificationView, d DeliveryView, clock func(time.Time) string) string {
	h := historyOf(n, d.Device)
	switch d.State {
	case "acked":
		did := "Received by "
		if n.Ack == "displayed" {
			did = "Shown on "
		}
		return fmt.Sprintf("%s%s %s after acceptance, %s", did, d.Device, inWords(h.acked.Sub(ParseTime(n.AcceptedAt))), h.way)
	case "expired", "superseded", "cancelled":
		s := strings.ToUpper(d.State[:1]) + d.State[1:] + " for " + d.Device
		if h.detail != "" {
			s += " (" + h.detail + ")"
		}
		s += pushedWords(h, clock)
		if !h.late.IsZero() {
			s += ", acknowledged after that at " + clock(h.late)
		}
		return s
	case "waiting":
		s := fmt.Sprintf("Waiting for %s since %s", d.Device, clock(h.last))
		if h.detail != "" && h.pushed.IsZero() {
			s += " (" + h.detail + ")"
		}
		return s + pushedWords(h, clock)
	case "published":
		return fmt.Sprintf("Published to %s at %s, not acknowledged yet%s", d.Device, clock(h.last), pushedWords(h, clock))
	case "pushed":
		return fmt.Sprintf("Pushed to %s at %s, not acknowledged yet", d.Device, clock(h.pushed))
	case "pushing":
		s := "Being pushed to " + d.Device
		if h.detail != "" {
			s += ": " + h.detail
		}
		return s
	}
	return "Accepted for " + d.Device + ", not tried yet"
}

func pushedWords(h history, clock func(time.Time) string) string {
	if h.pushed.IsZero() {
		return ""
	}
	return ", a push was accepted at " + clock(h.pushed)
}

// stamp writes a time as the API does: whoever shows the verdict puts it into the
// reader's zone.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return FormatTime(t)
}

// history is what a timeline says of one device.
type history struct {
	acked  time.Time // the ack that was asked for; zero: none
	way    string    // how the copy before that ack was sent
	pushed time.Time // a push was accepted; zero: none
	late   time.Time // that ack came after the end; zero: it did not
	last   time.Time // the latest event that is no ack
	detail string    // of that event; a waiting that gives none has that of its refused push
}

func historyOf(n *NotificationView, device string) history {
	h := history{way: "unasked"}
	published, ended, refused := false, false, false
	for _, e := range n.Timeline {
		held := e.Device == "" && e.Event == "waiting" // until the account had its first device, this one
		if e.Device != device && !held {
			continue
		}
		t := ParseTime(e.Time)
		switch e.Event {
		case "published", "redelivered":
			published, h.way = true, "over the channel"
		case "pushed":
			h.pushed, h.way = t, "by push"
			if published { // the ack does not say which copy it is of
				h.way = "over the channel or by push"
			}
		}
		switch asked := e.Event != "received" || n.Ack == "received"; e.Event {
		case "received", "displayed", "read":
			switch {
			case !asked:
			case ended && h.late.IsZero():
				h.late = t
			case !ended:
				h.acked, h.last, h.detail = t, t, ""
				return h
			}
		case "message_sent", "message_received", "dismissal_sent", "dismissed":
		case "waiting":
			if h.last = t; e.Detail != "" || !refused {
				h.detail = e.Detail
			}
			refused = false
		default:
			if ended { // an answer that the end has overtaken
				break
			}
			h.last, h.detail = t, e.Detail
			refused = e.Event == "push_failed" || e.Event == "token_removed" || e.Event == "token_suspended"
			ended = e.Event == "expired" || e.Event == "superseded" || e.Event == "cancelled"
		}
	}
	return h
}

// inWords is a time span for people.
func inWords(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
