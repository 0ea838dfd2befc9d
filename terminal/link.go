package terminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"

	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/wire"
)

// receiveMaximum is what the device takes unacknowledged. It is above the server's
// window of 16 deliveries and their messages, and paho makes a queue of that
// length for each connection: its default is 65,535.
const receiveMaximum = 64

// answerTimeout is how long the server may take to answer one packet.
const answerTimeout = 10 * time.Second

// ackHandled is how long a PUBACK that has arrived may take to be handled.
const ackHandled = time.Second

func (t *Terminal) connectionConfig() autopaho.ClientConfig {
	return autopaho.ClientConfig{
		ServerUrls:            []*url.URL{t.server},
		TlsCfg:                t.opts.TLS,
		KeepAlive:             uint16(t.opts.Keepalive / time.Second),
		SessionExpiryInterval: uint32(t.opts.SessionExpiry / time.Second),
		ConnectUsername:       t.opts.Account,
		ConnectTimeout:        answerTimeout,
		ConnectPacketBuilder:  t.connectPacket,
		ReconnectBackoff:      t.pauses.next,
		OnConnectionUp:        func(*autopaho.ConnectionManager, *paho.Connack) { t.gained() },
		OnConnectionDown:      t.lost,
		OnConnectError:        func(err error) { t.tell(Status{Err: connectError(err)}) },
		ClientConfig: paho.ClientConfig{
			ClientID:          t.opts.Device,
			Session:           t.session,
			PacketTimeout:     answerTimeout,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){t.arrived},
		},
	}
}

func (t *Terminal) connectPacket(cp *paho.Connect, _ *url.URL) (*paho.Connect, error) {
	if cp.Properties == nil {
		cp.Properties = &paho.ConnectProperties{}
	}
	cp.Properties.ReceiveMaximum = new(uint16(receiveMaximum))
	cp.Properties.RequestProblemInfo = true // paho's false asks the server not to say why it refuses
	if t.opts.Password != nil {
		ctx, cancel := context.WithTimeout(t.ctx, answerTimeout)
		defer cancel()
		password, err := t.opts.Password(ctx)
		if err != nil {
			return nil, fmt.Errorf("get the password: %w", err)
		}
		cp.Password, cp.PasswordFlag = []byte(password), true
	}
	return cp, nil
}

// connectError says what a server has answered to CONNECT.
func connectError(err error) error {
	if c := (*autopaho.ConnackError)(nil); errors.As(err, &c) {
		return refusal("the connection", c.ReasonCode, c.Reason)
	}
	return err
}

func refusal(what string, code byte, reason string) error {
	if reason == "" {
		if reason = reasons[code]; reason == "" {
			reason = "no reason given"
		}
	}
	return fmt.Errorf("%w: %s: %s (0x%02x)", ErrRefused, what, reason, code)
}

// reasons are those of MQTT 5 §2.4 that a device can meet, for servers that say
// no more.
var reasons = map[byte]string{
	0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error", 0x84: "unsupported protocol version",
	0x85: "client identifier not valid", 0x86: "bad user name or password", 0x87: "not authorized",
	0x88: "server unavailable", 0x89: "server busy", 0x8A: "banned", 0x8F: "topic filter invalid",
	0x90: "topic name invalid", 0x97: "quota exceeded", 0x99: "payload format invalid", 0x9F: "connection rate exceeded",
}

// gained is called for each connection. It must not block.
func (t *Terminal) gained() {
	t.pauses.connected()
	t.mu.Lock()
	t.connection++
	t.connected = true
	t.mu.Unlock()
	t.wake()
}

// lost is called before a lost connection is made again; false ends that.
func (t *Terminal) lost() bool {
	t.mu.Lock()
	t.connected = false
	if t.isUp {
		t.isUp, t.up = false, make(chan struct{})
	}
	err, signingOut := t.err, t.signingOut
	t.mu.Unlock()
	if err == nil && signingOut != nil {
		// Either the server has ended the connection after its PUBACK, which is being handled
		// now, or the sign-out is sent again over the next connection.
		late := time.NewTimer(ackHandled)
		select {
		case <-signingOut:
		case <-late.C:
		}
		late.Stop()
		err = t.Err()
	}
	if err == nil {
		t.tell(Status{Err: errors.New("connection lost")})
	}
	return err == nil
}

// run brings each connection into line with the wanted state, until the end, and
// then takes everything down.
func (t *Terminal) run() {
	defer close(t.done)
	defer func() { _ = t.session.Close() }() // releases who still waits for an answer; the store is in memory
	defer func() {
		// It answers at once where there is no connection, and its error would only
		// be the context's.
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		_ = t.cm.Disconnect(ctx)
	}()
	var l line
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.kick:
		case <-retry.C:
		}
		if err := t.align(&l); err != nil {
			t.log.Info("terminal not connected yet, retrying", "device", t.opts.Device, "error", err)
			retry.Reset(t.pauses.again())
		}
	}
}

// line is what a connection has been told.
type line struct {
	stateOf    int // the connection that has the state
	foreground bool
	subscribed int // the connection that has the subscriptions
}

// align publishes the app state and subscribes, where the connection lacks it. An
// error is to be tried again, on this connection or on the next.
func (t *Terminal) align(l *line) error {
	t.mu.Lock()
	n, connected, foreground := t.connection, t.connected, t.foreground
	t.mu.Unlock()
	if !connected {
		return nil // gained wakes us
	}
	if l.stateOf != n || l.foreground != foreground {
		// Before the subscription, so that the channel comes up with the right
		// state. At QoS 0: a state is of its connection, and one that paho's session
		// sent again on the next would tell of a past one.
		if _, err := t.publish(t.ctx, t.topics.state(), 0, wire.AppState{App: appName(foreground)}); err != nil {
			return fmt.Errorf("publish the app state: %w", err)
		}
		l.stateOf, l.foreground = n, foreground
	}
	if l.subscribed == n {
		return nil
	}
	// Again on every connection: the server may have lost the session, and it is
	// no harm if it has not.
	suback, err := t.cm.Subscribe(t.ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
		{Topic: t.topics.notifications(), QoS: 1}, {Topic: t.topics.messages(), QoS: 1},
		{Topic: t.topics.dismissals(), QoS: 1},
	}})
	if err != nil {
		if suback != nil {
			err = subscriptionRefused(suback)
			t.tell(Status{Err: err})
		}
		return err
	}
	l.subscribed = n
	t.mu.Lock()
	gained := t.connected && t.connection == n && !t.isUp
	if gained {
		t.isUp = true
		close(t.up)
	}
	t.mu.Unlock()
	if gained {
		t.tell(Status{Up: true})
	}
	t.wake() // the state may have changed meanwhile
	return nil
}

func subscriptionRefused(suback *paho.Suback) error {
	for _, code := range suback.Reasons {
		if code >= 0x80 {
			reason := ""
			if suback.Properties != nil {
				reason = suback.Properties.ReasonString
			}
			return refusal("the subscription", code, reason)
		}
	}
	return fmt.Errorf("%w: the subscription", ErrRefused)
}

func appName(foreground bool) string {
	if foreground {
		return "foreground"
	}
	return "background"
}

func (t *Terminal) publish(ctx context.Context, topicName string, qos byte, body any) (*paho.PublishResponse, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return t.cm.Publish(ctx, &paho.Publish{Topic: topicName, QoS: qos, Payload: payload})
}

// session is paho's session state, listened to at two places that paho has no
// callback for. Both methods are called on the goroutines of one connection at a
// time.
type session struct {
	*state.State
	takenOver func()
	after     func() // what is to follow the PUBACK of the packet at hand; touched by paho's handler goroutine alone
}

// Ack sends the PUBACK, once the handler has returned.
func (s *session) Ack(pb *packets.Publish) error {
	after := s.after
	s.after = nil
	err := s.State.Ack(pb)
	if err == nil && after != nil {
		after()
	}
	return err
}

// ConnectionLost comes before the connection is made again, with the server's
// DISCONNECT where there was one; OnServerDisconnect runs concurrently with the next attempt.
func (s *session) ConnectionLost(dp *packets.Disconnect) error {
	if dp != nil && dp.ReasonCode == packets.DisconnectSessionTakenOver {
		s.takenOver()
	}
	return s.State.ConnectionLost(dp)
}

// pauses are those between attempts: none after a connection that has lasted, then
// from about a second up to max. A server that takes connections and drops them
// is not run at.
type pauses struct {
	max time.Duration

	mu    sync.Mutex
	since time.Time // of the last connection
	fails int
}

// lasting is how long a connection must have been there for its loss to be no
// failure.
const lasting = 10 * time.Second

func (p *pauses) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
}

// next is the pause before an attempt; autopaho's count starts again with each
// connection, however short, and is not used.
func (p *pauses) next(int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.since.IsZero() && time.Since(p.since) >= lasting {
		p.fails = 0
	}
	p.since = time.Time{}
	d := p.pause()
	p.fails++
	return d
}

// again is the pause before something is tried again on the same connection.
func (p *pauses) again() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails++
	return p.pause()
}

func (p *pauses) pause() time.Duration {
	if p.fails == 0 {
		return 0
	}
	return backoff.Jitter(backoff.Doubled(time.Second, p.max, p.fails-1))
}
