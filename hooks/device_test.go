package hooks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// mochi's event loop ends at Close without being waited for, and its TCP
		// listener's accept goroutine likewise.
		goleak.IgnoreAnyFunction("github.com/mochi-mqtt/server/v2.(*Server).eventLoop"),
		goleak.IgnoreAnyFunction("github.com/mochi-mqtt/server/v2/listeners.(*TCP).Serve"),
		goleak.IgnoreAnyFunction("github.com/mochi-mqtt/server/v2.(*Client).WriteLoop"),
		goleak.IgnoreAnyFunction("github.com/mochi-mqtt/server/v2.(*Server).attachClient"),
	)
}

// site is a mochi server with the hook, on a core in memory.
type site struct {
	*testing.T
	store   *testStore
	core    *delivery.Core
	hook    *hooks.Hook
	hub     *ordinary.Hub // nil: the server's routing is its own
	ahead   atomic.Int64  // of the clock, what the hub takes for now; a time.Duration
	server  *mqtt.Server
	address string
	full    atomic.Value // remote address of the connection whose queue is full
	drained sync.Map     // remote address → func(), what to call when a queue has room again
}

func newSite(t *testing.T, change ...func(*hooks.Options)) *site {
	t.Helper()
	out, err := store.New(store.Options{Open: memory.Open})
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	s := &site{T: t, store: &testStore{Outbox: out, tried: make(chan struct{}), held: make(chan struct{})}}
	s.core = delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: time.Hour, MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: time.Hour, AnyAccount: true,
	}, s.store, nil, log)
	must(t, s.core.Start())
	s.server = mqtt.New(&mqtt.Options{Logger: log})
	opts := hooks.Options{TopicPrefix: "heartline", MaxKeepalive: 5 * time.Minute, WriteTimeout: 10 * time.Second, MaxWaiting: 1024}
	for _, c := range change {
		c(&opts)
	}
	if !opts.HostAuth {
		s.hub = ordinary.New(ordinary.Options{Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }})
		opts.Hub = s.hub
	}
	s.hook = hooks.New(s.server, s.core, opts, log)
	must(t, s.server.AddHook(s.hook, nil))
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	var l listeners.Listener = tcp
	if *withPrompt && s.hub != nil {
		l = prompting{tcp, s}
	}
	must(t, s.server.AddListener(l))
	must(t, s.server.Serve())
	s.address = tcp.Address()
	t.Cleanup(func() {
		must(t, s.core.Stop(context.Background()))
		closeServer(t, s.server)
		must(t, s.hook.Stop())
		must(t, s.core.Flush(context.Background()))
		must(t, out.Close())
	})
	return s
}

// store can be one that is being reopened, from which nothing can be read.
type testStore struct {
	delivery.Outbox
	unreadable atomic.Bool
	damaged    atomic.Bool                   // no notification can be made out
	tried      chan struct{}                 // to read it meanwhile
	slow       atomic.Pointer[chan struct{}] // what holds up the next look for a device
	held       chan struct{}                 // one is held up
	flush      atomic.Pointer[flushes]       // nil: as the store does
	inDoubt    atomic.Bool                   // the outcome of acceptances is known late
	cold       atomic.Pointer[cold]          // whose notifications are not in memory; nil: nobody's
}

// cold is an account whose notifications have to be read, which takes a while.
type cold struct {
	account string
	reading chan struct{} // gets one for each that is being read
	goOn    chan struct{}
}

// flushes are what becomes of a caller who asks whether all is on the disk.
type flushes struct {
	asked  chan struct{}
	answer chan error // nil: as the store does
}

func (s *testStore) Commit(b *delivery.Batch, done func(error)) {
	if s.inDoubt.Load() && len(b.Accept) > 0 {
		s.Outbox.Commit(b, func(err error) { b.InDoubt(); done(err) })
		return
	}
	f := s.flush.Load()
	if f == nil || !b.Empty() {
		s.Outbox.Commit(b, done)
		return
	}
	go func() {
		f.asked <- struct{}{}
		if err := <-f.answer; err != nil {
			done(err)
			return
		}
		s.Outbox.Commit(b, done)
	}()
}

func (s *testStore) Device(id string) (*delivery.Device, error) {
	if slow := s.slow.Swap(nil); slow != nil {
		s.held <- struct{}{}
		<-*slow
	}
	return s.Outbox.Device(id)
}

func (s *testStore) readable() error {
	if s.unreadable.Load() {
		select {
		case s.tried <- struct{}{}:
		default:
		}
		return fmt.Errorf("%w: opened anew", delivery.ErrUnavailable)
	}
	return nil
}

func (s *testStore) Notification(seq delivery.Seq) (*delivery.Notification, error) {
	if err := s.readable(); err != nil {
		return nil, err
	}
	if s.damaged.Load() {
		return nil, delivery.ErrDamaged
	}
	n, err := s.Outbox.Notification(seq)
	if c := s.cold.Load(); c != nil && err == nil && n.Account == c.account {
		c.reading <- struct{}{}
		<-c.goOn
	}
	return n, err
}

func (s *testStore) InMemory(seq delivery.Seq) *delivery.Notification {
	if s.unreadable.Load() {
		return nil
	}
	n := s.Outbox.InMemory(seq)
	if c := s.cold.Load(); c != nil && n != nil && n.Account == c.account {
		return nil
	}
	return n
}

func (s *testStore) Data(seq delivery.Seq) (json.RawMessage, error) {
	if err := s.readable(); err != nil {
		return nil, err
	}
	return s.Outbox.Data(seq)
}

// triedToRead waits until the store, which cannot be read, has been asked n times.
func (s *site) triedToRead(n int) {
	s.Helper()
	for range n {
		select {
		case <-s.store.tried:
		case <-time.After(2 * time.Minute):
			s.Fatal("nothing was read")
		}
	}
}

func (s *site) connect(version byte, o rawmqtt.Connect) *rawmqtt.Client {
	s.Helper()
	c := dial(s.T, s.address, version)
	if o.Keepalive == 0 {
		o.Keepalive = 60
	}
	pk, err := c.Connect(o)
	if err != nil || pk.ReasonCode != 0 {
		s.Fatalf("connect %s: 0x%02x %v", o.ID, pk.ReasonCode, err)
	}
	return c
}

func topicOf(device, kind string) string { return "heartline/devices/" + device + "/" + kind }

// device connects a device and subscribes it to its notifications.
func (s *site) device(version byte, o rawmqtt.Connect) *rawmqtt.Client {
	s.Helper()
	c := s.connect(version, o)
	if codes, err := c.Subscribe(1, 1, topicOf(o.ID, "notifications")); err != nil || codes[0] != 1 {
		s.Fatalf("subscribe %s: %v %v", o.ID, codes, err)
	}
	return c
}

func (s *site) notify(r delivery.Request) *delivery.Notification {
	s.Helper()
	if r.Title == "" {
		r.Title = "t"
	}
	receipt, err := s.core.Accept(context.Background(), r)
	must(s.T, err)
	return receipt.Notification
}

// until waits for an event of a notification.
func (s *site) until(sub *delivery.Subscription, kind delivery.EventKind) delivery.Event {
	s.Helper()
	for {
		if e := s.event(sub); e.Kind == kind {
			return e
		}
	}
}

// event waits for the next event of a notification.
func (s *site) event(sub *delivery.Subscription) delivery.Event {
	s.Helper()
	var u delivery.AccountEvent
	select {
	case u = <-sub.C:
	case <-time.After(2 * time.Minute):
		s.Fatal("no event came")
	}
	return u.Event
}

func (s *site) subscribe() *delivery.Subscription {
	sub := s.core.Subscribe(1024)
	s.Cleanup(sub.Close)
	return sub
}

func pseudo(t *testing.T, pk packets.Packet) wire.Pseudo {
	t.Helper()
	if pk.FixedHeader.Type != packets.Publish {
		t.Fatalf("got %+v, want a PUBLISH", pk)
	}
	var p wire.Pseudo
	must(t, json.Unmarshal(pk.Payload, &p))
	return p
}

func TestDeviceGetsAndAcknowledges(t *testing.T) {
	for _, version := range []byte{4, 5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			s := newSite(t)
			c := s.device(version, rawmqtt.Connect{ID: "phone", Username: "anna"})
			events := s.subscribe()
			n := s.notify(delivery.Request{Account: "anna", Title: "<b>", Body: "body"})
			pk := next(t, c)
			p := pseudo(t, pk)
			if pk.TopicName != topicOf("phone", "notifications") || pk.PacketID < 0x8000 || pk.FixedHeader.Qos != 1 || pk.FixedHeader.Dup {
				t.Errorf("PUBLISH %+v", pk)
			}
			if want := (wire.Pseudo{ID: n.ID, Account: "anna", Title: "<b>", Body: "body", AcceptedAt: wire.FormatTime(n.AcceptedAt), Ack: "received", Tag: n.ID}); !reflect.DeepEqual(p, want) {
				t.Errorf("got %+v, want %+v", p, want)
			}
			if !strings.Contains(string(pk.Payload), `"title":"<b>"`) {
				t.Errorf("the payload is escaped for HTML: %s", pk.Payload)
			}
			if version == 5 {
				props := pk.Properties
				if props.ContentType != "application/json" || props.ResponseTopic != topicOf("phone", "acks") || string(props.CorrelationData) != n.ID ||
					props.MessageExpiryInterval < 3500 || len(props.User) != 1 || props.User[0] != (packets.UserProperty{Key: "heartline-id", Val: n.ID}) {
					t.Errorf("properties %+v", props)
				}
			}
			must(t, c.Puback(pk.PacketID))
			s.until(events, delivery.EventReceived)
		})
	}
}

func TestNegativePuback(t *testing.T) {
	s := newSite(t)
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	events := s.subscribe()
	s.notify(delivery.Request{Account: "anna"})
	pk := next(t, c)
	must(t, c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID, ReasonCode: 0x97,
		Properties: packets.Properties{ReasonString: "full"},
	}))
	if e := s.until(events, delivery.EventNacked); e.Detail != "0x97 full" {
		t.Errorf("detail %q", e.Detail)
	}
}

// The client's own publish, subscription and acknowledgements under one of our
// identifiers are its own.
func TestPacketIDsDoNotMix(t *testing.T) {
	s := newSite(t)
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	events := s.subscribe()
	s.notify(delivery.Request{Account: "anna"})
	pk := next(t, c)
	must(t, c.Publish(pk.PacketID, 1, "ordinary", []byte("x")))
	if own := next(t, c); own.FixedHeader.Type != packets.Puback || own.ReasonCode >= 0x80 {
		t.Fatalf("got %+v, want the PUBACK of the client's own publish", own)
	}
	if codes, err := c.Subscribe(pk.PacketID, 1, "other/#"); err != nil || codes[0] != 1 {
		t.Fatalf("subscribe under the same identifier: %v %v", codes, err)
	}
	must(t, c.Puback(pk.PacketID))
	s.until(events, delivery.EventReceived)
}

func TestReceiveMaximum(t *testing.T) {
	s := newSite(t)
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", ReceiveMaximum: 2})
	var ids []string
	for range 10 {
		ids = append(ids, s.notify(delivery.Request{Account: "anna"}).ID)
	}
	var open []uint16
	for i := range 10 {
		pk := next(t, c)
		if got := pseudo(t, pk).ID; got != ids[i] {
			t.Fatalf("number %d is %s, want %s", i, got, ids[i])
		}
		if open = append(open, pk.PacketID); len(open) == 2 {
			// [MQTT-3.3.4-9] the third comes only after an acknowledgement: what the
			// broker answers first is the PINGREQ.
			must(t, c.Ping())
			if pk := next(t, c); pk.FixedHeader.Type != packets.Pingresp {
				t.Fatalf("got %+v over the Receive Maximum", pk)
			}
			must(t, c.Puback(open[0]))
			open = open[1:]
		}
	}
}

func TestTooLargeForTheClient(t *testing.T) {
	s := newSite(t)
	c := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", MaximumPacketSize: 450})
	events := s.subscribe()
	s.notify(delivery.Request{Account: "anna", Body: strings.Repeat("x", 500)})
	if e := s.until(events, delivery.EventNacked); !strings.Contains(e.Detail, "Maximum Packet Size of 450") {
		t.Errorf("detail %q", e.Detail)
	}
	n := s.notify(delivery.Request{Account: "anna"}) // the next one fits, and is not held up
	if got := pseudo(t, next(t, c)).ID; got != n.ID {
		t.Errorf("got %s, want %s", got, n.ID)
	}
}

// A reconnect within the session is a redelivery: the same ID, the flag in the
// payload, and DUP. A clean start is not: DUP would be of a session that is gone.
func TestRedeliveryFlags(t *testing.T) {
	s := newSite(t)
	o := rawmqtt.Connect{ID: "phone", Username: "anna", SessionExpiry: 3600}
	c := s.device(5, o)
	n := s.notify(delivery.Request{Account: "anna"})
	next(t, c)
	again := s.connect(5, o)
	pk := next(t, again)
	if p := pseudo(t, pk); p.ID != n.ID || !p.Redelivery || !pk.FixedHeader.Dup {
		t.Errorf("after a reconnect: %+v, DUP %v", p, pk.FixedHeader.Dup)
	}
	o.Clean = true
	pk = next(t, s.device(5, o))
	if p := pseudo(t, pk); p.ID != n.ID || !p.Redelivery || pk.FixedHeader.Dup {
		t.Errorf("after a clean start: %+v, DUP %v", p, pk.FixedHeader.Dup)
	}
}

func TestSubscriptionIdentifier(t *testing.T) {
	s := newSite(t)
	c := s.connect(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	must(t, c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Properties: packets.Properties{SubscriptionIdentifier: []int{7}},
		Filters:    packets.Subscriptions{{Filter: topicOf("phone", "#"), Qos: 1, Identifier: 7}},
	}))
	next(t, c)
	s.notify(delivery.Request{Account: "anna"})
	if pk := next(t, c); !slices.Equal(pk.Properties.SubscriptionIdentifier, []int{7}) {
		t.Errorf("Subscription Identifiers %v, want 7 [MQTT-3.3.4-3]", pk.Properties.SubscriptionIdentifier)
	}
}

// What makes the channel up: a subscription of its own, at QoS 1 or more.
func TestWhatASubscriptionIsWorth(t *testing.T) {
	for _, c := range []struct {
		filter    string
		qos       byte
		known, up bool
	}{
		{topicOf("phone", "notifications"), 1, true, true},
		{topicOf("phone", "notifications"), 2, true, true},
		{topicOf("phone", "+"), 1, true, true},
		{topicOf("phone", "#"), 1, true, true},
		{topicOf("phone", "notifications"), 0, true, false},
		{topicOf("phone", "messages"), 1, false, false},
		{topicOf("other", "notifications"), 1, false, false},
		{"heartline/devices/+/notifications", 1, false, false},
		{"#", 1, false, false},
	} {
		t.Run(fmt.Sprint(c.filter, " ", c.qos), func(t *testing.T) {
			s := newSite(t)
			client := s.connect(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
			if _, err := client.Subscribe(1, c.qos, c.filter); err != nil {
				t.Fatal(err)
			}
			devices, err := s.core.Devices("anna")
			must(t, err)
			if known := len(devices) == 1; known != c.known || known && devices[0].Up != c.up {
				t.Errorf("devices %+v, want known %v, up %v", devices, c.known, c.up)
			}
		})
	}
}

func TestUnsubscribeIsOffline(t *testing.T) {
	s := newSite(t)
	c := s.device(4, rawmqtt.Connect{ID: "phone", Username: "anna"})
	must(t, c.Unsubscribe(2, topicOf("phone", "notifications")))
	d, err := s.core.Device("anna", "phone")
	must(t, err)
	if d.Up {
		t.Error("the channel is up without a subscription")
	}
}

// Names that are no level of a topic make an ordinary client, never a device.
func TestOrdinaryClients(t *testing.T) {
	s := newSite(t)
	for _, o := range []rawmqtt.Connect{{ID: "a/b", Username: "anna"}, {ID: strings.Repeat("x", 129), Username: "anna"}} {
		c := s.connect(5, o)
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+o.ID+"/notifications"); err != nil {
			t.Fatal(err)
		}
	}
	devices, err := s.core.AllDevices("", 10)
	must(t, err)
	if len(devices) != 0 {
		t.Errorf("devices %+v", devices)
	}
}

func TestAccountOfAClientWithoutUsername(t *testing.T) {
	s := newSite(t)
	s.device(5, rawmqtt.Connect{ID: "phone"})
	if _, err := s.core.Device("phone", "phone"); err != nil {
		t.Errorf("its account is its identifier: %v", err)
	}
	must(t, s.core.PutDevice(context.Background(), "anna", "tablet", nil))
	s.device(5, rawmqtt.Connect{ID: "tablet"})
	if d, err := s.core.Device("anna", "tablet"); err != nil || !d.Up {
		t.Errorf("a registered device keeps its account: %+v, %v", d, err)
	}
}

func TestRefusedConnects(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		connect rawmqtt.Connect
		code    packets.Code
	}{
		"the server's own identifier":    {rawmqtt.Connect{ID: mqtt.InlineClientId}, packets.ErrClientIdentifierNotValid},
		"a will below the prefix":        {rawmqtt.Connect{ID: "evil", WillTopic: "heartline/accounts/anna/notifications", WillPayload: "{}"}, packets.ErrNotAuthorized},
		"a will to a device's own topic": {rawmqtt.Connect{ID: "evil", WillTopic: topicOf("phone", "notifications"), WillPayload: "{}"}, packets.ErrNotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, s.address, 5)
			pk, err := client.Connect(c.connect)
			if err != nil || pk.ReasonCode != c.code.Code {
				t.Errorf("CONNACK 0x%02x %v, want 0x%02x", pk.ReasonCode, err, c.code.Code)
			}
		})
	}
}

func TestKeepaliveIsCapped(t *testing.T) {
	s := newSite(t)
	for asked, want := range map[uint16]uint16{0: 300, 301: 300, 65535: 300, 300: 0, 10: 0} {
		c := dial(t, s.address, 5)
		pk, err := c.Connect(rawmqtt.Connect{ID: fmt.Sprint("k", asked), Keepalive: asked})
		must(t, err)
		if pk.Properties.ServerKeepAlive != want {
			t.Errorf("asked for %d: Server Keep Alive %d, want %d", asked, pk.Properties.ServerKeepAlive, want)
		}
	}
}

func TestHalfOpenIsNoticed(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t, func(o *hooks.Options) { o.MaxKeepalive = time.Second })
		events := s.subscribe()
		c := dial(t, s.address, version)
		_, err := c.Connect(rawmqtt.Connect{ID: "phone", Username: "anna", Keepalive: 0}) // and is never heard again
		must(t, err)
		_, err = c.Subscribe(1, 1, topicOf("phone", "notifications"))
		must(t, err)
		s.notify(delivery.Request{Account: "anna"})
		if e := s.until(events, delivery.EventChannelLost); e.Detail != "heartbeat overdue" {
			t.Errorf("version %d: detail %q", version, e.Detail)
		}
	}
}

// Another account's session under the same identifier is not handed on.
func TestAnotherAccountsSession(t *testing.T) {
	s := newSite(t)
	anna := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna", SessionExpiry: 3600})
	if _, err := anna.Subscribe(2, 1, "private/anna"); err != nil {
		t.Fatal(err)
	}
	n := s.notify(delivery.Request{Account: "anna"})
	next(t, anna)
	ben := dial(t, s.address, 5)
	pk, err := ben.Connect(rawmqtt.Connect{ID: "phone", Username: "ben", SessionExpiry: 3600, Keepalive: 60})
	must(t, err)
	if pk.SessionPresent {
		t.Error("ben has inherited anna's session")
	}
	if _, err := ben.Subscribe(1, 1, topicOf("phone", "notifications")); err != nil {
		t.Fatal(err)
	}
	s.notify(delivery.Request{Account: "ben", ID: "bens"})
	if p := pseudo(t, next(t, ben)); p.ID != "bens" {
		t.Errorf("ben got %+v", p)
	}
	v, err := s.core.Get(context.Background(), n.ID)
	must(t, err)
	if v.State != delivery.StateCancelled {
		t.Errorf("anna's notification is %v, want cancelled: the device is ben's now", v.State)
	}
}
