package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

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
