package persist

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// The first byte of a key. They are stored: append, never reuse.
const (
	kindClient       = 'c' // client
	kindInflight     = 'i' // client, 0, packet identifier (2 bytes, big-endian)
	kindRetained     = 'r' // topic name
	kindSubscription = 's' // client, 0, topic filter
)

// mark names something that has changed.
type mark struct {
	kind   byte
	client string
	name   string // topic name or filter
	id     uint16
}

// key is m in the store. No client identifier has a zero in it [MQTT-1.5.4-2].
func (m mark) key() string {
	switch m.kind {
	case kindInflight:
		return string(binary.BigEndian.AppendUint16([]byte(ofClient(m.kind, m.client)), m.id))
	case kindSubscription:
		return ofClient(m.kind, m.client) + m.name
	case kindRetained:
		return string(m.kind) + m.name
	}
	return string(m.kind) + m.client
}

// ofClient begins every key of a kind that is the client's.
func ofClient(kind byte, client string) string { return string(kind) + client + "\x00" }

// parseKey is the inverse of mark.key.
func parseKey(key string) (m mark, ok bool) {
	if key == "" {
		return m, false
	}
	m.kind, key = key[0], key[1:]
	switch m.kind {
	case kindClient:
		m.client = key
		return m, true
	case kindRetained:
		m.name = key
		return m, true
	case kindSubscription:
		m.client, m.name, ok = strings.Cut(key, "\x00")
		return m, ok
	case kindInflight:
		var id string
		if m.client, id, ok = strings.Cut(key, "\x00"); ok && len(id) == 2 {
			m.id = binary.BigEndian.Uint16([]byte(id))
			return m, true
		}
	}
	return m, false
}

// session is a client that outlives its connection.
type session struct {
	Username []byte `json:"u,omitempty"`
	Version  byte   `json:"v"`
	Expiry   uint32 `json:"e,omitempty"` // seconds after Gone; MQTT 5 only
	Gone     int64  `json:"g,omitempty"` // when its connection ended, Unix seconds; 0: it had not
	Listener string `json:"l,omitempty"`
}

// subscription is a packets.Subscription.
type subscription struct {
	QoS               byte `json:"q"`
	Identifier        int  `json:"i,omitempty"`
	RetainHandling    byte `json:"h,omitempty"`
	RetainAsPublished bool `json:"p,omitempty"`
	NoLocal           bool `json:"n,omitempty"`
}

// message is a packet of mochi's, all that matters of it but its payload.
type message struct {
	Type        byte                   `json:"t"`
	QoS         byte                   `json:"q,omitempty"`
	Retain      bool                   `json:"r,omitempty"`
	Dup         bool                   `json:"d,omitempty"`
	TopicName   string                 `json:"n,omitempty"`
	Origin      string                 `json:"o,omitempty"`
	PacketID    uint16                 `json:"i,omitempty"`
	Created     int64                  `json:"c,omitempty"`
	Expiry      int64                  `json:"e,omitempty"`
	Version     byte                   `json:"v,omitempty"`
	ReasonCode  byte                   `json:"x,omitempty"`
	ClientID    uint16                 `json:"k,omitempty"` // the client's packet identifier, where it is another; see hooks/packetids.go
	Order       []byte                 `json:"s,omitempty"` // see hooks/order.go
	Format      byte                   `json:"pf,omitempty"`
	FormatFlag  bool                   `json:"pg,omitempty"`
	ContentType string                 `json:"ct,omitempty"`
	Response    string                 `json:"rt,omitempty"`
	Correlate   []byte                 `json:"cd,omitempty"`
	Interval    uint32                 `json:"me,omitempty"`
	Subscribed  []int                  `json:"si,omitempty"`
	User        []packets.UserProperty `json:"up,omitempty"`
}

// version begins every value.
const version = 1

var errValue = errors.New("damaged, or of a newer version")

// encode appends header and payload.
func encode(header any, payload []byte) ([]byte, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode MQTT state: %w", err)
	}
	b := make([]byte, 0, 1+binary.MaxVarintLen32+len(h)+len(payload))
	b = binary.AppendUvarint(append(b, version), uint64(len(h)))
	return append(append(b, h...), payload...), nil
}

// decode is the inverse of encode. The payload is a part of b.
func decode(b []byte, header any) (payload []byte, err error) {
	if len(b) == 0 || b[0] != version {
		return nil, errValue
	}
	n, w := binary.Uvarint(b[1:])
	if w <= 0 || n > uint64(len(b)-1-w) {
		return nil, errValue
	}
	b = b[1+w:]
	if err := json.Unmarshal(b[:n], header); err != nil {
		return nil, fmt.Errorf("%w: %w", errValue, err)
	}
	return b[n:], nil
}

func encodePacket(pk *packets.Packet) ([]byte, error) {
	p := &pk.Properties
	return encode(&message{
		Type: pk.FixedHeader.Type, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain, Dup: pk.FixedHeader.Dup,
		TopicName: pk.TopicName, Origin: pk.Origin, PacketID: pk.PacketID, Created: pk.Created, Expiry: pk.Expiry,
		Version: pk.ProtocolVersion, ReasonCode: pk.ReasonCode, Order: pk.ReasonCodes,
		ClientID: pk.Connect.Keepalive,
		Format:   p.PayloadFormat, FormatFlag: p.PayloadFormatFlag, ContentType: p.ContentType, Response: p.ResponseTopic,
		Correlate: p.CorrelationData, Interval: p.MessageExpiryInterval, Subscribed: p.SubscriptionIdentifier, User: p.User,
	}, pk.Payload)
}

func decodePacket(b []byte) (packets.Packet, error) {
	var m message
	payload, err := decode(b, &m)
	if err != nil {
		return packets.Packet{}, err
	}
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: m.Type, Qos: m.QoS, Retain: m.Retain, Dup: m.Dup},
		TopicName:   m.TopicName, Origin: m.Origin, PacketID: m.PacketID, Created: m.Created, Expiry: m.Expiry,
		ProtocolVersion: m.Version, ReasonCode: m.ReasonCode, ReasonCodes: m.Order,
		Connect: packets.ConnectParams{Keepalive: m.ClientID},
		Payload: append([]byte(nil), payload...),
		Properties: packets.Properties{
			PayloadFormat: m.Format, PayloadFormatFlag: m.FormatFlag, ContentType: m.ContentType, ResponseTopic: m.Response,
			CorrelationData: m.Correlate, MessageExpiryInterval: m.Interval, SubscriptionIdentifier: m.Subscribed, User: m.User,
		},
	}, nil
}

// sessionOf is cl's session. Only the goroutine that reads the connection may ask.
func sessionOf(cl *mqtt.Client, gone int64) session {
	s := session{
		Username: bytes.Clone(cl.Properties.Username), Version: cl.Properties.ProtocolVersion,
		Listener: cl.Net.Listener, Gone: gone,
	}
	if s.Version == 5 {
		s.Expiry = cl.Properties.Props.SessionExpiryInterval
	}
	return s
}

// outlives reports whether cl's session does not end with its connection.
func outlives(cl *mqtt.Client) bool {
	if strings.IndexByte(cl.ID, 0) >= 0 || cl.Net.Inline {
		return false
	}
	if cl.Properties.ProtocolVersion == 5 {
		return cl.Properties.Props.SessionExpiryInterval > 0
	}
	return !cl.Properties.Clean
}

// expired reports whether a packet is past its Message Expiry Interval.
func expired(pk *packets.Packet, now int64) bool {
	return pk.ProtocolVersion == 5 && pk.Expiry > 0 && pk.Expiry < now // as mochi has it
}
