package listener

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks/strict"
	"github.com/heartline-mqtt/heartline/internal/rlimit"
)

// connOf is the Conn of a client that mochi serves.
func connOf(t *testing.T, s *mqtt.Server, id string) *Conn {
	t.Helper()
	cl, ok := s.Clients.Get(id)
	if !ok {
		t.Fatalf("mochi does not know %s", id)
	}
	return cl.Net.Conn.(*Conn)
}

func TestWhatAHookLearns(t *testing.T) {
	s, l := ours(t, nil, Options{ID: "front"})
	before := time.Now()
	c := dial(t, l.Address(), false)
	c.connect("id")
	got := connOf(t, s, "id")
	if got.RemoteAddr().String() != c.LocalAddr().String() || got.LocalAddr().String() != l.Address() ||
		got.ListenerID() != "front" || got.TLS() != nil || got.Since().Before(before) || got.Queued() != 0 {
		t.Errorf("%v %v %s %v %v %d", got.RemoteAddr(), got.LocalAddr(), got.ListenerID(), got.TLS(), got.Since(), got.Queued())
	}
	if st := l.Stats(); st.Accepted != 1 || st.Established != 1 || st.Open != 1 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
	if l.Protocol() != "tcp" {
		t.Error(l.Protocol())
	}
}

func TestKick(t *testing.T) {
	for name, c := range map[string]struct {
		v5    bool
		first bool // before CONNACK
		want  []byte
	}{
		"5.0":                  {true, false, []byte{0xE0, 1, 0x98}},
		"3.1.1":                {false, false, nil},
		"5.0 before CONNACK":   {true, true, []byte{0x20, 3, 0, 0x87, 0}},
		"3.1.1 before CONNACK": {false, true, []byte{0x20, 2, 0, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			h := &hook{ended: func(_ *mqtt.Client, err error) { ended <- err }}
			if c.first {
				h.onConnect = func(cl *mqtt.Client, _ packets.Packet) error {
					cl.Net.Conn.(*Conn).Kick(packets.ErrNotAuthorized)
					return packets.ErrNotAuthorized
				}
			}
			s, l := ours(t, h, Options{Strict: strict.Options{NoReasonString: true}})
			k := dial(t, l.Address(), c.v5)
			if c.first {
				k.send(connectPacket("id", c.v5)...)
			} else {
				k.connect("id")
				k.ping()
				conn := connOf(t, s, "id")
				conn.Kick(packets.ErrAdministrativeAction)
				conn.Kick(packets.ErrNotAuthorized) // the first reason counts
			}
			if c.want != nil {
				if p, err := k.packet(patience); err != nil || !bytes.Equal(p, c.want) {
					t.Errorf("told %x, %v; want %x", p, err, c.want)
				}
			}
			if !k.gone(patience) {
				t.Error("still open")
			}
			if !c.first {
				var kick *KickError
				if err := <-ended; !errors.As(err, &kick) || kick.Code != packets.ErrAdministrativeAction {
					t.Errorf("mochi was told %v", err)
				}
			}
		})
	}
}

func TestViolationIsAnsweredAfterWhatCameBefore(t *testing.T) {
	ended := make(chan error, 1)
	h := &hook{ended: func(_ *mqtt.Client, err error) { ended <- err }}
	_, l := ours(t, h, Options{})
	c := dial(t, l.Address(), true)
	// All in one write: CONNECT, a SUBSCRIBE, one with no filter, and another.
	b := connectPacket("id", true)
	b = append(b, packet(0x82, append(append([]byte{0, 1, 0}, text("a")...), 0)...)...)
	b = append(b, packet(0x82, 0, 2, 0)...)
	b = append(b, packet(0x82, append(append([]byte{0, 3, 0}, text("b")...), 0)...)...)
	c.send(b...)
	for _, want := range []byte{0x20, 0x90, 0xE0} {
		p, err := c.packet(patience)
		if err != nil || p[0] != want {
			t.Fatalf("%x, %v; want %x", p, err, want)
		}
		if want == 0xE0 && p[2] != 0x82 {
			t.Errorf("code %x", p[2])
		}
	}
	if !c.gone(patience) {
		t.Error("still open")
	}
	var v *strict.Violation
	if err := <-ended; !errors.As(err, &v) || v.Rule != "no_filters" {
		t.Errorf("mochi was told %v", err)
	}
	eventually(t, "counted", func() bool { return l.Stats().Malformed[Malformed{"SUBSCRIBE", "no_filters"}] == 1 })
}

// mochi makes a client known before it answers its CONNECT, and a publisher or a
// connection that takes over may come in between.
func TestConnackIsFirst(t *testing.T) {
	publish := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "t", Payload: []byte("early")}
	t.Run("then what came before it", func(t *testing.T) {
		h := &hook{onConnect: func(cl *mqtt.Client, _ packets.Packet) error {
			return errors.Join(cl.WritePacket(publish), cl.WritePacket(publish))
		}}
		_, l := ours(t, h, Options{})
		c := dial(t, l.Address(), false)
		c.connect("id")
		for range 2 {
			if p, err := c.packet(patience); err != nil || p[0] != 0x30 || !bytes.HasSuffix(p, publish.Payload) {
				t.Errorf("%x, %v; want the PUBLISH", p, err)
			}
		}
		c.ping()
	})
	t.Run("or nothing", func(t *testing.T) {
		h := &hook{onConnect: func(cl *mqtt.Client, _ packets.Packet) error {
			bye := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ProtocolVersion: 5, ReasonCode: packets.ErrSessionTakenOver.Code}
			defer cl.Stop(packets.ErrSessionTakenOver)
			return errors.Join(cl.WritePacket(publish), cl.WritePacket(bye))
		}}
		_, l := ours(t, h, Options{})
		c := dial(t, l.Address(), true)
		c.send(connectPacket("id", true)...)
		if !c.gone(patience) {
			t.Error("told something else")
		}
	})
}

// The client is still sending when it is refused: closing the socket then would
// reset it, and the client would not learn why.
func TestReasonArrivesWhileTheClientSends(t *testing.T) {
	_, l := ours(t, nil, Options{Strict: strict.Options{MaxPacketSize: 1000}})
	c := dial(t, l.Address(), true)
	c.connect("id")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = c.Write(packet(0x30, append(text("t"), make([]byte, 200_000)...)...))
	}()
	if p, err := c.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x95 {
		t.Errorf("%x, %v; want DISCONNECT with 0x95", p, err)
	}
	<-sent
}

func TestConnectionsWithinFileDescriptors(t *testing.T) {
	for _, c := range []struct{ connections, files, want int }{
		{0, 0, 0}, {100, 0, 100},
		{0, 256, 192}, {100_000, 256, 192}, {100, 256, 100},
		{0, 20_000, 18_976}, {100_000, 1 << 20, 100_000}, {5, 20, 1},
	} {
		if got := connectionsWithin(c.connections, c.files); got != c.want {
			t.Errorf("%d with %d file descriptors: %d, want %d", c.connections, c.files, got, c.want)
		}
	}
	if got, most := NewGate(Limits{Connections: 1 << 40}).limits.Connections, rlimit.OpenFiles(); most > 0 && got >= most {
		t.Errorf("%d connections with %d file descriptors", got, most)
	}
}

func TestCaps(t *testing.T) {
	t.Run("in all, some silent", func(t *testing.T) {
		_, l := ours(t, nil, Options{Gate: NewGate(Limits{Connections: 3})})
		dial(t, l.Address(), false).connect("1")
		silent := dial(t, l.Address(), false)
		eventually(t, "accepted", func() bool { return l.Stats().Pending == 1 })
		dial(t, l.Address(), false).connect("2")
		dial(t, l.Address(), false).connect("3")
		if !silent.gone(patience) {
			t.Error("the one that says nothing has not made room")
		}
		if !dial(t, l.Address(), false).gone(patience) {
			t.Error("a fourth is let in")
		}
		eventually(t, "counted", func() bool { st := l.Stats(); return st.Evicted == 1 && st.RefusedFull == 1 })
	})
	t.Run("in all", func(t *testing.T) {
		gate := NewGate(Limits{Connections: 2})
		_, a := ours(t, nil, Options{Gate: gate})
		_, b := ours(t, nil, Options{Gate: gate})
		first := dial(t, a.Address(), false)
		first.connect("1")
		dial(t, b.Address(), false).connect("2")
		if !dial(t, a.Address(), false).gone(patience) {
			t.Error("a third is let in")
		}
		eventually(t, "counted", func() bool { return a.Stats().RefusedFull == 1 })
		_ = first.Close()
		eventually(t, "its place is free", func() bool { n, _ := gate.Open(); return n == 1 })
		dial(t, b.Address(), false).connect("3")
	})
	t.Run("from an address", func(t *testing.T) {
		_, l := ours(t, nil, Options{Gate: NewGate(Limits{PerAddress: 1})})
		first := dial(t, l.Address(), false)
		first.connect("1")
		if !dial(t, l.Address(), false).gone(patience) {
			t.Error("a second is let in")
		}
		eventually(t, "counted", func() bool { return l.Stats().RefusedAddress == 1 })
		_ = first.Close()
		eventually(t, "its place is free", func() bool { return l.Stats().Open == 0 })
		dial(t, l.Address(), false).connect("2")
	})
	t.Run("silent ones", func(t *testing.T) {
		_, l := ours(t, nil, Options{Gate: NewGate(Limits{Pending: 2})})
		var silent []*client
		for i := range 3 {
			silent = append(silent, dial(t, l.Address(), false))
			eventually(t, "accepted", func() bool { return l.Stats().Accepted == uint64(i+1) })
		}
		if !silent[0].gone(patience) {
			t.Error("the oldest does not give way")
		}
		silent[2].connect("spoke")
		eventually(t, "counted", func() bool { return l.Stats().Evicted == 1 })
	})
	t.Run("bytes of CONNECT", func(t *testing.T) {
		gate := NewGate(Limits{ConnectBytes: 3000})
		reserved := func() int64 {
			gate.mu.Lock()
			defer gate.mu.Unlock()
			return gate.connectBytes
		}
		_, l := ours(t, nil, Options{Gate: gate})
		large := connectPacket(strings.Repeat("x", 2000), true)
		first := dial(t, l.Address(), true)
		first.send(large[:1000]...)
		eventually(t, "it has its bytes", func() bool { return reserved() == int64(len(large)) })
		// One that sends at once does not wait for one that does not.
		dial(t, l.Address(), true).connect(strings.Repeat("y", 2000))
		if !first.gone(patience) {
			t.Error("the one that does not send has its bytes still")
		}
		second := dial(t, l.Address(), true)
		second.send(connectPacket(strings.Repeat("x", 4000), true)...)
		if p, err := second.packet(patience); err != nil || p[3] != 0x89 {
			t.Errorf("%x, %v; want CONNACK with 0x89", p, err)
		}
		eventually(t, "all are given back", func() bool { return reserved() == 0 })
		if st := l.Stats(); st.Evicted != 1 {
			t.Errorf("%d evicted, want 1", st.Evicted)
		}
	})
}

func TestAddressOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":        "192.0.2.7/32",
		"::ffff:192.0.2.7": "192.0.2.7/32",
		"2001:db8:1:2::9":  "2001:db8:1:2::/64",
	} {
		if got := addressOf(&net.TCPAddr{IP: net.ParseIP(in), Port: 1}).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// mochi means its keep alive, and would take the time from a write too.
func TestDeadlineIsOfTheReader(t *testing.T) {
	s, l := ours(t, nil, Options{})
	c := dial(t, l.Address(), false)
	c.connect("id")
	conn := connOf(t, s, "id")
	_ = conn.SetWriteDeadline(past)
	if _, err := conn.Write([]byte{0xD0, 0}); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(past)
	if _, err := conn.Write([]byte{0xD0, 0}); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if p, err := c.packet(patience); err != nil || p[0] != 0xD0 {
		t.Errorf("%x, %v", p, err)
	}
}

// pair is two ends of a TCP connection.
func pair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// wrapped hides what a connection can do besides.
type wrapped struct{ net.Conn }

func TestSender(t *testing.T) {
	for _, name := range []string{"tried at once", "queued"} {
		newPair := func(t *testing.T, timeout time.Duration, limit int) (*sender, *net.TCPConn, *atomic.Value) {
			here, there := pair(t)
			_ = here.SetWriteBuffer(16 << 10)
			_ = there.SetReadBuffer(16 << 10)
			var why atomic.Value
			var c net.Conn = here
			if name == "queued" {
				c = wrapped{here}
			}
			s := newSender(c, timeout, limit, func(err error) { why.Store(err) })
			t.Cleanup(func() { _ = s.Close(); <-s.idle() })
			return s, there, &why
		}
		t.Run(name+", whole and in order", func(t *testing.T) {
			s, there, _ := newPair(t, patience, 64<<20)
			var want []byte
			for i := range 3000 {
				p := bytes.Repeat([]byte{byte(i)}, 1+i)
				want = append(want, p...)
				if _, err := s.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(there, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("not what was written: %v", err)
			}
			<-s.idle()
			if s.queued() != 0 {
				t.Error("something is left")
			}
		})
		t.Run(name+", stuck", func(t *testing.T) {
			s, _, why := newPair(t, 50*time.Millisecond, 64<<20)
			if _, err := s.Write(make([]byte, 8<<20)); err != nil {
				t.Fatal(err)
			}
			<-s.idle()
			if why.Load() != ErrStuck {
				t.Errorf("cut for %v", why.Load())
			}
			if _, err := s.Write([]byte{1}); err != ErrStuck {
				t.Errorf("%v: something would follow part of a packet", err)
			}
		})
		t.Run(name+", full", func(t *testing.T) {
			s, _, why := newPair(t, patience, 1<<20)
			p := make([]byte, 256<<10)
			var err error
			for i := 0; err == nil && i < 1000; i++ {
				_, err = s.Write(p)
			}
			if err != ErrSlow || why.Load() != ErrSlow {
				t.Errorf("%v, %v", err, why.Load())
			}
		})
		t.Run(name+", peer gone", func(t *testing.T) {
			s, there, _ := newPair(t, patience, 1<<20)
			_ = there.Close()
			eventually(t, "an error", func() bool { _, err := s.Write(make([]byte, 1000)); return err != nil })
		})
	}
}

// slowPeer takes some bytes of each write until its deadline, and then nothing.
type slowPeer struct {
	net.Conn
	took, ends int
}

func (p *slowPeer) Write(b []byte) (int, error) {
	n := min(1000, len(b), p.ends-p.took)
	if p.took += n; n == len(b) {
		return n, nil
	}
	return n, os.ErrDeadlineExceeded
}

// TestSlowPeer: only a peer that takes nothing for the whole timeout is cut.
func TestSlowPeer(t *testing.T) {
	for _, c := range []struct {
		ends int
		want error
	}{{300_000, nil}, {150_000, ErrStuck}} {
		here, _ := pair(t)
		p := &slowPeer{Conn: here, ends: c.ends}
		var why error
		s := newSender(p, time.Minute, 1<<20, func(err error) { why = err })
		if _, err := s.Write(make([]byte, 300_000)); err != nil {
			t.Fatal(err)
		}
		<-s.idle()
		if p.took != c.ends || why != c.want {
			t.Errorf("took %d of %d, cut for %v, want %v", p.took, c.ends, why, c.want)
		}
		_ = s.Close()
	}
}

// Messages of QoS 0 are dropped before the client is cut, and never a part of one.
func TestQoS0IsDropped(t *testing.T) {
	s, l := ours(t, nil, Options{WriteQueue: 64 << 10, WriteTimeout: time.Minute})
	c := dial(t, l.Address(), false)
	c.connect("id")
	c.subscribe("n/#", 0)
	payload := make([]byte, 1<<10) // small enough for mochi to put several into a write
	eventually(t, "something is dropped", func() bool {
		for range 2000 {
			_ = s.Publish("n/1", payload, false, 0)
		}
		return l.Stats().DroppedQoS0 > 3
	})
	// The packets that were not dropped arrive whole, and the connection goes on.
	c.ping()
	if st := l.Stats(); st.SlowConsumers != 0 {
		t.Errorf("%+v", st)
	}
}

func TestStatsAreACopy(t *testing.T) {
	_, l := ours(t, nil, Options{})
	dial(t, l.Address(), false).send(0xC0, 0)
	eventually(t, "counted", func() bool { return l.Stats().Malformed[Malformed{"PINGREQ", "connect_not_first"}] == 1 })
	st := l.Stats()
	st.Malformed[Malformed{"PINGREQ", "connect_not_first"}] = 7
	if l.Stats().Malformed[Malformed{"PINGREQ", "connect_not_first"}] != 1 {
		t.Error("shared")
	}
}

func BenchmarkWrite(b *testing.B) {
	s, l := ours(b, nil, Options{})
	c := dial(b, l.Address(), false)
	c.connect("id")
	go func() { _, _ = io.Copy(io.Discard, c.r) }()
	cl, _ := s.Clients.Get("id")
	conn := cl.Net.Conn
	p := packet(0x32, append(text("heartline/devices/d1/notifications"), bytes.Repeat([]byte{1}, 200)...)...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPeerOpen sees that a client has gone while it has still sent something that
// nobody has read.
func TestPeerOpen(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the state of the peer's side is read from TCP_INFO, which Linux alone has")
	}
	h := &hook{}
	release := make(chan struct{})
	conns := make(chan *Conn, 1)
	h.onConnect = func(cl *mqtt.Client, _ packets.Packet) error { // as a hook that checks a password
		conns <- cl.Net.Conn.(*Conn)
		<-release
		return nil
	}
	_, l := ours(t, h, Options{})
	defer close(release)
	c := dial(t, l.Address(), true)
	c.send(connectPacket("a", true)...)
	c.send(0xc0, 0)
	conn := <-conns
	if !conn.PeerOpen() {
		t.Fatal("an open connection")
	}
	_ = c.Close()
	eventually(t, "the end to be seen", func() bool { return !conn.PeerOpen() })
}

// TestSilentClient: a client is cut off after one and a half times its keepalive without
// a packet [MQTT-3.1.2-22], and not while it sends some.
func TestSilentClient(t *testing.T) {
	ended := make(chan error, 1)
	_, l := ours(t, &hook{ended: func(_ *mqtt.Client, err error) { ended <- err }}, Options{})
	c := dial(t, l.Address(), true)
	connect := connectPacket("silent", true)
	connect[11] = 2 // seconds
	c.send(connect...)
	if p, err := c.packet(patience); err != nil || p[0] != 0x20 || p[3] != 0 {
		t.Fatalf("CONNACK %x, %v", p, err)
	}
	last := time.Now()
	c.ping()
	if !c.gone(patience) {
		t.Fatal("still open")
	}
	if silent := time.Since(last); silent < 3*time.Second {
		t.Errorf("cut off %v after its last packet, 3 s are allowed", silent)
	}
	if err := <-ended; !timedOut(err) {
		t.Errorf("the hook hears %v, want a timeout", err)
	}
}

// slowly sends a CONNECT with a keepalive of two seconds, and then a PUBLISH that takes twice
// as long as that allows. It reports whether the PUBLISH was answered.
func slowly(t *testing.T, c *client, payload int) bool {
	t.Helper()
	connect := connectPacket(t.Name(), true) // another than that of a test at the same time
	connect[11] = 2                          // seconds
	c.send(connect...)
	if p, err := c.packet(patience); err != nil || p[0] != 0x20 || p[3] != 0 {
		t.Fatalf("CONNACK %x, %v", p, err)
	}
	b := packet(0x32, append(append(text("t"), 0, 1, 0), make([]byte, payload)...)...)
	const steps = 12
	piece := payload / (steps + 1)
	for range steps {
		if _, err := c.Write(b[:piece]); err != nil {
			return false
		}
		b = b[piece:]
		time.Sleep(500 * time.Millisecond)
	}
	_, _ = c.Write(b)
	p, err := c.packet(patience)
	return err == nil && p[0] == 0x40
}

// TestLargePacketOnASlowLink: a client whose large packet is arriving is not silent. One that
// sends a small packet as slowly is: nobody's link needs that long for it.
func TestLargePacketOnASlowLink(t *testing.T) {
	t.Parallel()
	_, l := ours(t, nil, Options{})
	_, _, url := mounted(t, Options{})
	for name, dialed := range map[string]func(*testing.T) *client{
		"TCP":       func(t *testing.T) *client { return dial(t, l.Address(), true) },
		"WebSocket": func(t *testing.T) *client { c, _ := dialWS(t, url, nil, "mqtt"); return c },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !slowly(t, dialed(t), 200_000) {
				t.Error("a large packet was cut off")
			}
		})
	}
	t.Run("small", func(t *testing.T) {
		t.Parallel()
		if slowly(t, dial(t, l.Address(), true), 500) {
			t.Error("a small packet may take for ever")
		}
	})
}
