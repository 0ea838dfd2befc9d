package hooks

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// publication is a PUBLISH of ours on its way into bytes. It is written here and
// not by mochi: it is the packet that is made for every notification, always of
// one shape, and mochi's takes an allocation for every string in it.
type publication struct {
	topicName     string
	responseTopic string
	id            string // of the notification
	expiry        uint32 // seconds; 0: none
	packetID      uint16
	dup           bool
	subscriptions []int // identifiers
	payload       []byte
	properties    []byte
}

var publications = sync.Pool{New: func() any { return new(publication) }}

// keepPayload is how large a payload may be whose buffer is used again.
const keepPayload = 16 << 10

func (p *publication) recycle() {
	if cap(p.payload) > keepPayload {
		return
	}
	*p = publication{payload: p.payload[:0], properties: p.properties[:0]}
	publications.Put(p)
}

// errMustWait says that the store has to be read first.
var errMustWait = errors.New("the content is not in memory")

// encodePublication appends a PUBLISH, or says why this one cannot be sent. Unless it may
// wait, the error is errMustWait where it would have to.
func (c *conn) encodePublication(buf *bytes.Buffer, pub delivery.Publication, mayWait bool) error {
	p := publications.Get().(*publication)
	defer p.recycle()
	err := c.prepare(p, pub, mayWait)
	if err == nil {
		p.packetID, err = c.claimID(pub.Ref)
	}
	if err != nil {
		return err
	}
	before := buf.Len()
	buf.Write(p.append(buf.AvailableBuffer(), c.client.Properties.ProtocolVersion))
	// [MQTT-3.1.2-24] never more than the client's Maximum Packet Size.
	if size, limit := buf.Len()-before, c.client.Properties.Props.MaximumPacketSize; limit > 0 && uint32(size) > limit {
		buf.Truncate(before)
		c.releaseID(p.packetID)
		return fmt.Errorf("%d bytes are more than the client's Maximum Packet Size of %d", size, limit)
	}
	return nil
}

// prepare fills in all but the packet identifier.
func (c *conn) prepare(p *publication, pub delivery.Publication, mayWait bool) error {
	if pub.Dismissal { // it needs no content: its notification may have been erased
		p.topicName, p.id = c.topicNames.dismissals, pub.DismissedID
		d := wire.Dismissal{ID: pub.DismissedID}
		if pub.BadgeAuto {
			unread := pub.Unread
			d.Badge = &unread
		}
		var err error
		if p.payload, err = json.Marshal(d); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		c.mark(p, pub)
		return nil
	}
	n := pub.Content
	if n == nil {
		n = c.hook.core.InMemory(pub.Seq)
	}
	switch {
	case !mayWait && (n == nil || pub.Message):
		return errMustWait
	case n == nil:
		var err error
		if n, err = c.hook.core.Notification(pub.Seq); err != nil {
			return fmt.Errorf("read the notification: %w", err)
		}
	}
	p.id = n.ID
	expires := pub.ExpiresAt
	if expires.IsZero() {
		expires = n.ExpiresAt
	}
	left := time.Until(expires)
	if n.TTLZero { // for now: the time until expires is that of the ack and of a push
		left = 0
	}
	p.expiry = uint32(max(1, int64((left+time.Second-1)/time.Second)))
	if pub.Message {
		data, err := c.hook.core.Data(pub.Seq)
		if err != nil {
			return fmt.Errorf("read the message: %w", err)
		}
		p.topicName = c.topicNames.messages
		m := wire.Message{ID: n.ID, Account: n.Account, Data: data, AcceptedAt: wire.FormatTime(n.AcceptedAt)}
		if p.payload, err = m.Append(p.payload[:0]); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
	} else {
		p.topicName, p.responseTopic = c.topicNames.notifications, c.topicNames.acks
		if n.BadgeAuto {
			counted, unread := *n, pub.Unread
			counted.Badge, n = &unread, &counted
		}
		p.payload = wire.AppendPseudo(p.payload, n, pub.Redelivery, pub.Pushed)
	}
	c.mark(p, pub)
	return nil
}

// append appends the packet. MQTT 5 §3.3, MQTT 3.1.1 §3.3.
func (p *publication) append(b []byte, version byte) []byte {
	remaining := 2 + len(p.topicName) + 2 + len(p.payload)
	if version == 5 {
		p.appendProperties()
		remaining += uvarintSize(len(p.properties)) + len(p.properties)
	}
	const qos1, dup = 0x02, 0x08
	first := byte(0x30 | qos1)
	if p.dup {
		first |= dup
	}
	b = binary.AppendUvarint(append(b, first), uint64(remaining))
	b = appendText(b, p.topicName)
	b = binary.BigEndian.AppendUint16(b, p.packetID)
	if version == 5 {
		b = binary.AppendUvarint(b, uint64(len(p.properties)))
		b = append(b, p.properties...)
	}
	return append(b, p.payload...)
}

// appendProperties writes the properties of contract §3. MQTT 5 §3.3.2.3.
func (p *publication) appendProperties() {
	b := p.properties[:0]
	b = append(b, 0x01, 1) // Payload Format Indicator: UTF-8
	if p.expiry > 0 {
		b = binary.BigEndian.AppendUint32(append(b, 0x02), p.expiry)
	}
	b = appendText(append(b, 0x03), "application/json")
	if p.responseTopic != "" {
		b = appendText(append(b, 0x08), p.responseTopic)
		b = appendText(append(b, 0x09), p.id) // Correlation Data
	}
	for _, id := range p.subscriptions {
		b = binary.AppendUvarint(append(b, 0x0b), uint64(id))
	}
	b = appendText(append(b, 0x26), "heartline-id") // User Property
	p.properties = appendText(b, p.id)
}

// appendText writes a string as MQTT does, after its length. MQTT 5 §1.5.4.
func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// uvarintSize is the length of a Variable Byte Integer, which is a uvarint of at
// most four bytes. MQTT 5 §1.5.5.
func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
