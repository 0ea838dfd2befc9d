package faults

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// Ack says what a device does with the nth copy of a notification that it gets: how
// long it waits before its PUBACK, and whether it sends one at all.
type Ack func(id string, nth int) (after time.Duration, ack bool)

// AckAtOnce acknowledges everything.
func AckAtOnce(string, int) (time.Duration, bool) { return 0, true }

// AckNever acknowledges nothing.
func AckNever(string, int) (time.Duration, bool) { return 0, false }

// AckLate acknowledges everything, d after it came.
func AckLate(d time.Duration) Ack {
	return func(string, int) (time.Duration, bool) { return d, true }
}

// AckFirstNever lets the first copy go by.
func AckFirstNever(_ string, nth int) (time.Duration, bool) { return 0, nth > 1 }

// AckLossy forgets a share of the copies.
func AckLossy(share float64) Ack {
	return func(string, int) (time.Duration, bool) { return 0, rand.Float64() >= share }
}

// Device is a terminal. The zero values of the fields are an ordinary one.
type Device struct {
	ID      string
	Account string
	Address func(context.Context) (string, error)
	Version byte // 5
	// ReceiveMaximum of MQTT 5; 0 leaves it out.
	ReceiveMaximum uint16
	Keepalive      uint16 // seconds; 30
	Ack            Ack    // AckAtOnce
	// Pause is how long it stays away after a connection has ended; nil: 20 to 60 ms.
	Pause func() time.Duration
	// Messages makes it take messages, too; Reports, say at each connection and after
	// each SetApp whether its app is in the foreground.
	Messages, Reports bool
	// Deaf makes it stop reading after that many copies on a connection, until it is
	// told to Listen.
	Deaf int
	// Seen is called with each copy before its ack.
	Seen func(Copy)
	// Receipts records each copy received; required.
	Receipts *Receipts

	mu     sync.Mutex
	copies map[string]int
	client *rawmqtt.Client
	conn   *Connection
	app    bool // in the foreground
	number int
	hears  chan struct{} // closed by Listen
}

func (d *Device) prepare() {
	if d.Version == 0 {
		d.Version = 5
	}
	if d.Keepalive == 0 {
		d.Keepalive = 30
	}
	if d.Ack == nil {
		d.Ack = AckAtOnce
	}
	if d.Pause == nil {
		d.Pause = func() time.Duration { return 20*time.Millisecond + rand.N(40*time.Millisecond) }
	}
	d.copies, d.hears = map[string]int{}, make(chan struct{})
}

// Run connects again and again until ctx ends.
func (d *Device) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = d.session(ctx) // whatever it was: again
		select {
		case <-time.After(d.Pause()):
		case <-ctx.Done():
		}
	}
}

// SetAck replaces the way it acknowledges copies from now on.
func (d *Device) SetAck(a Ack) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Ack = a
}

// SetApp puts its app into the foreground or the background, and says so.
func (d *Device) SetApp(foreground bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.app = foreground
	if d.client != nil && d.Reports {
		d.report()
	}
}

// report says where the app is. mu is held, so that the reports go out in the order
// in which they are noted.
func (d *Device) report() {
	state := "background"
	if d.app {
		state = "foreground"
	}
	id := d.conn.reporting(d.app)
	_ = d.client.Publish(id, 1, "heartline/devices/"+d.ID+"/state", []byte(`{"app":"`+state+`"}`)) // the session sees a dead connection by itself
}

// Listen ends its deafness.
func (d *Device) Listen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Deaf > 0 {
		d.Deaf = 0
		close(d.hears)
	}
}

// Drop ends its connection; it comes back.
func (d *Device) Drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil {
		d.client.Close()
	}
}

// Ping is a heartbeat, if it is connected.
func (d *Device) Ping() {
	d.mu.Lock()
	c := d.client
	d.mu.Unlock()
	if c != nil {
		_ = c.Ping() // the session sees a dead connection by itself
	}
}

// forgets is how many packets a device leaves unacknowledged on a connection before
// it ends it: each of them keeps its place in the window of 16 for as long as the
// connection lives, and a client that has lost so many has to reconnect.
const forgets = 8

var errRefused = errors.New("refused")

func (d *Device) session(ctx context.Context) error {
	address, err := d.Address(ctx)
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	c := rawmqtt.New(conn, d.Version)
	defer c.Close()
	defer context.AfterFunc(ctx, c.Close)()
	o := rawmqtt.Connect{ID: d.ID, Username: d.Account, Keepalive: d.Keepalive}
	if d.Version == 5 {
		o.SessionExpiry, o.ReceiveMaximum = 3600, d.ReceiveMaximum
	}
	dialled := time.Now()
	if pk, err := c.Connect(o); err != nil || pk.ReasonCode != 0 {
		return errors.Join(err, errRefused)
	}
	d.mu.Lock()
	d.number++
	l := &Connection{Device: d.ID, Number: d.number, ReceiveMaximum: int(d.ReceiveMaximum), Dialled: dialled, Up: time.Now()}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.client == c {
			d.client = nil
		}
	}()
	d.Receipts.open(l)
	// Not Subscribe, which would take a PUBLISH before the SUBACK for an answer: a
	// server that resumes a session may send one.
	filters := packets.Subscriptions{{Filter: "heartline/devices/" + d.ID + "/notifications", Qos: 1}}
	if d.Messages {
		filters = append(filters, packets.Subscription{Filter: "heartline/devices/" + d.ID + "/messages", Qos: 1})
	}
	if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: filters}); err != nil {
		return err
	}
	d.mu.Lock()
	d.client, d.conn = c, l
	if d.Reports {
		d.report()
	}
	d.mu.Unlock()
	for n := 0; ; {
		pk, err := c.Read(0)
		if err != nil {
			return err
		}
		if pk.FixedHeader.Type == packets.Puback {
			l.confirmed(pk.PacketID)
		}
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		d.take(l, c, pk)
		n++
		d.mu.Lock()
		deaf := d.Deaf > 0 && n >= d.Deaf
		d.mu.Unlock()
		if deaf {
			select {
			case <-d.hears:
			case <-ctx.Done():
			}
		}
	}
}

func (d *Device) take(l *Connection, c *rawmqtt.Client, pk packets.Packet) {
	var p struct { // of a pseudo-notification or of a message
		wire.Pseudo
		Data struct{ Of string }
	}
	message := strings.HasSuffix(pk.TopicName, "/messages")
	if err := json.Unmarshal(pk.Payload, &p); err != nil || p.ID == "" || message && p.Data.Of != p.ID || !message && !strings.HasSuffix(pk.TopicName, "/notifications") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unasked = append(l.unasked, "got "+string(pk.Payload)+" on "+pk.TopicName)
		return
	}
	x := Copy{ID: p.ID, Message: message, PacketID: pk.PacketID, Redelivery: p.Redelivery, Pushed: p.Pushed, At: time.Now()}
	i := l.got(x)
	if d.Seen != nil {
		d.Seen(x)
	}
	d.mu.Lock()
	key := pk.TopicName + " " + p.ID
	d.copies[key]++
	nth, ack := d.copies[key], d.Ack
	d.mu.Unlock()
	after, yes := ack(p.ID, nth)
	if !yes {
		if l.forgot++; l.forgot == forgets {
			c.Close()
		}
		return
	}
	send := func() {
		l.acking(i)
		if c.Puback(pk.PacketID) != nil {
			l.unsent(i)
		}
	}
	if after == 0 {
		send()
	} else {
		time.AfterFunc(after, send)
	}
}
