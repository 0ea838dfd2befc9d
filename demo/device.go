package demo

import (
	"fmt"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// device is a device as the story needs it: one that can be told to keep silent,
// which a proper client library does not let it.
type device struct {
	id, account string
	heard       func(packets.Packet) // called with each publication, before its PUBACK; nil: nobody listens

	mu     sync.Mutex
	silent bool   // keep the PUBACK back
	kept   uint16 // the packet identifier kept back last
	conn   *rawmqtt.Client
	ended  chan struct{}
}

func newDevice(account, id string) *device {
	return &device{id: id, account: account}
}

// connect brings the channel up: connected and subscribed at QoS 1.
func (d *device) connect(address, topic string, silent bool) error {
	conn, err := rawmqtt.Dial(address, 5)
	if err != nil {
		return fmt.Errorf("device %s: %w", d.id, err)
	}
	connack, err := conn.Connect(rawmqtt.Connect{ID: d.id, Username: d.account, Keepalive: 60, SessionExpiry: 3600})
	if err == nil && connack.ReasonCode != packets.CodeSuccess.Code {
		err = fmt.Errorf("CONNECT refused with reason code 0x%02x", connack.ReasonCode)
	}
	if err == nil {
		_, err = conn.Subscribe(1, 1, topic)
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("device %s: %w", d.id, err)
	}
	d.conn, d.silent, d.ended = conn, silent, make(chan struct{})
	go d.listen()
	return nil
}

func (d *device) disconnect() {
	if d.conn != nil {
		d.conn.Close()
		<-d.ended
	}
}

// speak ends the silence: the held acks are sent, late.
func (d *device) speak() error {
	d.mu.Lock()
	kept := d.kept
	d.silent, d.kept = false, 0
	d.mu.Unlock()
	return d.conn.Puback(kept)
}

// listenAgain ends the silence without a late word.
func (d *device) listenAgain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent, d.kept = false, 0
}

func (d *device) listen() {
	defer close(d.ended)
	for {
		pk, err := d.conn.Read(0)
		if err != nil {
			return
		}
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		if d.heard != nil {
			d.heard(pk)
		}
		d.mu.Lock()
		silent := d.silent
		if silent {
			d.kept = pk.PacketID
		}
		d.mu.Unlock()
		if !silent && d.conn.Puback(pk.PacketID) != nil {
			return
		}
	}
}
