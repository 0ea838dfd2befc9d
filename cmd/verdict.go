package cmd

import (
	"fmt"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/wire"
)

// verdict says in one line what became of a notification.
func (p *program) verdict(n *wire.NotificationView) string {
	if len(n.Deliveries) == 0 {
		return "Waiting: the account has no device yet"
	}
	parts := make([]string, len(n.Deliveries))
	for i, d := range n.Deliveries {
		parts[i] = p.deliveryVerdict(n, d)
	}
	return plain(strings.Join(parts, "; "))
}

// deliveryVerdict says what became of one delivery.
func (p *program) deliveryVerdict(n *wire.NotificationView, d wire.DeliveryView) string {
	h := historyOf(n, d.Device)
	switch d.State {
	case "acked":
		did := "Received by "
		if n.Ack == "displayed" {
			did = "Shown on "
		}
		return fmt.Sprintf("%s%s %s after acceptance, %s", did, d.Device, inWords(h.acked.Sub(parseTime(n.AcceptedAt))), h.way)
	case "expired", "superseded", "cancelled":
		s := strings.ToUpper(d.State[:1]) + d.State[1:] + " for " + d.Device
		if h.detail != "" {
			s += " (" + h.detail + ")"
		}
		return s + p.pushedWords(h)
	case "waiting":
		return fmt.Sprintf("Waiting for %s since %s%s", d.Device, p.minute(h.last), p.pushedWords(h))
	case "published":
		return fmt.Sprintf("Published to %s at %s, not acknowledged yet%s", d.Device, p.minute(h.last), p.pushedWords(h))
	case "pushed":
		return fmt.Sprintf("Pushed to %s at %s, not acknowledged yet", d.Device, p.minute(h.pushed))
	case "pushing":
		s := "Being pushed to " + d.Device
		if h.detail != "" {
			s += ": " + h.detail
		}
		return s
	}
	return "Accepted for " + d.Device + ", not tried yet"
}

func (p *program) pushedWords(h history) string {
	if h.pushed.IsZero() {
		return ""
	}
	return ", a push was accepted at " + p.minute(h.pushed)
}

func (p *program) minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(p.local).Format("15:04:05")
}

// history is what a timeline says of one device.
type history struct {
	acked  time.Time // the ack that was asked for; zero: none
	way    string    // how the copy before that ack was sent
	pushed time.Time // a push was accepted; zero: none
	last   time.Time // the latest event that is no ack
	detail string    // of that event
}

func historyOf(n *wire.NotificationView, device string) history {
	h := history{way: "unasked"}
	for _, e := range n.Timeline {
		if e.Device != device {
			continue
		}
		t := parseTime(e.Time)
		switch e.Event {
		case "published", "redelivered":
			h.way = "over the channel"
		case "pushed":
			h.pushed = t
			if h.acked.IsZero() {
				h.way = "by push"
			}
		}
		switch e.Event {
		case "received", "displayed", "read":
			if h.acked.IsZero() && (e.Event != "received" || n.Ack == "received") {
				h.acked = t
				return history{acked: h.acked, way: h.way, pushed: h.pushed, last: t}
			}
		case "message_sent", "message_received":
		default:
			h.last, h.detail = t, e.Detail
		}
	}
	return h
}

// inWords is a time span for people.
func inWords(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
