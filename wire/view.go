package wire

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Accepted answers POST /v1/notifications. The same request again is answered
// with the same text: its deliveries are shown as they began.
type Accepted struct {
	ID         string          `json:"id" doc:"The notification's ID: the one given, or a UUIDv7"`
	Account    string          `json:"account"`
	State      string          `json:"state" enum:"pending,waiting,acked,expired,superseded,cancelled" doc:"pending: durable, not yet tried; waiting: held for the account's first device"`
	AcceptedAt string          `json:"accepted_at" format:"date-time"`
	Deliveries []DeliveryState `json:"deliveries" doc:"One for each device that it goes to"`
}

// DeliveryState is one delivery as Accepted shows it.
type DeliveryState struct {
	Device string `json:"device"`
	State  string `json:"state" enum:"pending,expired,superseded,cancelled" doc:"cancelled: the device is full"`
}

// NewAccepted answers an accepted notification. A repetition gets the first answer.
func NewAccepted(r delivery.Receipt) Accepted {
	a := Accepted{
		ID: r.Notification.ID, Account: r.Notification.Account, State: r.State.String(), AcceptedAt: FormatTime(r.Notification.AcceptedAt),
		Deliveries: make([]DeliveryState, len(r.Deliveries)),
	}
	for i, d := range r.Deliveries {
		a.Deliveries[i] = DeliveryState{Device: d.Device, State: d.State.String()}
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
	Code       string          `json:"code,omitempty" doc:"Where it was refused: what kind of problem it is"`
	Detail     string          `json:"detail,omitempty" doc:"Where it was refused: what to change"`
}

// NotificationView is a notification and its outcome. Its data is not
// shown.
type NotificationView struct {
	ID          string              `json:"id"`
	Account     string              `json:"account"`
	Title       string              `json:"title,omitempty"`
	Body        string              `json:"body,omitempty"`
	Badge       any                 `json:"badge,omitempty" doc:"A number, or auto"`
	Sound       string              `json:"sound,omitempty"`
	Category    string              `json:"category,omitempty"`
	Subtitle    string              `json:"subtitle,omitempty"`
	Thread      string              `json:"thread,omitempty"`
	Link        string              `json:"link,omitempty"`
	Image       string              `json:"image,omitempty"`
	Level       string              `json:"level,omitempty" enum:"passive,active,time-sensitive,critical"`
	Localized   *delivery.Localized `json:"localized,omitempty"`
	Extra       json.RawMessage     `json:"extra,omitempty"`
	AckWindow   string              `json:"ack_window,omitempty" doc:"Where the notification brought its own"`
	CollapseKey string              `json:"collapse_key,omitempty"`
	Ack         string              `json:"ack" enum:"received,displayed"`
	Urgency     string              `json:"urgency" enum:"high,normal"`
	Fallback    *bool               `json:"fallback,omitempty" doc:"false: over the channel only; left out otherwise"`
	HasMessage  bool                `json:"has_message,omitempty" doc:"data was given"`
	AcceptedAt  string              `json:"accepted_at" format:"date-time"`
	ExpiresAt   string              `json:"expires_at" format:"date-time"`
	State       string              `json:"state" enum:"pending,published,pushing,pushed,waiting,acked,expired,superseded,cancelled" doc:"The furthest from final among the deliveries"`
	Deliveries  []DeliveryView      `json:"deliveries"`
	Timeline    []TimelineEvent     `json:"timeline,omitempty" doc:"Oldest first; left out of lists"`
	Verdict     string              `json:"verdict,omitempty" doc:"In plain words what became of it; left out of lists"`
}

// DeliveryView is the state of one delivery.
type DeliveryView struct {
	Device   string `json:"device"`
	State    string `json:"state" enum:"pending,published,pushing,pushed,waiting,acked,expired,superseded,cancelled"`
	Attempts int    `json:"attempts" doc:"How often it was published over the channel"`
	Pushed   bool   `json:"pushed" doc:"A notification server has accepted a push for it"`
	Verdict  string `json:"verdict,omitempty" doc:"In plain words what became of it; left out of lists"`
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
		ID: v.ID, Account: v.Account, Title: v.Title, Body: v.Body, Sound: v.Sound, Category: v.Category,
		Subtitle: v.Subtitle, Thread: v.Thread, Link: v.Link, Image: v.Image, Localized: v.Localized, Extra: v.Extra,
		CollapseKey: v.CollapseKey, Ack: AckName(v.Ack), Urgency: UrgencyName(v.Urgency), HasMessage: v.HasMessage,
		AcceptedAt: FormatTime(v.AcceptedAt), ExpiresAt: FormatTime(v.ExpiresAt), State: v.State.String(),
		Deliveries: make([]DeliveryView, len(v.Deliveries)),
	}
	switch {
	case v.BadgeAuto:
		n.Badge = "auto"
	case v.Badge != nil:
		n.Badge = *v.Badge
	}
	if v.Level != 0 {
		n.Level = LevelName(v.Level)
	}
	if v.AckWindow != nil {
		n.AckWindow = v.AckWindow.String()
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
		for i, d := range n.Deliveries {
			n.Deliveries[i].Verdict = deliveryVerdict(&n, d, stamp)
		}
		n.Verdict = Verdict(&n, stamp)
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

// DeviceView is an entry of the registry and the device's current state.
type DeviceView struct {
	Device        string             `json:"device"`
	Account       string             `json:"account"`
	APNs          *RegisteredAPNs    `json:"apns,omitempty" doc:"The alert registration with Apple, if it is in use"`
	Registrations []RegistrationView `json:"registrations" nullable:"false" doc:"How notification servers reach the device, without tokens: at most one of each kind"`
	Via           string             `json:"via" enum:"mqtt,xmpp"`
	App           string             `json:"app,omitempty" enum:"foreground,background" doc:"What the device says of its app; absent: it has never said"`
	Channel       ChannelView        `json:"channel"`
	Outstanding   int                `json:"outstanding" doc:"Deliveries that are not finished"`
}

// RegistrationView is a registration without its secrets.
type RegistrationView struct {
	Server       string          `json:"server" enum:"apns,fcm,webpush"`
	App          string          `json:"app,omitempty" doc:"APNs: the topic; FCM: the project; Web Push: the first characters of the application server key"`
	Environment  string          `json:"environment,omitempty" doc:"APNs: production or sandbox"`
	Kind         string          `json:"kind"`
	RegisteredAt string          `json:"registered_at" format:"date-time"`
	Suspended    *SuspensionView `json:"suspended,omitempty" doc:"The server refused it for a reason that the configuration can cause: kept, and asked again when that changes"`
	Ended        *EndingView     `json:"ended,omitempty" doc:"The server has proved that it is no more"`
}

// SuspensionView says since when and why a registration is suspended.
type SuspensionView struct {
	Since     string `json:"since" format:"date-time"`
	Reason    string `json:"reason"`
	NextProbe string `json:"next_probe,omitempty" format:"date-time" doc:"One delivery may try again after this time"`
}

// EndingView says when and why a registration ended.
type EndingView struct {
	At     string `json:"at" format:"date-time"`
	Reason string `json:"reason"`
}

func newRegistrationView(r *delivery.Registration) RegistrationView {
	v := RegistrationView{Server: r.Server, App: r.App, Environment: r.Environment, Kind: r.Kind, RegisteredAt: FormatTime(r.RegisteredAt)}
	if s := r.Suspended; s != nil {
		v.Suspended = &SuspensionView{Since: FormatTime(s.Since), Reason: s.Reason}
		if !s.NextProbe.IsZero() {
			v.Suspended.NextProbe = FormatTime(s.NextProbe)
		}
	}
	if r.Ended != nil {
		v.Ended = &EndingView{At: FormatTime(r.Ended.At), Reason: r.Ended.Reason}
	}
	return v
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
	d := DeviceView{Device: v.ID, Account: v.Account, Outstanding: v.Outstanding, Channel: ChannelView{State: "down"}, Via: cmp.Or(v.Via, delivery.ViaMQTT), Registrations: make([]RegistrationView, 0, len(v.Registrations))}
	if t := v.Registration(delivery.KindAlert); t != nil && t.Ended == nil && t.Server == delivery.ServerAPNs {
		d.APNs = &RegisteredAPNs{
			APNsToken:    APNsToken{Token: t.Token, Topic: t.App, Environment: t.Environment},
			RegisteredAt: FormatTime(t.RegisteredAt),
		}
	}
	for i := range v.Registrations {
		d.Registrations = append(d.Registrations, newRegistrationView(&v.Registrations[i]))
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
