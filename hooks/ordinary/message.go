package ordinary

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// Message is a published application message. It never changes once published: its
// receivers share it.
type Message struct {
	TopicName string
	Payload   []byte
	QoS       byte
	Retain    bool
	Quiet     bool   // it changes the topic's retained message alone: other servers Learn it
	Origin    string // client identifier of the publisher, for No Local
	Account   string // whose budget a retained message counts against; "": nobody's
	Created   int64  // Unix seconds
	Expiry    int64  // Unix seconds; 0: never [MQTT-3.3.2-5]
	// Stamp orders retained messages of a topic over several servers: about when it was
	// published, Unix nanoseconds.
	Stamp int64
	Properties

	relayed bool // it was published at another server
}

// Properties are what a server passes on unchanged (MQTT 5 §3.3.2.3).
type Properties struct {
	PayloadFormat    byte
	HasPayloadFormat bool
	ContentType      string
	ResponseTopic    string
	CorrelationData  []byte
	User             []UserProperty
}

// UserProperty is a name and a value.
type UserProperty struct{ Key, Value string }

// messageOverhead is about the memory that a queued message takes in addition to its
// content.
const messageOverhead = 512

// size is about what a message takes of the memory.
func (m *Message) size() int {
	n := messageOverhead + len(m.TopicName) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.CorrelationData)
	for i := range m.User {
		n += len(m.User[i].Key) + len(m.User[i].Value)
	}
	return n
}

// Detached returns a copy that keeps no memory but its own: parts of packets keep the whole
// packet.
func (m *Message) Detached() Message {
	d := *m
	d.TopicName, d.Payload = strings.Clone(m.TopicName), bytes.Clone(m.Payload)
	d.ContentType, d.ResponseTopic = strings.Clone(m.ContentType), strings.Clone(m.ResponseTopic)
	d.CorrelationData = bytes.Clone(m.CorrelationData)
	d.User = slices.Clone(m.User)
	for i, u := range d.User {
		d.User[i] = UserProperty{strings.Clone(u.Key), strings.Clone(u.Value)}
	}
	return d
}

func (m *Message) expired(now int64) bool { return m.Expiry > 0 && m.Expiry <= now }

// Packet types in the upper half of a fixed header's first byte (MQTT 5 §2.1.2).
const (
	typePublish = 3 << 4
	typePubrel  = 6<<4 | 2 // [MQTT-3.6.1-1]
)

// outgoing is a PUBLISH on its way into bytes.
type outgoing struct {
	*Message
	qos         byte
	dup, retain bool
	packetID    uint16
	identifiers []int
	alias       uint16
	aliasOnly   bool // the client knows the alias: leave the topic name out
}

// appendTo appends the PUBLISH for a client of that version. MQTT 5 §3.3, MQTT 3.1.1
// §3.3.
func (o *outgoing) appendTo(b []byte, version byte, now int64) []byte {
	name := o.TopicName
	if o.aliasOnly {
		name = ""
	}
	remaining := 2 + len(name) + len(o.Payload)
	if o.qos > 0 {
		remaining += 2
	}
	properties := 0
	if version == 5 {
		properties = o.propertyBytes()
		remaining += uvarintSize(properties) + properties
	}
	first := byte(typePublish) | o.qos<<1
	if o.dup {
		first |= 0x08
	}
	if o.retain {
		first |= 0x01
	}
	b = binary.AppendUvarint(append(b, first), uint64(remaining))
	b = appendText(b, name)
	if o.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, o.packetID)
	}
	if version == 5 {
		b = binary.AppendUvarint(b, uint64(properties))
		if properties > 0 {
			b = o.appendProperties(b, now)
		}
	}
	return append(b, o.Payload...)
}

// encodedSize is how many bytes appendTo appends.
func (o *outgoing) encodedSize(version byte) int {
	remaining := 2 + len(o.Payload)
	if !o.aliasOnly {
		remaining += len(o.TopicName)
	}
	if o.qos > 0 {
		remaining += 2
	}
	if version == 5 {
		p := o.propertyBytes()
		remaining += uvarintSize(p) + p
	}
	return 1 + uvarintSize(remaining) + remaining
}

func (o *outgoing) propertyBytes() (n int) {
	if o.HasPayloadFormat {
		n += 2
	}
	if o.Expiry > 0 {
		n += 5
	}
	if o.ContentType != "" {
		n += 3 + len(o.ContentType)
	}
	if o.ResponseTopic != "" {
		n += 3 + len(o.ResponseTopic)
	}
	if len(o.CorrelationData) > 0 {
		n += 3 + len(o.CorrelationData)
	}
	for _, id := range o.identifiers {
		n += 1 + uvarintSize(id)
	}
	if o.alias > 0 {
		n += 3
	}
	for i := range o.User {
		n += 5 + len(o.User[i].Key) + len(o.User[i].Value)
	}
	return n
}

// appendProperties writes the properties of a PUBLISH. MQTT 5 §3.3.2.3.
func (o *outgoing) appendProperties(b []byte, now int64) []byte {
	if o.HasPayloadFormat {
		b = append(b, 0x01, o.PayloadFormat)
	}
	if o.Expiry > 0 {
		b = binary.BigEndian.AppendUint32(append(b, 0x02), uint32(max(1, o.Expiry-now))) // [MQTT-3.3.2-6]
	}
	if o.ContentType != "" {
		b = appendText(append(b, 0x03), o.ContentType)
	}
	if o.ResponseTopic != "" {
		b = appendText(append(b, 0x08), o.ResponseTopic)
	}
	if len(o.CorrelationData) > 0 {
		b = appendText(append(b, 0x09), string(o.CorrelationData))
	}
	for _, id := range o.identifiers {
		b = binary.AppendUvarint(append(b, 0x0b), uint64(id)) // [MQTT-3.3.4-3]
	}
	if o.alias > 0 {
		b = binary.BigEndian.AppendUint16(append(b, 0x23), o.alias)
	}
	for i := range o.User { // in their order [MQTT-3.3.2-18]
		b = appendText(append(b, 0x26), o.User[i].Key)
		b = appendText(b, o.User[i].Value)
	}
	return b
}

// appendText writes a string as MQTT does, after its length. MQTT 5 §1.5.4.
func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// uvarintSize is the length of a Variable Byte Integer, which is a uvarint of at most
// four bytes. MQTT 5 §1.5.5.
func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
