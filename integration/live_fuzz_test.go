package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// FuzzLive plays two clients of every kind to a live server: an input is a sequence
// of packets, broken ones among them, of cuts and of new connections under the same
// two client identifiers. After each a third client has to be served as if nothing
// had been, no panic may have been recovered, and no goroutine may be left.
//
//	go test -run '^$' -fuzz FuzzLive -fuzztime 10m -parallel 1 ./integration
func FuzzLive(f *testing.F) {
	for _, seed := range liveSeeds() {
		f.Add(seed)
	}
	var l *live
	f.Cleanup(func() { l.close(f) })
	f.Fuzz(func(t *testing.T, input []byte) {
		// A new server now and then: what all the inputs before have left in one
		// would fill the memory.
		if l == nil || l.inputs == 2000 {
			l.close(t)
			l = startLive(t)
		}
		l.inputs++
		defer func() {
			if t.Failed() { // the next input is to find a sound one
				l.close(t)
				l = nil
			}
		}()
		l.play(t, input)
		l.check(t)
	})
}

// serviceTime is how long the third client may have to wait for both round trips,
// whatever the two have done.
const serviceTime = 5 * time.Second

// live is a server with a client that is to be served.
type live struct {
	broker     *broker.Broker
	log        *records
	events     *delivery.Subscription
	name       string // of the third client; nobody can guess it
	healthy    *rawmqtt.Client
	web        http.Client
	goroutines int
	inputs     int
}

// records keeps what the server says at level error.
type records struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func startLive(t *testing.T) *live {
	t.Helper()
	l := &live{name: "healthy-" + rand.Text(), log: &records{}, web: http.Client{Transport: &http.Transport{}}}
	cfg := config.Default()
	cfg.Store.Engine, cfg.MQTT.Address, cfg.HTTP.Address = config.EngineMemory, "127.0.0.1:0", "127.0.0.1:0"
	// Short windows, so that they elapse between one packet and the next; little
	// room, so that it is used up.
	cfg.Delivery.AckWindow, cfg.Delivery.FallbackWindow, cfg.Delivery.TTL = 20*time.Millisecond, 40*time.Millisecond, time.Second
	cfg.Delivery.MaxOutstandingPerDevice, cfg.Delivery.MaxInflightPerDevice = 20, 4
	cfg.MQTT.MaxPacketSize = 100 * config.KiB
	var err error
	if l.broker, err = broker.New(cfg, slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelError}))); err != nil {
		t.Fatal(err)
	}
	if err := l.broker.Start(); err != nil {
		t.Fatal(err)
	}
	l.events = l.broker.Core().Subscribe(1 << 16)
	l.healthy = dial(t, l.broker.MQTTAddr(), l.name, l.name, l.name)
	if _, err := l.healthy.Subscribe(2, 1, "heartline/devices/"+l.name+"/notifications"); err != nil {
		t.Fatal(err)
	}
	l.serve(t)
	l.panics(t) // whatever is made at the first use is there now
	l.goroutines = runtime.NumGoroutine()
	return l
}

// close stops the server, which has to end in good time.
func (l *live) close(t testing.TB) {
	if l == nil {
		return
	}
	l.healthy.Close()
	l.events.Close()
	l.web.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	start := time.Now()
	if err := l.broker.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
	if d := time.Since(start); d > patience {
		t.Errorf("Close took %s", d)
	}
}

// check sees whether the two have done any harm.
func (l *live) check(t *testing.T) {
	t.Helper()
	// Their sessions end, so that the next input finds none. A CONNECT of theirs that
	// is still on its way may take over from this one.
	for _, id := range liveIDs {
		for deadline := time.Now().Add(serviceTime); ; {
			err := l.wipe(id)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s cannot connect any more: %v\n%s", id, err, stacks())
			}
		}
	}
	l.serve(t)
	if n := l.panics(t); n > 0 {
		t.Errorf("%d panics were recovered:\n%s", n, l.log)
	}
	l.quiet(t)
}

// wipe connects with a clean start and leaves.
func (l *live) wipe(id string) error {
	c, err := rawmqtt.Dial(l.broker.MQTTAddr(), 5)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(serviceTime))
	if _, err := c.Connect(rawmqtt.Connect{ID: id, Username: "acct", Keepalive: 60, Clean: true}); err != nil {
		return err
	}
	return c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
}

// quiet waits until the server has no goroutine left from earlier clients.
func (l *live) quiet(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(serviceTime); runtime.NumGoroutine() > l.goroutines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), l.goroutines, stacks())
		}
	}
}

// serve is a message and a notification to the third client and back.
func (l *live) serve(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(serviceTime)
	fail := func(what string, err error) {
		t.Helper()
		t.Fatalf("the third client is not served within %s: %s: %v\n%s\n%s", serviceTime, what, err, l.log, stacks())
	}
	payload := rand.Text()
	_ = l.healthy.Conn.SetWriteDeadline(deadline)
	if err := l.healthy.Publish(7, 1, l.name, []byte(payload)); err != nil {
		fail("publish", err)
	}
	for acked, got := false, false; !acked || !got; {
		pk, err := l.read(deadline)
		if err != nil {
			fail("publish and subscribe", err)
		}
		acked = acked || pk.FixedHeader.Type == packets.Puback
		got = got || string(pk.Payload) == payload
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	n, err := l.broker.Notify(ctx, delivery.Request{Account: l.name, Title: "x"})
	if err != nil {
		fail("notify", err)
	}
	for {
		pk, err := l.read(deadline)
		if err != nil {
			fail("notification", err)
		}
		var p wire.Pseudo
		if json.Unmarshal(pk.Payload, &p) == nil && p.ID == n.ID {
			break
		}
	}
	for {
		select {
		case e, ok := <-l.events.C:
			if !ok {
				fail("events", errors.New("cut off"))
			}
			if e.Kind == delivery.EventReceived && e.Seq == n.Seq {
				return
			}
		case <-ctx.Done():
			fail("ack", ctx.Err())
		}
	}
}

// read returns the next packet for the third client, and acknowledges it.
func (l *live) read(deadline time.Time) (packets.Packet, error) {
	pk, err := l.healthy.Read(max(time.Until(deadline), time.Nanosecond))
	if err == nil && pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 1 {
		err = l.healthy.Puback(pk.PacketID)
	}
	return pk, err
}

var panicSeries = regexp.MustCompile(`(?m)^heartline_mqtt_panics_total\{.*\} (\S+)$`)

// panics is how many the server says it has recovered.
func (l *live) panics(t testing.TB) int {
	t.Helper()
	resp, err := l.web.Get("http://" + l.broker.HTTPAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "heartline_mqtt_panics_total") {
		t.Fatalf("no metrics: %v\n%s", err, body)
	}
	n := 0
	for _, series := range panicSeries.FindAllSubmatch(body, -1) {
		v, err := strconv.Atoi(string(series[1]))
		if err != nil {
			t.Fatal(err)
		}
		n += v
	}
	return n
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// What the two clients do: an operation is a byte with the number of the client in
// its lowest bit, and the operands follow it. Input that has ended is zeros.
const (
	opConnect = iota
	opSubscribe
	opPublish
	opAck
	opUnsubscribe
	opPing
	opDisconnect
	opRaw
	opClose
	opCut    // the next packet ends early, and the connection with it
	opMutate // a byte of the next packet is another
	opSettle // wait until what was sent has been answered, not for long
	opDeaf   // read no more
	opNotify // a backend notifies both
	opDial   // a connection without CONNECT
	opAgain  // the last packet once more
	opCount
)

var (
	liveIDs    = []string{"dev-a", "dev-b"}
	liveTopics = func() []string {
		names := []string{"a", "a/b", "", "+", "#", "a/#", "+/b", "$share/g/a/#", "$share/g/", "$SYS/x", "heartline/#", "heartline/devices/+/notifications", "heartline/accounts/acct/notifications", "heartline/accounts/nobody/notifications", "\x00", "a\xff"}
		for _, id := range liveIDs {
			for _, leaf := range []string{"notifications", "messages", "acks", "state", "push-token"} {
				names = append(names, "heartline/devices/"+id+"/"+leaf)
			}
		}
		return names
	}()
	livePayloads = []string{"", "x", `{"title":"x"}`, `{"id":"n","title":"x","data":{"a":1},"collapse_key":"k"}`, `{"id":"n","title":"y"}`, `{"id":"n","status":"displayed"}`, `{"app":"foreground"}`, `{"app":"background"}`, `{"apns":{"token":"00ff"}}`, `{"apns":null}`, strings.Repeat("x", 3000), strings.Repeat("[", 70_000)}
	// Every property of MQTT 5 and the type of its value: bytes, or a letter.
	liveProperties = []struct {
		id   byte
		kind byte
	}{
		{0x01, 1}, {0x02, 4}, {0x03, 's'}, {0x08, 's'}, {0x09, 's'}, {0x0B, 'v'}, {0x11, 4}, {0x12, 's'}, {0x13, 2}, {0x15, 's'}, {0x16, 's'}, {0x17, 1}, {0x18, 4}, {0x19, 1}, {0x1A, 's'}, {0x1C, 's'}, {0x1F, 's'}, {0x21, 2}, {0x22, 2}, {0x23, 2}, {0x24, 1}, {0x25, 1}, {0x26, 'p'}, {0x27, 4}, {0x28, 1}, {0x29, 1}, {0x2A, 1},
	}
)

// tape is an input being read.
type tape []byte

func (t *tape) next() byte {
	if len(*t) == 0 {
		return 0
	}
	b := (*t)[0]
	*t = (*t)[1:]
	return b
}

func (t *tape) take(n int) []byte {
	n = min(n, len(*t))
	b := (*t)[:n]
	*t = (*t)[n:]
	return b
}

func (t *tape) pick(of []string) string { return of[int(t.next())%len(of)] }

func (t *tape) topic() []byte { return text(t.pick(liveTopics)) }

// properties are none in MQTT 3.
func (t *tape) properties(version byte) []byte {
	if version != 5 {
		return nil
	}
	var out []byte
	for range t.next() % 4 {
		p := liveProperties[int(t.next())%len(liveProperties)]
		out = append(out, p.id)
		switch p.kind {
		case 1:
			out = append(out, t.next())
		case 2:
			out = append(out, 0, t.next())
		case 4:
			out = append(out, 0, 0, t.next(), t.next())
		case 'v':
			out = append(out, number(int(t.next())<<8|int(t.next()))...)
		case 's':
			out = append(out, t.topic()...)
		case 'p':
			out = append(out, slices.Concat(text("k"), t.topic())...)
		}
	}
	return slices.Concat(number(len(out)), out)
}

// identifier is a packet identifier: one of a few, those of the upper half among
// them, or that of the last packet that came.
func (t *tape) identifier(c *liveClient) []byte {
	b := t.next()
	id := uint16(b & 0x3F)
	switch {
	case b == 0xFF:
		id = uint16(c.last.Load())
	case b&0x40 != 0:
		id |= 0x8000
	}
	return []byte{byte(id >> 8), byte(id)}
}

// liveClient is one of the two.
type liveClient struct {
	address string
	version byte
	conn    net.Conn
	ended   chan struct{} // its reader's end
	last    atomic.Uint32 // packet identifier that came last
	pong    chan struct{}
	deaf    chan struct{} // closed: read no more
	sent    []byte
	cut     int // 0: not
	mutate  func([]byte)
}

func (l *live) play(t *testing.T, input []byte) {
	t.Helper()
	clients := []*liveClient{{address: l.broker.MQTTAddr()}, {address: l.broker.MQTTAddr()}}
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	in := tape(input)
	for n := 0; len(in) > 0 && n < 64; n++ {
		b := in.next()
		if err := l.do(clients[b&1], int(b>>1)%opCount, &in); err != nil {
			t.Fatalf("operation %d: %v\n%s", n, err, stacks())
		}
	}
}

// do returns an error if the server has done wrong.
func (l *live) do(c *liveClient, op int, in *tape) error {
	switch op {
	case opConnect:
		return c.connect(in)
	case opDial:
		c.version = 4 + in.next()&1
		return c.dial()
	case opClose:
		c.close()
		return nil
	case opCut:
		c.cut = 1 + int(in.next())
		return nil
	case opMutate:
		at, value := int(in.next()), in.next()
		c.mutate = func(b []byte) { b[at%len(b)] ^= value }
		return nil
	case opNotify:
		l.broker.Core().AcceptAsync(delivery.Request{Account: "acct", Title: "x", Data: json.RawMessage(`{"a":1}`)}, func(delivery.Receipt, error) {})
		return nil
	}
	if c.conn == nil { // most inputs are about what comes after
		if err := c.connect(&tape{in.next() & 7, in.next()}); err != nil {
			return err
		}
	}
	switch op {
	case opSubscribe:
		return c.send(frame(0x82, in.identifier(c), in.properties(c.version), in.topic(), []byte{in.next()}))
	case opUnsubscribe:
		return c.send(frame(0xA2, in.identifier(c), in.properties(c.version), in.topic()))
	case opPublish:
		flags := in.next() & 15
		topic, id := in.topic(), in.identifier(c)
		if flags&6 == 0 {
			id = nil
		}
		return c.send(frame(0x30|flags, topic, id, in.properties(c.version), []byte(in.pick(livePayloads))))
	case opAck:
		first := []byte{0x40, 0x50, 0x62, 0x70, 0xB0, 0xF0, 0x90, 0x20}[in.next()%8]
		id, rest := in.identifier(c), []byte(nil)
		if b := in.next(); c.version == 5 && b > 0 {
			rest = slices.Concat([]byte{b}, in.properties(5))
		}
		return c.send(frame(first, id, rest))
	case opPing:
		return c.send([]byte{0xC0, 0})
	case opDisconnect:
		if c.version == 5 {
			return c.send(frame(0xE0, []byte{in.next()}, in.properties(5)))
		}
		return c.send([]byte{0xE0, 0})
	case opRaw:
		return c.send(in.take(int(in.next())))
	case opAgain:
		return c.send(c.sent)
	case opDeaf:
		if c.deaf != nil {
			close(c.deaf)
			c.deaf = nil
		}
		return nil
	case opSettle:
		err := c.send([]byte{0xC0, 0})
		if c.conn == nil {
			return err
		}
		timer := time.NewTimer(20 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-c.pong:
		case <-c.ended:
		case <-timer.C: // half a packet came before, or it does not read
		}
		return err
	}
	return nil
}

func (c *liveClient) dial() error {
	c.close()
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		return err
	}
	c.conn, c.ended, c.pong, c.deaf = conn, make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	go c.read(conn, c.version, c.ended, c.pong, c.deaf)
	return nil
}

// connect dials and says CONNECT, on the connection that is there if it is told so.
func (c *liveClient) connect(in *tape) error {
	how := in.next()
	version := []byte{4, 5, 5, 3}[how&3]
	if c.conn == nil || how&0x80 == 0 {
		c.version = version
		if err := c.dial(); err != nil {
			return err
		}
	}
	id := append(liveIDs, "", "inline", "dev/a")[min(int(in.next()%16), 4)]
	flags, will := byte(0), []byte(nil)
	if how&4 != 0 {
		flags |= 2
	}
	keepalive := []byte{0, in.next()}
	properties := in.properties(version)
	if how&8 != 0 {
		flags |= 4 | in.next()&0x38
		will = slices.Concat(in.properties(version), in.topic(), text(in.pick(livePayloads)))
	}
	var username []byte
	if how&16 == 0 {
		flags, username = flags|0x80, text("acct")
	}
	name := "MQTT"
	if version == 3 {
		name = "MQIsdp"
	}
	return c.send(frame(0x10, text(name), []byte{version, flags}, keepalive, properties, text(id), will, username))
}

// read takes packets until the end, or until it is told to.
func (c *liveClient) read(conn net.Conn, version byte, ended, pong, deaf chan struct{}) {
	defer close(ended)
	in := rawmqtt.New(conn, version)
	for {
		select {
		case <-deaf:
			return // the connection is closed by whoever opened it
		default:
		}
		pk, err := in.Read(0)
		switch {
		case err != nil:
			_, _ = io.Copy(io.Discard, conn) // in another version than ours, or the end
			return
		case pk.FixedHeader.Type == packets.Pingresp:
			select {
			case pong <- struct{}{}:
			default:
			}
		case pk.PacketID > 0:
			c.last.Store(uint32(pk.PacketID))
		}
	}
}

// send writes a packet, or a damaged one. A server that has closed the
// connection may have done so; one that does not read has not.
func (c *liveClient) send(b []byte) error {
	if len(b) == 0 || c.conn == nil {
		return nil
	}
	if c.mutate != nil {
		b = slices.Clone(b)
		c.mutate(b)
		c.mutate = nil
	}
	c.sent = b
	cut := c.cut > 0
	if cut {
		b = b[:min(c.cut, len(b))]
		c.cut = 0
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(serviceTime))
	_, err := c.conn.Write(b)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("the server does not read: %w", err)
	}
	if cut {
		c.close()
	}
	return nil
}

func (c *liveClient) close() {
	if c.conn == nil {
		return
	}
	_ = c.conn.Close()
	<-c.ended
	c.conn = nil
}

// liveSeeds are sequences that are known to be hard.
func liveSeeds() [][]byte {
	op := func(client, op byte, more ...byte) []byte { return append([]byte{op<<1 | client}, more...) }
	v4, v5 := byte(0), byte(1)
	topic := func(name string) byte { return byte(slices.Index(liveTopics, name)) }
	notifications := topic("heartline/devices/dev-a/notifications")
	device := slices.Concat(op(0, opConnect, v5, 0, 60, 0), op(0, opSubscribe, 1, 0, notifications, 1), op(0, opSettle))
	return [][]byte{
		nil,
		// A device is notified, acknowledges, acknowledges again, and what never was.
		slices.Concat(device, op(1, opNotify), op(0, opSettle), op(0, opAck, 0, 0xFF, 0), op(0, opAck, 0, 0xFF, 0), op(0, opAck, 0, 0x41, 0x87, 0)),
		// It refuses, goes, comes back, and its session is taken over.
		slices.Concat(device, op(1, opNotify), op(0, opSettle), op(0, opAck, 0, 0xFF, 0x87, 0), op(0, opClose), device, op(1, opConnect, v4, 0, 60), op(1, opSettle), op(0, opPing)),
		// A SUBSCRIBE without options.
		slices.Concat(op(0, opConnect, v5, 0, 60, 0), op(0, opRaw, 8, 0x82, 8, 0, 1, 0, 0, 3, 'a'), op(0, opRaw, 2, '/', 'b')),
		// 256 MiB announced, before and after CONNECT.
		slices.Concat(op(0, opDial, 0), op(0, opRaw, 5, 0x10, 0xff, 0xff, 0xff, 0x7f), op(1, opConnect, v5, 1, 60, 0), op(1, opRaw, 5, 0x30, 0xff, 0xff, 0xff, 0x7f)),
		// Our identifier in its own publish, and in its SUBSCRIBE.
		slices.Concat(device, op(1, opNotify), op(0, opSettle), op(0, opPublish, 2, 0, 0xFF, 0, 1), op(0, opSubscribe, 0xFF, 0, 0, 1), op(0, opSettle), op(0, opAck, 0, 0xFF, 0)),
		// QoS 2 with every step twice, then the wrong ones.
		slices.Concat(op(0, opSubscribe, 2, 0, 0, 2), op(1, opPublish, 4, 0, 5, 0, 1), op(1, opAgain), op(1, opAck, 2, 5, 0), op(1, opAgain), op(0, opSettle), op(0, opAck, 1, 0xFF, 0), op(0, opSettle), op(0, opAck, 3, 0xFF, 0), op(0, opAck, 0, 0xFF, 0)),
		// Receive Maximum 1 and messages beyond it; it stops reading and is taken over.
		slices.Concat(op(0, opConnect, v5, 0, 60, 1, 17, 1), op(0, opSubscribe, 1, 0, 0, 1), bytes.Repeat(op(1, opPublish, 2, 0, 5, 0, 1), 8), op(0, opDeaf), bytes.Repeat(op(1, opPublish, 2, 0, 6, 0, 11), 8), op(1, opConnect, v5, 0, 60, 0), op(1, opSettle)),
		// A will below the prefix; the identifier of the inline client; two CONNECTs.
		slices.Concat(op(0, opConnect, v5|8, 0, 60, 0, 0, 0, notifications, 2), op(1, opConnect, v4, 3, 60), op(1, opConnect, v5, 1, 60, 0), op(1, opConnect, v5|0x80, 1, 60, 0)),
		// Cut and mutated at each place that matters.
		slices.Concat(op(0, opCut, 6), op(0, opConnect, v5, 0, 60, 0), op(0, opMutate, 1, 0x80), op(0, opPublish, 2, 0, 1, 0, 2), op(1, opMutate, 2, 0xFF), op(1, opSubscribe, 1, 0, 0, 1), op(1, opCut, 3), op(1, opPublish, 2, 0, 1, 0, 2)),
		// A backend and a terminal: notifications, acks, app state, push token.
		slices.Concat(device, op(1, opPublish, 2, topic("heartline/accounts/acct/notifications"), 3, 0, 3), op(0, opSettle), op(0, opAck, 0, 0xFF, 0),
			op(0, opPublish, 2, topic("heartline/devices/dev-a/acks"), 4, 0, 5), op(0, opPublish, 2, topic("heartline/devices/dev-a/state"), 5, 0, 6), op(0, opPublish, 2, topic("heartline/devices/dev-a/push-token"), 6, 0, 8),
			op(1, opPublish, 2, topic("heartline/devices/dev-a/acks"), 4, 0, 5), op(1, opPublish, 2, topic("heartline/accounts/acct/notifications"), 3, 0, 11)),
	}
}
