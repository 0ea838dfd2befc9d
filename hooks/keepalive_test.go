package hooks_test

import (
	"net"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// deadlines is a connection that tells the deadlines which mochi sets.
type deadlines struct {
	net.Conn
	set chan time.Time
}

func (d *deadlines) SetDeadline(t time.Time) error {
	select {
	case d.set <- t:
	default:
	}
	return d.Conn.SetDeadline(t)
}

// TestKeepaliveIsOneAndAHalf: a client has one and a half times its keepalive
// [MQTT-3.1.2-22]. mochi alone gives whole seconds: one to a client that sends a PINGREQ
// every second, so that the smallest delay cuts it off.
func TestKeepaliveIsOneAndAHalf(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, keepalive := range []uint16{1, 2, 3, 61} {
		client, server := net.Pipe()
		d := &deadlines{Conn: server, set: make(chan time.Time, 16)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.server.EstablishConnection("tcp", d) // ends with the client
		}()
		c := rawmqtt.New(client, 5)
		before := time.Now()
		if pk, err := c.Connect(rawmqtt.Connect{ID: "c", Clean: true, Keepalive: keepalive}); err != nil || pk.ReasonCode != 0 {
			t.Fatalf("0x%02x %v", pk.ReasonCode, err)
		}
		last := time.Time{}
		for len(d.set) > 0 {
			last = <-d.set
		}
		if want := before.Add(time.Duration(keepalive) * 1500 * time.Millisecond); last.Before(want) {
			t.Errorf("keepalive %d s: the deadline is %v early", keepalive, want.Sub(last))
		}
		c.Close()
		<-ended
	}
}
