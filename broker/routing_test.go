package broker

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestMochiRoutesNothing: on a server of our own mochi's index of subscriptions, its
// retained messages, and its clients' subscriptions and messages in flight stay empty,
// whatever clients do: hooks/ordinary has them all. In this run every message waits half
// way: devices, ordinary clients of both versions, members of a group and a bridge have
// messages of QoS 1 and 2 that they have not acknowledged, publishers have exchanges
// open, wills come, and sessions are taken over and taken up again.
func TestMochiRoutesNothing(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = t.TempDir(), "127.0.0.1:0", ""
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	m := &mixedRun{T: t, b: b}

	kept := func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 60, true
	}
	wide5, wide4 := m.join(5, "wide5", kept), m.join(4, "wide4", kept)
	m.subscribe(wide5, 2, "m/#", "m/+", "never")
	m.subscribe(wide4, 2, "m/#")
	for _, version := range []byte{4, 5} { // the only member of its group of the version
		m.subscribe(m.join(version, "member"+digit(version)), 1, "$share/g"+digit(version)+"/m/#")
	}
	zero, bridge := m.join(5, "zero"), m.join(4, "bridge", func(pk *packets.Packet) { pk.ProtocolVersion |= 0x80 })
	m.subscribe(zero, 0, "m/#")
	m.subscribe(bridge, 1, "m/#")
	phone, tablet := m.join(5, "phone"), m.join(4, "tablet", kept)
	m.subscribe(phone, 1, "heartline/devices/phone/notifications", "heartline/devices/phone/messages")
	m.subscribe(tablet, 2, "heartline/devices/tablet/#")
	m.empty("subscribed")

	for _, version := range []byte{4, 5} {
		p := m.join(version, "publisher"+digit(version))
		for qos := range byte(3) {
			for _, retain := range []bool{false, true} {
				m.publish(p, qos, "m/"+digit(version)+"/"+digit(qos), retain)
			}
		}
		m.publish(p, 1, "heartline/accounts/phone/notifications", false)
		m.publish(p, 1, "heartline/accounts/tablet/notifications", false)
	}
	m.publish(bridge, 2, "m/bridged", true)
	if err := b.server.Publish("m/server", []byte("x"), true, 2); err == nil {
		t.Error("the server has an inline client: publish by it here, too")
	}
	m.until(wide5, packets.Publish, "m/5/2") // its exchanges at QoS 2 are past PUBREC, or before it
	m.send(wide5, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: m.until(wide5, packets.Publish, "m/bridged").PacketID})
	m.until(wide5, packets.Pubrel, "")
	m.until(wide4, packets.Publish, "m/bridged")
	m.until(zero, packets.Publish, "m/bridged")
	m.until(phone, packets.Publish, "heartline/devices/phone/notifications")
	m.until(tablet, packets.Publish, "heartline/devices/tablet/notifications")
	if st := b.hub.Stats(); st.Subscriptions < 8 || st.Inflight < 20 || st.Retained < 7 {
		t.Errorf("the hub has %+v", st)
	}
	m.empty("half done")

	will := func(delay uint32) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos, pk.Connect.WillRetain = true, "m/"+pk.Connect.ClientIdentifier, []byte("gone"), 2, true
			pk.Connect.WillProperties.WillDelayInterval = delay
		}
	}
	m.join(4, "will4", will(0)).Close()
	m.until(zero, packets.Publish, "m/will4")
	m.join(5, "will5", kept, will(1)).Close()
	m.until(zero, packets.Publish, "m/will5")
	twice := m.join(5, "twice", will(0))
	m.send(twice, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "twice"}})
	m.until(zero, packets.Publish, "m/twice") // [MQTT-3.1.0-2]
	m.empty("after wills")

	wide5 = m.join(5, "wide5", kept) // a take-over
	m.until(wide5, packets.Publish, "m/will5")
	wide4.Close()
	m.publish(bridge, 2, "m/meanwhile", true)
	wide4 = m.join(4, "wide4", kept) // a session that is taken up again
	m.until(wide4, packets.Publish, "m/meanwhile")
	m.empty("taken over and taken up")

	m.send(wide5, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 7, Filters: packets.Subscriptions{{Filter: "m/+"}, {Filter: "nobody's"}}})
	m.until(wide5, packets.Unsuback, "")
	for i := range uint16(3) {
		m.send(bridge, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: i + 1})
	}
	m.until(bridge, packets.Pubcomp, "")
	m.empty("before the end")
	for _, c := range m.clients {
		c.Close()
	}
	if st := b.hub.Stats(); st.Sessions < 3 {
		t.Errorf("%d sessions are kept, want 3", st.Sessions)
	}
	m.empty("without clients")
}

func digit(n byte) string { return string(rune('0' + n)) }

// mixedRun plays clients that leave everything half done, and looks at mochi.
type mixedRun struct {
	*testing.T
	b       *Broker
	clients []*rawmqtt.Client
	topics  []string
	ids     map[*rawmqtt.Client]uint16
}

func (m *mixedRun) join(version byte, id string, with ...func(*packets.Packet)) *rawmqtt.Client {
	m.Helper()
	c, err := rawmqtt.Dial(m.b.MQTTAddr(), version)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(c.Close)
	m.clients = append(m.clients, c)
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: version,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id, Keepalive: 60, Clean: true},
	}
	for _, w := range with {
		w(&pk)
	}
	c.Version = pk.ProtocolVersion
	m.send(c, pk)
	c.Version = version
	if ack := m.until(c, packets.Connack, ""); ack.ReasonCode != 0 {
		m.Fatalf("%s: CONNACK 0x%02x", id, ack.ReasonCode)
	}
	return c
}

func (m *mixedRun) send(c *rawmqtt.Client, pk packets.Packet) {
	m.Helper()
	if err := c.Send(pk); err != nil {
		m.Fatal(err)
	}
}

func (m *mixedRun) subscribe(c *rawmqtt.Client, qos byte, filters ...string) {
	m.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 99}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	m.send(c, pk)
	if codes := m.until(c, packets.Suback, "").ReasonCodes; slices.Max(codes) > 2 {
		m.Fatalf("%v: SUBACK %x", filters, codes)
	}
}

// publish publishes and waits for the first answer: an exchange of QoS 2 stays open.
func (m *mixedRun) publish(c *rawmqtt.Client, qos byte, topicName string, retain bool) {
	m.Helper()
	payload := "x"
	if strings.HasPrefix(topicName, "heartline/") {
		payload = `{"title":"Anna","body":"Dinner?"}`
	}
	if m.ids == nil {
		m.ids = map[*rawmqtt.Client]uint16{}
	}
	m.ids[c]++
	m.topics = append(m.topics, topicName)
	m.send(c, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Retain: retain}, PacketID: m.ids[c], TopicName: topicName, Payload: []byte(payload)})
	if answer := []byte{0, packets.Puback, packets.Pubrec}[qos]; qos > 0 {
		if pk := m.until(c, answer, ""); pk.ReasonCode >= 0x80 {
			m.Fatalf("%s: 0x%02x", topicName, pk.ReasonCode)
		}
	}
}

// until reads up to a packet of that type and, where it has one, topic.
func (m *mixedRun) until(c *rawmqtt.Client, kind byte, topicName string) packets.Packet {
	m.Helper()
	for {
		pk, err := c.Read(30 * time.Second)
		if err != nil {
			m.Fatalf("no packet of type %d %s: %v", kind, topicName, err)
		}
		if pk.FixedHeader.Type == kind && (topicName == "" || pk.TopicName == topicName) {
			return pk
		}
	}
}

// empty reports what mochi has that hooks/ordinary is to have. mochi's own $SYS topics
// are in its index for the moment between its tick and the hook's.
func (m *mixedRun) empty(when string) {
	m.Helper()
	server := m.b.server
	for topicName := range server.Topics.Retained.GetAll() {
		if !strings.HasPrefix(topicName, "$SYS/broker/") {
			m.Errorf("%s: mochi has the retained message of %s", when, topicName)
		}
	}
	for _, topicName := range append([]string{"never", "m/will4", "m/will5", "heartline/devices/phone/notifications", "heartline/devices/tablet/notifications"}, m.topics...) {
		if s := server.Topics.Subscribers(topicName); len(s.Subscriptions)+len(s.Shared)+len(s.InlineSubscriptions) > 0 {
			m.Errorf("%s: mochi has subscriptions that match %s: %v %v", when, topicName, s.Subscriptions, s.Shared)
		}
	}
	if info := server.Info.Clone(); info.Subscriptions != 0 || info.Inflight != 0 {
		m.Errorf("%s: mochi counts %d subscriptions and %d messages in flight", when, info.Subscriptions, info.Inflight)
	}
	for id, cl := range server.Clients.GetAll() {
		if s, n := cl.State.Subscriptions.Len(), cl.State.Inflight.Len(); s != 0 || n != 0 {
			m.Errorf("%s: mochi's client %s has %d subscriptions and %d messages in flight", when, id, s, n)
		}
	}
}
