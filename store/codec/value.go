package codec

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Values are written in the protobuf wire format by hand: no reflection and no
// garbage on the path of every notification, fields that are zero cost nothing,
// and a later version can add fields that an earlier one skips. The numbers are
// stored: append, never renumber.

// ErrDamaged is wrapped by every decoding error.
var ErrDamaged = errors.New("damaged value")

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBool(b []byte, num protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, num, 1)
}

func appendString(b []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendBytes writes bytes; none are left out.
func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return appendMessage(b, num, v)
}

// appendMessage writes a value of several fields, an empty one too.
func appendMessage(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

// appendList writes every string of a list, empty ones too: its length counts.
func appendList(b []byte, num protowire.Number, list []string) []byte {
	for _, v := range list {
		b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	}
	return b
}

// appendWindow writes nanoseconds; nil is left out, 0 is not.
func appendWindow(b []byte, num protowire.Number, v *time.Duration) []byte {
	if v == nil {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(max(*v, 0)))
}

// cloneBytes returns a copy; nil for no bytes.
func cloneBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

// appendTime writes nanoseconds since 1970; the zero time is left out.
func appendTime(b []byte, num protowire.Number, v time.Time) []byte {
	if v.IsZero() {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, uint64(v.UnixNano()))
}

// unixTime is the inverse of Time.UnixNano, in UTC.
func unixTime(v uint64) time.Time { return time.Unix(0, int64(v)).UTC() }

// field is one decoded field: v of a number, s of a length-delimited one.
type field struct {
	num protowire.Number
	v   uint64
	s   []byte
}

func (f *field) int() int { return int(int64(min(f.v, math.MaxInt64))) }

func (f *field) window() *time.Duration {
	d := time.Duration(f.int())
	return &d
}

// eachField calls fn with every field of b.
func eachField(b []byte, fn func(field) error) error {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err == nil {
			err = fn(f)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// nextField takes the first field off b.
func nextField(b []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, fmt.Errorf("%w: %w", ErrDamaged, protowire.ParseError(n))
	}
	b = b[n:]
	f.num = num
	switch typ {
	case protowire.VarintType:
		f.v, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.v, n = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.s, n = protowire.ConsumeBytes(b)
	default:
		return f, nil, fmt.Errorf("%w: field %d has wire type %d", ErrDamaged, num, typ)
	}
	if n < 0 {
		return f, nil, fmt.Errorf("%w: field %d: %w", ErrDamaged, num, protowire.ParseError(n))
	}
	return f, b[n:], nil
}

const (
	notificationID protowire.Number = iota + 1
	notificationAccount
	notificationTitle
	notificationBody
	notificationBadge
	notificationSound
	notificationCategory
	notificationCollapseKey
	notificationAck
	notificationUrgency
	notificationFallback
	notificationHasMessage
	notificationAcceptedAt
	notificationExpiresAt
	notificationDevice
	notificationFingerprint // of format 1, not used any more
	notificationSubtitle
	notificationThread
	notificationLink
	notificationImage
	notificationLevel
	notificationLocalized
	notificationExtra
	notificationBadgeAuto
	notificationAckWindow
	notificationTTLZero
	notificationKind
	notificationPushType
	notificationOverlay
	notificationMark
)

const (
	localizedTitleKey protowire.Number = iota + 1
	localizedTitleArg
	localizedSubtitleKey
	localizedSubtitleArg
	localizedBodyKey
	localizedBodyArg
)

const (
	overlayAPNs protowire.Number = iota + 1
	overlayFCM
	overlayWebPush
)

const (
	requestClient protowire.Number = iota + 1
	requestPacketID
	requestPayload
)

// AppendNotification appends a notification's value, without its Seq, which is its key.
func AppendNotification(b []byte, n *delivery.Notification) []byte {
	b = appendString(b, notificationID, n.ID)
	b = appendString(b, notificationAccount, n.Account)
	b = appendString(b, notificationTitle, n.Title)
	b = appendString(b, notificationBody, n.Body)
	if n.Badge != nil { // a badge of 0 clears the app's badge: it is not "none"
		b = protowire.AppendTag(b, notificationBadge, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(int64(*n.Badge)))
	}
	b = appendString(b, notificationSound, n.Sound)
	b = appendString(b, notificationCategory, n.Category)
	b = appendString(b, notificationCollapseKey, n.CollapseKey)
	b = appendUint(b, notificationAck, uint64(n.Ack))
	b = appendUint(b, notificationUrgency, uint64(n.Urgency))
	b = appendBool(b, notificationFallback, n.Fallback)
	b = appendBool(b, notificationHasMessage, n.HasMessage)
	b = appendTime(b, notificationAcceptedAt, n.AcceptedAt)
	b = appendTime(b, notificationExpiresAt, n.ExpiresAt)
	for _, d := range n.Devices { // an empty one too: the list's length counts
		b = protowire.AppendString(protowire.AppendTag(b, notificationDevice, protowire.BytesType), d)
	}
	b = appendString(b, notificationSubtitle, n.Subtitle)
	b = appendString(b, notificationThread, n.Thread)
	b = appendString(b, notificationLink, n.Link)
	b = appendString(b, notificationImage, n.Image)
	b = appendUint(b, notificationLevel, uint64(n.Level))
	if n.Localized != nil {
		b = appendMessage(b, notificationLocalized, appendLocalized(nil, n.Localized))
	}
	b = appendBytes(b, notificationExtra, n.Extra)
	b = appendBool(b, notificationBadgeAuto, n.BadgeAuto)
	b = appendWindow(b, notificationAckWindow, n.AckWindow)
	b = appendBool(b, notificationTTLZero, n.TTLZero)
	b = appendString(b, notificationKind, n.Kind)
	b = appendString(b, notificationPushType, n.PushType)
	if o := n.Overlay; o != nil {
		s := appendBytes(nil, overlayAPNs, o.APNs)
		s = appendBytes(s, overlayFCM, o.FCM)
		s = appendBytes(s, overlayWebPush, o.WebPush)
		b = appendMessage(b, notificationOverlay, s)
	}
	if m := n.Mark; m != nil {
		s := appendString(nil, requestClient, m.Client)
		s = appendUint(s, requestPacketID, uint64(m.PacketID))
		if m.Payload != 0 {
			s = protowire.AppendTag(s, requestPayload, protowire.Fixed64Type)
			s = protowire.AppendFixed64(s, m.Payload)
		}
		b = appendMessage(b, notificationMark, s)
	}
	return b
}

func appendLocalized(b []byte, l *delivery.Localized) []byte {
	b = appendString(b, localizedTitleKey, l.TitleKey)
	b = appendList(b, localizedTitleArg, l.TitleArgs)
	b = appendString(b, localizedSubtitleKey, l.SubtitleKey)
	b = appendList(b, localizedSubtitleArg, l.SubtitleArgs)
	b = appendString(b, localizedBodyKey, l.BodyKey)
	return appendList(b, localizedBodyArg, l.BodyArgs)
}

func decodeLocalized(b []byte) (*delivery.Localized, error) {
	l := new(delivery.Localized)
	err := eachField(b, func(f field) error {
		switch f.num {
		case localizedTitleKey:
			l.TitleKey = string(f.s)
		case localizedTitleArg:
			l.TitleArgs = append(l.TitleArgs, string(f.s))
		case localizedSubtitleKey:
			l.SubtitleKey = string(f.s)
		case localizedSubtitleArg:
			l.SubtitleArgs = append(l.SubtitleArgs, string(f.s))
		case localizedBodyKey:
			l.BodyKey = string(f.s)
		case localizedBodyArg:
			l.BodyArgs = append(l.BodyArgs, string(f.s))
		}
		return nil
	})
	return l, err
}

func decodeOverlay(b []byte) (*delivery.Overlay, error) {
	o := new(delivery.Overlay)
	err := eachField(b, func(f field) error {
		switch f.num {
		case overlayAPNs:
			o.APNs = cloneBytes(f.s)
		case overlayFCM:
			o.FCM = cloneBytes(f.s)
		case overlayWebPush:
			o.WebPush = cloneBytes(f.s)
		}
		return nil
	})
	return o, err
}

func decodeRequest(b []byte) (*delivery.RequestMark, error) {
	m := new(delivery.RequestMark)
	err := eachField(b, func(f field) error {
		switch f.num {
		case requestClient:
			m.Client = string(f.s)
		case requestPacketID:
			m.PacketID = uint16(f.v)
		case requestPayload:
			m.Payload = f.v
		}
		return nil
	})
	return m, err
}

// DecodeNotification is the inverse of AppendNotification; it reuses n.Devices.
func DecodeNotification(n *delivery.Notification, seq delivery.Seq, b []byte) error {
	*n = delivery.Notification{Seq: seq, Devices: n.Devices[:0]}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.num {
		case notificationID:
			n.ID = string(f.s)
		case notificationAccount:
			n.Account = string(f.s)
		case notificationTitle:
			n.Title = string(f.s)
		case notificationBody:
			n.Body = string(f.s)
		case notificationBadge:
			badge := int(protowire.DecodeZigZag(f.v))
			n.Badge = &badge
		case notificationSound:
			n.Sound = string(f.s)
		case notificationCategory:
			n.Category = string(f.s)
		case notificationCollapseKey:
			n.CollapseKey = string(f.s)
		case notificationAck:
			n.Ack = delivery.AckKind(f.v)
		case notificationUrgency:
			n.Urgency = delivery.Urgency(f.v)
		case notificationFallback:
			n.Fallback = f.v != 0
		case notificationHasMessage:
			n.HasMessage = f.v != 0
		case notificationAcceptedAt:
			n.AcceptedAt = unixTime(f.v)
		case notificationExpiresAt:
			n.ExpiresAt = unixTime(f.v)
		case notificationDevice:
			n.Devices = append(n.Devices, string(f.s))
		case notificationSubtitle:
			n.Subtitle = string(f.s)
		case notificationThread:
			n.Thread = string(f.s)
		case notificationLink:
			n.Link = string(f.s)
		case notificationImage:
			n.Image = string(f.s)
		case notificationLevel:
			n.Level = delivery.Level(f.v)
		case notificationLocalized:
			n.Localized, err = decodeLocalized(f.s)
		case notificationExtra:
			n.Extra = cloneBytes(f.s)
		case notificationBadgeAuto:
			n.BadgeAuto = f.v != 0
		case notificationAckWindow:
			n.AckWindow = f.window()
		case notificationTTLZero:
			n.TTLZero = f.v != 0
		case notificationKind:
			n.Kind = string(f.s)
		case notificationPushType:
			n.PushType = string(f.s)
		case notificationOverlay:
			n.Overlay, err = decodeOverlay(f.s)
		case notificationMark:
			n.Mark, err = decodeRequest(f.s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	recordState protowire.Number = iota + 1
	recordAttempts
	recordPushAttempts
	recordPushAccepted
	recordPushRefused
	recordReceived
	recordAck
	recordFallback
	recordMessage
	recordCollapseKey
	recordDeadline
	recordExpiresAt
	recordRefusedKind
	recordUrgency
	recordAckWindow
	recordTTLZero
	recordKind
	recordDismissed
	recordRead
)

// AppendRecord appends a record's value, without its Seq and Device, which are its key.
func AppendRecord(b []byte, r *delivery.Record) []byte {
	b = appendUint(b, recordState, uint64(r.State))
	b = appendUint(b, recordAttempts, uint64(max(r.Attempts, 0)))
	b = appendUint(b, recordPushAttempts, uint64(max(r.PushAttempts, 0)))
	b = appendBool(b, recordPushAccepted, r.PushAccepted)
	b = appendUint(b, recordRefusedKind, uint64(r.PushRefused))
	b = appendBool(b, recordReceived, r.Received)
	b = appendUint(b, recordAck, uint64(r.Ack))
	b = appendBool(b, recordFallback, r.Fallback)
	b = appendUint(b, recordMessage, uint64(r.Message))
	b = appendString(b, recordCollapseKey, r.CollapseKey)
	b = appendTime(b, recordDeadline, r.Deadline)
	b = appendTime(b, recordExpiresAt, r.ExpiresAt)
	b = appendUint(b, recordUrgency, uint64(r.Urgency))
	b = appendWindow(b, recordAckWindow, r.AckWindow)
	b = appendBool(b, recordTTLZero, r.TTLZero)
	b = appendString(b, recordKind, r.Kind)
	b = appendBool(b, recordDismissed, r.Dismissed)
	b = appendBool(b, recordRead, r.Read)
	return b
}

// DecodeRecord is the inverse of AppendRecord.
func DecodeRecord(r *delivery.Record, key delivery.Key, b []byte) error {
	*r = delivery.Record{Seq: key.Seq, Device: key.Device}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.num {
		case recordState:
			r.State = delivery.State(f.v)
		case recordAttempts:
			r.Attempts = f.int()
		case recordPushAttempts:
			r.PushAttempts = f.int()
		case recordPushAccepted:
			r.PushAccepted = f.v != 0
		case recordPushRefused:
			if f.v != 0 { // format 1 did not say why
				r.PushRefused = delivery.RefusedRegistration
			}
		case recordRefusedKind:
			r.PushRefused = delivery.RefusedKind(f.v)
		case recordUrgency:
			r.Urgency = delivery.Urgency(f.v)
		case recordAckWindow:
			r.AckWindow = f.window()
		case recordTTLZero:
			r.TTLZero = f.v != 0
		case recordKind:
			r.Kind = string(f.s)
		case recordDismissed:
			r.Dismissed = f.v != 0
		case recordRead:
			r.Read = f.v != 0
		case recordReceived:
			r.Received = f.v != 0
		case recordAck:
			r.Ack = delivery.AckKind(f.v)
		case recordFallback:
			r.Fallback = f.v != 0
		case recordMessage:
			r.Message = delivery.MessageState(f.v)
		case recordCollapseKey:
			r.CollapseKey = string(f.s)
		case recordDeadline:
			r.Deadline = unixTime(f.v)
		case recordExpiresAt:
			r.ExpiresAt = unixTime(f.v)
		}
	}
	return nil
}

// A value of events is a repetition of field 1, each one event.
const eventsEvent protowire.Number = 1

const (
	eventNumber protowire.Number = iota + 1
	eventTime
	eventKind
	eventDevice
	eventAttempt
	eventDetail
)

// AppendEvent appends one event to a value; scratch is for the event's own
// bytes, whose length stands before them, and is returned for reuse.
func AppendEvent(b, scratch []byte, e *delivery.Event) (value, reuse []byte) {
	s := appendUint(scratch[:0], eventNumber, e.Number)
	s = appendTime(s, eventTime, e.Time)
	s = appendUint(s, eventKind, uint64(e.Kind))
	s = appendString(s, eventDevice, e.Device)
	s = appendUint(s, eventAttempt, uint64(max(e.Attempt, 0)))
	s = appendString(s, eventDetail, e.Detail)
	return protowire.AppendBytes(protowire.AppendTag(b, eventsEvent, protowire.BytesType), s), s
}

// DecodeEvents appends the events of one value to into.
func DecodeEvents(into []delivery.Event, seq delivery.Seq, b []byte) ([]delivery.Event, error) {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return into, err
		}
		b = rest
		if f.num != eventsEvent {
			continue
		}
		e := delivery.Event{Seq: seq}
		for s := f.s; len(s) > 0; {
			var ef field
			if ef, s, err = nextField(s); err != nil {
				return into, err
			}
			switch ef.num {
			case eventNumber:
				e.Number = ef.v
			case eventTime:
				e.Time = unixTime(ef.v)
			case eventKind:
				e.Kind = delivery.EventKind(ef.v)
			case eventDevice:
				e.Device = string(ef.s)
			case eventAttempt:
				e.Attempt = ef.int()
			case eventDetail:
				e.Detail = string(ef.s)
			}
		}
		into = append(into, e)
	}
	return into, nil
}

const (
	deviceAccount protowire.Number = iota + 1
	deviceReportsApp
	deviceSeenAt
	devicePush // 4 to 9 are format 1's: one registration, for APNs
	deviceServer
	deviceToken
	deviceApp
	deviceEnvironment
	deviceRegisteredAt
	deviceRegistration
	deviceVia
	deviceAddress
	deviceUnread
)

const (
	registrationServer protowire.Number = iota + 1
	registrationApp
	registrationEnvironment
	registrationKind // left out: delivery.KindAlert
	registrationToken
	registrationForm
	registrationP256dh
	registrationAuth
	registrationRegisteredAt
	registrationSuspended
	registrationEnded
	registrationNoKind // an empty kind, which no device should have
)

const (
	suspensionSince protowire.Number = iota + 1
	suspensionReason
	suspensionConfig
	suspensionNextProbe
)

const (
	endingAt protowire.Number = iota + 1
	endingReason
)

// AppendDevice appends a device's value, without its ID, which is its key.
func AppendDevice(b []byte, d *delivery.Device) []byte {
	b = appendString(b, deviceAccount, d.Account)
	b = appendBool(b, deviceReportsApp, d.ReportsApp)
	b = appendTime(b, deviceSeenAt, d.SeenAt)
	for i := range d.Registrations {
		b = appendMessage(b, deviceRegistration, appendRegistration(nil, &d.Registrations[i]))
	}
	b = appendString(b, deviceVia, d.Via)
	b = appendString(b, deviceAddress, d.Address)
	return appendUint(b, deviceUnread, uint64(max(d.Unread, 0)))
}

func appendRegistration(b []byte, r *delivery.Registration) []byte {
	b = appendString(b, registrationServer, r.Server)
	b = appendString(b, registrationApp, r.App)
	b = appendString(b, registrationEnvironment, r.Environment)
	if r.Kind != delivery.KindAlert {
		b = appendString(b, registrationKind, r.Kind)
		b = appendBool(b, registrationNoKind, r.Kind == "")
	}
	b = appendString(b, registrationToken, r.Token)
	b = appendString(b, registrationForm, r.Form)
	b = appendBytes(b, registrationP256dh, r.P256dh)
	b = appendBytes(b, registrationAuth, r.Auth)
	b = appendTime(b, registrationRegisteredAt, r.RegisteredAt)
	if x := r.Suspended; x != nil {
		s := appendTime(nil, suspensionSince, x.Since)
		s = appendString(s, suspensionReason, x.Reason)
		s = appendString(s, suspensionConfig, x.Config)
		b = appendMessage(b, registrationSuspended, appendTime(s, suspensionNextProbe, x.NextProbe))
	}
	if x := r.Ended; x != nil {
		b = appendMessage(b, registrationEnded, appendString(appendTime(nil, endingAt, x.At), endingReason, x.Reason))
	}
	return b
}

// DecodeDevice is the inverse of AppendDevice.
func DecodeDevice(d *delivery.Device, id string, b []byte) error {
	*d = delivery.Device{ID: id}
	old := delivery.Registration{Kind: delivery.KindAlert} // of format 1
	given := false
	err := eachField(b, func(f field) error {
		switch f.num {
		case deviceAccount:
			d.Account = string(f.s)
		case deviceReportsApp:
			d.ReportsApp = f.v != 0
		case deviceSeenAt:
			d.SeenAt = unixTime(f.v)
		case devicePush:
			given = true
		case deviceServer:
			old.Server = string(f.s)
		case deviceToken:
			old.Token = string(f.s)
		case deviceApp:
			old.App = string(f.s)
		case deviceEnvironment:
			old.Environment = string(f.s)
		case deviceRegisteredAt:
			old.RegisteredAt = unixTime(f.v)
		case deviceRegistration:
			r, err := decodeRegistration(f.s)
			if err != nil {
				return err
			}
			d.Registrations = append(d.Registrations, r)
		case deviceVia:
			d.Via = string(f.s)
		case deviceAddress:
			d.Address = string(f.s)
		case deviceUnread:
			d.Unread = int64(f.int())
		}
		return nil
	})
	if given {
		d.Registrations = append(d.Registrations, old)
	}
	return err
}

func decodeRegistration(b []byte) (delivery.Registration, error) {
	r := delivery.Registration{Kind: delivery.KindAlert}
	err := eachField(b, func(f field) (err error) {
		switch f.num {
		case registrationServer:
			r.Server = string(f.s)
		case registrationApp:
			r.App = string(f.s)
		case registrationEnvironment:
			r.Environment = string(f.s)
		case registrationKind:
			r.Kind = string(f.s)
		case registrationToken:
			r.Token = string(f.s)
		case registrationForm:
			r.Form = string(f.s)
		case registrationP256dh:
			r.P256dh = cloneBytes(f.s)
		case registrationAuth:
			r.Auth = cloneBytes(f.s)
		case registrationRegisteredAt:
			r.RegisteredAt = unixTime(f.v)
		case registrationSuspended:
			r.Suspended, err = decodeSuspension(f.s)
		case registrationEnded:
			r.Ended, err = decodeEnding(f.s)
		case registrationNoKind:
			r.Kind = ""
		}
		return err
	})
	return r, err
}

func decodeSuspension(b []byte) (*delivery.Suspension, error) {
	x := new(delivery.Suspension)
	err := eachField(b, func(f field) error {
		switch f.num {
		case suspensionSince:
			x.Since = unixTime(f.v)
		case suspensionReason:
			x.Reason = string(f.s)
		case suspensionConfig:
			x.Config = string(f.s)
		case suspensionNextProbe:
			x.NextProbe = unixTime(f.v)
		}
		return nil
	})
	return x, err
}

func decodeEnding(b []byte) (*delivery.Ending, error) {
	x := new(delivery.Ending)
	err := eachField(b, func(f field) error {
		switch f.num {
		case endingAt:
			x.At = unixTime(f.v)
		case endingReason:
			x.Reason = string(f.s)
		}
		return nil
	})
	return x, err
}

const (
	finishAt protowire.Number = iota + 1
	finishState
	finishAttempts
	finishPushed
)

// AppendFinish appends the value of a finished delivery, without its key. A zero At
// is left out.
func AppendFinish(b []byte, f *delivery.Finish) []byte {
	b = appendTime(b, finishAt, f.At)
	b = appendUint(b, finishState, uint64(f.State))
	b = appendUint(b, finishAttempts, uint64(max(f.Attempts, 0)))
	return appendBool(b, finishPushed, f.Pushed)
}

// DecodeFinish is the inverse of AppendFinish.
func DecodeFinish(key delivery.Key, b []byte) (delivery.Finish, error) {
	f := delivery.Finish{Key: key}
	err := eachField(b, func(x field) error {
		switch x.num {
		case finishAt:
			f.At = unixTime(x.v)
		case finishState:
			f.State = delivery.State(x.v)
		case finishAttempts:
			f.Attempts = x.int()
		case finishPushed:
			f.Pushed = x.v != 0
		}
		return nil
	})
	return f, err
}

// Ref says where the events of one notification are that one commit stored.
type Ref struct {
	Seq    delivery.Seq
	Number uint64 // of the first; 0: the notification was accepted
}

const (
	commitTime protowire.Number = iota + 1
	commitRefs
)

// AppendCommit appends the value of a commit: when it was made and where its events
// are. refs are in the order of Seq; most differ little from the one before, and so
// do the numbers from the Seq.
func AppendCommit(b, scratch []byte, at time.Time, refs []Ref) (value, reuse []byte) {
	b = appendTime(b, commitTime, at)
	s := scratch[:0]
	var last delivery.Seq
	for _, r := range refs {
		s = protowire.AppendVarint(s, uint64(r.Seq-last))
		last = r.Seq
		if r.Number == 0 {
			s = protowire.AppendVarint(s, 0)
		} else {
			s = protowire.AppendVarint(s, 1+protowire.EncodeZigZag(int64(r.Number-uint64(r.Seq))))
		}
	}
	return appendBytes(b, commitRefs, s), s
}

// DecodeCommit is the inverse of AppendCommit; it appends to into.
func DecodeCommit(into []Ref, b []byte) (at time.Time, refs []Ref, err error) {
	refs = into
	err = eachField(b, func(f field) error {
		switch f.num {
		case commitTime:
			at = unixTime(f.v)
		case commitRefs:
			var last delivery.Seq
			for s := f.s; len(s) > 0; {
				seq, n := protowire.ConsumeVarint(s)
				if n < 0 {
					return fmt.Errorf("%w: reference: %w", ErrDamaged, protowire.ParseError(n))
				}
				number, m := protowire.ConsumeVarint(s[n:])
				if m < 0 {
					return fmt.Errorf("%w: reference: %w", ErrDamaged, protowire.ParseError(m))
				}
				s = s[n+m:]
				last += delivery.Seq(seq)
				r := Ref{Seq: last}
				if number != 0 {
					r.Number = uint64(last) + uint64(protowire.DecodeZigZag(number-1))
				}
				refs = append(refs, r)
			}
		}
		return nil
	})
	return at, refs, err
}

// Counters is the store's own account, one value that every Apply replaces.
type Counters struct {
	Accepted uint64
	Finished uint64
	Last     uint64       // highest Seq and event Number
	Pruned   delivery.Seq // no notification above it has ever been pruned
	Writes   uint64       // batches committed; see watermark
}

const (
	counterAccepted protowire.Number = iota + 1
	counterFinished
	counterLast
	counterPruned
	counterWrites
)

// AppendCounters appends the value of the counters.
func AppendCounters(b []byte, c Counters) []byte {
	b = appendUint(b, counterAccepted, c.Accepted)
	b = appendUint(b, counterFinished, c.Finished)
	b = appendUint(b, counterLast, c.Last)
	b = appendUint(b, counterPruned, uint64(c.Pruned))
	return appendUint(b, counterWrites, c.Writes)
}

// DecodeCounters is the inverse of AppendCounters.
func DecodeCounters(b []byte) (c Counters, err error) {
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return c, err
		}
		b = rest
		switch f.num {
		case counterAccepted:
			c.Accepted = f.v
		case counterFinished:
			c.Finished = f.v
		case counterLast:
			c.Last = f.v
		case counterPruned:
			c.Pruned = delivery.Seq(f.v)
		case counterWrites:
			c.Writes = f.v
		}
	}
	return c, nil
}
