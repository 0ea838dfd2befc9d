package attack

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// metric reads one sample without labels.
func (t *target) metric(name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(t.call("GET", "/metrics", serviceToken, "").body)
	if m == nil {
		t.Fatalf("no metric %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// bob connects a client of bob's that may use topics below bob/.
func (t *target) bob(id string, o rawmqtt.Connect) (c *rawmqtt.Client, code byte) {
	t.Helper()
	c = t.dial("tcp", 5)
	o.ID, o.Username, o.Password, o.Keepalive = id, "bob", "bob", 60
	pk, err := c.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, pk.ReasonCode
}

// TestLimits: each limit is attacked by an account with every right to its own topics. It
// is refused with the limit's reason code, counted, and bothers nobody else; a service
// has no limit.
func TestLimits(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
		a.cfg.Auth.ACL = []config.ACLEntry{{Filter: "{account}/#", Access: "readwrite"}}
		a.cfg.MQTT.Limits = config.MQTTLimits{
			TopicLevels: 10, Subscriptions: 5, PublishRate: 50, RetainedBytes: 8 << 10, Sessions: 4, Devices: 2, SessionBytes: 64 << 10,
		}
	})
	a.victim("alice")
	over := packets.ErrQuotaExceeded.Code
	// attack runs one row: do counts the refusals with the limit's own code, of which some
	// must be counted in the metric.
	attack := func(key, metric string, do func() (refused int)) {
		t.Helper()
		rows.Add(1)
		before := a.metric(metric)
		refused := do()
		if counted := a.metric(metric) - before; refused == 0 || counted < float64(refused) {
			t.Errorf("mqtt.limits.%s: %d refused, %s counts %v", key, refused, metric, counted)
		}
		a.unharmed(key)
	}
	const limited = "heartline_mqtt_limited_total"
	publish := func(c *rawmqtt.Client, n int, topicName func(i int) string, size int, code byte) (refused int) {
		t.Helper()
		payload := []byte(strings.Repeat("x", size))
		for i := range n {
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: size > 100}, PacketID: uint16(i + 1), TopicName: topicName(i), Payload: payload}
			if err := c.Send(pk); err != nil {
				t.Fatal(err)
			}
			ack, err := c.Read(10 * time.Second)
			if err != nil || ack.FixedHeader.Type != packets.Puback {
				t.Fatalf("PUBLISH %d: %+v %v", i, ack.FixedHeader, err)
			}
			if ack.ReasonCode == code {
				refused++
			} else if ack.ReasonCode >= 0x80 {
				t.Errorf("PUBLISH %d: 0x%02x, want 0x%02x", i, ack.ReasonCode, code)
			}
		}
		return refused
	}

	attack("topic_levels", limited, func() int {
		c, _ := a.bob("bob-levels", rawmqtt.Connect{Clean: true})
		defer c.Close()
		deep := "bob" + strings.Repeat("/x", 2000)
		codes, err := c.Subscribe(1, 1, deep)
		if err != nil || codes[0] != over {
			t.Errorf("SUBSCRIBE: %x %v", codes, err)
		}
		if _, code := a.bob("bob-will", rawmqtt.Connect{Clean: true, WillTopic: deep, WillPayload: "gone"}); code != over {
			t.Errorf("CONNECT with a will: 0x%02x", code)
		}
		return publish(c, 3, func(int) string { return deep }, 1, packets.ErrTopicNameInvalid.Code)
	})
	attack("subscriptions", limited, func() (refused int) {
		c, _ := a.bob("bob-subs", rawmqtt.Connect{Clean: true})
		defer c.Close()
		for i := range 25 {
			codes, err := c.Subscribe(uint16(i+1), 1, fmt.Sprint("bob/", i))
			if err != nil || codes[0] != 1 && codes[0] != over {
				t.Fatalf("%x %v", codes, err)
			}
			if codes[0] == over {
				refused++
			}
		}
		if refused != 20 {
			t.Errorf("%d of 25 subscriptions were refused, want 20", refused)
		}
		return refused
	})
	attack("publish_rate", limited, func() int {
		c, _ := a.bob("bob-rate", rawmqtt.Connect{Clean: true})
		defer c.Close()
		return publish(c, 80, func(int) string { return "bob/rate" }, 1, over)
	})
	attack("retained_bytes", limited, func() int {
		c, _ := a.bob("bob-retained", rawmqtt.Connect{Clean: true})
		defer c.Close()
		refused := publish(c, 20, func(i int) string { return fmt.Sprint("bob/r", i) }, 1000, over)
		if held := a.metric("heartline_mqtt_retained_bytes"); held > 10<<10+16<<10 { // and the server's own
			t.Errorf("%v bytes are retained", held)
		}
		return refused
	})
	attack("sessions", limited, func() (refused int) {
		for i := range 10 {
			c, code := a.bob(fmt.Sprint("bob-session-", i), rawmqtt.Connect{SessionExpiry: 3600})
			if code == over {
				refused++
			} else if code != 0 {
				t.Errorf("session %d: 0x%02x", i, code)
			}
			c.Close()
		}
		return refused
	})
	attack("devices", "heartline_mqtt_devices_refused_total", func() (refused int) {
		for i := range 4 { // under the sessions that he has
			id := fmt.Sprint("bob-session-", i)
			c, code := a.bob(id, rawmqtt.Connect{SessionExpiry: 3600})
			if code != 0 {
				continue
			}
			if codes, err := c.Subscribe(1, 1, "heartline/devices/"+id+"/notifications"); err != nil {
				t.Fatal(err)
			} else if codes[0] == over {
				refused++
			}
			c.Close()
		}
		return refused
	})
}

// TestLimitsAtOnce: a limit holds for clients that come together, and for one that comes
// again and again.
func TestLimitsAtOnce(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
		a.cfg.Auth.ACL = []config.ACLEntry{{Filter: "{account}/#", Access: "readwrite"}}
		a.cfg.MQTT.Limits = config.MQTTLimits{PublishRate: 50, Devices: 2, SessionBytes: 64 << 10}
	})
	const together = 8
	over := packets.ErrQuotaExceeded.Code
	// known has one account connect its devices, and only then makes each of them known.
	known := func(account string, begin func(c *rawmqtt.Client, id string) error, code func(packets.Packet) byte) {
		t.Helper()
		rows.Add(1)
		clients := make([]*rawmqtt.Client, together)
		id := func(i int) string { return fmt.Sprint(account, "-", i) }
		for i := range clients {
			clients[i] = a.dial("tcp", 5)
			if pk, err := clients[i].Connect(rawmqtt.Connect{ID: id(i), Username: account, Password: account, Clean: true, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
				t.Fatalf("0x%02x %v", pk.ReasonCode, err)
			}
		}
		for i, c := range clients {
			if err := begin(c, id(i)); err != nil {
				t.Fatal(err)
			}
		}
		granted := 0
		for i, c := range clients {
			pk, err := c.Read(10 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got := code(pk); got < 0x80 {
				granted++
			} else if got != over {
				t.Errorf("%s: 0x%02x", id(i), got)
			}
		}
		if granted != 2 {
			t.Errorf("%d devices of %s at once, want 2", granted, account)
		}
	}
	known("bob", func(c *rawmqtt.Client, id string) error {
		return c.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
			Filters: packets.Subscriptions{{Filter: "heartline/devices/" + id + "/notifications", Qos: 1}},
		})
	}, func(pk packets.Packet) byte { return pk.ReasonCodes[0] })
	known("alice", func(c *rawmqtt.Client, id string) error {
		return c.Publish(1, 1, "heartline/devices/"+id+"/push-token", fmt.Appendf(nil, `{"apns":{"token":"%064x","topic":"com.example.app"}}`, []byte(id)))
	}, func(pk packets.Packet) byte { return pk.ReasonCode })

	rows.Add(1)
	taken, begun := 0, time.Now()
	for range 10 {
		c, _ := a.bob("bob-again", rawmqtt.Connect{Clean: true})
		for n := range uint16(50) {
			if err := c.Publish(n+1, 1, "bob/x", nil); err != nil {
				t.Fatal(err)
			}
			pk, err := c.Read(10 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if pk.ReasonCode == over {
				break
			}
			taken++
		}
		c.Close()
	}
	if most := 50 * (1 + time.Since(begun).Seconds()); float64(taken) > most {
		t.Errorf("%d messages of a client that connects again, want %.0f at most", taken, most)
	}
}

// TestWideFilters: with authentication on a filter is granted that matches a topic which
// the client may read, and a message of any other topic is kept back.
func TestWideFilters(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
		a.cfg.Auth.ACL = []config.ACLEntry{{Filter: "{account}/#", Access: "readwrite"}}
	})
	a.victim("alice")
	for i, filter := range []string{"#", "+/x", "+/#", "$share/g/#"} {
		rows.Add(1)
		c, _ := a.bob(fmt.Sprint("bob-", i), rawmqtt.Connect{Clean: true})
		if codes, err := c.Subscribe(1, 0, filter); err != nil || codes[0] != 0 {
			t.Errorf("%s: %x %v, want it granted", filter, codes, err)
		}
		if err := a.alice.Publish(1, 1, "alice/x", []byte("hers")); err != nil {
			t.Fatal(err)
		}
		if pk, err := a.alice.Read(10 * time.Second); err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode >= 0x80 {
			t.Fatalf("alice publishes to her own topic: 0x%02x %v", pk.ReasonCode, err)
		}
		if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "bob/x", Payload: []byte("his")}); err != nil {
			t.Fatal(err)
		}
		if pk, err := c.Read(10 * time.Second); err != nil || string(pk.Payload) != "his" {
			t.Errorf("%s: %+v %q %v, want his own message first", filter, pk.FixedHeader, pk.Payload, err)
		}
		c.Close()
	}
	rows.Add(1)
	c, _ := a.bob("bob-narrow", rawmqtt.Connect{Clean: true})
	if codes, err := c.Subscribe(1, 0, "alice/#"); err != nil || codes[0] != packets.ErrNotAuthorized.Code {
		t.Errorf("alice/#: %x %v", codes, err)
	}
}
