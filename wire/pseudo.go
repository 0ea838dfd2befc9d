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
	b = append(append(append(b, `,"ack":"`...), AckName(n.Ack)...), '"')
	tag := n.CollapseKey
	if tag == "" {
		tag = n.ID
	}
	b = appendString(append(b, `,"tag":`...), tag)
	b = appendMember(b, "subtitle", n.Subtitle)
	b = appendMember(b, "thread", n.Thread)
	b = appendMember(b, "link", n.Link)
	b = appendMember(b, "image", n.Image)
	if n.Level != 0 && n.Level != delivery.LevelActive {
		b = appendMember(b, "level", LevelName(n.Level))
	}
	if n.Localized != nil {
		text, _ := json.Marshal(n.Localized) // strings cannot fail
		b = append(append(b, `,"localized":`...), text...)
	}
	if n.Extra != nil {
		b = append(append(b, `,"extra":`...), n.Extra...)
	}
	return append(b, '}')
}

// appendMember appends a member whose name needs no quoting, unless it is empty.
func appendMember(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendString(b, value)
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
