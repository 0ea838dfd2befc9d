package fallback

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// App is one application at one notification server, in one environment.
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
	Device       string                // the delivery's device; with Notification.ID it names the delivery
	Registration delivery.Registration // in the form that Pusher.Normalize gives
	Notification *delivery.Notification
	Attempt      int // 1 for the first
	// Dismiss asks for a background push that takes the notification off the screen.
	Dismiss bool
}

// Pusher is a notification server. To add one, implement it and hand it to New with
// the others. All methods are safe for concurrent use, and only Push may touch the
// network.
//
// The router does the rest: it queues by registration, limits, throttles and breaks
// per App and origin, sets a deadline on every call, computes backoff, pauses an App
// whose configuration is at fault, and counts. Package fallbacktest holds the tests
// that an implementation has to pass.
type Pusher interface {
	// Apps lists the configured apps; the list does not change. A registration that
	// names no app means the first one of its server.
	Apps() []App

	// Normalize completes a registration before it is stored. It checks the form of
	// the token and that the app and environment are among Apps, fills in fields
	// that the registration leaves out, and returns the token in its one spelling,
	// so that equal tokens are equal strings. The error is for the device's
	// developer: it names the fault and its correction, and does not repeat
	// the token, which is a secret.
	Normalize(t delivery.Registration) (delivery.Registration, error)

	// Fits refuses content that no request can carry, even shortened. It is called
	// before the notification is accepted, so that the backend gets the error.
	Fits(n *delivery.Notification) error

	// Concurrency returns how many Pushes to app may be in flight now, including
	// those that are. It is called before each one and must return at once. Less
	// than 1 counts as 1.
	Concurrency(app App) int

	// Push makes the request and returns when the outcome is known. If the server
	// has accepted it, the error is nil and receipt is the server's ID of the
	// message, "" if it gives none. Otherwise the error is a *PushError. Push
	// returns soon after ctx ends; the outcome is then unknown, which is a
	// *PushError like any passing one.
	//
	// The same delivery (Notification.ID and Device) may be pushed more than
	// once: after a crash, or after an unknown outcome. Each request must carry the
	// same identity, so that the server or the device shows one copy.
	//
	// Push does not retry, except once and at once where the server says that it has
	// not processed the request and what would help (a fresh credential, a new
	// connection).
	Push(ctx context.Context, r Request) (receipt string, err error)

	// Close ends connections and goroutines and waits for them. No Push is in
	// flight or comes after it. It may be called twice.
	Close() error
}

// Laned is implemented by a Pusher of which one App speaks to many servers, such as
// Web Push. Each origin gets a lane of its own, so that the outage of one does not
// delay the others.
type Laned interface {
	// Origin names the server that a registration leads to.
	Origin(r delivery.Registration) string
	// OriginLabel is the origin as metrics and status show it. Origins come from
	// devices, so it must be one of a small set, such as "mozilla" and "other".
	OriginLabel(origin string) string
}

// Fingerprinted is implemented by a Pusher whose configuration can be the reason that
// tokens are refused.
type Fingerprinted interface {
	// Fingerprint changes when the configuration of app changes in a way that can
	// make a refused token valid. It holds no secret.
	Fingerprint(app App) string
}

// Credentialed is implemented by a Pusher whose credentials age.
type Credentialed interface {
	Credentials(app App) Credentials
}

// Credentials is the state of an App's credentials.
type Credentials struct {
	// CertificateExpires is when the client certificate ends; zero: there is none.
	CertificateExpires time.Time
	// TokenIssued is when the provider token in use was made; zero: none yet.
	TokenIssued time.Time
	// TokenExpires is when the access token in use ends; zero: none yet.
	TokenExpires time.Time
	// Connections is how many are open.
	Connections int
	// Warning tells an operator to act soon; "" if there is nothing to do.
	Warning string
}

// PushError says why a notification server has not accepted a push, and what to
// do. With no flag set it is a passing failure of the server or of the way to it:
// retry with backoff. Several in a row open the breaker of the lane.
type PushError struct {
	StatusCode int    // the server's HTTP status; 0: no answer, or with Permanent or Suspend not asked
	Reason     string // the server's word for it, "" if none; no secrets

	// Permanent: the same request never succeeds, because the request is wrong.
	// The delivery is not pushed again.
	Permanent bool
	// TokenGone: the server has proved that the registration is no more.
	TokenGone bool
	// GoneSince is with TokenGone: the registration ended then; one made later is
	// not meant. Zero: the server gave no time.
	GoneSince time.Time
	// Suspend: the server does not know the registration, which a wrong
	// configuration can cause for every registration of the App. It is kept, and
	// not asked again until the configuration changes or a probe is due.
	Suspend bool
	// NotToken is with Suspend: the server knows the registration, and the App lacks a
	// part of its configuration that only some registrations need. The others go on.
	NotToken bool
	// ConfigFault: no push of this App can succeed until somebody changes its
	// configuration (or, with RetryAfter, until then). The router pauses the lane
	// and keeps the pushes.
	ConfigFault bool
	// Throttled: the server wants fewer requests for this registration. Others are
	// not affected.
	Throttled bool
	// Busy: the server wants no request of this App until RetryAfter (60 s if it
	// does not say). Nobody is at fault.
	Busy bool

	// Unsent: the Pusher has not tried to reach the server, and does not before
	// RetryAfter, a pause of its own. That says nothing about the server.
	Unsent bool

	// RetryAfter is how long the server asks to wait; 0: it does not say.
	RetryAfter time.Duration

	// Help tells people what to do about it; "" if the reason is enough.
	Help string
	Err  error // the cause, if there was no answer
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

// Unwrap returns Err.
func (e *PushError) Unwrap() error { return e.Err }

// detail is the answer in short, for a timeline: "410 Unregistered".
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

var (
	// ErrClosed is the error of a push that was not sent because of Close.
	ErrClosed = errors.New("push router closed")

	// ErrNotConfigured is wrapped by the error for a registration whose app or
	// environment no Pusher serves.
	ErrNotConfigured = errors.New("app not configured for push")

	// ErrTooLarge is wrapped by the error for content that no push can carry.
	ErrTooLarge = errors.New("too large for a push")

	// ErrUnsuited is wrapped by the Err of a Permanent PushError for content that
	// this server has no form for, such as a silent push to a browser. It is logged
	// as information.
	ErrUnsuited = errors.New("not suited to this notification server")
)
