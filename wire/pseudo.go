package wire

import (
	"encoding/json"
	"strconv"

	"github.com/heartline-mqtt/heartline/delivery"
)

// AppendPseudo appends the pseudo-notification of n, as JSON of a Pseudo. It is
// made for every notification, so it is written without encoding/json.
func AppendPseudo(b []byte, n *delivery.Notification, redelivery, pushed bool) []byte {
	b = appendString(append(b, `{"id":`...), n.ID)
	b = appendString(append(b, `,"account":`...), n.Account)
	if n.Title != "" {
		b = appendString(append(b, `,"title":`...), n.Title)
	}
	if n.Body != "" {
		b = appendString(append(b, `,"body":`...), n.Body)
	}
	if n.Badge != nil {
		b = strconv.AppendInt(append(b, `,"badge":`...), int64(*n.Badge), 10)
	}
	if n.Sound != "" {
		b = appendString(append(b, `,"sound":`...), n.Sound)
	}
	if n.Category != "" {
		b = appendString(append(b, `,"category":`...), n.Category)
	}
	b = n.AcceptedAt.UTC().AppendFormat(append(b, `,"accepted_at":"`...), Time)
	b = strconv.AppendBool(append(b, `","redelivery":`...), redelivery)
	b = strconv.AppendBool(append(b, `,"pushed":`...), pushed)
	b = strconv.AppendBool(append(b, `,"has_message":`...), n.HasMessage)
	b = append(append(b, `,"ack":"`...), AckName(n.Ack)...)
	return append(b, `"}`...)
}

// appendString appends s, which is UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == '"' || s[i] == '\\' {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(b, quoted...)
		}
	}
	b = append(append(b, '"'), s...)
	return append(b, '"')
}
