package persist

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/heartline-mqtt/heartline/hooks/ordinary"
)

// The first byte of a key. They are stored: append, never reuse.
const (
	kindClient       = 'c' // client
	kindInflight     = 'i' // client, 0, packet identifier (2 bytes, big-endian)
	kindRetained     = 'r' // topic name
	kindSubscription = 's' // client, 0, topic filter
	kindIncoming     = 'p' // client, 0, packet identifier (2 bytes, big-endian)
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
	case kindInflight, kindIncoming:
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
	case kindInflight, kindIncoming:
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
	Username []byte `json:"u,omitempty"` // the account
	Service  bool   `json:"sv,omitempty"`
	Version  byte   `json:"v"`
	Expiry   uint32 `json:"e,omitempty"` // seconds after Gone; MQTT 5 only
	Gone     int64  `json:"g,omitempty"` // when its connection ended, Unix seconds; 0: it had not
}

// subscription is an ordinary.Subscription.
type subscription struct {
	QoS               byte `json:"q"`
	Identifier        int  `json:"i,omitempty"`
	RetainHandling    byte `json:"h,omitempty"`
	RetainAsPublished bool `json:"p,omitempty"`
	NoLocal           bool `json:"n,omitempty"`
	// Retained messages are still to come: those after a place in the order of topics.
	Replaying bool   `json:"r,omitempty"`
	After     string `json:"a,omitempty"`
}

// message is a message, retained or on its way to a client, all of it but its payload.
type message struct {
	Type        byte           `json:"t"`
	QoS         byte           `json:"q,omitempty"`
	Retain      bool           `json:"r,omitempty"`
	Sent        bool           `json:"d,omitempty"` // it was sent at least once
	TopicName   string         `json:"n,omitempty"`
	Origin      string         `json:"o,omitempty"`
	Account     string         `json:"a,omitempty"`
	PacketID    uint16         `json:"i,omitempty"`
	Created     int64          `json:"c,omitempty"`
	Expiry      int64          `json:"e,omitempty"`
	ClientID    uint16         `json:"k,omitempty"` // of a packet of an older version: the client's packet identifier, where it is another
	Order       []byte         `json:"s,omitempty"` // 8 bytes, big-endian
	Format      byte           `json:"pf,omitempty"`
	FormatFlag  bool           `json:"pg,omitempty"`
	ContentType string         `json:"ct,omitempty"`
	Response    string         `json:"rt,omitempty"`
	Correlate   []byte         `json:"cd,omitempty"`
	Subscribed  []int          `json:"si,omitempty"`
	User        []userProperty `json:"up,omitempty"`
	Share       string         `json:"sh,omitempty"`
}

type userProperty struct {
	Key   string `json:"k"`
	Value string `json:"v"`
}

// Types of in-flight entries (MQTT 5 §2.1.2).
const (
	typePublish = 3
	typePubrec  = 5 // of an older version; now kindIncoming
	typePubrel  = 6
)

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

func headerOf(m *ordinary.Message) message {
	h := message{
		Type: typePublish, QoS: m.QoS, Retain: m.Retain, TopicName: m.TopicName, Origin: m.Origin, Account: m.Account,
		Created: m.Created, Expiry: m.Expiry, Format: m.PayloadFormat, FormatFlag: m.HasPayloadFormat, ContentType: m.ContentType,
		Response: m.ResponseTopic, Correlate: m.CorrelationData,
	}
	for _, u := range m.User {
		h.User = append(h.User, userProperty(u))
	}
	return h
}

func encodeRetained(m *ordinary.Message) ([]byte, error) {
	h := headerOf(m)
	return encode(&h, m.Payload)
}

func encodeOutgoing(o *ordinary.Outgoing) ([]byte, error) {
	h, payload := message{Type: typePubrel}, []byte(nil)
	if o.Message != nil {
		h, payload = headerOf(o.Message), o.Message.Payload
	}
	h.PacketID, h.QoS, h.Retain, h.Sent, h.Subscribed, h.Share = o.PacketID, o.QoS, o.Retain, o.Sent, o.Identifiers, o.Share
	h.Order = binary.BigEndian.AppendUint64(nil, o.Order)
	return encode(&h, payload)
}

// decodeMessage decodes a message. Its payload is a part of b.
func decodeMessage(b []byte) (h message, m *ordinary.Message, err error) {
	payload, err := decode(b, &h)
	if err != nil {
		return h, nil, err
	}
	m = &ordinary.Message{
		TopicName: h.TopicName, Payload: payload, QoS: h.QoS, Retain: h.Retain, Origin: h.Origin, Account: h.Account,
		Created: h.Created, Expiry: h.Expiry, Properties: ordinary.Properties{
			PayloadFormat: h.Format, HasPayloadFormat: h.FormatFlag, ContentType: h.ContentType, ResponseTopic: h.Response,
			CorrelationData: h.Correlate,
		},
	}
	for _, u := range h.User {
		m.User = append(m.User, ordinary.UserProperty(u))
	}
	return h, m, nil
}

// outgoing is a message in flight as it was stored; ok is false for anything else.
func (h *message) outgoing(m *ordinary.Message, id uint16) (o ordinary.Outgoing, ok bool) {
	o = ordinary.Outgoing{PacketID: id, QoS: h.QoS, Retain: h.Retain, Sent: h.Sent, Identifiers: h.Subscribed, Share: h.Share}
	if len(h.Order) == 8 {
		o.Order = binary.BigEndian.Uint64(h.Order)
	}
	switch {
	case h.Type == typePublish && h.QoS > 0:
		m.Payload = append([]byte(nil), m.Payload...)
		o.Message = m
		return o, true
	case h.Type == typePubrel:
		return o, true
	}
	return o, false
}

func expired(m *ordinary.Message, now int64) bool { return m.Expiry > 0 && m.Expiry < now }
