package hooks_test

import (
	"bytes"
	"fmt"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

func withRules(rules ...hooks.AccessRule) func(*hooks.Options) {
	return func(o *hooks.Options) { o.Access = rules }
}

// TestAccessToOrdinaryTopics: a subscription to forbidden topics is refused, and
// a wider one does not deliver the forbidden topics; a publish is refused in MQTT 5 and
// dropped in MQTT 3.1.1, whose connection goes on.
func TestAccessToOrdinaryTopics(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			s := newSite(t, withRules(
				hooks.AccessRule{Username: "anna", TopicFilter: "secret/#", Write: true},
				hooks.AccessRule{Username: "ben", TopicFilter: "in/%u", Read: true, Write: true},
				hooks.AccessRule{Username: "ben", TopicFilter: "in/#"},
			))
			anna := s.connect(version, rawmqtt.Connect{ID: "a", Username: "anna", Clean: true})
			ben := s.connect(version, rawmqtt.Connect{ID: "b", Username: "ben", Clean: true})
			refused := map[byte]byte{4: 0x80, 5: 0x87}[version]
			codes, err := anna.Subscribe(1, 1, "secret/x", "secret/#", "$share/g/secret/x", "#")
			must(t, err)
			if fmt.Sprint(codes) != fmt.Sprint([]byte{refused, refused, refused, 1}) {
				t.Errorf("SUBACK %x", codes)
			}

			must(t, anna.Publish(1, 1, "secret/x", []byte("kept back")))
			must(t, anna.Publish(2, 1, "open", []byte("delivered")))
			next(t, anna) // PUBACK
			for {
				pk := next(t, anna)
				if pk.FixedHeader.Type == packets.Publish {
					if pk.TopicName != "open" {
						t.Errorf("delivered: %s", pk.TopicName)
					}
					break
				}
			}

			watch := s.connect(5, rawmqtt.Connect{ID: "w", Username: "watch", Clean: true})
			_, err = watch.Subscribe(1, 0, "in/#")
			must(t, err)
			for id, topicName := range []string{"in/anna", "in/ben"} {
				for qos := byte(1); qos <= 2; qos++ {
					must(t, ben.Publish(uint16(10*id)+uint16(qos), qos, topicName, nil))
					want := byte(0)
					if topicName == "in/anna" && version == 5 {
						want = packets.ErrNotAuthorized.Code
					}
					if pk := next(t, ben); pk.ReasonCode != want || pk.PacketID != uint16(10*id)+uint16(qos) {
						t.Errorf("%s at QoS %d: %+v, want code %x", topicName, qos, pk.FixedHeader, want)
					}
				}
			}
			if pk := next(t, watch); pk.TopicName != "in/ben" {
				t.Errorf("%s was published", pk.TopicName)
			}
			if n := s.hook.Counters.Refused.Load(); n != 2 {
				t.Errorf("%d publishes counted as refused", n)
			}
		})
	}
}

// TestRefusalsInOrder: publishes are acknowledged in their order, whether they are taken or not
// [MQTT-4.6.0-2] [MQTT-4.6.0-3].
func TestRefusalsInOrder(t *testing.T) {
	s := newSite(t, withRules(hooks.AccessRule{TopicFilter: "secret"}))
	for _, version := range []byte{4, 5} {
		for _, qos := range []byte{1, 2} {
			c := s.connect(version, rawmqtt.Connect{ID: fmt.Sprint(version, qos), Clean: true})
			const many = 500
			var out bytes.Buffer
			for id := range uint16(many) {
				pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, ProtocolVersion: version, PacketID: id + 1, TopicName: "open"}
				if id%2 == 0 {
					pk.TopicName = "secret"
				}
				must(t, pk.PublishEncode(&out))
			}
			_, err := c.Conn.Write(out.Bytes())
			must(t, err)
			for id := range uint16(many) {
				if pk := next(t, c); pk.PacketID != id+1 {
					t.Errorf("version %d, QoS %d: %d is acknowledged in the place of %d", version, qos, pk.PacketID, id+1)
					break
				}
			}
		}
	}
}

// TestAccessByAlias: a topic alias does not lead past the rules. mochi asks about
// the empty name.
func TestAccessByAlias(t *testing.T) {
	s := newSite(t, withRules(hooks.AccessRule{TopicFilter: "secret"}))
	c := s.connect(5, rawmqtt.Connect{ID: "a", Clean: true})
	for i, topicName := range []string{"secret", ""} {
		must(t, c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: uint16(i + 1), TopicName: topicName,
			Properties: packets.Properties{TopicAlias: 1, TopicAliasFlag: true},
		}))
		if pk := next(t, c); pk.ReasonCode != packets.ErrNotAuthorized.Code {
			t.Errorf("%q: PUBACK 0x%02x", topicName, pk.ReasonCode)
		}
	}
}

// TestAccessOfWill: mochi publishes a will without asking anyone.
func TestAccessOfWill(t *testing.T) {
	s := newSite(t, withRules(hooks.AccessRule{TopicFilter: "secret", Read: true}))
	for version, want := range map[byte]byte{4: 5, 5: packets.ErrNotAuthorized.Code} {
		c := dial(t, s.address, version)
		if pk, err := c.Connect(rawmqtt.Connect{ID: "a", Clean: true, Keepalive: 60, WillTopic: "secret", WillPayload: "x"}); err != nil || pk.ReasonCode != want {
			t.Errorf("version %d: CONNACK 0x%02x %v", version, pk.ReasonCode, err)
		}
		s.connect(version, rawmqtt.Connect{ID: "b", Clean: true, WillTopic: "open", WillPayload: "x"})
		for _, topicName := range []string{"$share/g/t", "$share", "$SYS/broker/x", "$sys"} { // as a PUBLISH to them
			c := dial(t, s.address, version)
			if pk, err := c.Connect(rawmqtt.Connect{ID: "c", Clean: true, Keepalive: 60, WillTopic: topicName, WillPayload: "x"}); err != nil || pk.ReasonCode != want {
				t.Errorf("version %d, will to %s: CONNACK 0x%02x %v", version, topicName, pk.ReasonCode, err)
			}
		}
		s.connect(version, rawmqtt.Connect{ID: "d", Clean: true, WillTopic: "$SYSTEM/x", WillPayload: "x"}) // none of ours
	}
}

// TestPluginLeavesOrdinaryTopics: what another hook of the server forbids stays
// forbidden, though mochi lets pass what any hook lets pass.
func TestPluginLeavesOrdinaryTopics(t *testing.T) {
	s := newSite(t, func(o *hooks.Options) { o.HostAuth = true })
	must(t, s.server.AddHook(&guard{}, nil))
	c := s.connect(5, rawmqtt.Connect{ID: "phone", Username: "anna", Clean: true})
	codes, err := c.Subscribe(1, 1, "secret", "open", topicOf("phone", "notifications"))
	must(t, err)
	if want := []byte{packets.ErrNotAuthorized.Code, 1, 1}; string(codes) != string(want) {
		t.Errorf("SUBACK %x, want %x", codes, want)
	}
	must(t, c.Publish(1, 1, "secret", nil))
	if pk := next(t, c); pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("PUBACK 0x%02x", pk.ReasonCode)
	}
	must(t, c.Publish(2, 1, "open", nil))
	for range 2 {
		if pk := next(t, c); pk.ReasonCode != 0 {
			t.Errorf("got %+v", pk)
		}
	}
	must(t, c.Publish(3, 1, topicOf("phone", "state"), []byte(`{"app":"background"}`)))
	if pk := next(t, c); pk.ReasonCode != 0 {
		t.Errorf("the device's own topic: 0x%02x", pk.ReasonCode)
	}
}

// guard is someone's hook that lets everyone in, and lets pass the topic `open`.
type guard struct{ mqtt.HookBase }

func (*guard) ID() string { return "guard" }

func (*guard) Provides(b byte) bool { return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck }

func (*guard) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*guard) OnACLCheck(_ *mqtt.Client, topic string, _ bool) bool { return topic == "open" }

// TestNoSharedTopicsOfOurs: a shared subscription below the prefix would bring nothing, and
// so would $SHARE. They are not granted in silence.
func TestNoSharedTopicsOfOurs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for version, want := range map[byte]byte{4: 0x80, 5: packets.ErrSharedSubscriptionsNotSupported.Code} {
		c := s.connect(version, rawmqtt.Connect{ID: "phone", Clean: true})
		codes, err := c.Subscribe(1, 1, "$share/g/"+topicOf("phone", "notifications"), "$share/g/heartline/devices/#", topicOf("phone", "notifications"), "$share/g/x")
		if err != nil || codes[0] != want || codes[1] != want || codes[2] != 1 || codes[3] != 1 {
			t.Errorf("version %d: %x %v, want 0x%02x twice", version, codes, err, want)
		}
		codes, err = c.Subscribe(2, 1, "$share/g/heartline/accounts/a/events", "$share/g/heartline/accounts/+/events", "$share/g/heartline/#", "$share/g/heartline/clients/phone/refusals")
		if err != nil || !bytes.Equal(codes, bytes.Repeat([]byte{want}, 4)) {
			t.Errorf("version %d: %x %v, want 0x%02x four times", version, codes, err, want)
		}
		if version == 5 {
			want = packets.ErrTopicFilterInvalid.Code
		}
		codes, err = c.Subscribe(3, 1, "$SHARE/g/x", "$Share/g/heartline/accounts/a/events", "$shared/x")
		if err != nil || codes[0] != want || codes[1] != want || codes[2] != 1 {
			t.Errorf("version %d: %x %v, want 0x%02x twice", version, codes, err, want)
		}
	}
}

// TestAccessOfWillLater: a will is judged by the rules that are in force when it is
// published, with the same exception for a bridge's state as at the CONNECT.
func TestAccessOfWillLater(t *testing.T) {
	s := newSite(t)
	state := ordinary.ConnectionTopics + "b/state"
	watch := s.connect(5, rawmqtt.Connect{ID: "watch", Username: "watch", Clean: true})
	if codes, err := watch.Subscribe(1, 0, "#", state); err != nil || len(codes) != 2 {
		t.Fatal(codes, err)
	}
	wills := map[string]string{"a": "status/a", "b": state, "c": "status/c"}
	for _, id := range []string{"a", "b", "c"} {
		s.connect(5, rawmqtt.Connect{ID: id, Username: id, Clean: true, WillTopic: wills[id], WillPayload: "gone", WillRetain: true})
	}
	s.hook.Reconfigure(hooks.Rules{Access: []hooks.AccessRule{
		{Username: "watch", TopicFilter: "#", Read: true},
		{Username: "watch", TopicFilter: "$SYS/#", Read: true},
		{Username: "c", TopicFilter: "status/c", Write: true},
		{TopicFilter: "#"},
		{TopicFilter: "$SYS/#"},
	}})
	for _, id := range []string{"a", "b", "c"} { // the take-over ends the session, with its will
		s.connect(5, rawmqtt.Connect{ID: id, Username: id, Clean: true})
	}
	for _, want := range []string{state, "status/c"} {
		if pk := next(t, watch); pk.TopicName != want {
			t.Errorf("got %s, want %s", pk.TopicName, want)
		}
	}
	if n := s.hub.Stats().Retained; n != 2 {
		t.Errorf("%d messages are retained", n)
	}
}
