package wire

import (
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Accepted answers POST /v1/notifications. The same request again is answered
// with the same text: its deliveries are shown as they began.
type Accepted struct {
	ID         string          `json:"id" doc:"The notification's ID: the one given, or a UUIDv7"`
	Account    string          `json:"account"`
	State      string          `json:"state" enum:"pending" doc:"pending: durable, not yet tried"`
	AcceptedAt string          `json:"accepted_at" format:"date-time"`
	Deliveries []DeliveryState `json:"deliveries" doc:"One for each device that it goes to"`
}

// DeliveryState is one delivery as Accepted shows it.
type DeliveryState struct {
	Device string `json:"device"`
	State  string `json:"state" enum:"pending"`
}

// NewAccepted is the answer to an accepted notification.
func NewAccepted(n *delivery.Notification) Accepted {
	a := Accepted{
		ID: n.ID, Account: n.Account, State: delivery.StatePending.String(), AcceptedAt: FormatTime(n.AcceptedAt),
		Deliveries: make([]DeliveryState, len(n.Devices)),
	}
	for i, d := range n.Devices {
		a.Deliveries[i] = DeliveryState{Device: d, State: delivery.StatePending.String()}
	}
	return a
}

// BatchResult is one line of the answer to POST /v1/notifications/batch.
type BatchResult struct {
	Line   int `json:"line" doc:"The line of the request that this answers, from 1"`
	Status int `json:"status" doc:"What POST /v1/notifications would have answered: 202, 200, 404, 409, 413, 422, 429, 503 ..."`
	// ID is there wherever it is known: of a line that was refused, too.
	ID         string          `json:"id,omitempty"`
	Account    string          `json:"account,omitempty"`
	State      string          `json:"state,omitempty"`
	AcceptedAt string          `json:"accepted_at,omitempty" format:"date-time"`
	Deliveries []DeliveryState `json:"deliveries,omitempty"`
	Title      string          `json:"title,omitempty" doc:"Where it was refused: the status in words"`
	Detail     string          `json:"detail,omitempty" doc:"Where it was refused: what to change"`
}

// NotificationView is a notification and what has become of it. Its data is not
// shown.
type NotificationView struct {
	ID          string          `json:"id"`
	Account     string          `json:"account"`
	Title       string          `json:"title,omitempty"`
	Body        string          `json:"body,omitempty"`
	Badge       *int            `json:"badge,omitempty"`
	Sound       string          `json:"sound,omitempty"`
	Category    string          `json:"category,omitempty"`
	CollapseKey string          `json:"collapse_key,omitempty"`
	Ack         string          `json:"ack" enum:"received,displayed"`
	Urgency     string          `json:"urgency" enum:"high,normal"`
	Fallback    *bool           `json:"fallback,omitempty" doc:"false: over the channel only; left out otherwise"`
	HasMessage  bool            `json:"has_message,omitempty" doc:"data was given"`
	AcceptedAt  string          `json:"accepted_at" format:"date-time"`
	ExpiresAt   string          `json:"expires_at" format:"date-time"`
	State       string          `json:"state" enum:"pending,published,pushing,pushed,waiting,acked,expired,superseded,cancelled" doc:"The furthest from final among the deliveries"`
	Deliveries  []DeliveryView  `json:"deliveries"`
	Timeline    []TimelineEvent `json:"timeline,omitempty" doc:"Oldest first; left out of lists"`
}

// DeliveryView is the state of one delivery.
type DeliveryView struct {
	Device   string `json:"device"`
	State    string `json:"state" enum:"pending,published,pushing,pushed,waiting,acked,expired,superseded,cancelled"`
	Attempts int    `json:"attempts" doc:"How often it was published over the channel"`
	Pushed   bool   `json:"pushed" doc:"A notification server has accepted a push for it"`
}

// TimelineEvent is one line of a timeline.
type TimelineEvent struct {
	Time    string `json:"time" format:"date-time"`
	Event   string `json:"event"`
	Device  string `json:"device,omitempty"`
	Attempt int    `json:"attempt,omitempty" doc:"Publishes so far"`
	Detail  string `json:"detail,omitempty"`
}

// NewNotificationView shows v; without its timeline where it is one of many.
func NewNotificationView(v *delivery.View, timeline bool) NotificationView {
	n := NotificationView{
		ID: v.ID, Account: v.Account, Title: v.Title, Body: v.Body, Badge: v.Badge, Sound: v.Sound, Category: v.Category,
		CollapseKey: v.CollapseKey, Ack: AckName(v.Ack), Urgency: UrgencyName(v.Urgency), HasMessage: v.HasMessage,
		AcceptedAt: FormatTime(v.AcceptedAt), ExpiresAt: FormatTime(v.ExpiresAt), State: v.State.String(),
		Deliveries: make([]DeliveryView, len(v.Deliveries)),
	}
	if !v.Fallback {
		n.Fallback = new(bool)
	}
	for i, d := range v.Deliveries {
		n.Deliveries[i] = DeliveryView{Device: d.Device, State: d.State.String(), Attempts: d.Attempts, Pushed: d.Pushed}
	}
	if timeline {
		n.Timeline = make([]TimelineEvent, len(v.Timeline))
		for i, e := range v.Timeline {
			n.Timeline[i] = NewTimelineEvent(e)
		}
	}
	return n
}

// NewTimelineEvent shows e.
func NewTimelineEvent(e delivery.Event) TimelineEvent {
	return TimelineEvent{Time: FormatTime(e.Time), Event: e.Kind.String(), Device: e.Device, Attempt: e.Attempt, Detail: e.Detail}
}

// NotificationList is a page of notifications, newest first.
type NotificationList struct {
	Notifications []NotificationView `json:"notifications"`
	Next          string             `json:"next,omitempty" doc:"The cursor of the next page; absent at the end. A page may be short, or empty, although more follow"`
}

// StreamEvent is the data of one server-sent event of GET /v1/events.
type StreamEvent struct {
	Time    string `json:"time" format:"date-time"`
	Event   string `json:"event"`
	ID      string `json:"id,omitempty" doc:"The notification's; absent where its history is gone already"`
	Account string `json:"account"`
	Device  string `json:"device,omitempty" doc:"Absent in accepted, which is of the whole notification"`
	Attempt int    `json:"attempt,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

// NewStreamEvent shows e, an event of the notification id.
func NewStreamEvent(e delivery.AccountEvent, id string) StreamEvent {
	return StreamEvent{
		Time: FormatTime(e.Time), Event: e.Kind.String(), ID: id, Account: e.Account, Device: e.Device, Attempt: e.Attempt, Detail: e.Detail,
	}
}

// DeviceView is an entry of the registry and what is going on with the device.
type DeviceView struct {
	Device      string          `json:"device"`
	Account     string          `json:"account"`
	APNs        *RegisteredAPNs `json:"apns,omitempty"`
	App         string          `json:"app,omitempty" enum:"foreground,background" doc:"What the device says of its app; absent: it has never said"`
	Channel     ChannelView     `json:"channel"`
	Outstanding int             `json:"outstanding" doc:"Deliveries that are not finished"`
}

// RegisteredAPNs is a device's push token in the registry.
type RegisteredAPNs struct {
	APNsToken
	RegisteredAt string `json:"registered_at" format:"date-time"`
}

// ChannelView is the state of a device's channel.
type ChannelView struct {
	State         string  `json:"state" enum:"up,down"`
	Since         string  `json:"since,omitempty" format:"date-time" doc:"Absent: not known since the server's start"`
	LastHeartbeat string  `json:"last_heartbeat,omitempty" format:"date-time"`
	Keepalive     float64 `json:"keepalive,omitempty" doc:"Seconds"`
	Remote        string  `json:"remote,omitempty" doc:"Where the device is connected from"`
}

// NewDeviceView shows v.
func NewDeviceView(v delivery.DeviceView) DeviceView {
	d := DeviceView{Device: v.ID, Account: v.Account, Outstanding: v.Outstanding, Channel: ChannelView{State: "down"}}
	if t := v.Registration(delivery.KindAlert); t != nil && t.Ended == nil && t.Server == delivery.ServerAPNs {
		d.APNs = &RegisteredAPNs{
			APNsToken:    APNsToken{Token: t.Token, Topic: t.App, Environment: t.Environment},
			RegisteredAt: FormatTime(t.RegisteredAt),
		}
	}
	if v.App != delivery.AppUnknown {
		d.App = v.App.String()
	}
	if v.Up {
		d.Channel = ChannelView{
			State: "up", LastHeartbeat: FormatTime(v.LastHeartbeat), Keepalive: v.Keepalive.Round(time.Millisecond).Seconds(), Remote: v.Remote,
		}
	}
	if !v.Since.IsZero() {
		d.Channel.Since = FormatTime(v.Since)
	}
	return d
}

// DeviceList is devices by ID.
type DeviceList struct {
	Devices []DeviceView `json:"devices"`
	Next    string       `json:"next,omitempty" doc:"The cursor of the next page; absent at the end"`
}
