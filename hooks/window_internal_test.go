package hooks

import (
	"bytes"
	"log/slog"
	"net"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// sink is a connection that keeps what is written to it.
type sink struct {
	net.Conn
	got    bytes.Buffer
	writes int
}

func (s *sink) Write(b []byte) (int, error) {
	s.writes++
	return s.got.Write(b)
}

func (s *sink) Close() error                     { return nil }
func (s *sink) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *sink) SetDeadline(time.Time) error      { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// TestWindowOrder: what comes while places are given out goes to the end, though a
// place is free; and what waits counts once as sent, for those who wait for the
// channel of outgoing packets.
func TestWindowOrder(t *testing.T) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	h := New(server, nil, Options{TopicPrefix: "heartline"}, server.Log)
	if err := server.AddHook(h, nil); err != nil {
		t.Fatal(err)
	}
	var s sink
	cl := server.NewClient(&s, "t", "c", false)
	cl.Properties.ProtocolVersion = 5
	cl.Net.Conn = quietConn{&s, func() {}}
	c := &conn{hook: h, client: cl, window: newWindow(3)}
	h.conns.Store(cl, c)
	send := func(id uint16) {
		pk := packet(packets.Publish, id, 1)
		h.ordered(&pk)
		cl.State.Inflight.Set(pk)
		c.flow.begun.Add(1)
		if err := cl.WritePacket(pk); err != nil {
			t.Fatal(err)
		}
	}
	written := func() (ids []byte) {
		for b := s.got.Bytes(); len(b) > 0; b = b[2+b[1]:] {
			ids = append(ids, b[6]) // the low byte, after a topic name of one
		}
		return ids
	}
	send(1)
	c.window.sending = true
	send(2)
	send(3)
	if got := written(); !bytes.Equal(got, []byte{1}) {
		t.Fatalf("%v went out", got)
	}
	c.window.sending = false
	c.giveOut()
	send(4)
	if got := written(); !bytes.Equal(got, []byte{1, 2, 3}) {
		t.Fatalf("%v went out", got)
	}
	if pending := c.flow.begun.Load() - c.flow.sent.Load(); pending != 0 {
		t.Errorf("the channel counts %d packets, and is empty", pending)
	}
	cl.State.Inflight.Delete(2)
	c.acknowledged(2)
	if got := written(); !bytes.Equal(got, []byte{1, 2, 3, 4}) {
		t.Errorf("%v went out", got)
	}
}

// TestWindowOfWhatExpires: what nobody will send does not pile up, and an
// identifier that has passed to another message waits once.
func TestWindowOfWhatExpires(t *testing.T) {
	c := ordinaryConn()
	c.hook.server.Options.Capabilities.MaximumInflight = 4
	c.window = newWindow(0)
	for range 20 {
		for id := range uint16(4) {
			pk := packet(packets.Publish, id+1, 1)
			c.hook.ordered(&pk)
			c.client.State.Inflight.Set(pk)
			c.admit(&pk)
		}
	}
	if n := len(c.window.held); n > 8 {
		t.Errorf("%d wait of 4", n)
	}
	c.window.free = 10
	c.giveOut() // the client has no connection
	if n := len(c.window.placed); n != 4 || c.window.free != 6 {
		t.Errorf("%d have a place, %d are free", n, c.window.free)
	}
}

// TestQuietConn: the placeholder of a packet that waits is left out wherever it
// stands, and nothing else is, though it holds the same bytes.
func TestQuietConn(t *testing.T) {
	var held, publish bytes.Buffer
	var pk packets.Packet
	hold(&pk)
	if err := pk.PingreqEncode(&held); err != nil {
		t.Fatal(err)
	}
	pk = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "a", Payload: bytes.Repeat([]byte{pingreq, 0}, 100)}
	if err := pk.PublishEncode(&publish); err != nil {
		t.Fatal(err)
	}
	h, p := held.Bytes(), publish.Bytes()
	for _, tt := range []struct{ in, want [][]byte }{
		{[][]byte{h}, nil},
		{[][]byte{p}, [][]byte{p}},
		{[][]byte{h, p, h, h, p, p, h}, [][]byte{p, p, p}},
		{[][]byte{h, h}, nil},
		{[][]byte{p, {0xD0, 0}, h}, [][]byte{p, {0xD0, 0}}},
	} {
		var s sink
		in, want := bytes.Join(tt.in, nil), bytes.Join(tt.want, nil)
		before := bytes.Clone(in)
		n, err := quietConn{&s, func() {}}.Write(in)
		if n != len(in) || err != nil || !bytes.Equal(s.got.Bytes(), want) || !bytes.Equal(in, before) {
			t.Errorf("%d of %d bytes, %v: wrote %x, want %x", n, len(in), err, s.got.Bytes(), want)
		}
		if len(want) == 0 && s.writes > 0 {
			t.Error("an empty write") // a frame of its own over a WebSocket
		}
	}
}

// TestLostUnderQuietConn: a listener knows the connection without it.
func TestLostUnderQuietConn(t *testing.T) {
	c := ordinaryConn()
	var s sink
	c.client.Net.Conn = quietConn{&s, func() {}}
	c.hook.Lost(&s)
	if !c.client.Closed() || c.hook.Connections() != 0 {
		t.Error("it is still there")
	}
}
