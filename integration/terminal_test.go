package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pahov3 "github.com/eclipse/paho.mqtt.golang"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/wire"
)

// playing is `heartline terminal --json`.
type playing struct {
	*process
	t    *testing.T
	next int
}

// shown is one of its lines.
type shown struct {
	Event        string
	Notification wire.Pseudo
	Message      wire.Message
	Dismissal    wire.Dismissal
	Detail       string
}

func (s *server) play(args ...string) *playing {
	s.t.Helper()
	cmd := exec.Command(binary, append([]string{"terminal", "--json", "--account", "alice", "--device", "phone", "--server", "mqtt://" + s.mqtt}, args...)...)
	cmd.Env = environ(s.t)
	d := &playing{process: launch(s.t, cmd), t: s.t}
	s.t.Cleanup(func() { sane(s.t, d.process) })
	return d
}

// line waits for the next line, which is to be an event of that name; "" is any.
func (d *playing) line(event string) shown {
	d.t.Helper()
	text, i, err := d.stdout.find(d.next, func(string) bool { return true })
	if err != nil {
		d.t.Fatalf("waiting for %s: %v; it said:\n%s%s", event, err, d.stdout, d.stderr)
	}
	d.next = i + 1
	var got shown
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		d.t.Fatalf("%q: %v", text, err)
	}
	if got.Event != event && event != "" {
		d.t.Fatalf("got %s, want %s", text, event)
	}
	return got
}

func TestTerminal(t *testing.T) {
	sim, env := apple(t)
	s := serve(t, env...)
	events := s.events("?account=alice")
	args := []string{"--background", "--ack", "displayed", "--seen-file", filepath.Join(t.TempDir(), "seen"), "--token", deviceToken(5)}

	d := s.play(args...)
	d.line("up")
	await(t, "the push token", func() bool {
		var v wire.DeviceView
		s.must(http.MethodGet, "/v1/accounts/alice/devices/phone", "", &v)
		return v.APNs != nil && v.APNs.Token == deviceToken(5)
	})
	one := s.notify(`{"account":"alice","title":"Hello","data":{"n":1}}`)
	if got := d.line("tip").Notification; got.ID != one || got.Title != "Hello" {
		t.Errorf("got %+v", got)
	}
	events.until("displayed", one)
	d.signal(t, syscall.SIGUSR1)
	d.line("foreground")
	if got := d.line("message").Message; got.ID != one || string(got.Data) != `{"n":1}` || got.Account != "alice" {
		t.Errorf("got %+v", got)
	}
	events.until("message_received", one)
	s.wantTimeline(one, "accepted", "published", "received", "displayed", "message_sent", "message_received")
	d.signal(t, syscall.SIGUSR2)
	d.line("background")

	// It stops answering, and is pushed to. When it is back the notification is a tip:
	// it has not shown it, and of several pushes Apple keeps one.
	d.signal(t, syscall.SIGSTOP)
	s.notify(`{"id":"two","account":"alice","title":"Again"}`)
	events.until("published", "two")
	d.signal(t, syscall.SIGKILL)
	d.wait(t)
	s.awaitDown("alice", "phone")
	events.until("pushed", "two")
	if got := sim.ReceivedFor(deviceToken(5)); len(got) != 1 {
		t.Errorf("Apple has seen %d pushes", len(got))
	}
	d = s.play(args...)
	got := d.line("")
	if got.Event == "up" { // the session goes on, so that either may be first
		got = d.line("tip")
	} else {
		d.line("up")
	}
	if n := got.Notification; got.Event != "tip" || n.ID != "two" || !n.Pushed || !n.Redelivery {
		t.Errorf("got %+v", got)
	}
	events.until("displayed", "two")

	// Another terminal takes the device over; the first does not fight for it.
	other := s.play("--foreground")
	other.line("up")
	if code := d.wait(t); code != 1 || !strings.Contains(d.stderr.String(), "another client has connected as this device") {
		t.Errorf("exit code %d: %s", code, d.stderr)
	}

	// The server goes and comes back, where it was.
	s.args[slices.Index(s.args, "--mqtt-address")+1] = s.mqtt
	s.stop()
	other.line("down")
	s.start()
	for event := ""; event != "up"; { // each reason for being down is said once
		event = other.line("").Event
	}
	three := s.notify(`{"account":"alice","title":"Back","data":3}`)
	if got := other.line("notice").Notification; got.ID != three {
		t.Errorf("got %+v", got)
	}
	if got := other.line("message").Message; got.ID != three {
		t.Errorf("got %+v", got)
	}
	other.signal(t, os.Interrupt)
	if code := other.wait(t); code != 0 {
		t.Errorf("exit code %d: %s", code, other.stderr)
	}
}

// other is a device on a client library that nobody here wrote.
type other interface {
	say(topicName, payload string) // returns once it is acknowledged
	hear() (topicName, payload string)
	leave()
}

// jsDevice is MQTT.js.
type jsDevice struct {
	*process
	t    *testing.T
	in   io.WriteCloser
	next int
}

func newJSDevice(s *server, version byte, base string) other {
	s.t.Helper()
	cmd := exec.Command(tool(s.t, "node", "nodejs"), "device.mjs", base, fmt.Sprint(version), "alice", "phone")
	cmd.Dir = "../clients/js/test"
	if _, err := os.Stat("../clients/js/node_modules/mqtt"); err != nil {
		testtool.LeaveOut(s.t, "MQTT.js is missing", "make web, which needs npm: apt-get install nodejs npm")
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	d := &jsDevice{process: launch(s.t, cmd), t: s.t, in: in}
	d.stdout.until(s.t, `"subscribed"`) // of a session that goes on something may have come before
	return d
}

func (d *jsDevice) say(topicName, payload string) {
	d.t.Helper()
	text, err := json.Marshal(map[string]string{"topic": topicName, "payload": payload})
	if err == nil {
		_, err = fmt.Fprintf(d.in, "%s\n", text)
	}
	if err == nil {
		_, _, err = d.stdout.find(d.next, func(line string) bool { return strings.Contains(line, topicName) })
	}
	if err != nil {
		d.t.Fatalf("publish to %s: %v\n%s", topicName, err, d.stderr)
	}
}

func (d *jsDevice) hear() (topicName, payload string) {
	d.t.Helper()
	for {
		line, i, err := d.stdout.find(d.next, func(string) bool { return true })
		if err != nil {
			d.t.Fatalf("MQTT.js: %v\n%s", err, d.stderr)
		}
		d.next = i + 1
		var got struct{ Topic, Payload string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			d.t.Fatal(err)
		}
		if strings.HasSuffix(got.Topic, "/notifications") || strings.HasSuffix(got.Topic, "/messages") { // no echo of what it was told
			return got.Topic, got.Payload
		}
	}
}

func (d *jsDevice) leave() {
	d.t.Helper()
	_ = d.in.Close() // it ends when its input does
	if code := d.wait(d.t); code != 0 {
		d.t.Errorf("MQTT.js: exit code %d\n%s", code, d.stderr)
	}
}

// pahoDevice is Eclipse Paho for Go and MQTT 3.1.1. Its successor for MQTT 5 is
// what `heartline terminal` is made of.
type pahoDevice struct {
	t        *testing.T
	client   pahov3.Client
	received chan pahov3.Message
}

func newPahoDevice(s *server) other {
	s.t.Helper()
	d := &pahoDevice{t: s.t, received: make(chan pahov3.Message, 100)}
	d.client = pahov3.NewClient(pahov3.NewClientOptions().AddBroker("tcp://" + s.mqtt).SetProtocolVersion(4).
		SetClientID("phone").SetUsername("alice").SetCleanSession(false).SetKeepAlive(5 * time.Second).SetAutoReconnect(false).
		SetDefaultPublishHandler(func(_ pahov3.Client, m pahov3.Message) { d.received <- m }))
	d.wait(d.client.Connect())
	d.wait(d.client.SubscribeMultiple(map[string]byte{"heartline/devices/phone/notifications": 1, "heartline/devices/phone/messages": 1}, nil))
	return d
}

func (d *pahoDevice) wait(token pahov3.Token) {
	d.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		d.t.Fatalf("paho: %v", token.Error())
	}
}

func (d *pahoDevice) say(topicName, payload string) {
	d.t.Helper()
	d.wait(d.client.Publish(topicName, 1, false, payload))
}

func (d *pahoDevice) hear() (topicName, payload string) {
	d.t.Helper()
	select {
	case m := <-d.received:
		return m.Topic(), string(m.Payload())
	case <-time.After(patience):
		d.t.Fatal("paho has received nothing")
		return "", ""
	}
}

func (d *pahoDevice) leave() { d.client.Disconnect(250) }

// TestTerminalOnAFullDisk: what the command cannot print it does not acknowledge.
func TestTerminalOnAFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		testtool.LeaveOut(t, err.Error(), "Linux")
	}
	defer full.Close()
	s := serve(t)
	var said strings.Builder
	cmd := exec.Command(binary, "terminal", "--account", "alice", "--device", "phone", "--background", "--server", "mqtt://"+s.mqtt)
	cmd.Env, cmd.Stdout, cmd.Stderr = environ(t), full, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	await(t, "the device", func() bool {
		_, body := s.call(http.MethodGet, "/v1/accounts/alice/devices/phone", "")
		return strings.Contains(string(body), `"state":"up"`)
	})
	id := s.notify(`{"account":"alice","title":"Order 7","fallback":false}`)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said.String(), "write to the standard output") {
		t.Errorf("%v: %s", err, said.String())
	}
	if s.notification(id).State == "acked" {
		t.Error("it is acknowledged")
	}
	got := s.play("--background")
	for tip := got.line(""); tip.Notification.ID != id; tip = got.line("") { // it may come before "up"
		if tip.Event == "tip" {
			t.Fatalf("%+v", tip)
		}
	}
}

// TestContract plays the wire contract of a device with client libraries that
// nobody here wrote.
func TestContract(t *testing.T) {
	for name, connect := range map[string]func(s *server) other{
		"MQTT.js 3.1.1":          func(s *server) other { return newJSDevice(s, 4, "mqtt://"+s.mqtt) },
		"MQTT.js 5":              func(s *server) other { return newJSDevice(s, 5, "mqtt://"+s.mqtt) },
		"MQTT.js 5 on WebSocket": func(s *server) other { return newJSDevice(s, 5, strings.Replace(s.http, "http", "ws", 1)+"/mqtt") },
		"paho.mqtt.golang 3.1.1": newPahoDevice,
	} {
		t.Run(name, func(t *testing.T) { contract(t, connect) })
	}
}

const own = "heartline/devices/phone/"

// unhurried is an ack window that does not end while a busy machine runs a test of exact timelines.
const unhurried = "HEARTLINE_DELIVERY_ACK_WINDOW=1m"

func contract(t *testing.T, connect func(s *server) other) {
	t.Helper()
	s := serve(t, unhurried)
	events := s.events("?account=alice")
	d := connect(s)
	hear := func(topicName string, into any) {
		t.Helper()
		got, payload := d.hear()
		if got != own+topicName {
			t.Fatalf("heard %s %s, want %s", got, payload, topicName)
		}
		if err := json.Unmarshal([]byte(payload), into); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
	}
	d.say(own+"state", `{"app":"background"}`)

	var p wire.Pseudo
	var m wire.Message
	s.notify(`{"id":"one","account":"alice","title":"One","body":"äöü","badge":3,"data":{"n":[1,null]}}`)
	hear("notifications", &p)
	if p.ID != "one" || p.Account != "alice" || p.Title != "One" || p.Body != "äöü" || *p.Badge != 3 || !p.HasMessage || p.Ack != "received" || p.Redelivery || p.Pushed {
		t.Errorf("got %+v", p)
	}
	events.until("received", "one")
	s.wantTimeline("one", "accepted", "published", "received")
	d.say(own+"state", `{"app":"foreground"}`)
	hear("messages", &m)
	if m.ID != "one" || m.Account != "alice" || string(m.Data) != `{"n":[1,null]}` || m.AcceptedAt != p.AcceptedAt {
		t.Errorf("got %+v", m)
	}
	events.until("message_received", "one")

	s.notify(`{"id":"two","account":"alice","title":"Two","data":2,"ack":"displayed"}`)
	hear("notifications", &p)
	if p.Ack != "displayed" {
		t.Errorf("got %+v", p)
	}
	events.until("received", "two")
	s.wantTimeline("two", "accepted", "published", "received") // its message waits for the ack that was asked for
	d.say(own+"acks", `{"id":"two","status":"displayed"}`)
	hear("messages", &m)
	events.until("message_received", "two")
	s.wantTimeline("two", "accepted", "published", "received", "displayed", "message_sent", "message_received")

	d.leave()
	s.awaitDown("alice", "phone")
	want := []string{"three", "four", "five"}
	for _, id := range want {
		s.notify(fmt.Sprintf(`{"id":%q,"account":"alice","title":"While away","data":0}`, id))
	}
	d = connect(s)
	d.say(own+"state", `{"app":"foreground"}`)
	var notifications, messages []string
	for len(messages) < len(want) {
		topicName, payload := d.hear()
		var n struct{ ID string }
		if err := json.Unmarshal([]byte(payload), &n); err != nil {
			t.Fatal(err)
		}
		if topicName == own+"messages" {
			messages = append(messages, n.ID)
		} else {
			notifications = append(notifications, n.ID)
		}
	}
	if !slices.Equal(notifications, want) || !slices.Equal(messages, want) {
		t.Errorf("notifications %v, messages %v, want %v", notifications, messages, want)
	}
	d.leave()
}

// TestMosquittoAsDevice: a device that never says anything of its app gets the
// message on the ack alone; MQTT 5 carries the properties that the contract names in addition to the
// payload.
func TestMosquittoAsDevice(t *testing.T) {
	for _, version := range []string{"mqttv311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			s := serve(t)
			events := s.events("?account=alice")
			args := append([]string{"-oL", tool(t, "mosquitto_sub", "mosquitto-clients")}, s.mosquittoArgs(version, "alice", "phone",
				"-t", own+"notifications", "-t", own+"messages", "-c", "-k", "5", "-d", "-F", "> %t|%C|%R|%D|%P|%E|%p")...)
			cmd := exec.Command(tool(t, "stdbuf", "coreutils"), args...)
			cmd.Env = environ(t)
			p := launch(t, cmd)
			p.stdout.until(t, "Subscribed (")
			s.notify(`{"id":"one","account":"alice","title":"One","ttl":"1h","data":{"a":1}}`)
			events.until("message_received", "one")
			notification := strings.SplitN(p.stdout.until(t, "> "+own+"notifications"), "|", 7)
			message := strings.SplitN(p.stdout.until(t, "> "+own+"messages"), "|", 7)
			if !strings.HasPrefix(message[6], `{"id":"one","account":"alice","data":{"a":1},`) || !strings.HasPrefix(notification[6], `{"id":"one","account":"alice","title":"One",`) {
				t.Errorf("got %q, %q", notification, message)
			}
			if version == "mqttv5" {
				if want := []string{"application/json", own + "acks", "one", "heartline-id:one"}; !slices.Equal(notification[1:5], want) {
					t.Errorf("properties %q, want %q", notification[1:6], want)
				}
				if notification[5] != "3599" && notification[5] != "3600" || message[1] != "application/json" {
					t.Errorf("properties %q, %q", notification[1:6], message[1:6])
				}
			}
			p.signal(t, os.Interrupt)
			p.wait(t)
		})
	}
}

// raw is a device in the test's own hands.
func (s *server) raw(version byte, account, device string) *rawmqtt.Client {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.mqtt, version)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	if _, err := c.Connect(rawmqtt.Connect{ID: device, Username: account, Keepalive: 60}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Subscribe(1, 1, "heartline/devices/"+device+"/notifications", "heartline/devices/"+device+"/messages"); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func next(t *testing.T, c *rawmqtt.Client) packets.Packet {
	t.Helper()
	pk, err := c.Read(patience)
	if err != nil {
		t.Fatal(err)
	}
	return pk
}

// TestWhatADeviceMayNotSay: a wrong word is answered with its reason in MQTT 5,
// taken without effect in MQTT 3.1.1, which has no word for it, and closes nothing.
func TestWhatADeviceMayNotSay(t *testing.T) {
	s := serve(t, unhurried)
	bob := s.raw(5, "bob", "tablet")
	foreign := s.notify(`{"account":"bob","title":"For Bob","data":1}`)
	for version, code := range map[byte]func(byte) byte{4: func(byte) byte { return 0 }, 5: func(want byte) byte { return want }} {
		device := fmt.Sprintf("phone-%d", version)
		c := s.raw(version, "alice", device)
		topicName := "heartline/devices/" + device + "/"
		for i, tt := range []struct {
			topicName, payload, reason string
			code                       byte
		}{
			{topicName + "acks", `{"id":"` + foreign + `","status":"displayed"}`, "not a notification of this device", 0x87},
			{topicName + "acks", `{"id":"unheard-of","status":"displayed"}`, "unheard-of", 0x87},
			{topicName + "acks", `{"id":"` + foreign + `","status":"seen"}`, `status: must be received, displayed or read, got "seen"`, 0x99},
			{topicName + "acks", `{"status":"displayed"}`, "id: must be given", 0x99},
			{topicName + "state", `{"app":"asleep"}`, `app: must be foreground or background, got "asleep"`, 0x99},
			{topicName + "state", `{"app":`, "JSON", 0x99},
			{topicName + "push-token", `{}`, "must name exactly one of apns, fcm and webpush", 0x99},
			{"heartline/devices/tablet/acks", `{"id":"` + foreign + `","status":"displayed"}`, "its own topics only", 0x87},
			{topicName + "messages", `{}`, "only the server", 0x87},
			{topicName + "mood", `{}`, "no such topic", 0x90},
		} {
			id := uint16(100 + i)
			if err := c.Publish(id, 1, tt.topicName, []byte(tt.payload)); err != nil {
				t.Fatal(err)
			}
			pk := next(t, c)
			if pk.FixedHeader.Type != packets.Puback || pk.PacketID != id || pk.ReasonCode != code(tt.code) {
				t.Errorf("MQTT %d, %s %s: got a packet of type %d, 0x%02x", version, tt.topicName, tt.payload, pk.FixedHeader.Type, pk.ReasonCode)
			}
			if version == 5 && !strings.Contains(pk.Properties.ReasonString, tt.reason) {
				t.Errorf("%s %s: the reason is %q", tt.topicName, tt.payload, pk.Properties.ReasonString)
			}
		}
		mine := s.notify(`{"account":"alice","title":"Still here","devices":["` + device + `"]}`)
		if pk := next(t, c); pk.FixedHeader.Type != packets.Publish || !strings.Contains(string(pk.Payload), mine) {
			t.Errorf("MQTT %d: got %+v", version, pk)
		}
	}
	s.wantTimeline(foreign, "accepted", "published") // nothing of it counts
	pk := next(t, bob)
	events := s.events("?account=bob")
	if err := bob.Puback(pk.PacketID); err != nil {
		t.Fatal(err)
	}
	events.until("received", foreign)
}

// TestForeignAcksAreCounted on the hook itself: no metric shows it yet.
func TestForeignAcksAreCounted(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	out, err := store.New(store.Options{Open: memory.Open, Logger: log, History: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	core := delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: time.Minute, Fallback: 2 * time.Minute}, Ack: delivery.AckReceived, TTL: time.Hour,
		MaxOutstanding: 10, MaxInflight: 10, ForgetDeviceAfter: time.Hour,
	}, out, nil, log)
	if err := core.Start(); err != nil {
		t.Fatal(err)
	}
	m := mqtt.New(&mqtt.Options{Logger: log})
	hook := hooks.New(m, core, hooks.Options{TopicPrefix: "heartline", MaxKeepalive: time.Minute, WriteTimeout: time.Second, MaxWaiting: 10}, log)
	if err := m.AddHook(hook, nil); err != nil {
		t.Fatal(err)
	}
	l := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := m.AddListener(l); err != nil {
		t.Fatal(err)
	}
	if err := m.Serve(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = m.Close()
		_ = hook.Stop()
		_ = core.Stop(t.Context())
	}()
	s := &server{t: t, mqtt: l.Address()}
	s.raw(5, "bob", "tablet")
	c := s.raw(5, "alice", "phone")
	r, err := core.Accept(t.Context(), delivery.Request{Account: "bob", Title: "For Bob"})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{r.Notification.ID, r.Notification.ID, "unheard-of"} {
		if err := c.Publish(uint16(i+10), 1, own+"acks", []byte(`{"id":"`+id+`","status":"displayed"}`)); err != nil {
			t.Fatal(err)
		}
		if pk := next(t, c); pk.ReasonCode != 0x87 {
			t.Errorf("got 0x%02x", pk.ReasonCode)
		}
	}
	if got := hook.Counters.UnknownAcks.Load(); got != 3 {
		t.Errorf("counted %d, want 3", got)
	}
}

// TestFlappingApp: ten changes of the app state a second, while messages come. What
// is received is each message once, in order.
func TestFlappingApp(t *testing.T) {
	s := serve(t, unhurried)
	d := s.play("--background")
	d.line("up")
	events := s.events("?account=alice")
	var want []string
	for i := range 20 { // 2 s
		d.signal(t, []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2}[i%2])
		want = append(want, s.notify(fmt.Sprintf(`{"account":"alice","title":"Hello","data":%d}`, i)))
		time.Sleep(100 * time.Millisecond) // the rate is what is tested
	}
	d.signal(t, syscall.SIGUSR1)
	for _, id := range want {
		events.until("message_received", id)
	}
	var notifications, messages []string
	for i := 0; len(messages) < len(want) || i < d.stdout.len(); i++ {
		line, _, err := d.stdout.find(i, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		var got shown
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		switch got.Event {
		case "tip", "notice":
			notifications = append(notifications, got.Notification.ID)
		case "message":
			messages = append(messages, got.Message.ID)
		}
	}
	if !slices.Equal(notifications, want) || !slices.Equal(messages, want) {
		t.Errorf("notifications %v\nmessages %v\nwant %v", notifications, messages, want)
	}
	for _, id := range want {
		if got := s.notification(id); len(slices.DeleteFunc(kinds(got), func(k string) bool { return k != "published" && k != "redelivered" })) != 1 {
			t.Errorf("%s was published more than once: %v", id, kinds(got))
		}
	}
}

// TestLargeMessage: 256 KiB of data arrive whole; one byte more is refused.
func TestLargeMessage(t *testing.T) {
	s := serve(t)
	d := s.play("--foreground")
	d.line("up")
	data := `"` + strings.Repeat("é", (256<<10-2)/2) + `"`
	if len(data) != 256<<10 {
		t.Fatal(len(data))
	}
	id := s.notify(`{"account":"alice","title":"Large","data":` + data + `}`)
	d.line("notice")
	if got := d.line("message").Message; got.ID != id || string(got.Data) != data {
		t.Errorf("got %d bytes", len(got.Data))
	}
	if status, b := s.call(http.MethodPost, "/v1/notifications", `{"account":"alice","title":"Larger","data":"a`+data[1:]+`}`); status != http.StatusUnprocessableEntity || !strings.Contains(string(b), "data") {
		t.Errorf("got %d %s", status, b)
	}
}

// TestDeviceThatAcksNothing: it is sent the notification again after its next
// heartbeat, nobody else waits for it, and the notification expires.
func TestDeviceThatAcksNothing(t *testing.T) {
	s := serve(t, "HEARTLINE_DELIVERY_ACK_WINDOW=200ms", "HEARTLINE_DELIVERY_FALLBACK_WINDOW=1s")
	silent := s.raw(5, "alice", "phone")
	fine := s.play("--device", "tablet", "--background")
	fine.line("up")
	events := s.events("?account=alice")
	id := s.notify(`{"account":"alice","title":"Hello","data":1,"ttl":"3s"}`)
	if got := fine.line("tip").Notification; got.ID != id {
		t.Errorf("got %+v", got)
	}
	if pk := next(t, silent); pk.FixedHeader.Type != packets.Publish {
		t.Fatalf("got %+v", pk)
	}
	events.until("waiting", id)
	if err := silent.Ping(); err != nil {
		t.Fatal(err)
	}
	events.until("redelivered", id)
	events.until("expired", id)
	var published int
	for _, e := range s.notification(id).Timeline {
		if e.Device == "phone" {
			switch e.Event {
			case "published", "redelivered":
				published++
			case "received", "message_sent":
				t.Errorf("got %+v", e)
			}
		}
	}
	if published != 2 {
		t.Errorf("published %d times", published)
	}
	s.must(http.MethodGet, "/v1/accounts/alice/devices/phone", "", nil) // still up: a missed ack closes nothing
}
