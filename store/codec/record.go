package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

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
