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
	notificationFingerprint
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
	if n.Fingerprint != 0 {
		b = protowire.AppendTag(b, notificationFingerprint, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, n.Fingerprint)
	}
	return b
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
		case notificationFingerprint:
			n.Fingerprint = f.v
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
	if r.AckWindow != nil { // 0 is not "none"
		b = protowire.AppendTag(b, recordAckWindow, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(max(*r.AckWindow, 0)))
	}
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
			window := time.Duration(f.int())
			r.AckWindow = &window
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
	devicePush
	deviceServer
	deviceToken
	deviceApp
	deviceEnvironment
	deviceRegisteredAt
)

// AppendDevice appends a device's value, without its ID, which is its key.
func AppendDevice(b []byte, d *delivery.Device) []byte {
	b = appendString(b, deviceAccount, d.Account)
	b = appendBool(b, deviceReportsApp, d.ReportsApp)
	b = appendTime(b, deviceSeenAt, d.SeenAt)
	// One registration for now: format 1.
	if p := d.Registration(delivery.KindAlert); p != nil {
		b = appendBool(b, devicePush, true)
		b = appendString(b, deviceServer, p.Server)
		b = appendString(b, deviceToken, p.Token)
		b = appendString(b, deviceApp, p.App)
		b = appendString(b, deviceEnvironment, p.Environment)
		b = appendTime(b, deviceRegisteredAt, p.RegisteredAt)
	}
	return b
}

// DecodeDevice is the inverse of AppendDevice.
func DecodeDevice(d *delivery.Device, id string, b []byte) error {
	*d = delivery.Device{ID: id}
	push := delivery.Registration{Kind: delivery.KindAlert}
	given := false
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
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
			push.Server = string(f.s)
		case deviceToken:
			push.Token = string(f.s)
		case deviceApp:
			push.App = string(f.s)
		case deviceEnvironment:
			push.Environment = string(f.s)
		case deviceRegisteredAt:
			push.RegisteredAt = unixTime(f.v)
		}
	}
	if given && push.Token != "" { // one that has ended is not kept yet
		d.Registrations = []delivery.Registration{push}
	}
	return nil
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
