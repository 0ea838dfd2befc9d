// Package rawmqtt is an MQTT connection in the hands of its user: packets go out
// and come in one by one, and nothing is acknowledged by itself. The demo and the
// tests play devices with it that no client library would play.
package rawmqtt

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Client is one connection. Reading and writing may be done by two goroutines.
type Client struct {
	Conn    net.Conn
	Version byte // 4 (MQTT 3.1.1) or 5
	in      *bufio.Reader
}

// Dial opens a TCP connection and sends nothing.
func Dial(address string, version byte) (*Client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return New(conn, version), nil
}

// New speaks over a connection that is there.
func New(conn net.Conn, version byte) *Client {
	return &Client{Conn: conn, Version: version, in: bufio.NewReader(conn)}
}

// Connect is what a CONNECT says.
type Connect struct {
	ID        string
	Username  string
	Password  string
	Keepalive uint16 // seconds
	Clean     bool
	// SessionExpiry in seconds, ReceiveMaximum and MaximumPacketSize are of MQTT 5;
	// 0 leaves them out.
	SessionExpiry     uint32
	ReceiveMaximum    uint16
	MaximumPacketSize uint32
	WillTopic         string
	WillPayload       string
	WillRetain        bool
}

// Connect sends a CONNECT and returns the CONNACK, whatever it says.
func (c *Client) Connect(o Connect) (packets.Packet, error) {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: o.ID, Keepalive: o.Keepalive, Clean: o.Clean,
			UsernameFlag: o.Username != "", Username: []byte(o.Username),
			PasswordFlag: o.Password != "", Password: []byte(o.Password),
			WillFlag: o.WillTopic != "", WillTopic: o.WillTopic, WillPayload: []byte(o.WillPayload), WillRetain: o.WillRetain,
		},
		Properties: packets.Properties{
			SessionExpiryInterval: o.SessionExpiry, SessionExpiryIntervalFlag: o.SessionExpiry > 0,
			ReceiveMaximum: o.ReceiveMaximum, MaximumPacketSize: o.MaximumPacketSize,
		},
	}
	if err := c.Send(pk); err != nil {
		return pk, err
	}
	return c.expect(packets.Connack)
}

// Subscribe subscribes to filters and returns the SUBACK's codes.
func (c *Client) Subscribe(packetID uint16, qos byte, filters ...string) ([]byte, error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: packetID}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	if err := c.Send(pk); err != nil {
		return nil, err
	}
	pk, err := c.expect(packets.Suback)
	return pk.ReasonCodes, err
}

// Unsubscribe ends subscriptions and waits for the UNSUBACK.
func (c *Client) Unsubscribe(packetID uint16, filters ...string) error {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: packetID}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	if err := c.Send(pk); err != nil {
		return err
	}
	_, err := c.expect(packets.Unsuback)
	return err
}

// Publish sends a PUBLISH and waits for nothing.
func (c *Client) Publish(packetID uint16, qos byte, topicName string, payload []byte) error {
	return c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, PacketID: packetID, TopicName: topicName, Payload: payload,
	})
}

// Puback acknowledges a packet.
func (c *Client) Puback(packetID uint16) error {
	return c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: packetID})
}

// Ping sends a PINGREQ and waits for nothing.
func (c *Client) Ping() error {
	return c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
}

// Close closes the connection without a DISCONNECT.
func (c *Client) Close() { _ = c.Conn.Close() } // gone is gone

// Send writes one packet.
func (c *Client) Send(pk packets.Packet) error {
	pk.ProtocolVersion = c.Version
	var buf bytes.Buffer
	encode, ok := map[byte]func(*bytes.Buffer) error{
		packets.Connect: pk.ConnectEncode, packets.Publish: pk.PublishEncode, packets.Puback: pk.PubackEncode,
		packets.Pubrec: pk.PubrecEncode, packets.Pubrel: pk.PubrelEncode, packets.Pubcomp: pk.PubcompEncode,
		packets.Subscribe: pk.SubscribeEncode, packets.Unsubscribe: pk.UnsubscribeEncode,
		packets.Pingreq: pk.PingreqEncode, packets.Disconnect: pk.DisconnectEncode,
	}[pk.FixedHeader.Type]
	if !ok {
		return fmt.Errorf("a client sends no packet of type %d", pk.FixedHeader.Type)
	}
	if err := encode(&buf); err != nil {
		return err
	}
	_, err := c.Conn.Write(buf.Bytes())
	return err
}

// Read returns the next packet, within d; 0 waits for ever.
func (c *Client) Read(d time.Duration) (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: c.Version}
	var deadline time.Time
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	if err := c.Conn.SetReadDeadline(deadline); err != nil {
		return pk, err
	}
	first, err := c.in.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(c.in); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return pk, err
	}
	decode := map[byte]func([]byte) error{
		packets.Connack: pk.ConnackDecode, packets.Publish: pk.PublishDecode, packets.Puback: pk.PubackDecode,
		packets.Pubrec: pk.PubrecDecode, packets.Pubrel: pk.PubrelDecode, packets.Pubcomp: pk.PubcompDecode,
		packets.Suback: pk.SubackDecode, packets.Unsuback: pk.UnsubackDecode, packets.Disconnect: pk.DisconnectDecode,
	}[pk.FixedHeader.Type]
	if decode != nil {
		err = decode(body)
	}
	return pk, err
}

// answerTimeout is how long a broker may take to answer.
const answerTimeout = 30 * time.Second

func (c *Client) expect(kind byte) (packets.Packet, error) {
	pk, err := c.Read(answerTimeout)
	if err == nil && pk.FixedHeader.Type != kind {
		err = fmt.Errorf("got a packet of type %d, want %d", pk.FixedHeader.Type, kind)
	}
	return pk, err
}
