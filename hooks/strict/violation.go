package strict

import (
	"fmt"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Reason codes of MQTT 5 that a Violation can carry (section 2.4).
const (
	codeMalformed          byte = 0x81
	codeProtocolError      byte = 0x82
	codeUnsupportedVersion byte = 0x84
	codeClientID           byte = 0x85
	codeServerBusy         byte = 0x89
	codeBadAuthMethod      byte = 0x8C
	codeTopicAlias         byte = 0x94
	codePacketTooLarge     byte = 0x95
	codePayloadFormat      byte = 0x99
)

// A Violation is the first thing in a client's stream that the standard forbids.
// It ends the stream: every later Read returns it again.
type Violation struct {
	// Packet is the type of the packet at fault, one of the constants of mochi's
	// packets, or what stands in its place.
	Packet byte
	// Code is the MQTT 5 reason code, also for a client of an earlier version.
	Code byte
	// Rule names the broken rule in a few fixed words joined by underscores. The
	// set is closed, so it can be the label of a metric.
	Rule string
	// Detail says it in a sentence's worth, without anything the client sent.
	Detail string

	silent bool
}

// Error names the packet, its fault, and the reason code.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s: %s (0x%02X)", PacketName(v.Packet), v.Detail, v.Code)
}

// RuleProxyHeader is the Violation.Rule of a connection that begins with a header of the PROXY
// protocol.
const RuleProxyHeader = "proxy_header"

// ProxyHeader reports whether a connection that begins with b begins with a header of the PROXY
// protocol, version 1 or 2. Six bytes tell.
func ProxyHeader(b []byte) bool {
	const head = 6
	return len(b) >= head && (string(b[:head]) == "PROXY " || string(b[:head]) == "\r\n\r\n\x00\r")
}

// PacketName is the standard's name of a packet type: PUBLISH for 3.
func PacketName(t byte) string {
	if n, ok := packets.PacketNames[t]; ok {
		return strings.ToUpper(n)
	}
	return "unknown packet"
}

// A rule is a Violation that does not know its packet yet.
type rule struct {
	name   string
	code   byte
	detail string
	// silent: the standard wants, or the client's state leaves room for, nothing
	// but the end of the connection.
	silent bool
}

func (r *rule) in(packet byte) *Violation {
	return &Violation{Packet: packet, Code: r.code, Rule: r.name, Detail: r.detail, silent: r.silent}
}

// The rules. Codes are those of MQTT 5.0; where it names none, they are what
// Mosquitto answers.
var (
	// Fixed header.
	ruleType        = rule{name: "packet_type", code: codeProtocolError, detail: "packet type is reserved, or a server's"}
	ruleFlags       = rule{name: "fixed_header_flags", code: codeMalformed, detail: "fixed header flags are not those of the packet type"}
	ruleLength      = rule{name: "remaining_length", code: codeMalformed, detail: "remaining length is no variable byte integer of at most four bytes"}
	ruleTooLarge    = rule{name: "packet_too_large", code: codePacketTooLarge, detail: "packet is larger than the server accepts"}
	ruleFirst       = rule{name: "connect_not_first", code: codeProtocolError, detail: "first packet is no CONNECT", silent: true}
	ruleProxyHeader = rule{name: RuleProxyHeader, code: codeProtocolError, detail: "connection begins with a header of the PROXY protocol, which is not expected here", silent: true}
	ruleSecond      = rule{name: "connect_twice", code: codeProtocolError, detail: "second CONNECT on a connection"}
	ruleBusy        = rule{name: "connect_busy", code: codeServerBusy, detail: "server has no room for a CONNECT of this size now"}
	ruleTruncated   = rule{name: "truncated", code: codeMalformed, detail: "packet ends within a field"}
	ruleTrailing    = rule{name: "surplus_bytes", code: codeMalformed, detail: "packet goes on after its last field"}
	ruleTextInvalid = rule{name: "utf8", code: codeMalformed, detail: "string is not well-formed UTF-8, or holds U+0000"}

	// CONNECT.
	ruleProtocolName  = rule{name: "protocol_name", code: codeUnsupportedVersion, detail: "protocol name is not MQTT", silent: true}
	ruleProtocolLevel = rule{name: "protocol_version", code: codeUnsupportedVersion, detail: "protocol version is not supported"}
	ruleReservedFlag  = rule{name: "connect_reserved_flag", code: codeMalformed, detail: "reserved connect flag is set"}
	ruleWillFlags     = rule{name: "will_flags", code: codeMalformed, detail: "will QoS or will retain is set without a will"}
	ruleWillQoS       = rule{name: "will_qos", code: codeMalformed, detail: "will QoS is 3"}
	rulePasswordAlone = rule{name: "password_without_username", code: codeMalformed, detail: "password flag is set without the username flag"}
	ruleClientIDText  = rule{name: "client_id_utf8", code: codeClientID, detail: "client identifier is not well-formed UTF-8, or holds U+0000"}
	ruleClientIDEmpty = rule{name: "client_id_empty", code: codeClientID, detail: "client identifier is empty and the session is to be kept"}
	ruleAuthData      = rule{name: "auth_data_without_method", code: codeProtocolError, detail: "authentication data without an authentication method"}
	ruleAuthMethod    = rule{name: "auth_method", code: codeBadAuthMethod, detail: "authentication method is not supported"}

	// Properties.
	rulePropertyUnknown   = rule{name: "property_unknown", code: codeMalformed, detail: "property identifier is unknown"}
	rulePropertyForbidden = rule{name: "property_forbidden", code: codeMalformed, detail: "property is not one of this packet"}
	rulePropertyTwice     = rule{name: "property_twice", code: codeProtocolError, detail: "property is there more than once"}
	rulePropertyValue     = rule{name: "property_value", code: codeProtocolError, detail: "property has a value out of its range"}
	rulePropertyLength    = rule{name: "property_length", code: codeMalformed, detail: "properties end within a field, or beyond the packet"}
	ruleResponseTopic     = rule{name: "response_topic", code: codeProtocolError, detail: "response topic is empty or holds a wildcard"}
	ruleSubIDFromClient   = rule{name: "publish_subscription_id", code: codeProtocolError, detail: "subscription identifier in a client's PUBLISH"}
	ruleExpiryRaised      = rule{name: "session_expiry_raised", code: codeProtocolError, detail: "session expiry interval was zero in CONNECT and may not be raised"}

	// Topics.
	ruleTopicEmpty     = rule{name: "topic_empty", code: codeProtocolError, detail: "topic name is empty and there is no topic alias"}
	ruleWillTopicEmpty = rule{name: "will_topic_empty", code: codeMalformed, detail: "will topic is empty"}
	ruleTopicWildcard  = rule{name: "topic_wildcard", code: codeMalformed, detail: "topic name holds a wildcard"}
	ruleTopicText      = rule{name: "topic_utf8", code: codeMalformed, detail: "topic is not well-formed UTF-8, or holds U+0000"}
	ruleTopicControl   = rule{name: "topic_control_character", code: codeMalformed, detail: "topic holds a control or non-character"}
	ruleTopicAlias     = rule{name: "topic_alias_zero", code: codeTopicAlias, detail: "topic alias is zero"}
	ruleAliasUnknown   = rule{name: "topic_alias_unknown", code: codeProtocolError, detail: "topic alias was never given a topic"}
	ruleFilterEmpty    = rule{name: "filter_empty", code: codeMalformed, detail: "topic filter is empty"}
	ruleFilterWildcard = rule{name: "filter_wildcard", code: codeMalformed, detail: "wildcard is not alone in its level, or # is not the last"}
	ruleFilterShare    = rule{name: "filter_share", code: codeMalformed, detail: "shared subscription has no share name or no filter, or a wildcard in the name"}

	// PUBLISH and acknowledgements.
	ruleQoS           = rule{name: "publish_qos", code: codeMalformed, detail: "QoS is 3"}
	ruleDup           = rule{name: "publish_dup", code: codeMalformed, detail: "DUP is set at QoS 0"}
	rulePublishID     = rule{name: "publish_packet_id", code: codeProtocolError, detail: "packet identifier is zero"}
	rulePayloadFormat = rule{name: "payload_format", code: codePayloadFormat, detail: "payload is said to be UTF-8 and is not"}
	rulePacketID      = rule{name: "packet_id", code: codeMalformed, detail: "packet identifier is zero"}
	ruleReasonCode    = rule{name: "reason_code", code: codeProtocolError, detail: "reason code is not one that a client sends in this packet"}
	ruleAckKind       = rule{name: "ack_kind", code: codeProtocolError, detail: "acknowledgement is not the one that the message's QoS and progress call for"}

	// SUBSCRIBE and UNSUBSCRIBE.
	ruleNoFilters      = rule{name: "no_filters", code: codeProtocolError, detail: "there is no topic filter"}
	ruleOptionBits     = rule{name: "subscription_options", code: codeMalformed, detail: "reserved subscription option bits are set"}
	ruleSubscribeQoS   = rule{name: "subscription_qos", code: codeProtocolError, detail: "requested QoS is 3"}
	ruleRetainHandling = rule{name: "retain_handling", code: codeProtocolError, detail: "retain handling is 3"}
	ruleShareNoLocal   = rule{name: "share_no_local", code: codeProtocolError, detail: "no local is set on a shared subscription"}

	// AUTH.
	ruleAuthPacket = rule{name: "auth_without_method", code: codeProtocolError, detail: "AUTH without an authentication method in CONNECT"}
)
