package hooks_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// limited is a client that counts its unacknowledged messages.
type limited struct {
	*rawmqtt.Client
	t       *testing.T
	maximum int
	open    []packets.Packet
}

// fill reads until the window is full, and then a PINGRESP: nothing else may come.
func (l *limited) fill() {
	l.t.Helper()
	for len(l.open) < l.maximum {
		pk := next(l.t, l.Client)
		if pk.FixedHeader.Type != packets.Publish {
			l.t.Fatalf("got a packet of type %d with %d messages open of %d", pk.FixedHeader.Type, len(l.open), l.maximum)
		}
		l.open = append(l.open, pk)
	}
	must(l.t, l.Ping())
	if pk := next(l.t, l.Client); pk.FixedHeader.Type != packets.Pingresp {
		l.t.Fatalf("%d messages are open, and %q came", len(l.open), pk.Payload)
	}
}

// finish ends the exchange of the oldest message and returns it. A message of
// QoS 2 whose payload says so is refused.
func (l *limited) finish() packets.Packet {
	l.t.Helper()
	pk := l.open[0]
	l.open = l.open[1:]
	if pk.FixedHeader.Qos == 1 {
		must(l.t, l.Puback(pk.PacketID))
		return pk
	}
	rec := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: pk.PacketID}
	if strings.HasSuffix(string(pk.Payload), "refused") {
		rec.ReasonCode = packets.ErrQuotaExceeded.Code
		must(l.t, l.Send(rec))
		return pk
	}
	must(l.t, l.Send(rec))
	if rel := next(l.t, l.Client); rel.FixedHeader.Type != packets.Pubrel || rel.PacketID != pk.PacketID { // the place is still taken
		l.t.Fatalf("got %+v, want the PUBREL of %d", rel.FixedHeader, pk.PacketID)
	}
	must(l.t, l.Ping())
	if next := next(l.t, l.Client); next.FixedHeader.Type != packets.Pingresp {
		l.t.Fatalf("%q came before the PUBCOMP of another", next.Payload)
	}
	must(l.t, l.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: pk.PacketID}))
	return pk
}

func (s *site) limited(o rawmqtt.Connect, filters ...string) *limited {
	s.Helper()
	l := &limited{Client: s.connect(5, o), t: s.T, maximum: int(o.ReceiveMaximum)}
	if len(filters) > 0 {
		_, err := l.Subscribe(1, 2, filters...)
		must(s.T, err)
	}
	return l
}

// publish sends messages and returns when they are routed.
func (s *site) publish(c *rawmqtt.Client, topicName string, payloads ...string) {
	s.Helper()
	for i, p := range payloads {
		qos := byte(1)
		if strings.Contains(p, "twice") {
			qos = 2
		}
		must(s.T, c.Publish(uint16(i+1), qos, topicName, []byte(p)))
	}
	must(s.T, c.Ping())
	for pk := next(s.T, c); pk.FixedHeader.Type != packets.Pingresp; pk = next(s.T, c) {
		if pk.FixedHeader.Type == packets.Pubrec {
			must(s.T, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: pk.PacketID}))
		}
	}
}

func numbered(n int) (out []string) {
	for i := range n {
		p := fmt.Sprint(i)
		switch i % 7 {
		case 3:
			p += " twice"
		case 5:
			p += " twice, refused"
		}
		out = append(out, p)
	}
	return out
}

// TestReceiveMaximumOfOrdinaryMessages: never more ordinary messages without an acknowledgement than
// the client takes, all of them, in their order (MQTT 5 §4.9).
func TestReceiveMaximumOfOrdinaryMessages(t *testing.T) {
	for _, maximum := range []uint16{1, 2, 5} {
		s := newSite(t)
		c := s.limited(rawmqtt.Connect{ID: "c", Clean: true, ReceiveMaximum: maximum}, "n")
		want := numbered(40)
		s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", want...)
		var got []string
		for len(got) < len(want) {
			c.maximum = min(int(maximum), len(want)-len(got))
			c.fill()
			got = append(got, string(c.finish().Payload))
		}
		if !slices.Equal(got, want) {
			t.Errorf("maximum %d: got %q", maximum, got)
		}
	}
}

// TestReceiveMaximumOfBoth: notifications and ordinary messages share the places,
// and take turns where both wait.
func TestReceiveMaximumOfBoth(t *testing.T) {
	for maximum, want := range map[uint16]string{1: "onononononon", 3: "ooononononnn"} {
		s := newSite(t)
		phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", Clean: true, ReceiveMaximum: maximum})
		c := &limited{Client: phone, t: t, maximum: int(maximum)}
		_, err := c.Subscribe(2, 2, "n")
		must(t, err)
		p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
		s.publish(p, "n", "0", "1", "2", "3", "4", "5")
		// Routed is not sent: places go to the first that come.
		for len(c.open) < c.maximum {
			c.open = append(c.open, next(t, c.Client))
		}
		events := s.subscribe()
		for range 6 {
			s.notify(delivery.Request{Account: "anna"})
		}
		for accepted, published := 0, 0; accepted < 6 || published < c.maximum; {
			switch e := s.event(events); e.Kind {
			case delivery.EventAccepted:
				accepted++
			case delivery.EventPublished:
				published++
			}
		}
		var kinds string
		for len(kinds) < 12 {
			c.maximum = min(int(maximum), 12-len(kinds))
			c.fill()
			if pk := c.finish(); pk.TopicName == "n" {
				kinds += "o"
			} else {
				kinds += "n"
			}
		}
		if kinds != want {
			t.Errorf("maximum %d: they came as %s, want %s", maximum, kinds, want)
		}
	}
}

// TestReceiveMaximumOfSession: what a session has in store is sent within the
// Receive Maximum of the connection that gets it, which may be another one's.
func TestReceiveMaximumOfSession(t *testing.T) {
	s := newSite(t)
	o := rawmqtt.Connect{ID: "c", SessionExpiry: 3600, ReceiveMaximum: 3}
	c := s.limited(o, "n")
	want := numbered(20)
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "n", want...)
	c.fill()
	got := []string{string(c.finish().Payload)}
	c.fill()
	sent := 1 + len(c.open)

	o.ReceiveMaximum = 2
	c = s.limited(o) // takes the session over
	for len(got) < len(want) {
		c.maximum = min(2, len(want)-len(got))
		c.fill()
		pk := c.finish()
		if again := len(got) < sent; pk.FixedHeader.Dup != again { // [MQTT-3.3.1-1]
			t.Errorf("%s: DUP %v", pk.Payload, pk.FixedHeader.Dup)
		}
		got = append(got, string(pk.Payload))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestReceiveMaximumWithoutAcknowledgement: a message that is too large for the
// client, or has expired while it waited, takes no place and blocks none.
func TestReceiveMaximumWithoutAcknowledgement(t *testing.T) {
	s := newSite(t)
	c := s.limited(rawmqtt.Connect{ID: "c", Clean: true, ReceiveMaximum: 2, MaximumPacketSize: 100}, "n")
	p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
	large := strings.Repeat("x", 200)
	s.publish(p, "n", large, "0", large, "1", large, "2")
	must(t, p.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "n", Payload: []byte("at most once"),
		Properties: packets.Properties{MessageExpiryInterval: 1},
	}))
	must(t, p.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 9, TopicName: "n", Payload: []byte("expires"),
		Properties: packets.Properties{MessageExpiryInterval: 1},
	}))
	next(t, p)
	s.publish(p, "n", "3", large, "4")
	c.fill()
	s.ahead.Store(int64(time.Minute))
	for i := range 5 {
		c.maximum = min(2, 5-i)
		c.fill()
		if pk := c.finish(); string(pk.Payload) != fmt.Sprint(i) {
			t.Errorf("got %q, want %d", pk.Payload, i)
		}
	}
	must(t, c.Ping())
	next(t, c.Client)
	if n, held := s.hub.Stats().TooLarge, s.hub.Stats().Inflight; n != 4 || held != 0 {
		t.Errorf("%d counted as too large, %d left in flight", n, held)
	}
}

// TestReceiveMaximumOfNotificationThatIsNotSent: it gives its place back.
func TestReceiveMaximumOfNotificationThatIsNotSent(t *testing.T) {
	s := newSite(t)
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", ReceiveMaximum: 1, MaximumPacketSize: 450})
	s.notify(delivery.Request{Account: "anna", Body: strings.Repeat("x", 500)})
	n := s.notify(delivery.Request{Account: "anna"})
	if got := pseudo(t, next(t, c)).ID; got != n.ID {
		t.Errorf("got %s, want %s", got, n.ID)
	}
}

// TestReceiveMaximumBesideABurst: a client with a limit, one without, and many who
// publish at once.
func TestReceiveMaximumBesideABurst(t *testing.T) {
	s := newSite(t)
	const publishers, each = 4, 200
	c := s.limited(rawmqtt.Connect{ID: "c", Clean: true, ReceiveMaximum: 7}, "n")
	for i := range publishers {
		p := s.connect(5, rawmqtt.Connect{ID: fmt.Sprint("p", i), Clean: true})
		go func() {
			for range each {
				_ = p.Publish(1, 1, "n", []byte("x")) // counted on the other side
				_, _ = p.Read(0)
			}
		}()
	}
	for i := range publishers * each {
		if i%10 == 0 {
			c.maximum = min(7, publishers*each-i)
			c.fill()
		}
		if len(c.open) == 0 {
			c.open = append(c.open, next(t, c.Client))
		}
		if len(c.open) > 7 {
			t.Fatalf("%d open", len(c.open))
		}
		c.finish()
	}
	if n := s.hub.Stats().Dropped; n != 0 {
		t.Errorf("%d dropped", n)
	}
}

// TestServersReceiveMaximum: a client of MQTT 5 that has more exchanges of QoS 2 open than
// the CONNACK allows is cut off. MQTT 3.1.1 has no Receive Maximum.
func TestServersReceiveMaximum(t *testing.T) {
	const maximum = 1024
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		c := s.connect(version, rawmqtt.Connect{ID: "c", Clean: true})
		for id := range uint16(maximum) {
			must(t, c.Publish(id+1, 2, "n", nil))
		}
		for id := range uint16(maximum) {
			if pk := next(t, c); pk.FixedHeader.Type != packets.Pubrec || pk.PacketID != id+1 {
				t.Fatalf("version %d: got %+v, want PUBREC %d", version, pk.FixedHeader, id+1)
			}
		}
		must(t, c.Publish(maximum+1, 2, "n", nil))
		switch pk := next(t, c); {
		case version == 4 && (pk.FixedHeader.Type != packets.Pubrec || pk.PacketID != maximum+1):
			t.Errorf("MQTT 3.1.1: got %+v, want PUBREC %d", pk.FixedHeader, maximum+1)
		case version == 5 && (pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrReceiveMaximum.Code):
			t.Errorf("MQTT 5: got %+v 0x%02x, want DISCONNECT 0x93", pk.FixedHeader, pk.ReasonCode)
		}
	}
}

// TestTopicAliases: the alias comes with the topic name first, and alone after
// that; the next connection starts over; no more than the client takes.
func TestTopicAliases(t *testing.T) {
	s := newSite(t)
	p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
	connect := func() *rawmqtt.Client {
		c := dial(t, s.address, 5)
		must(t, c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Connect},
			Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "c", Keepalive: 60},
			Properties:  packets.Properties{TopicAliasMaximum: 2, SessionExpiryInterval: 60, SessionExpiryIntervalFlag: true},
		}))
		if pk := next(t, c); pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != 0 {
			t.Fatalf("got %+v", pk)
		}
		return c
	}
	expect := func(c *rawmqtt.Client, topicName string, alias uint16) {
		t.Helper()
		pk := next(t, c)
		if pk.FixedHeader.Type != packets.Publish || pk.TopicName != topicName || pk.Properties.TopicAlias != alias {
			t.Errorf("got %q with alias %d, want %q with %d", pk.TopicName, pk.Properties.TopicAlias, topicName, alias)
		}
	}
	c := connect()
	_, err := c.Subscribe(1, 2, "#")
	must(t, err)
	for range 2 {
		s.publish(p, "first topic", "0", "1 twice")
		s.publish(p, "topic two", "2")
		s.publish(p, "topic three", "3")
		s.publish(p, "x", "4")
	}
	for _, want := range []struct {
		topicName string
		alias     uint16
	}{
		{"first topic", 1}, {"", 1}, {"topic two", 2}, {"topic three", 0}, {"x", 0},
		{"", 1}, {"", 1}, {"", 2}, {"topic three", 0}, {"x", 0},
	} {
		expect(c, want.topicName, want.alias)
	}
	c = connect()
	for _, want := range []struct {
		topicName string
		alias     uint16
	}{{"first topic", 1}, {"", 1}, {"topic two", 2}, {"topic three", 0}, {"x", 0}, {"", 1}} {
		expect(c, want.topicName, want.alias)
	}
}

// TestTopicAliasOfWhatWaits: a message that waits for a place has told the client
// nothing, and one that is published meanwhile does not overtake it.
func TestTopicAliasOfWhatWaits(t *testing.T) {
	s := newSite(t)
	c := dial(t, s.address, 5)
	must(t, c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "c", Keepalive: 60, Clean: true},
		Properties:  packets.Properties{TopicAliasMaximum: 5, ReceiveMaximum: 1},
	}))
	next(t, c)
	_, err := c.Subscribe(1, 1, "#")
	must(t, err)
	p := s.connect(5, rawmqtt.Connect{ID: "p", Clean: true})
	s.publish(p, "has the place", "0")
	first := next(t, c)
	s.publish(p, "has to wait", "1")
	must(t, p.Publish(0, 0, "has to wait", []byte("at most once")))
	must(t, c.Puback(first.PacketID))
	if pk := next(t, c); string(pk.Payload) != "1" || pk.TopicName != "has to wait" || pk.Properties.TopicAlias != 2 {
		t.Errorf("got %q on %q", pk.Payload, pk.TopicName)
	}
	if pk := next(t, c); string(pk.Payload) != "at most once" || pk.TopicName != "" || pk.Properties.TopicAlias != 2 {
		t.Errorf("got %q on %q", pk.Payload, pk.TopicName)
	}
}

// TestTopicAliasThatWouldBeTooMuch: the bytes of an alias do not put a message over
// the client's Maximum Packet Size.
func TestTopicAliasThatWouldBeTooMuch(t *testing.T) {
	s := newSite(t)
	c := dial(t, s.address, 5)
	must(t, c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: "c", Keepalive: 60, Clean: true},
		Properties:  packets.Properties{TopicAliasMaximum: 5, MaximumPacketSize: 100},
	}))
	next(t, c)
	_, err := c.Subscribe(1, 0, "#")
	must(t, err)
	s.publish(s.connect(5, rawmqtt.Connect{ID: "p", Clean: true}), "four", strings.Repeat("x", 100-2-6-1), "short") // 2 of the fixed header, 6 of the topic name, 1 of the properties
	for _, alias := range []uint16{0, 1} {
		if pk := next(t, c); pk.TopicName != "four" || pk.Properties.TopicAlias != alias {
			t.Errorf("%d bytes on %q with alias %d", pk.FixedHeader.Remaining, pk.TopicName, pk.Properties.TopicAlias)
		}
	}
}

// TestLargeSubscribeAnswer: a SUBACK or an UNSUBACK that the client's Maximum Packet Size does not
// allow ends the connection [MQTT-3.1.2-24].
func TestLargeSubscribeAnswer(t *testing.T) {
	s := newSite(t)
	var filters []packets.Subscription
	for i := range 60 {
		filters = append(filters, packets.Subscription{Filter: fmt.Sprint("n/", i)})
	}
	for _, kind := range []byte{packets.Subscribe, packets.Unsubscribe} {
		c := s.connect(5, rawmqtt.Connect{ID: "c", Clean: true, MaximumPacketSize: 64})
		for _, n := range []int{59, 60} {
			must(t, c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind, Qos: 1}, PacketID: 1, Filters: filters[:n]}))
			pk := next(t, c)
			if fits := n == 59; fits != (pk.FixedHeader.Type == kind+1) || !fits && pk.ReasonCode != packets.ErrPacketTooLarge.Code {
				t.Errorf("type %d with %d filters: got %+v", kind, n, pk)
			}
		}
	}
}
