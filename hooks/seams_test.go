package hooks_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// The tests in this file say what package hooks relies on in mochi, on a server
// without Heartline. Another version of mochi that changes one of these facts
// fails here first, by name.

// bare is a plain mochi server with a hook that records its calls.
type bare struct {
	mqtt.HookBase
	*testing.T
	server  *mqtt.Server
	address string

	mu     sync.Mutex
	calls  []string
	called *sync.Cond

	onConnect     func(*mqtt.Client, packets.Packet) error
	onPublish     func(*mqtt.Client, packets.Packet) (packets.Packet, error)
	onEstablish   func(*mqtt.Client)
	onEstablished func(*mqtt.Client)
	onSubscribed  func(*mqtt.Client)
}

func (b *bare) ID() string { return "bare" }

func (b *bare) Provides(x byte) bool {
	return slices.Contains([]byte{
		mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnSessionEstablish, mqtt.OnSessionEstablished,
		mqtt.OnDisconnect, mqtt.OnPacketRead, mqtt.OnPacketProcessed, mqtt.OnSubscribed, mqtt.OnUnsubscribed, mqtt.OnPublish,
		mqtt.OnQosComplete, mqtt.OnPacketEncode, mqtt.OnClientExpired,
	}, x)
}

func (b *bare) call(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, fmt.Sprintf(format, args...))
	b.called.Broadcast()
}

// wait returns the calls once one that begins with want is among them.
func (b *bare) wait(want string) []string {
	b.Helper()
	timeout := time.AfterFunc(10*time.Second, func() { b.call("timeout") })
	defer timeout.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for _, c := range b.calls {
			if strings.HasPrefix(c, want) {
				return slices.Clone(b.calls)
			}
			if c == "timeout" {
				b.Fatalf("%s was not called: %v", want, b.calls)
			}
		}
		b.called.Wait()
	}
}

func (b *bare) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = nil
}

func (b *bare) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }
func (b *bare) OnACLCheck(*mqtt.Client, string, bool) bool              { return true }

func (b *bare) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	if b.onConnect != nil {
		return b.onConnect(cl, pk)
	}
	return nil
}

func (b *bare) OnSessionEstablish(cl *mqtt.Client, _ packets.Packet) {
	if b.onEstablish != nil {
		b.onEstablish(cl)
	}
}

func (b *bare) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	b.call("established %p with %d subscriptions", cl, cl.State.Subscriptions.Len())
	if b.onEstablished != nil {
		b.onEstablished(cl)
	}
}

func (b *bare) OnDisconnect(cl *mqtt.Client, _ error, _ bool) { b.call("disconnect %p", cl) }

func (b *bare) OnPacketRead(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	b.call("read %d %d 0x%02x", pk.FixedHeader.Type, pk.PacketID, pk.ReasonCode)
	return pk, nil
}

func (b *bare) OnPacketProcessed(_ *mqtt.Client, pk packets.Packet, _ error) {
	b.call("processed %d", pk.FixedHeader.Type)
}

func (b *bare) OnSubscribed(cl *mqtt.Client, _ packets.Packet, _ []byte) {
	b.call("subscribed with %d subscriptions", cl.State.Subscriptions.Len())
	if b.onSubscribed != nil {
		b.onSubscribed(cl)
	}
}

func (b *bare) OnUnsubscribed(*mqtt.Client, packets.Packet) { b.call("unsubscribed") }

func (b *bare) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if b.onPublish != nil {
		return b.onPublish(cl, pk)
	}
	return pk, nil
}

func (b *bare) OnQosComplete(_ *mqtt.Client, pk packets.Packet) { b.call("complete %d", pk.PacketID) }

func (b *bare) OnPacketEncode(_ *mqtt.Client, pk packets.Packet) packets.Packet {
	b.call("encode %d", pk.FixedHeader.Type)
	return pk
}

func newBare(t *testing.T) *bare {
	b := &bare{T: t}
	b.called = sync.NewCond(&b.mu)
	b.server = mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := b.server.AddHook(b, nil); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := b.server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := b.server.Serve(); err != nil {
		t.Fatal(err)
	}
	b.address = tcp.Address()
	t.Cleanup(func() { closeServer(t, b.server) })
	return b
}

// closeServer waits for the clients, which have been closed, before it closes the
// server: mochi's Close takes a read lock twice, and hangs for ever where a client
// goes in between.
func closeServer(t *testing.T, s *mqtt.Server) {
	s.Listeners.ClientsWg.Wait()
	must(t, s.Close())
}

func (b *bare) connect(version byte, o rawmqtt.Connect) *rawmqtt.Client {
	b.Helper()
	c := dial(b.T, b.address, version)
	o.Keepalive = max(o.Keepalive, 60)
	if pk, err := c.Connect(o); err != nil || pk.ReasonCode != 0 {
		b.Fatalf("connect %s: 0x%02x %v", o.ID, pk.ReasonCode, err)
	}
	return c
}

func dial(t *testing.T, address string, version byte) *rawmqtt.Client {
	t.Helper()
	c, err := rawmqtt.Dial(address, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, c *rawmqtt.Client) packets.Packet {
	t.Helper()
	pk, err := c.Read(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return pk
}

// own sends a QoS 1 PUBLISH the way package hooks does: past mochi's in-flight map.
func own(t *testing.T, cl *mqtt.Client, packetID uint16) {
	t.Helper()
	must(t, cl.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: "n/1", PacketID: packetID, Payload: []byte("own"),
	}))
}

// P01, H5: the acknowledgement of a packet that never was in mochi's in-flight map
// is seen by OnPacketRead with its reason code, and is nothing else to mochi; the
// client's own publish with the same identifier does not touch it.
func TestSeamOwnFlow(t *testing.T) {
	b := newBare(t)
	c := b.connect(5, rawmqtt.Connect{ID: "d"})
	cl, _ := b.server.Clients.Get("d")
	own(t, cl, 0x8001)
	if pk := next(t, c); pk.PacketID != 0x8001 || string(pk.Payload) != "own" {
		t.Fatalf("got %+v", pk)
	}
	must(t, c.Publish(0x8001, 1, "other", []byte("x")))
	next(t, c) // its PUBACK
	if _, err := c.Subscribe(0x8001, 1, "n/#"); err != nil {
		t.Fatal(err)
	}
	b.wait("processed 8")
	b.forget()
	must(t, c.Puback(0x8001))
	calls := b.wait("processed 4")
	if calls[0] != "read 4 32769 0x00" || slices.Contains(calls, "complete 32769") {
		t.Errorf("calls at our PUBACK: %v", calls)
	}
}

// What OnPacketProcessed is used for: the SUBACK is out by then, and was not at
// OnSubscribed, where the subscription is already in place.
func TestSeamSubscribeOrder(t *testing.T) {
	b := newBare(t)
	c := b.connect(4, rawmqtt.Connect{ID: "d", Clean: true})
	b.wait("established")
	b.forget()
	if _, err := c.Subscribe(1, 1, "n/#"); err != nil {
		t.Fatal(err)
	}
	want := []string{"read 8 1 0x00", "subscribed with 1 subscriptions", "encode 9", "processed 8"}
	if calls := b.wait("processed 8"); !slices.Equal(calls, want) {
		t.Errorf("calls %v, want %v", calls, want)
	}
}

// P24: at a take-over the old connection's end may come before or after the new
// one's beginning: the pointers tell them apart. A resumed session has its
// subscriptions at OnSessionEstablished.
func TestSeamTakeoverOrder(t *testing.T) {
	for _, version := range []byte{4, 5} {
		b := newBare(t)
		c := b.connect(version, rawmqtt.Connect{ID: "d", SessionExpiry: 3600})
		if _, err := c.Subscribe(1, 1, "n/#"); err != nil {
			t.Fatal(err)
		}
		calls := b.wait("processed 8")
		first := strings.Fields(calls[slices.IndexFunc(calls, func(s string) bool { return strings.HasPrefix(s, "established") })])[1]
		b.forget()
		b.connect(version, rawmqtt.Connect{ID: "d", SessionExpiry: 3600})
		b.wait("established")
		calls = b.wait("disconnect " + first)
		var established, ended []string
		for _, c := range calls {
			if strings.HasPrefix(c, "established") {
				established = append(established, c)
			} else if strings.HasPrefix(c, "disconnect") {
				ended = append(ended, c)
			}
		}
		if len(established) != 1 || !strings.HasSuffix(established[0], "with 1 subscriptions") || strings.Contains(established[0], first) ||
			len(ended) != 1 || ended[0] != "disconnect "+first {
			t.Errorf("version %d: %v, %v", version, established, ended)
		}
	}
}

// P25: what OnPublish may return. ErrRejectPacket leaves the answer to us,
// CodeSuccessIgnore acknowledges without fanning out.
func TestSeamOnPublish(t *testing.T) {
	for _, version := range []byte{4, 5} {
		b := newBare(t)
		answers := map[string]error{"reject": packets.ErrRejectPacket, "ignore": packets.CodeSuccessIgnore}
		b.onPublish = func(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) { return pk, answers[pk.TopicName] }
		watch := b.connect(version, rawmqtt.Connect{ID: "watch", Clean: true})
		if _, err := watch.Subscribe(1, 0, "#"); err != nil {
			t.Fatal(err)
		}
		c := b.connect(version, rawmqtt.Connect{ID: "p", Clean: true})
		must(t, c.Publish(1, 1, "reject", nil))
		must(t, c.Publish(2, 1, "ignore", nil))
		must(t, c.Publish(3, 1, "plain", nil))
		if pk := next(t, c); pk.PacketID != 2 || pk.ReasonCode != 0 {
			t.Errorf("version %d: the first answer is %+v; want the one to `ignore`", version, pk)
		}
		if pk := next(t, c); pk.PacketID != 3 {
			t.Errorf("version %d: the second answer is %+v", version, pk)
		}
		if pk := next(t, watch); pk.TopicName != "plain" {
			t.Errorf("version %d: %q was fanned out", version, pk.TopicName)
		}
	}
}

// A PUBREC entry in mochi's in-flight map is what lets it answer the PUBREL and
// know the publish again.
func TestSeamPubrecEntry(t *testing.T) {
	b := newBare(t)
	published := 0
	b.onPublish = func(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
		published++
		rec := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: pk.PacketID}
		cl.State.Inflight.Set(rec)
		must(t, cl.WritePacket(rec))
		return pk, packets.ErrRejectPacket
	}
	c := b.connect(5, rawmqtt.Connect{ID: "p"})
	must(t, c.Publish(7, 2, "x", nil))
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pubrec {
		t.Fatalf("got %+v, want a PUBREC", pk)
	}
	must(t, c.Publish(7, 2, "x", nil)) // again, before the PUBREL [MQTT-4.3.3-10]
	next(t, c)
	must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 7}))
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pubcomp || pk.ReasonCode != 0 {
		t.Errorf("got %+v, want a PUBCOMP", pk)
	}
	if published != 1 {
		t.Errorf("published %d times, want once", published)
	}
}

// OnConnect is the only veto, and says nothing to the client by itself.
func TestSeamOnConnectVeto(t *testing.T) {
	b := newBare(t)
	b.onConnect = func(cl *mqtt.Client, _ packets.Packet) error {
		must(t, b.server.SendConnack(cl, packets.ErrClientIdentifierNotValid, false, nil))
		return packets.ErrClientIdentifierNotValid
	}
	c := dial(t, b.address, 5)
	pk, err := c.Connect(rawmqtt.Connect{ID: "d"})
	must(t, err)
	if pk.ReasonCode != packets.ErrClientIdentifierNotValid.Code {
		t.Errorf("CONNACK 0x%02x, want ours", pk.ReasonCode)
	}
	if _, err := c.Read(10 * time.Second); err == nil {
		t.Error("the connection stays open")
	}
}

// H6: with the Receive Maximum put to 0 in OnConnect, mochi's own accounting of it
// is out of the way: messages over it are neither lost nor held back.
func TestSeamReceiveMaximumOff(t *testing.T) {
	b := newBare(t)
	b.onConnect = func(cl *mqtt.Client, _ packets.Packet) error {
		cl.Properties.Props.ReceiveMaximum = 0
		cl.State.Inflight.ResetSendQuota(0)
		return nil
	}
	c := b.connect(5, rawmqtt.Connect{ID: "d", ReceiveMaximum: 2})
	if _, err := c.Subscribe(1, 1, "n"); err != nil {
		t.Fatal(err)
	}
	p := b.connect(5, rawmqtt.Connect{ID: "p"})
	for i := range uint16(20) {
		must(t, p.Publish(i+1, 1, "n", nil))
	}
	for range 20 {
		must(t, c.Puback(next(t, c).PacketID))
	}
}

// P06: a keepalive over 43,690 s is cut off at once; ServerKeepalive tells
// an MQTT 5 client another.
func TestSeamServerKeepalive(t *testing.T) {
	b := newBare(t)
	b.onConnect = func(cl *mqtt.Client, _ packets.Packet) error {
		cl.State.Keepalive, cl.State.ServerKeepalive = 300, true
		return nil
	}
	c := dial(t, b.address, 5)
	pk, err := c.Connect(rawmqtt.Connect{ID: "d", Keepalive: 65535})
	must(t, err)
	if !pk.Properties.ServerKeepAliveFlag || pk.Properties.ServerKeepAlive != 300 {
		t.Errorf("Server Keep Alive %v %d, want 300", pk.Properties.ServerKeepAliveFlag, pk.Properties.ServerKeepAlive)
	}
	must(t, c.Ping())
	if pk := next(t, c); pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("got %+v, want a PINGRESP", pk)
	}
}

// A session taken out of server.Clients in OnSessionEstablish is not handed on.
func TestSeamSessionNotInherited(t *testing.T) {
	b := newBare(t)
	c := b.connect(5, rawmqtt.Connect{ID: "d", Username: "anna", SessionExpiry: 3600})
	if _, err := c.Subscribe(1, 1, "n/#"); err != nil {
		t.Fatal(err)
	}
	b.onEstablish = func(cl *mqtt.Client) {
		old, _ := b.server.Clients.Get(cl.ID)
		_ = b.server.DisconnectClient(old, packets.ErrSessionTakenOver)
		b.server.UnsubscribeClient(old)
		b.server.Clients.Delete(cl.ID)
	}
	second := dial(t, b.address, 5)
	pk, err := second.Connect(rawmqtt.Connect{ID: "d", Username: "ben", SessionExpiry: 3600})
	must(t, err)
	if pk.SessionPresent || len(b.server.Topics.Subscribers("n/1").Subscriptions) != 0 {
		t.Errorf("session present %v, subscribers %v", pk.SessionPresent, b.server.Topics.Subscribers("n/1").Subscriptions)
	}
}

// Neither OnSessionEstablished nor OnDisconnect comes for a connection that ends
// before it is established: its state has to be cleared away otherwise.
func TestSeamSilentFailure(t *testing.T) {
	b := newBare(t)
	failed := make(chan struct{})
	b.onConnect = func(cl *mqtt.Client, _ packets.Packet) error {
		if cl.ID == "fails" {
			defer close(failed)
			return cl.Net.Conn.Close()
		}
		return nil
	}
	c := dial(t, b.address, 5)
	if _, err := c.Connect(rawmqtt.Connect{ID: "fails"}); err == nil {
		t.Fatal("connected")
	}
	<-failed
	b.connect(5, rawmqtt.Connect{ID: "next", Clean: true}).Close()
	calls := b.wait("disconnect")
	n := 0
	for _, c := range calls {
		if strings.HasPrefix(c, "established") || strings.HasPrefix(c, "disconnect") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("calls %v: want none for the connection that failed", calls)
	}
}

// mochi's writes take the client's lock: ours, which take it too, do not mix with
// them.
func TestSeamWriteLock(t *testing.T) {
	b := newBare(t)
	c := b.connect(5, rawmqtt.Connect{ID: "d"})
	cl, _ := b.server.Clients.Get("d")
	cl.Lock()
	wrote := make(chan error, 1)
	go func() {
		wrote <- cl.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingresp}})
	}()
	b.wait("encode 13")
	if _, err := cl.Net.Conn.Write([]byte{0xD0, 0x00}); err != nil { // a PINGRESP of ours
		t.Fatal(err)
	}
	select {
	case err := <-wrote:
		t.Errorf("mochi wrote while the lock was held: %v", err)
	default:
	}
	cl.Unlock()
	must(t, <-wrote)
	next(t, c)
	next(t, c)
}
