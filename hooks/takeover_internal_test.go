package hooks

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// written says which packets s has, of less than 128 bytes, on a topic of one.
func (s *sink) written() string {
	var out []string
	for b := s.got.Bytes(); len(b) > 0; b = b[2+b[1]:] {
		switch {
		case b[0]>>4 == packets.Pubrel:
			out = append(out, fmt.Sprint("PUBREL ", b[3]))
		case b[0]&0x08 != 0:
			out = append(out, fmt.Sprint("DUP ", b[6]))
		default:
			out = append(out, fmt.Sprint(b[6]))
		}
	}
	return strings.Join(out, ", ")
}

// TestTakeoverNothingOvertakes: what is published while a session is taken over goes
// out behind what it has in flight, once, in order and not as DUP, whether or not
// mochi's resend has it, and none before the CONNACK [MQTT-4.6.0-6] [MQTT-3.2.0-1].
func TestTakeoverNothingOvertakes(t *testing.T) {
	for _, version := range []byte{4, 5} {
		synctest.Test(t, func(t *testing.T) {
			server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
			h := New(server, nil, Options{TopicPrefix: "heartline"}, server.Log)
			if err := server.AddHook(h, nil); err != nil {
				t.Fatal(err)
			}
			client := func(s *sink) (*mqtt.Client, *conn) {
				cl := server.NewClient(s, "t", "c", false)
				cl.Properties.ProtocolVersion = version
				c := &conn{hook: h, client: cl}
				cl.Net.Conn = quietConn{s, c.proceed}
				h.conns.Store(cl, c)
				return cl, c
			}
			inflight := func(cl *mqtt.Client, id uint16) packets.Packet {
				pk := packet(packets.Publish, id, 1)
				cl.State.Inflight.Set(pk)
				h.OnQosPublish(cl, pk, 0, 0)
				return pk
			}
			before, _ := client(&sink{})
			for _, id := range []uint16{9, 3, 7, 5} {
				inflight(before, id)
			}
			before.State.Inflight.Set(packet(packets.Pubrel, 3, 1))
			h.released(before, 3)

			// As mochi does it.
			var s sink
			cl, c := client(&s)
			h.inherit(cl, before)
			cl.State.Inflight = before.State.Inflight.Clone()
			for _, pk := range before.State.Inflight.GetAll(false) {
				c.inherited(pk) // OnQosDropped
			}
			early := inflight(cl, 10)
			go func() { _ = cl.WritePacket(early) }()
			synctest.Wait()
			if got := s.written(); got != "" {
				t.Fatalf("version %d: %s before the CONNACK", version, got)
			}
			if err := cl.ResendInflightMessages(true); err != nil {
				t.Fatal(err)
			}
			late := inflight(cl, 11)
			c.settle()
			synctest.Wait()
			_ = cl.WritePacket(late)
			if got, want := s.written(), "DUP 9, DUP 7, DUP 5, PUBREL 3, 10, 11"; got != want {
				t.Errorf("version %d: %s went out, want %s", version, got, want)
			}
		})
	}
}

// TestTakeoverOfWhatHasNoOrder: what another hook's store has kept is sent first, and
// last what mochi has put in flight without having told of it yet.
func TestTakeoverOfWhatHasNoOrder(t *testing.T) {
	c, before := ordinaryConn(), ordinaryConn()
	h := c.hook
	h.since = 100
	inflight := func(id uint16, kind byte, created int64, ordered bool) {
		pk := packet(kind, id, 1)
		pk.Created = created
		if ordered {
			h.ordered(&pk)
		}
		before.client.State.Inflight.Set(pk)
	}
	handover := func() (got []uint16) {
		h.conns.Store(c.client, c)
		h.inherit(c.client, before.client)
		c.client.State.Inflight = before.client.State.Inflight.Clone()
		for _, pk := range c.client.State.Inflight.GetAll(false) {
			c.inherited(pk)
		}
		for _, pk := range c.takeBacklog() {
			got = append(got, pk.PacketID)
		}
		return got
	}
	inflight(1, packets.Publish, 200, true)
	inflight(2, packets.Pubrel, 200, true)
	inflight(3, packets.Pubrel, 100, false)
	if got, want := handover(), []uint16{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("%v are sent, want %v", got, want)
	}
	c, before = ordinaryConn(), c
	before.hook, c.hook = h, h
	inflight(4, packets.Publish, 51, false)
	inflight(5, packets.Publish, 50, false)
	if got, want := handover(), []uint16{5, 4, 1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("%v are sent, want %v", got, want)
	}
}
