package fallback

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// App is one application at one notification server, in one environment: what
// has its own queue, limit and breaker.
type App struct {
	Server      string // delivery.ServerAPNs, or the name another Pusher brings
	Name        string // APNs: the topic, a bundle ID
	Environment string // APNs: "production" or "sandbox"; "" where a server has none
}

// String is the App as logs, metrics and errors name it.
func (a App) String() string {
	parts := make([]string, 0, 3)
	for _, p := range []string{a.Server, a.Name, a.Environment} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/")
}

func appOf(t delivery.Registration) App {
	return App{Server: t.Server, Name: t.App, Environment: t.Environment}
}

// Request is one push, ready to be sent.
type Request struct {
	App          App
	Device       string // the delivery's device; with Notification.ID it names the delivery
	Token        string // in the form that Pusher.Normalize gives
	Notification *delivery.Notification
	Attempt      int // 1 for the first
}

// Pusher is a notification server. To add one (FCM, Web Push), implement it and
// hand it to New beside the others; nothing else in the program names Apple. All
// methods are safe for concurrent use, and only Push may touch the network.
//
// The router does the rest: it queues, limits, throttles and breaks per App,
// sets a deadline on every call, computes backoff, pauses an App whose
// configuration is at fault, and counts. Package fallbacktest holds the tests
// that an implementation has to pass.
type Pusher interface {
	// Apps lists what is configured; it does not change. The first of a server
	// is the one meant by a token that names none.
	Apps() []App

	// Normalize checks a token that a device registers, before it is stored: its
	// form, and that its app and environment are among Apps. It fills in what the
	// token leaves out and returns the one spelling of it, so that equal tokens
	// are equal strings. The error is for the device's developer: it says what is
	// wrong and what would be right, and does not repeat the token, which is a
	// secret.
	Normalize(t delivery.Registration) (delivery.Registration, error)

	// Fits refuses content that no request can carry, even shortened, so that it
	// is refused to the backend and not found out later. It is asked before the
	// notification is accepted.
	Fits(n *delivery.Notification) error

	// Concurrency says how many Pushes to app may be under way at this moment,
	// those already under way included. It is asked before each one and must
	// answer at once. Less than 1 counts as 1.
	Concurrency(app App) int

	// Push makes the request and returns when the outcome is known: nil if the
	// server has accepted it, otherwise a *PushError. It returns soon after ctx
	// ends; what was sent by then counts as unknown, which is a *PushError like
	// any passing one.
	//
	// The same delivery (Notification.ID and Device) may be pushed more than
	// once: after a crash, or where an outcome was unknown. It must carry the same
	// identity each time, such that the server or the device shows one copy.
	//
	// Push does not retry, except at once where the server says that the request
	// was not looked at and what would help (a fresh credential, a new
	// connection), and then once.
	Push(ctx context.Context, r Request) error

	// Close ends connections and goroutines and waits for them. No Push is under
	// way or comes after it. It may be called twice.
	Close() error
}

// Credentialed is implemented by a Pusher whose credentials age.
type Credentialed interface {
	Credentials(app App) Credentials
}

// Credentials tells how an App's credentials stand.
type Credentials struct {
	// CertificateExpires is when the client certificate ends; zero: there is none.
	CertificateExpires time.Time
	// TokenIssued is when the provider token in use was made; zero: none yet.
	TokenIssued time.Time
	// Connections is how many are open.
	Connections int
	// Warning is what an operator should do soon, "" if nothing.
	Warning string
}

// PushError is why a notification server has not accepted a push, and what to
// do. Its zero flags mean: a passing failure of the server or of the way to it;
// try again with backoff. Many of them in a row open the App's breaker.
type PushError struct {
	StatusCode int    // the server's HTTP status; 0: no answer
	Reason     string // the server's word for it, "" if none; no secrets

	// Permanent: the same request never succeeds; the fault is in the request,
	// so in this program. The delivery is not pushed again.
	Permanent bool
	// TokenGone: the device is not to be found under this token any more.
	TokenGone bool
	// GoneSince is with TokenGone: a token registered later is not meant. Zero:
	// the server gave no time.
	GoneSince time.Time
	// ConfigFault: no push of this App can succeed until somebody changes its
	// configuration (or, with RetryAfter, until then). The router pauses the App
	// and keeps the work.
	ConfigFault bool
	// Throttled: the server wants fewer requests for this token; others are not
	// concerned.
	Throttled bool

	// RetryAfter is how long the server asks to wait; 0: it does not say.
	RetryAfter time.Duration

	// Help says what to do about it, for people; "" if the reason says it all.
	Help string
	Err  error // what lies below, if there was no answer
}

func (e *PushError) Error() string {
	s := e.detail()
	if e.Help != "" {
		s += ": " + e.Help
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what lies below.
func (e *PushError) Unwrap() error { return e.Err }

// detail is the answer in short, as a timeline shows it: "410 Unregistered".
func (e *PushError) detail() string {
	switch {
	case e.StatusCode != 0 && e.Reason != "":
		return fmt.Sprintf("%d %s", e.StatusCode, e.Reason)
	case e.StatusCode != 0:
		return fmt.Sprintf("%d", e.StatusCode)
	case e.Reason != "":
		return e.Reason
	}
	return "no answer"
}

// ErrClosed is the error of a push that Close kept from being sent.
var ErrClosed = errors.New("push router closed")

// ErrNotConfigured is wrapped by the error for a token whose app or environment
// no Pusher serves.
var ErrNotConfigured = errors.New("app not configured for push")

// ErrTooLarge is wrapped by the error for content that no push can carry.
var ErrTooLarge = errors.New("too large for a push")
