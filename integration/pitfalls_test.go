package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// pitfall is something that a client can do to mochi v2.7.9, as a script that looks
// for the fault from the outside. It is played to the program, which must not have
// the fault, and to plain mochi, which has it: otherwise the script sees nothing.
type pitfall struct {
	name string
	// script returns the fault, "" for none.
	script func(*victim) string
	// unseen says why plain mochi is not asked; "": it is.
	unseen string
	env    []string // of the program
	files  int      // file descriptors the server may have; 0: as many as there are
}

// chance is why scripts about chance are not played to mochi.
const chance = "needs luck: mochi has the fault now and then"

var pitfalls = []pitfall{
	{name: "P01 one in-flight map for both directions: the message is lost", script: sharedPacketIDs},
	{name: "P02 what is no ack completes a delivery", script: falseAcks, unseen: "mochi knows no deliveries"},
	{name: "P03 SUBSCRIBE refused for the identifier of a message", script: subscribeRefused},
	{name: "P04 a client that does not read stops its publishers", script: readerStopsPublisher},
	{name: "P05 a client that does not read cannot be taken over", script: readerStopsTakeover},
	{name: "P06 keepalives above 43,690 s", script: longKeepalive},
	{name: "P07 a socket that says nothing stays", script: silentSocket, env: []string{"HEARTLINE_MQTT_CONNECT_TIMEOUT=500ms"}},
	{name: "P08 memory for what a header announces", script: announcedSize},
	{name: "P09 a SUBSCRIBE that is cut off ends the process", script: cutSubscribe},
	{name: "P10 Receive Maximum: stall and disorder", script: receiveMaximum},
	{name: "P11 Receive Maximum: loss", script: receiveMaximumLoss},
	{name: "P12 Receive Maximum: deadlock", script: receiveMaximumLoad, unseen: chance},
	{name: "P13 order after a reconnect", script: resendOrder},
	{name: "P14 topic aliases after a reconnect", script: resendAlias},
	{name: "P15 one message too large for the client", script: poison},
	{name: "P16 messages lost at a take-over", script: takeoverLoss, unseen: chance},
	{name: "P17, P18 sessions over a restart", script: restart, unseen: "its stores are not in this module"},
	{name: "P19 a burst beyond the outbound queue", script: burst, unseen: "its queue has 8,192 places by default; Heartline's has 64"},
	{name: "P20 subscriptions of an expired session", script: staleSubscriptions},
	{name: "P21 a will where the client may not write", script: foreignWill},
	{name: "P22 no file descriptors left, once", script: outOfFiles, files: 128},
	{name: "P23 a clean take-over deletes the new client", script: cleanTakeover},
	{name: "P24 a DISCONNECT for MQTT 3.1.1 at a take-over", script: takeoverDisconnect},
}

func TestPitfalls(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plainmochi")
	// Never with the race detector, whose pace hides some of the faults.
	if out, err := exec.Command("go", "build", "-o", plain, "./plainmochi").CombinedOutput(); err != nil {
		t.Fatalf("build plain mochi: %v\n%s", err, out)
	}
	for _, p := range pitfalls {
		t.Run(p.name, func(t *testing.T) {
			t.Run("heartline", func(t *testing.T) {
				t.Parallel()
				s := &server{t: t, data: filepath.Join(t.TempDir(), "data"), env: environ(t, p.env...)}
				s.args = []string{"serve", "--data-dir", s.data, "--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--log-format", "json"}
				if p.files == 0 {
					s.start()
				} else {
					s.process = launch(t, limited(p.files, s.env, binary, s.args...))
					t.Cleanup(func() { sane(t, s.process) })
					s.awaitReady()
				}
				v := &victim{t: t, ours: s, address: s.mqtt, pid: s.cmd.Process.Pid, wait: patience}
				if fault := p.script(v); fault != "" {
					t.Error(fault)
				}
				s.stop() // whoever is connected, or only half
			})
			t.Run("mochi", func(t *testing.T) {
				t.Parallel()
				if p.unseen != "" {
					t.Skip(p.unseen)
				}
				for range 5 { // some of the faults are races
					m := launch(t, limited(p.files, environ(t), plain))
					address, _, err := m.stdout.find(0, func(string) bool { return true })
					if err != nil {
						t.Fatal(err)
					}
					v := &victim{t: t, address: address, pid: m.cmd.Process.Pid, wait: 2 * time.Second}
					if fault := p.script(v); fault != "" {
						t.Log(fault)
						return
					}
				}
				t.Error("mochi does not have the fault: the script does not see it, or Heartline's work-around can go")
			})
		})
	}
}

// limited is a command with so many file descriptors; 0: as many as there are.
func limited(files int, env []string, name string, args ...string) *exec.Cmd {
	if files > 0 {
		// Both limits: Go raises the soft one to the hard one.
		args = append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, files), "sh", name}, args...)
		name = "sh"
	}
	cmd := exec.Command(name, args...)
	cmd.Env = env
	return cmd
}

// victim is a broker that a script is played to.
type victim struct {
	t       *testing.T
	ours    *server // nil: it is plain mochi
	address string
	pid     int
	wait    time.Duration // for what has to come; of mochi it will not
	backend *rawmqtt.Client
	number  uint16
}

func (v *victim) dial(version byte) *rawmqtt.Client {
	v.t.Helper()
	c, err := rawmqtt.Dial(v.address, version)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(c.Close)
	return c
}

// connect fails the test where it is not let in.
func (v *victim) connect(version byte, o rawmqtt.Connect) *rawmqtt.Client {
	v.t.Helper()
	c := v.dial(version)
	if o.Keepalive == 0 {
		o.Keepalive = 60
	}
	if pk, err := c.Connect(o); err != nil || pk.ReasonCode != 0 {
		v.t.Fatalf("%s is not let in: 0x%02x, %v", o.ID, pk.ReasonCode, err)
	}
	return c
}

func (v *victim) subscribe(c *rawmqtt.Client, packetID uint16, filter string) {
	v.t.Helper()
	if codes, err := c.Subscribe(packetID, 1, filter); err != nil || len(codes) != 1 || codes[0] > 2 {
		v.t.Fatalf("SUBACK %x, %v", codes, err)
	}
}

// publish has a backend publish messages at QoS 1, each after the PUBACK of the one
// before.
func (v *victim) publish(topicName string, payloads ...string) error {
	v.t.Helper()
	if v.backend == nil {
		v.backend = v.connect(4, rawmqtt.Connect{ID: "backend", Clean: true, Keepalive: 600})
	}
	for _, p := range payloads {
		v.number++
		if err := v.backend.Publish(v.number, 1, topicName, []byte(p)); err != nil {
			return err
		}
		if _, err := v.backend.Read(v.wait); err != nil {
			return fmt.Errorf("no PUBACK within %s: %w", v.wait, err)
		}
	}
	return nil
}

func (v *victim) mustPublish(topicName string, payloads ...string) {
	v.t.Helper()
	if err := v.publish(topicName, payloads...); err != nil {
		v.t.Fatal(err)
	}
}

// message reads the next PUBLISH, within the victim's time.
func (v *victim) message(c *rawmqtt.Client) (packets.Packet, error) {
	for {
		pk, err := c.Read(v.wait)
		if err != nil || pk.FixedHeader.Type == packets.Publish {
			return pk, err
		}
	}
}

// collect reads and acknowledges messages until n have come, or nothing comes.
func (v *victim) collect(c *rawmqtt.Client, n int) []string {
	v.t.Helper()
	var got []string
	for len(got) < n {
		pk, err := v.message(c)
		if err != nil {
			break
		}
		got = append(got, string(pk.Payload))
		if pk.FixedHeader.Qos == 1 && c.Puback(pk.PacketID) != nil {
			break
		}
	}
	return got
}

// numbers are the payloads 0 to n-1.
func numbers(n int) []string {
	var out []string
	for i := range n {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// unacked is a session with one message that has come and is not acknowledged.
func (v *victim) unacked(version byte) (*rawmqtt.Client, packets.Packet) {
	v.t.Helper()
	c := v.connect(version, rawmqtt.Connect{ID: fmt.Sprint("device-", version), SessionExpiry: 600})
	v.subscribe(c, 100, "n/#")
	v.mustPublish("n/1", "message")
	pk, err := v.message(c)
	if err != nil {
		v.t.Fatal(err)
	}
	return c, pk
}

func sharedPacketIDs(v *victim) string {
	c, pk := v.unacked(4)
	if err := c.Publish(pk.PacketID, 1, "other", []byte("x")); err != nil {
		v.t.Fatal(err)
	}
	if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Puback {
		v.t.Fatalf("a packet of type %d, %v; want PUBACK", pk.FixedHeader.Type, err)
	}
	c.Close()
	c = v.connect(4, rawmqtt.Connect{ID: "device-4"})
	if got := v.collect(c, 1); !slices.Equal(got, []string{"message"}) {
		return fmt.Sprintf("the unacknowledged message is lost: %v", got)
	}
	return ""
}

func falseAcks(v *victim) string {
	s := v.ours
	c := v.connect(5, rawmqtt.Connect{ID: "phone", Username: "alice"})
	v.subscribe(c, 1, "heartline/devices/phone/notifications")
	events := s.events("")
	id := s.notify(`{"account":"alice","title":"x"}`)
	pk, err := v.message(c)
	if err != nil {
		return err.Error()
	}
	// Its own publish under the identifier, an ack of something else, a refusal.
	for _, send := range []packets.Packet{
		{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: pk.PacketID, TopicName: "other"},
		{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID, ReasonCode: packets.ErrNotAuthorized.Code},
	} {
		if err := c.Send(send); err != nil {
			return err.Error()
		}
	}
	events.until("nacked", id)
	if got := kinds(s.notification(id)); slices.Contains(got, "received") {
		return fmt.Sprintf("acknowledged without an ack: %v", got)
	}
	_ = c.Ping() // a heartbeat, at which it is tried again
	if pk, err = v.message(c); err == nil {
		err = c.Puback(pk.PacketID)
	}
	if err != nil {
		return err.Error()
	}
	events.until("received", id)
	return ""
}

func subscribeRefused(v *victim) string {
	for _, version := range []byte{4, 5} {
		c, pk := v.unacked(version)
		if codes, err := c.Subscribe(pk.PacketID, 1, "second/#"); err != nil || codes[0] > 2 {
			return fmt.Sprintf("version %d: SUBACK %x, %v", version, codes, err)
		}
	}
	return ""
}

// deaf is a session that does not read, and a publisher who sends it more than
// anyone between the two can keep.
func (v *victim) deaf() error {
	v.t.Helper()
	c := v.dial(4)
	_ = c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := c.Connect(rawmqtt.Connect{ID: "deaf", Keepalive: 600}); err != nil {
		v.t.Fatal(err)
	}
	v.subscribe(c, 1, "n/#")
	return v.publish("n/1", slices.Repeat([]string{strings.Repeat("x", 64<<10)}, 200)...)
}

func readerStopsPublisher(v *victim) string {
	if err := v.deaf(); err != nil {
		return err.Error()
	}
	return ""
}

func readerStopsTakeover(v *victim) string {
	_ = v.deaf() // mochi's publisher is stuck
	c := v.dial(4)
	if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "deaf", Keepalive: 60}}); err != nil {
		v.t.Fatal(err)
	}
	if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Connack {
		return fmt.Sprintf("a packet of type %d, %v; want CONNACK", pk.FixedHeader.Type, err)
	}
	return ""
}

func longKeepalive(v *victim) string {
	for _, seconds := range []uint16{43_690, 43_691, 65_535} {
		c := v.dial(4)
		if _, err := c.Connect(rawmqtt.Connect{ID: "patient", Keepalive: seconds, Clean: true}); err != nil {
			return fmt.Sprintf("keepalive %d: CONNACK: %v", seconds, err)
		}
		// Its answer twice: the deadline is set after a packet has been read.
		for range 2 {
			_ = c.Ping()
			if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Pingresp {
				return fmt.Sprintf("keepalive %d: a packet of type %d, %v; want PINGRESP", seconds, pk.FixedHeader.Type, err)
			}
		}
		c.Close()
	}
	return ""
}

// gone waits for the end of a connection, whatever comes before.
func (v *victim) gone(c *rawmqtt.Client) error {
	if err := c.Conn.SetReadDeadline(time.Now().Add(v.wait)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c.Conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	return nil
}

func silentSocket(v *victim) string {
	if err := v.gone(v.dial(4)); err != nil {
		return err.Error()
	}
	v.dial(4) // is there at the end of the server, which does not wait for it
	return ""
}

// virtual is what a process has mapped, in bytes.
func (v *victim) virtual() int {
	v.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.pid))
	if err != nil {
		v.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmSize:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		v.t.Fatal(err)
	}
	return kib << 10
}

func announcedSize(v *victim) string {
	if runtime.GOOS != "linux" {
		v.t.Skip("reads memory from /proc")
	}
	before := v.virtual()
	var all []*rawmqtt.Client
	for range 8 {
		c := v.dial(5)
		if _, err := c.Conn.Write([]byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}); err != nil {
			v.t.Fatal(err)
		}
		all = append(all, c)
	}
	var errs []error
	deadline := time.Now().Add(v.wait)
	for _, c := range all {
		v.wait = max(time.Until(deadline), time.Millisecond)
		errs = append(errs, v.gone(c))
	}
	if more := v.virtual() - before; more > 512<<20 {
		return fmt.Sprintf("%d MiB more for 8 headers", more>>20)
	}
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return ""
}

func cutSubscribe(v *victim) string {
	c := v.connect(5, rawmqtt.Connect{ID: "cut", Clean: true})
	if _, err := c.Conn.Write(frame(0x82, []byte{0, 1, 0}, text("a/b"))); err != nil { // no options
		v.t.Fatal(err)
	}
	if err := v.gone(c); err != nil {
		return err.Error()
	}
	// A process that panics closes the connection first, and dies a moment later.
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		c, err := rawmqtt.Dial(v.address, 5)
		if err == nil {
			_, err = c.Connect(rawmqtt.Connect{ID: "next", Keepalive: 60, Clean: true})
			c.Close()
		}
		if err != nil {
			return "the process is gone: " + err.Error()
		}
	}
	return ""
}

func receiveMaximum(v *victim) string {
	c := v.connect(5, rawmqtt.Connect{ID: "device", SessionExpiry: 600, ReceiveMaximum: 5})
	v.subscribe(c, 9999, "n/#")
	v.mustPublish("n/1", numbers(50)...)
	if got := v.collect(c, 50); !slices.Equal(got, numbers(50)) {
		return fmt.Sprintf("50 messages, at once acknowledged, come as %v", got)
	}
	return ""
}

func receiveMaximumLoss(v *victim) string {
	o := rawmqtt.Connect{ID: "device", SessionExpiry: 600, ReceiveMaximum: 1}
	c := v.connect(5, o)
	v.subscribe(c, 9999, "n/#")
	v.mustPublish("n/1", numbers(3)...)
	if got := v.collect(c, 1); !slices.Equal(got, []string{"0"}) {
		return fmt.Sprintf("got %v", got)
	}
	if pk, err := v.message(c); err != nil || string(pk.Payload) != "1" { // not acknowledged
		return fmt.Sprintf("got %q, %v; want 1", pk.Payload, err)
	}
	_ = c.Ping()
	if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		return fmt.Sprintf("a packet of type %d, %v, with one unacknowledged", pk.FixedHeader.Type, err)
	}
	c.Close()
	if got := v.collect(v.connect(5, o), 2); !slices.Equal(got, []string{"1", "2"}) {
		return fmt.Sprintf("after a reconnect %v come, want 1 and 2", got)
	}
	return ""
}

func receiveMaximumLoad(v *victim) string {
	const publishers, each = 4, 1000
	c := v.connect(5, rawmqtt.Connect{ID: "device", SessionExpiry: 600, ReceiveMaximum: 65_535})
	v.subscribe(c, 65_535, "n/#")
	failed := make(chan error, publishers)
	for i := range publishers {
		p := &victim{t: v.t, address: v.address, wait: v.wait, backend: v.connect(5, rawmqtt.Connect{ID: fmt.Sprint("backend-", i), Clean: true})}
		go func() { failed <- p.publish("n/1", slices.Repeat([]string{"x"}, each)...) }()
	}
	if n := len(v.collect(c, publishers*each)); n < publishers*each {
		return fmt.Sprintf("%d of %d messages come", n, publishers*each)
	}
	for range publishers {
		if err := <-failed; err != nil {
			return err.Error()
		}
	}
	return ""
}

// away has messages published while the device is not there.
func (v *victim) away(o rawmqtt.Connect, payloads ...string) {
	v.t.Helper()
	c := v.connect(5, o)
	v.subscribe(c, 100, "n/#")
	c.Close()
	v.mustPublish("n/1", payloads...)
}

func resendOrder(v *victim) string {
	o := rawmqtt.Connect{ID: "device", SessionExpiry: 600}
	v.away(o, numbers(40)...)
	if got := v.collect(v.connect(5, o), 40); !slices.Equal(got, numbers(40)) {
		return fmt.Sprintf("they come as %v", got)
	}
	return ""
}

func resendAlias(v *victim) string {
	connect := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "device", Keepalive: 60},
		Properties:  packets.Properties{TopicAliasMaximum: 10, SessionExpiryInterval: 600, SessionExpiryIntervalFlag: true},
	}
	join := func() *rawmqtt.Client {
		c := v.dial(5)
		if err := c.Send(connect); err != nil {
			v.t.Fatal(err)
		}
		if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Connack {
			v.t.Fatalf("a packet of type %d, %v; want CONNACK", pk.FixedHeader.Type, err)
		}
		return c
	}
	c := join()
	v.subscribe(c, 100, "n/#")
	v.mustPublish("n/1", numbers(3)...)
	// The first, which gives an alias its topic, is acknowledged; the others are not.
	if got := v.collect(c, 1); !slices.Equal(got, []string{"0"}) {
		v.t.Fatal(got)
	}
	for range 2 {
		if _, err := v.message(c); err != nil {
			v.t.Fatal(err)
		}
	}
	c.Close()
	c = join()
	known := map[uint16]bool{}
	for range 2 {
		pk, err := v.message(c)
		if err != nil {
			return err.Error()
		}
		if alias := pk.Properties.TopicAlias; pk.TopicName == "" && !known[alias] {
			return fmt.Sprintf("message %s comes with alias %d and no topic, on a connection that knows none", pk.Payload, alias)
		} else if alias > 0 {
			known[alias] = true
		}
	}
	return ""
}

func poison(v *victim) string {
	o := rawmqtt.Connect{ID: "device", SessionExpiry: 600}
	v.away(o, strings.Repeat("x", 5000), "small")
	o.MaximumPacketSize = 1024
	for range 2 {
		c := v.dial(5)
		if pk, err := c.Connect(o); err != nil || pk.ReasonCode != 0 {
			return fmt.Sprintf("CONNACK 0x%02x, %v", pk.ReasonCode, err)
		}
		if pk, err := v.message(c); err != nil || string(pk.Payload) != "small" {
			return fmt.Sprintf("got %d bytes, %v; want the message that fits", len(pk.Payload), err)
		}
		c.Close()
	}
	return ""
}

func takeoverLoss(v *victim) string {
	const n = 1500
	o := rawmqtt.Connect{ID: "device", SessionExpiry: 600}
	c := v.connect(5, o)
	v.subscribe(c, 60_000, "n/#")
	p := &victim{t: v.t, address: v.address, wait: v.wait, backend: v.connect(5, rawmqtt.Connect{ID: "steady", Clean: true})}
	published := make(chan error, 1)
	go func() { published <- p.publish("n/1", numbers(n)...) }()
	got := map[string]bool{}
	for len(got) < n {
		before := len(got)
		for len(got) < min(n, before+25) {
			pk, err := v.message(c)
			if err != nil {
				return fmt.Sprintf("%d of %d messages come over take-overs: %v", len(got), n, err)
			}
			got[string(pk.Payload)] = true
			_ = c.Puback(pk.PacketID)
		}
		c = v.connect(5, o) // takes over
	}
	if err := <-published; err != nil {
		return err.Error()
	}
	return ""
}

func restart(v *victim) string {
	o := rawmqtt.Connect{ID: "device", SessionExpiry: 600}
	v.away(o, numbers(5)...)
	v.ours.stateWritten()
	v.ours.kill()
	v.ours.start()
	v.address, v.backend = v.ours.mqtt, nil
	c := v.connect(5, o)
	got := v.collect(c, 5)
	v.mustPublish("n/1", "5") // its identifier is none of theirs
	if got = append(got, v.collect(c, 1)...); !slices.Equal(got, numbers(6)) {
		return fmt.Sprintf("after kill -9 they come as %v", got)
	}
	return ""
}

func burst(v *victim) string {
	const n = 3000
	c := v.connect(5, rawmqtt.Connect{ID: "device", SessionExpiry: 600})
	v.subscribe(c, 60_000, "n/#")
	p := v.connect(5, rawmqtt.Connect{ID: "steady", Clean: true})
	go func() { // as fast as it can be written
		for i, s := range numbers(n) {
			if p.Publish(uint16(i+1), 1, "n/1", []byte(s)) != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, p.Conn) }()
	if got := v.collect(c, n); !slices.Equal(got, numbers(n)) {
		return fmt.Sprintf("%d of %d messages come", len(got), n)
	}
	return ""
}

func staleSubscriptions(v *victim) string {
	c := v.connect(5, rawmqtt.Connect{ID: "device", SessionExpiry: 1})
	v.subscribe(c, 100, "n/#")
	c.Close()
	time.Sleep(3500 * time.Millisecond) // the session's second, and the server's look for such sessions
	c = v.connect(5, rawmqtt.Connect{ID: "device", Clean: true})
	v.subscribe(c, 101, "mine")
	v.mustPublish("n/1", "of the session before")
	v.mustPublish("mine", "mine")
	if got := v.collect(c, 1); !slices.Equal(got, []string{"mine"}) {
		return fmt.Sprintf("a new session gets %v", got)
	}
	return ""
}

func foreignWill(v *victim) string {
	const topic = "heartline/devices/phone/notifications"
	c := v.connect(5, rawmqtt.Connect{ID: "phone", Username: "alice"})
	v.subscribe(c, 1, topic)
	v.subscribe(c, 2, "mine")
	evil := v.dial(4)
	if _, err := evil.Connect(rawmqtt.Connect{ID: "evil", Keepalive: 60, Clean: true, WillTopic: topic, WillPayload: "forged"}); err == nil {
		_, _ = evil.Conn.Write([]byte{0x00, 0x00}) // no packet: it is cut, and the will due
	}
	_ = v.gone(evil)
	v.mustPublish("mine", "mine")
	if got := v.collect(c, 1); !slices.Equal(got, []string{"mine"}) {
		return fmt.Sprintf("the device gets %v", got)
	}
	return ""
}

func outOfFiles(v *victim) string {
	var all []*rawmqtt.Client
	for range 300 {
		all = append(all, v.dial(5))
	}
	for _, c := range all {
		c.Close()
	}
	c := v.dial(5)
	if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "next", Keepalive: 60, Clean: true}}); err != nil {
		return err.Error()
	}
	if pk, err := c.Read(v.wait); err != nil || pk.FixedHeader.Type != packets.Connack {
		return fmt.Sprintf("a packet of type %d, %v; want CONNACK", pk.FixedHeader.Type, err)
	}
	return ""
}

func cleanTakeover(v *victim) string {
	o := rawmqtt.Connect{ID: "device", Clean: true}
	for i := range 20 {
		c := v.connect(4, o)
		v.subscribe(c, 1, "n/#")
		c.Close() // and it is back at once
		c = v.connect(4, o)
		v.subscribe(c, 1, "n/#")
		// Whatever stands in its way is gone in a moment.
		for range 3 {
			_ = c.Ping()
			if _, err := c.Read(v.wait); err != nil {
				return err.Error()
			}
			time.Sleep(40 * time.Millisecond) // the other connection's end takes its time
		}
		v.mustPublish("n/1", strconv.Itoa(i))
		if got := v.collect(c, 1); len(got) != 1 {
			return "a client that is connected and subscribed gets nothing"
		}
		c.Close()
	}
	return ""
}

func takeoverDisconnect(v *victim) string {
	o := rawmqtt.Connect{ID: "device"}
	old := v.connect(4, o)
	v.connect(4, o)
	if pk, err := old.Read(v.wait); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Sprintf("a packet of type %d, %v; want the end without a word", pk.FixedHeader.Type, err)
	}
	return ""
}
