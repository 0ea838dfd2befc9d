package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// ruling is a case of ordinary MQTT as a script that looks at a broker from the outside
// and returns the faults. It is played to the program, and to Mosquitto, which is the
// judge where it is right by default.
type ruling struct {
	name   string
	script func(*court) error
	// differs says why Mosquitto has the fault, or another opinion; "": it must agree.
	differs string
}

var rulings = []ruling{
	{name: "01 one SUBSCRIBE of many levels holds nobody up", script: manyLevels},
	{name: "02 wildcards match the level of the + and the parent of the #", script: wildcards},
	{name: "03 no old retained value after a newer live one", script: replayOrder, differs: "its broker stops reading while it replays, by chance"},
	{name: "04 a wide subscription gets every retained message", script: wideReplay, differs: "max_queued_messages is 1,000"},
	{name: "04 a client that reads gets every message", script: largeMessages, differs: "max_queued_messages, and no back-pressure"},
	{name: "05 a delayed will of a client that is back is not published", script: willOfReturned},
	{name: "05 a will without delay comes before the client is back", script: willBeforeReturn},
	{name: "05 a delayed retained will is retained", script: retainedWill},
	{name: "05 a take-over of a session without expiry sends the delayed will", script: willAtTakeover, differs: "it drops the will"},
	{name: "05 a clean start sends the delayed will", script: willAtCleanStart, differs: "it drops the will"},
	{name: "05 a will has its properties", script: willProperties},
	{name: "05 DISCONNECT with an error sends the will", script: willAtError, differs: "it drops the will"},
	{name: "06 subscription identifiers on retained messages", script: retainedIdentifier},
	{name: "06 No Local and Retain As Published over overlapping filters", script: overlapping, differs: "a copy for each subscription"},
	{name: "06 UNSUBSCRIBE of what somebody else has", script: foreignUnsubscribe},
	{name: "07 wildcards do not match $ topics", script: dollarTopics},
	{name: "07 a will does not forge $SYS", script: forgedSys, differs: "it takes the will and drops it"},
	{name: "07 a publish below $SYS or $share is refused", script: publishReserved, differs: "2.0 acknowledges it and drops it"},
	{name: "07 a PUBREL is answered whatever its reason code", script: failedPubrel},
	{name: "08 shared subscriptions prefer who is there, evenly", script: sharedOnline, differs: "it deals to members that are away"},
	{name: "10 a bridge gets nothing back that it has brought", script: bridgeEcho},
	{name: "10 a group that a bridge is in loses none of its messages", script: bridgeShares},
	{name: "10 a bridge's state topic", script: bridgeState},
}

// court is a broker that a case is played to.
type court struct {
	*testing.T
	address string
}

func TestOrdinaryRulings(t *testing.T) { //nolint:tparallel // its cases share one broker and its topic names
	t.Parallel()
	s := serve(t)
	judge := judgeOf(t)
	if judge == "" {
		t.Run("by Mosquitto", func(t *testing.T) { testtool.LeaveOut(t, "mosquitto is missing", "apt-get install mosquitto") })
	}
	for _, r := range rulings {
		t.Run(r.name, func(t *testing.T) {
			ours := r.script(&court{t, s.mqtt})
			theirs := "left out"
			if judge != "" {
				theirs = verdict(r.script(&court{t, judge}))
			}
			t.Logf("heartline: %s; mosquitto: %s", verdict(ours), theirs)
			if ours != nil {
				t.Error(ours)
			}
			if judge != "" && r.differs == "" && theirs != "right" {
				t.Errorf("the judge does not agree: %s", theirs)
			}
		})
	}
}

func verdict(err error) string {
	if err == nil {
		return "right"
	}
	return err.Error()
}

// judgeOf starts a Mosquitto and returns its address, "" where it is not installed.
func judgeOf(t *testing.T) string {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path = "/usr/sbin/mosquitto"; exec.Command(path, "-h").Run() != nil && !exists(path) {
			return ""
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\n", port), 0o600); err != nil {
		t.Fatal(err)
	}
	m := launch(t, exec.Command(path, "-c", conf))
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return address
		}
		if time.Now().After(end) {
			t.Fatalf("mosquitto does not listen: %s", m.stderr)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// join connects a client; with changes its CONNECT.
func (c *court) join(version byte, id string, with ...func(*packets.Packet)) *rawmqtt.Client {
	c.Helper()
	cl, err := c.tryJoin(version, id, with...)
	if err != nil {
		c.Fatalf("%s: %v", id, err)
	}
	return cl
}

func (c *court) tryJoin(version byte, id string, with ...func(*packets.Packet)) (*rawmqtt.Client, error) {
	cl, err := rawmqtt.Dial(c.address, version)
	if err != nil {
		return nil, err
	}
	c.Cleanup(cl.Close)
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id, Keepalive: 60, Clean: true},
		Mods:        packets.Mods{AllowResponseInfo: true}, // or the will's response topic is left out
	}
	for _, w := range with {
		w(&pk)
	}
	if err := cl.Send(pk); err != nil {
		return nil, err
	}
	ack, err := cl.Read(patience)
	if err == nil && ack.ReasonCode != 0 {
		err = fmt.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	return cl, err
}

func kept(expiry uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = expiry, true
	}
}

func will(topicName, payload string, retain bool, delay uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos, pk.Connect.WillRetain = true, topicName, []byte(payload), 1, retain
		pk.Connect.WillProperties.WillDelayInterval = delay
	}
}

// subscribe subscribes and returns the reason codes.
func (c *court) subscribe(cl *rawmqtt.Client, identifier int, subs ...packets.Subscription) []byte {
	c.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 100, Filters: subs}
	if identifier > 0 {
		pk.Properties.SubscriptionIdentifier = []int{identifier}
	}
	if err := cl.Send(pk); err != nil {
		c.Fatal(err)
	}
	for {
		ack, err := cl.Read(patience)
		if err != nil {
			c.Fatalf("no SUBACK: %v", err)
		}
		if ack.FixedHeader.Type == packets.Suback {
			return ack.ReasonCodes
		}
	}
}

func filter(f string) packets.Subscription { return packets.Subscription{Filter: f, Qos: 1} }

// publish publishes at QoS 1, or 0 where id is 0, and waits for the PUBACK. It returns
// the messages that came before that.
func (c *court) publish(cl *rawmqtt.Client, id uint16, topicName, payload string, retain bool) (early []packets.Packet) {
	c.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: retain}, PacketID: id, TopicName: topicName, Payload: []byte(payload)}
	if id > 0 {
		pk.FixedHeader.Qos = 1
	}
	if err := cl.Send(pk); err != nil {
		c.Fatal(err)
	}
	for id > 0 {
		ack, err := cl.Read(patience)
		if err != nil {
			c.Fatalf("no PUBACK: %v", err)
		}
		switch ack.FixedHeader.Type {
		case packets.Puback:
			return early
		case packets.Publish:
			_ = cl.Puback(ack.PacketID)
			early = append(early, ack)
		}
	}
	return nil
}

// hear returns the messages that come until one says end, or nothing comes for d. Those
// of QoS 1 are acknowledged.
func hear(cl *rawmqtt.Client, d time.Duration, end string) (all []packets.Packet) {
	for {
		pk, err := hearOne(cl, d)
		if err != nil || end != "" && string(pk.Payload) == end {
			return all
		}
		all = append(all, pk)
	}
}

func hearOne(cl *rawmqtt.Client, d time.Duration) (pk packets.Packet, err error) {
	for err == nil && pk.FixedHeader.Type != packets.Publish {
		pk, err = cl.Read(d)
	}
	if err == nil && pk.FixedHeader.Qos == 1 {
		_ = cl.Puback(pk.PacketID)
	}
	return pk, err
}

// expect returns the n messages that must come, and those that come soon after them.
func expect(cl *rawmqtt.Client, n int) (all []packets.Packet) {
	const late = 5 * time.Second // Mosquitto does not send all of them
	for len(all) < n {
		pk, err := hearOne(cl, late)
		if err != nil {
			return all
		}
		all = append(all, pk)
	}
	return append(all, hear(cl, soon, "")...)
}

func payloads(all []packets.Packet) (out []string) {
	for _, pk := range all {
		out = append(out, string(pk.Payload))
	}
	return out
}

func wants(what string, got, want []string) error {
	if slices.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("%s: got %q, want %q", what, got, want)
}

// soon is how long something is waited for that must not come.
const soon = 300 * time.Millisecond

func manyLevels(c *court) error {
	evil, other := c.join(4, "levels"), c.join(4, "other")
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1, Filters: packets.Subscriptions{filter(strings.Repeat("/", 65_400))}}
	if err := evil.Send(pk); err != nil {
		return err
	}
	began := time.Now()
	c.subscribe(other, 0, filter("x"))
	if d := time.Since(began); d > 2*time.Second {
		return fmt.Errorf("another's SUBSCRIBE takes %s", d)
	}
	if err := other.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: true}, TopicName: strings.Repeat("/", 65_400), Payload: []byte("1")}); err != nil {
		return err
	}
	third := c.join(4, "third")
	c.subscribe(third, 0, filter("x"))
	if d := time.Since(began); d > 5*time.Second {
		return fmt.Errorf("a retained PUBLISH takes %s", d)
	}
	return nil
}

func wildcards(c *court) error {
	p, live := c.join(4, "wp"), c.join(4, "wl")
	c.subscribe(live, 0, filter("w/+/#"), filter("w2/#"), filter("+/w3/#"))
	for i, topicName := range []string{"w/lamp", "w2", "w/a/b", "a/w3"} {
		c.publish(p, uint16(i+1), topicName, topicName, true)
	}
	c.publish(p, 9, "w2", "end", false)
	want := []string{"w/lamp", "w2", "w/a/b", "a/w3"}
	if err := wants("live", payloads(hear(live, patience, "end")), want); err != nil {
		return err
	}
	late := c.join(4, "wr")
	c.subscribe(late, 0, filter("w/+/#"), filter("w2/#"), filter("+/w3/#"))
	got := payloads(expect(late, len(want)))
	slices.Sort(got)
	slices.Sort(want)
	return wants("retained", got, want)
}

func replayOrder(c *court) error {
	const topics = 2000
	p, sub := c.join(4, "rp"), c.join(4, "rs")
	for i := range topics {
		c.publish(p, 0, fmt.Sprint("replay/", i), "0", true)
	}
	c.publish(p, 1, "replay-ready", "x", false)
	newest := map[string]string{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; n < 6000; n++ {
			topicName := fmt.Sprint("replay/", rand.IntN(topics))
			newest[topicName] = fmt.Sprint(n)
			c.publish(p, 0, topicName, fmt.Sprint(n), true)
		}
		c.publish(p, 2, "replay-end", "end", false)
	}()
	c.subscribe(sub, 0, filter("replay/#"), filter("replay-end"))
	last := map[string]string{}
	for _, pk := range hear(sub, 3*time.Second, "") { // the end may come before the replay's
		last[pk.TopicName] = string(pk.Payload)
	}
	<-done
	stale := 0
	for topicName, n := range newest {
		if last[topicName] != n {
			stale++
		}
	}
	for i := range topics {
		c.publish(p, 0, fmt.Sprint("replay/", i), "", true)
	}
	if stale > 0 || len(last) < topics {
		return fmt.Errorf("%d of %d topics end with an old value, %d topics came", stale, len(newest), len(last))
	}
	return nil
}

func wideReplay(c *court) error {
	const topics = 20_000
	p := c.join(4, "vp")
	body := strings.Repeat("x", 300)
	for i := range topics {
		c.publish(p, 0, fmt.Sprint("wide/", i), body, true)
	}
	c.publish(p, 1, "wide-ready", "x", false)
	defer func() {
		for i := range topics {
			c.publish(p, 0, fmt.Sprint("wide/", i), "", true)
		}
		c.publish(p, 1, "wide-ready", "x", false)
	}()
	for _, qos := range []byte{0, 1} {
		sub := c.join(4, fmt.Sprint("vs", qos))
		c.subscribe(sub, 0, packets.Subscription{Filter: "wide/#", Qos: qos})
		if got := len(hear(sub, 2*time.Second, "")); got != topics {
			return fmt.Errorf("QoS %d: %d of %d came", qos, got, topics)
		}
	}
	return nil
}

func largeMessages(c *court) error {
	const messages = 300
	p, sub := c.join(4, "lp"), c.join(4, "ls")
	c.subscribe(sub, 0, filter("large"))
	got := make(chan int, 1)
	go func() { got <- len(hear(sub, 3*time.Second, "end")) }()
	body := strings.Repeat("x", 200_000)
	for i := range messages {
		c.publish(p, uint16(i%100+1), "large", body, false)
	}
	c.publish(p, 101, "large", "end", false)
	if n := <-got; n != messages {
		return fmt.Errorf("%d of %d came", n, messages)
	}
	return nil
}

func willOfReturned(c *court) error {
	watch := c.join(5, "w5a")
	c.subscribe(watch, 0, filter("will/returned"))
	for range 20 {
		cl := c.join(5, "returns", kept(60), will("will/returned", "gone", false, 1))
		cl.Close()
		c.join(5, "returns", kept(60), will("will/returned", "gone", false, 1))
	}
	if got := hear(watch, 2500*time.Millisecond, ""); len(got) > 0 {
		return fmt.Errorf("%d wills came though the client is back", len(got))
	}
	last := c.join(5, "returns") // a clean start ends the session, and the will of this test
	return last.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
}

func willBeforeReturn(c *court) error {
	watch := c.join(5, "w5b")
	c.subscribe(watch, 0, filter("will/before"))
	var want []string
	for i := range 50 {
		cl := c.join(5, "quick", will("will/before", "offline", false, 0))
		c.publish(cl, 1, "will/before", fmt.Sprint("online ", i), false)
		if want = append(want, fmt.Sprint("online ", i)); i < 49 {
			want = append(want, "offline")
		} else {
			c.publish(cl, 2, "will/before", "end", false)
		}
	}
	return wants("order", payloads(hear(watch, patience, "end")), want)
}

func retainedWill(c *court) error {
	cl := c.join(5, "fades", kept(1), will("will/retained", "faded", true, 1))
	cl.Close()
	time.Sleep(3500 * time.Millisecond) // the session and its will are over
	late := c.join(5, "w5c")
	c.subscribe(late, 0, filter("will/retained"))
	got := payloads(expect(late, 1))
	c.publish(late, 1, "will/retained", "", true)
	return wants("retained", got, []string{"faded"})
}

func willAtCleanStart(c *court) error {
	watch := c.join(5, "w5d")
	c.subscribe(watch, 0, filter("will/clean"))
	cl := c.join(5, "anew", kept(600), will("will/clean", "gone", false, 500))
	cl.Close()
	time.Sleep(soon)
	c.join(5, "anew")
	return wants("will", payloads(expect(watch, 1)), []string{"gone"})
}

func willAtTakeover(c *court) error {
	for _, expiry := range []uint32{0, 60} {
		topicName, id := fmt.Sprint("will/takeover/", expiry), fmt.Sprint("taken-", expiry)
		watch := c.join(5, fmt.Sprint("w5f-", expiry))
		c.subscribe(watch, 0, filter(topicName))
		c.subscribe(c.join(5, id, kept(expiry), will(topicName, "gone", false, 30)), 0, filter("taken"))
		again := c.join(5, id, kept(expiry))
		c.publish(c.join(5, "p5f"), 1, "taken", "x", false)
		var wills, messages []string
		if expiry > 0 {
			messages = []string{"x"}
		} else {
			wills = []string{"gone"}
		}
		if err := wants("subscription", payloads(expect(again, len(messages))), messages); err != nil {
			return err
		}
		if err := wants("will", payloads(expect(watch, len(wills))), wills); err != nil {
			return err
		}
	}
	return nil
}

func willProperties(c *court) error {
	watch := c.join(5, "w5e")
	c.subscribe(watch, 0, filter("will/properties"))
	cl := c.join(5, "proper", will("will/properties", "gone", false, 0), func(pk *packets.Packet) {
		p := &pk.Connect.WillProperties
		p.ContentType, p.ResponseTopic, p.CorrelationData = "text/plain", "answer", []byte("42")
		p.PayloadFormat, p.PayloadFormatFlag, p.MessageExpiryInterval = 1, true, 77
		p.User = []packets.UserProperty{{Key: "k", Val: "v"}}
	})
	cl.Close()
	pk, err := watch.Read(patience)
	if err != nil {
		return err
	}
	p := &pk.Properties
	if p.ContentType != "text/plain" || p.ResponseTopic != "answer" || string(p.CorrelationData) != "42" || p.PayloadFormat != 1 || p.MessageExpiryInterval < 70 || len(p.User) != 1 {
		return fmt.Errorf("the will has %+v", p)
	}
	return nil
}

func willAtError(c *court) error {
	watch := c.join(5, "w5f")
	c.subscribe(watch, 0, filter("will/error"))
	cl := c.join(5, "fails", will("will/error", "gone", false, 0))
	if err := cl.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: 0x82}); err != nil {
		return err
	}
	return wants("will", payloads(hear(watch, time.Second, "gone no more")), []string{"gone"})
}

func retainedIdentifier(c *court) error {
	p, sub := c.join(5, "ip"), c.join(5, "is")
	c.publish(p, 1, "identified", "x", true)
	c.subscribe(sub, 7, filter("identified"))
	got := expect(sub, 1)
	c.publish(p, 2, "identified", "", true)
	if len(got) != 1 {
		return fmt.Errorf("%q came", payloads(got))
	}
	if !slices.Equal(got[0].Properties.SubscriptionIdentifier, []int{7}) {
		return fmt.Errorf("it came with %v", got[0].Properties.SubscriptionIdentifier)
	}
	return nil
}

func overlapping(c *court) error {
	sub := c.join(5, "os")
	c.subscribe(sub, 1, packets.Subscription{Filter: "over/#", Qos: 1, NoLocal: true})
	c.subscribe(sub, 2, packets.Subscription{Filter: "over/+", Qos: 1, RetainAsPublished: true, RetainHandling: 2})
	got := c.publish(sub, 1, "over/a", "own", true) // one of the two wants it
	other := c.join(5, "op")
	c.publish(other, 1, "over/a", "another's", true)
	c.publish(other, 2, "over/a", "", true)
	got = append(got, expect(sub, 3-len(got))...)
	if len(got) != 3 {
		return fmt.Errorf("%q came", payloads(got))
	}
	ids := got[1].Properties.SubscriptionIdentifier
	slices.Sort(ids)
	if !slices.Equal(got[0].Properties.SubscriptionIdentifier, []int{2}) || !slices.Equal(ids, []int{1, 2}) || !got[0].FixedHeader.Retain || !got[1].FixedHeader.Retain {
		return fmt.Errorf("own with %v (retain %v), another's with %v (retain %v)", got[0].Properties.SubscriptionIdentifier, got[0].FixedHeader.Retain, ids, got[1].FixedHeader.Retain)
	}
	return nil
}

func foreignUnsubscribe(c *court) error {
	has, asks := c.join(5, "has"), c.join(5, "asks")
	c.subscribe(has, 0, filter("held"))
	if err := asks.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 1, Filters: packets.Subscriptions{filter("held")}}); err != nil {
		return err
	}
	ack, err := asks.Read(patience)
	if err != nil {
		return err
	}
	if !slices.Equal(ack.ReasonCodes, []byte{0x11}) {
		return fmt.Errorf("UNSUBACK %x", ack.ReasonCodes)
	}
	return nil
}

func dollarTopics(c *court) error {
	p := c.join(5, "dp")
	c.publish(p, 1, "$foo/bar", "dollar", true)
	defer c.publish(p, 2, "$foo/bar", "", true)
	sub := c.join(5, "ds")
	c.subscribe(sub, 0, filter("#"), filter("+/bar"), filter("$share/g/#"))
	c.publish(p, 3, "$foo/bar", "dollar", true)
	for _, pk := range hear(sub, soon, "") {
		if strings.HasPrefix(pk.TopicName, "$") {
			return fmt.Errorf("%s came", pk.TopicName)
		}
	}
	exact := c.join(5, "de")
	c.subscribe(exact, 0, filter("$foo/#"))
	return wants("$foo/#", payloads(expect(exact, 1)), []string{"dollar"})
}

func forgedSys(c *court) error {
	cl, err := c.tryJoin(5, "forger", will("$SYS/broker/version", "forged", true, 0))
	if err == nil {
		cl.Close()
		time.Sleep(soon)
	}
	sub := c.join(5, "fs")
	c.subscribe(sub, 0, filter("$SYS/broker/version"))
	if slices.Contains(payloads(hear(sub, soon, "")), "forged") {
		return errors.New("$SYS is forged")
	}
	if err == nil {
		return errors.New("the will is taken, and the client not told")
	}
	return nil
}

func sharedOnline(c *court) error {
	away := c.join(5, "s-away", kept(60))
	c.subscribe(away, 0, filter("$share/g/shared"))
	away.Close()
	var members []*rawmqtt.Client
	for i := range 3 {
		m := c.join(5, fmt.Sprint("s-", i))
		c.subscribe(m, 0, filter("$share/g/shared"))
		members = append(members, m)
	}
	time.Sleep(soon)
	p := c.join(5, "sp")
	const messages = 90
	for i := range messages {
		c.publish(p, uint16(i+1), "shared", fmt.Sprint(i), false)
	}
	var counts []int
	for _, m := range members {
		counts = append(counts, len(expect(m, messages/len(members))))
	}
	c.join(5, "s-away") // its session ends
	if !slices.Equal(counts, []int{30, 30, 30}) {
		return fmt.Errorf("%v of %d", counts, messages)
	}
	return nil
}

func publishReserved(c *court) error {
	cl := c.join(5, "reserved")
	for i, topicName := range []string{"$SYS/broker/uptime", "$SYS/broker/connection/another/state", "$share/g/topic"} {
		if err := cl.Publish(uint16(i+1), 2, topicName, []byte("x")); err != nil {
			return err
		}
		if pk, err := cl.Read(patience); err != nil || pk.FixedHeader.Type != packets.Pubrec || pk.ReasonCode != packets.ErrNotAuthorized.Code {
			return fmt.Errorf("%s: %+v 0x%02x %w", topicName, pk.FixedHeader, pk.ReasonCode, err)
		}
	}
	return nil
}

func failedPubrel(c *court) error {
	cl := c.join(5, "released")
	if _, err := cl.Conn.Write([]byte{0x62, 3, 0, 9, 0x92}); err != nil {
		return err
	}
	pk, err := cl.Read(patience)
	if err == nil && (pk.FixedHeader.Type != packets.Pubcomp || pk.PacketID != 9) {
		err = fmt.Errorf("%+v", pk.FixedHeader)
	}
	return err
}

// bridge connects as Mosquitto's bridges do at mqttv311.
func (c *court) bridge(id string) (*rawmqtt.Client, error) {
	cl, err := rawmqtt.Dial(c.address, 4)
	if err != nil {
		return nil, err
	}
	c.Cleanup(cl.Close)
	state := "$SYS/broker/connection/" + id + "/state"
	body := append([]byte("\x00\x04MQTT\x84\x2e\x00\x3c\x00"), byte(len(id)))
	body = append(append(append(body, id...), 0, byte(len(state))), state...)
	body = append(body, "\x00\x010"...)
	if _, err := cl.Conn.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return nil, err
	}
	ack, err := cl.Read(patience)
	if err == nil && ack.ReasonCode != 0 {
		err = fmt.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	return cl, err
}

func bridgeEcho(c *court) error {
	b, err := c.bridge("bridge-a")
	if err != nil {
		return err
	}
	c.subscribe(b, 0, filter("bridged/#"))
	c.publish(b, 1, "bridged/x", "own", false)
	other := c.join(4, "bo")
	c.publish(other, 1, "bridged/x", "another's", true)
	c.publish(other, 2, "bridged/x", "", true)
	got := expect(b, 2)
	if err := wants("bridge", payloads(got), []string{"another's", ""}); err != nil {
		return err
	}
	if !got[0].FixedHeader.Retain {
		return errors.New("retained is not told to the bridge")
	}
	return nil
}

func bridgeShares(c *court) error {
	b, err := c.bridge("bridge-s")
	if err != nil {
		return err
	}
	worker := c.join(4, "bridge-w")
	for _, member := range []*rawmqtt.Client{b, worker} {
		c.subscribe(member, 0, filter("$share/g/divided"), filter("divided-all"))
	}
	const messages = 10
	var got []string
	for i := range messages {
		got = append(got, payloads(c.publish(b, uint16(i+1), "divided", fmt.Sprint(i), false))...)
	}
	c.publish(c.join(4, "bridge-p"), 1, "divided-all", "end", false)
	for _, member := range []*rawmqtt.Client{b, worker} {
		got = append(got, payloads(hear(member, patience, "end"))...)
	}
	if len(got) != messages {
		return fmt.Errorf("the members together got %q of %d", got, messages)
	}
	return nil
}

func bridgeState(c *court) error {
	b, err := c.bridge("bridge-b")
	if err != nil {
		return err
	}
	watch := c.join(4, "bw")
	c.subscribe(watch, 0, filter("$SYS/broker/connection/bridge-b/state"))
	c.publish(b, 1, "$SYS/broker/connection/bridge-b/state", "1", true)
	b.Close()
	if err := wants("state at mqttv311", payloads(hear(watch, time.Second, "")), []string{"1", "0"}); err != nil {
		return err
	}
	const state = "$SYS/broker/connection/bridge-c/state"
	c.subscribe(watch, 0, filter(state))
	five := c.join(5, "bridge-c", will(state, "0", true, 0)) // no bit tells that it is a bridge
	c.publish(five, 1, state, "1", true)
	five.Close()
	got := payloads(hear(watch, time.Second, ""))
	c.publish(c.join(5, "bridge-c"), 1, state, "", true)
	return wants("state at mqttv50", got, []string{"1", "0"})
}

// TestPathOfWebSocket: /mqtt/ is /mqtt, as clients write it, and nothing below it is.
func TestPathOfWebSocket(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, c := range []struct {
		path string
		want int
	}{
		{"/mqtt", http.StatusSwitchingProtocols},
		{"/mqtt/", http.StatusSwitchingProtocols},
		{"/mqtt/x", http.StatusNotFound},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.http+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "mqtt"} {
			r.Header.Set(k, v)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.path, resp.StatusCode, c.want)
		}
	}
}

// TestCutOffIsLogged: a client that sends what MQTT forbids leaves one record at info,
// with the reason, and many of them do not fill the log.
func TestCutOffIsLogged(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const clients = 50
	began := time.Now()
	for range clients {
		c, err := net.Dial("tcp", s.mqtt)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	line := s.stderr.until(t, "client cut off")
	if !strings.Contains(line, `"level":"INFO"`) || !strings.Contains(line, `"rule"`) || !strings.Contains(line, `"remote"`) {
		t.Errorf("logged: %s", line)
	}
	n := strings.Count(s.stderr.String(), "client cut off")
	if most := 20 + int(time.Since(began)/time.Second) + 1; n > most { // 20 at once, then one a second
		t.Errorf("%d records for %d clients, want %d at most", n, clients, most)
	}
}
