package terminal

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
)

// Display is where a Terminal shows what arrives. Its methods are called one at a
// time, in the order of arrival. What one was given is acknowledged when it
// returns: it is to return once the thing is shown, or is where it cannot get
// lost. While one runs nothing else is delivered, and no lost connection is made
// again.
type Display interface {
	// Tip shows a system notification. It is called in the background, once for
	// each ID.
	Tip(wire.Pseudo)
	// Notice is called in Tip's place in the foreground, where no tip is to be shown.
	// It is for the app's own lists and badges.
	Notice(wire.Pseudo)
	// Message shows the full message, once for each ID. It comes in the
	// foreground, or just after the app has left it.
	Message(wire.Message)
}

// Dismisser is a Display that can take a notification off the screen: its user has read
// it on another device, or its backend has taken it back. Dismiss may be called for an
// ID that was never shown.
type Dismisser interface {
	Dismiss(wire.Dismissal)
}

// Displayed says when a Terminal publishes `displayed` on its acks topic, in addition
// to the PUBACK that every copy gets.
type Displayed int

const (
	// DisplayedWhereAsked: where the notification asks for it. It is the default:
	// a device on a phone network sends nothing that nobody waits for.
	DisplayedWhereAsked Displayed = iota
	// DisplayedAlways: for every notification, so that its timeline tells when it
	// was shown.
	DisplayedAlways
	// DisplayedNever plays a device that receives and shows nothing.
	DisplayedNever
	// DisplayedRead publishes `read` for every notification, as a device does whose
	// user looks at each at once.
	DisplayedRead
)

// Status tells of the channel.
type Status struct {
	// Up: connected, and subscribed to notifications and messages.
	Up bool
	// Err is why it is not up. It wraps ErrRefused where the server has said no; the
	// Terminal retries all the same, for the server may grant later a request it refused.
	Err error
}

var (
	// ErrRefused: the server has refused the connection, a subscription or a push
	// token. The error's text has its reason.
	ErrRefused = errors.New("refused by the server")
	// ErrTakenOver: another client has connected with this device's identifier.
	// Two of them would throw each other out for ever, so the Terminal ends.
	ErrTakenOver = errors.New("another client has connected as this device")
	// ErrSignedOut: SignOut has succeeded.
	ErrSignedOut = errors.New("the device has signed out")
	// ErrClosed: the Terminal has been closed.
	ErrClosed = errors.New("terminal is closed")
)

// Options are what a Terminal is made of. Server, Account, Device and Display
// must be given.
type Options struct {
	Server  string // mqtt://, mqtts://, ws:// or wss://host[:port][/path]
	Account string // sent as the user name
	Device  string // sent as the client identifier
	Display Display

	// Password is asked for at each connection, so that a token can be renewed;
	// nil: none is sent.
	Password func(context.Context) (string, error)
	TLS      *tls.Config // for mqtts and wss; nil: the system's CAs

	Foreground bool // what the app is at the start
	Displayed  Displayed
	Seen       *Seen // what was shown in an earlier life; nil: nothing. Close leaves it open

	TopicPrefix string // "heartline"
	// Keepalive is how soon a dead connection is noticed, on both sides, within
	// one and a half of it; 30 s. Whole seconds, at most 18 h.
	Keepalive time.Duration
	// SessionExpiry is how long the server keeps the subscriptions of a device
	// that is away, so that the channel is up as soon as it has connected; 24 h.
	// Notifications do not depend on it: they last as long as their TTL.
	SessionExpiry time.Duration
	// RetryMax is the longest pause between attempts to connect; 1 min.
	RetryMax time.Duration

	// Status, unless it is nil, is told when the channel comes up or goes down, and
	// of each attempt that fails. It must not block.
	Status func(Status)
	Logger *slog.Logger // nil: none
}

// Terminal is a device that is connected, or tries to be. Its methods are safe for
// concurrent use.
type Terminal struct {
	opts   Options
	log    *slog.Logger
	server *url.URL
	topics topics

	ctx     context.Context
	cancel  context.CancelFunc
	kick    chan struct{} // something may have to be published
	done    chan struct{} // closed when everything has ended
	cm      *autopaho.ConnectionManager
	session *session
	pauses  pauses

	tokens sync.Mutex // one registration at a time, in the order of the calls

	mu         sync.Mutex
	foreground bool
	connection int           // counts connections
	connected  bool          // the last of them is there
	up         chan struct{} // closed while the channel is up
	isUp       bool
	signingOut chan struct{} // closed when the sign-out is acknowledged or has failed
	err        error         // why it ended
}

// Open starts a Terminal. It does not wait for a connection: WaitUp does. An error
// is of the options.
func Open(opts Options) (*Terminal, error) {
	server, err := parseServer(opts.Server)
	if err != nil {
		return nil, err
	}
	opts.TopicPrefix = cmp.Or(opts.TopicPrefix, "heartline")
	opts.Keepalive = cmp.Or(opts.Keepalive, 30*time.Second)
	opts.SessionExpiry = cmp.Or(opts.SessionExpiry, 24*time.Hour)
	opts.RetryMax = cmp.Or(opts.RetryMax, time.Minute)
	if err := errors.Join(
		delivery.ValidName("account", opts.Account),
		delivery.ValidName("device", opts.Device),
		wholeSeconds("keepalive", opts.Keepalive, math.MaxUint16),
		wholeSeconds("session expiry", opts.SessionExpiry, math.MaxUint32),
	); err != nil {
		return nil, err
	}
	if opts.Display == nil {
		return nil, errors.New("a terminal needs a Display")
	}
	if opts.Seen == nil {
		opts.Seen = NewSeen(0)
	}
	t := &Terminal{
		opts: opts, log: opts.Logger, server: server, topics: topics{opts.TopicPrefix + "/devices/" + opts.Device + "/"},
		kick: make(chan struct{}, 1), done: make(chan struct{}), up: make(chan struct{}),
		foreground: opts.Foreground, pauses: pauses{max: opts.RetryMax},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.session = &session{State: state.NewInMemory(), takenOver: func() { t.end(ErrTakenOver) }}
	if t.cm, err = autopaho.NewConnection(t.ctx, t.connectionConfig()); err != nil {
		t.cancel()
		return nil, fmt.Errorf("connect: %w", err)
	}
	go t.run()
	return t, nil
}

// SetForeground says whether the app is in the foreground. It returns at once; a
// device that is offline tells the server when it is back. Of changes that follow
// one another faster than they can be sent only the last is.
func (t *Terminal) SetForeground(foreground bool) {
	t.mu.Lock()
	t.foreground = foreground
	t.mu.Unlock()
	t.wake()
}

// Foreground reports what SetForeground has said last.
func (t *Terminal) Foreground() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.foreground
}

// RegisterPushToken gives the server the device's push token, nil to remove it. It
// returns when the server has it, across lost connections. The server keeps it: an
// app registers the token that it gets at each of its starts, and no more often.
// An error wraps ErrRefused, ErrTakenOver or ErrClosed, or is that of ctx.
func (t *Terminal) RegisterPushToken(ctx context.Context, token *wire.APNsToken) error {
	t.tokens.Lock()
	defer t.tokens.Unlock()
	return t.insist(ctx, "the push token", func() (*paho.PublishResponse, error) {
		return t.publish(ctx, t.topics.pushToken(), 1, wire.PushToken{Server: delivery.ServerAPNs, Registration: token.Registered()})
	})
}

// Read says that the user has seen a notification on this device: the server takes it
// off the screens of the account's other devices. It returns when the server has it,
// across lost connections; the errors are those of RegisterPushToken. It must not be
// called from a Display: its answer comes on the connection that the Display holds up.
func (t *Terminal) Read(ctx context.Context, id string) error {
	return t.insist(ctx, "read", func() (*paho.PublishResponse, error) {
		return t.publish(ctx, t.topics.acks(), 1, wire.Ack{ID: id, Status: "read"})
	})
}

// insist publishes until the server has acknowledged or refused it.
func (t *Terminal) insist(ctx context.Context, what string, publish func() (*paho.PublishResponse, error)) error {
	for {
		if err := t.WaitUp(ctx); err != nil {
			return err
		}
		answer, err := publish()
		if answer != nil && answer.ReasonCode >= 0x80 {
			reason := ""
			if answer.Properties != nil {
				reason = answer.Properties.ReasonString
			}
			err = refusal(what, answer.ReasonCode, reason)
		}
		if err == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil {
			return err
		}
		t.log.Debug("publish failed, retrying", "what", what, "device", t.opts.Device, "error", err)
		select { // the connection's loss may take a moment to be known here
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		case <-t.done:
		}
	}
}

// SignOut says that the user leaves this device: the server forgets it with its push
// tokens, cancels its outstanding notifications and ends the connection and its session.
// Only then another account can use the device's ID. The Terminal ends (ErrSignedOut). It
// returns when the server has it, across lost connections; after an error of ctx the Terminal
// goes on. An app that cannot reach the server signs out over HTTP, or later: device IDs that
// hold the account and the installation keep it from locking the next user out.
func (t *Terminal) SignOut(ctx context.Context) error {
	err := t.insist(ctx, "the sign-out", func() (*paho.PublishResponse, error) {
		published := make(chan struct{})
		defer close(published)
		t.mu.Lock()
		t.signingOut = published // the server ends the connection: it is not to be made again
		t.mu.Unlock()
		answer, err := t.publish(ctx, t.topics.signOut(), 1, struct{}{})
		if err == nil && answer.ReasonCode < 0x80 {
			t.end(ErrSignedOut)
		}
		return answer, err
	})
	if err != nil {
		return fmt.Errorf("sign out device %s: %w", t.opts.Device, err)
	}
	return nil
}

// WaitUp returns when the channel is up. An error is that of ctx, or why the
// Terminal has ended.
func (t *Terminal) WaitUp(ctx context.Context) error {
	t.mu.Lock()
	up, err := t.up, t.err
	t.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-up:
		return nil
	case <-t.ctx.Done():
		return t.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the Terminal has ended, by Close or by itself.
func (t *Terminal) Done() <-chan struct{} { return t.done }

// Err is why the Terminal has ended, or is about to: ErrClosed or ErrTakenOver;
// nil while it goes on.
func (t *Terminal) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Close disconnects, and returns when nothing runs any more or ctx has ended. The
// server keeps the session. It is safe to call twice, and must not be called from
// a Display.
func (t *Terminal) Close(ctx context.Context) error {
	t.end(ErrClosed)
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the terminal of device %s: %w", t.opts.Device, ctx.Err())
	}
}

func (t *Terminal) end(why error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = why
	}
	t.mu.Unlock()
	t.cancel()
}

func (t *Terminal) wake() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

func (t *Terminal) tell(s Status) {
	if t.opts.Status != nil {
		t.opts.Status(s)
	}
}

// topics are those of one device; it holds their common prefix.
type topics struct{ device string }

func (t topics) notifications() string { return t.device + "notifications" }
func (t topics) messages() string      { return t.device + "messages" }
func (t topics) acks() string          { return t.device + "acks" }
func (t topics) state() string         { return t.device + "state" }
func (t topics) dismissals() string    { return t.device + "dismissals" }
func (t topics) signOut() string       { return t.device + "sign-out" }
func (t topics) pushToken() string     { return t.device + "push-token" }

// ports by scheme; a WebSocket's are those of HTTP, which its dialer knows.
var ports = map[string]string{"mqtt": "1883", "tcp": "1883", "mqtts": "8883", "tls": "8883", "ssl": "8883", "ws": "", "wss": ""}

// parseServer reads Options.Server, and fills in what a user may leave out.
func parseServer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	u.Scheme = strings.ToLower(u.Scheme)
	port, known := ports[u.Scheme]
	if !known || u.Hostname() == "" {
		return nil, fmt.Errorf("server: must be a URL that begins with mqtt://, mqtts://, ws:// or wss://, got %q", text)
	}
	if u.User != nil {
		return nil, errors.New("server: must hold no user name and no password")
	}
	webSocket := slices.Contains([]string{"ws", "wss"}, u.Scheme)
	if u.Port() == "" && !webSocket {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	if webSocket && strings.Trim(u.Path, "/") == "" {
		u.Path = "/mqtt"
	}
	return u, nil
}

func wholeSeconds(what string, d time.Duration, most int64) error {
	if d < time.Second || d%time.Second != 0 || int64(d/time.Second) > most {
		return fmt.Errorf("%s: must be whole seconds, from 1 to %d of them, got %s", what, most, d)
	}
	return nil
}
