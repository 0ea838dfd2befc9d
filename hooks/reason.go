package hooks

import (
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
)

// refusal is why a publish is not taken, in the words of MQTT 5 §3.4.2.1.
type refusal struct {
	code   byte
	reason string
}

func refuse(code packets.Code, reason string) refusal { return refusal{code.Code, reason} }

// refusalFor turns an error of the core into a reason code that a PUBACK may
// carry. It is the only place that does: a wrapped error that reaches mochi takes
// the process down.
func refusalFor(err error) refusal {
	r := refusal{reason: err.Error()}
	switch {
	case errors.Is(err, delivery.ErrNotYours):
		r.code = packets.ErrNotAuthorized.Code
	case errors.Is(err, delivery.ErrInvalid):
		r.code = packets.ErrPayloadFormatInvalid.Code
	case errors.Is(err, delivery.ErrNotFound):
		r.code = packets.ErrTopicNameInvalid.Code // the account or device is a level of it
	case errors.Is(err, delivery.ErrTooMuchOutstanding), errors.Is(err, delivery.ErrUnavailable):
		r.code = packets.ErrQuotaExceeded.Code
	default:
		r.code = packets.ErrImplementationSpecificError.Code
	}
	return r
}
