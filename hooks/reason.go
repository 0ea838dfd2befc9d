package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/text"
	"github.com/heartline-mqtt/heartline/wire"
)

// refusal says why a publish is not taken: a reason code and a reason string of MQTT 5
// §3.4.2.1, and the status and code that HTTP has for the same.
type refusal struct {
	code      byte
	reason    string // one line
	status    int
	problem   string // the stable code of contract §4
	temporary bool   // the same publish may be accepted later
	inDoubt   bool   // it may have been accepted
}

func refuse(code packets.Code, status int, problem, reason string) refusal {
	return refusal{code: code.Code, reason: reason, status: status, problem: problem}
}

// refusalFor turns an error of the core into a reason code that a PUBACK may carry.
// It is the only place that does: a wrapped error that reaches mochi takes the process
// down.
func refusalFor(err error) refusal {
	r := refusal{reason: text.OneLine(err.Error())}
	r.status, r.problem = wire.ErrorCode(err)
	r.inDoubt = errors.Is(err, delivery.ErrInDoubt)
	r.temporary = r.status == http.StatusTooManyRequests || r.status >= http.StatusInternalServerError
	switch {
	case r.status == http.StatusForbidden, errors.Is(err, delivery.ErrUnknownNotification): // no code says "not found"
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

// tellRefusal publishes a refusal on the client's refusals topic, at QoS 0, if the
// client is subscribed to it. It is how a 3.1.1 client hears of one.
func (c *conn) tellRefusal(topicName, id string, r refusal) {
	to := ""
	for _, own := range c.hook.topics.refusals(c.client.ID) {
		if c.subscribed(own) {
			to = own
		}
	}
	if to == "" {
		return
	}
	payload, err := json.Marshal(wire.Refusal{
		Problem: wire.Problem{Title: http.StatusText(r.status), Status: r.status, Detail: r.reason, Code: r.problem}, Topic: topicName, ID: id,
	})
	if err != nil {
		c.hook.log.Error("encode a refusal failed, the client is not told", "client", c.client.ID, "error", err)
		return
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, ProtocolVersion: c.client.Properties.ProtocolVersion,
		TopicName: to, Payload: payload, Properties: packets.Properties{ContentType: "application/problem+json"},
	}
	var buf bytes.Buffer
	if err := pk.PublishEncode(&buf); err != nil {
		c.hook.log.Error("encode a refusal failed, the client is not told", "client", c.client.ID, "error", err)
		return
	}
	if limit := c.client.Properties.Props.MaximumPacketSize; limit == 0 || uint32(buf.Len()) <= limit { // [MQTT-3.1.2-24]
		_ = c.send(item{packet: buf.Bytes()}) // QoS 0: a client that is gone is not told
	}
}
