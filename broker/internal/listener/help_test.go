package listener

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// patience is how long a test waits for what must come, and moment how long it
// watches that something does not.
const (
	patience = 20 * time.Second
	moment   = 300 * time.Millisecond
)

// hook lets everyone in and does what a test asks of it.
type hook struct {
	mqtt.HookBase
	onConnect func(*mqtt.Client, packets.Packet) error
	onRead    func(*mqtt.Client, packets.Packet) (packets.Packet, error)
	ended     func(*mqtt.Client, error)
	prompt    func(*mqtt.Client, []byte) bool
	writes    bool // mochi does not run the client's WriteLoop
}

func (*hook) ID() string { return "test" }
func (*hook) Provides(b byte) bool {
	return slices.Contains([]byte{mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnDisconnect, mqtt.OnSessionEstablish}, b)
}
func (*hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (*hook) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	if h.onConnect != nil {
		return h.onConnect(cl, pk)
	}
	return nil
}
func (h *hook) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	if h.writes {
		go cl.WriteLoop()
	}
}
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if h.onRead != nil {
		return h.onRead(cl, pk)
	}
	return pk, nil
}

// Prompt has PINGREQ answered on the poller's goroutine, in every test that does not say
// what else.
func (h *hook) Prompt(cl *mqtt.Client) func([]byte) bool {
	prompt := h.prompt
	switch {
	case prompt == nil && h.onRead != nil:
		return nil
	case prompt == nil:
		prompt = pong
	}
	return func(b []byte) bool { return prompt(cl, b) }
}

func pong(cl *mqtt.Client, b []byte) bool {
	if b[0] != 0xC0 {
		return false
	}
	cl.Lock()
	defer cl.Unlock()
	_, _ = cl.Net.Conn.Write([]byte{0xD0, 0})
	return true
}

func (h *hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	if h.ended != nil {
		h.ended(cl, err)
	}
}

func newServer(t testing.TB, h *hook, l listeners.Listener) *mqtt.Server {
	t.Helper()
	s := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if h == nil {
		h = &hook{}
	}
	if err := s.AddHook(h, nil); err != nil {
		t.Fatal(err)
	}
	if l, ok := l.(*Listener); ok && *withSessions {
		h.writes = true
		var err error
		if l.options.Sessions, err = NewSessions(s, h); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddListener(l); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return s
}

// plain is a server behind mochi's own listener, to show the fault.
func plain(t testing.TB, h *hook) (*mqtt.Server, string) {
	t.Helper()
	l := listeners.NewTCP(listeners.Config{ID: "plain", Address: "127.0.0.1:0"})
	s := newServer(t, h, l)
	t.Cleanup(func() {
		s.Listeners.ClientsWg.Wait() // Close and a client that comes or goes can block each other
		_ = s.Close()
	})
	return s, l.Address()
}

func ours(t testing.TB, h *hook, o Options) (*mqtt.Server, *Listener) {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	l := New(o)
	s := newServer(t, h, l)
	t.Cleanup(sync.OnceFunc(func() { _ = s.Close() }))
	return s, l
}

// client speaks MQTT byte by byte.
type client struct {
	net.Conn
	r  *bufio.Reader
	v5 bool
	t  testing.TB
}

func dial(t testing.TB, addr string, v5 bool) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c, v5)
}

func newClient(t testing.TB, c net.Conn, v5 bool) *client {
	t.Cleanup(func() { _ = c.Close() })
	return &client{Conn: c, r: bufio.NewReader(c), v5: v5, t: t}
}

func (c *client) send(b ...byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func packet(first byte, body ...byte) []byte {
	out := []byte{first}
	n := len(body)
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(append(out, byte(n)), body...)
}

func connectPacket(id string, v5 bool) []byte {
	b := append(text("MQTT"), 4, 2, 0, 60)
	if v5 {
		b[6] = 5
		b = append(b, 0)
	}
	return packet(0x10, append(b, text(id)...)...)
}

// connect says CONNECT and waits for CONNACK.
func (c *client) connect(id string) {
	c.t.Helper()
	c.send(connectPacket(id, c.v5)...)
	p, err := c.packet(patience)
	if err != nil || p[0] != 0x20 || p[3] != 0 {
		c.t.Fatalf("CONNACK %x, %v", p, err)
	}
}

func (c *client) subscribe(filter string, qos byte) {
	c.t.Helper()
	b := []byte{0, 1}
	if c.v5 {
		b = append(b, 0)
	}
	c.send(packet(0x82, append(append(b, text(filter)...), qos)...)...)
	if p, err := c.packet(patience); err != nil || p[0] != 0x90 {
		c.t.Fatalf("SUBACK %x, %v", p, err)
	}
}

// packet reads one packet; on an error it returns the part it has read.
func (c *client) packet(wait time.Duration) ([]byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	var out []byte
	size, shift := 0, 0
	for i := 0; i == 0 || out[i-1] >= 0x80 || i == 1; i++ {
		b, err := c.r.ReadByte()
		if err != nil {
			return out, err
		}
		out = append(out, b)
		if i > 0 {
			size |= int(b&0x7F) << shift
			shift += 7
			if b < 0x80 {
				break
			}
		}
	}
	body := make([]byte, size)
	n, err := io.ReadFull(c.r, body)
	return append(out, body[:n]...), err
}

// gone waits for the end of the connection, which nothing may come before.
func (c *client) gone(wait time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	_, err := c.r.ReadByte()
	return err != nil && !timedOut(err)
}

// ping shows that the connection works.
func (c *client) ping() {
	c.t.Helper()
	c.send(0xC0, 0)
	for {
		p, err := c.packet(patience)
		if err != nil {
			c.t.Fatalf("PINGRESP: %v", err)
		}
		if p[0] == 0xD0 {
			return
		}
	}
}

// done reports whether f returns within d.
func done(d time.Duration, f func()) bool {
	c := make(chan struct{})
	go func() { defer close(c); f() }()
	select {
	case <-c:
		return true
	case <-time.After(d):
		return false
	}
}

// eventually waits for a counter or the like that another goroutine moves.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// logs keeps the messages of records at level error.
type logs struct {
	mu  sync.Mutex
	got []string
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelError}))
}
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(p))
	return len(p), nil
}
func (l *logs) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.got)
}

// skipRace: mochi races with itself when it is closed, and the race detector's
// pace hides some of its faults.
func skipRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("shows a fault of mochi, which races with itself: run without -race")
	}
}
