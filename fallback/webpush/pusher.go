package webpush

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/payload"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
	"github.com/heartline-mqtt/heartline/internal/hosts"
)

// Config is a set of application server keys and the rules for endpoints.
type Config struct {
	// Apps are the keys; at least one. A subscription that names no key means the
	// first.
	Apps []App
	// Allow are the host patterns of push services (see hosts.Match); empty: any.
	Allow []string
	// AllowPrivate are address ranges that may be reached besides public ones, for a
	// distributor of one's own.
	AllowPrivate []netip.Prefix
	// MaxConcurrent bounds the requests under way to one push service; 100.
	MaxConcurrent int
	// Former is the Pusher that this one replaces; nil: none. Its VAPID tokens are used
	// further where key and contact are the same: Apple asks for at most one new token an
	// hour.
	Former *Pusher

	RootCAs *x509.CertPool   // nil: the system's
	Now     func() time.Time // nil: time.Now
}

// App is an application server key (RFC 8292) and whom to ask about its pushes.
type App struct {
	Key     *ecdsa.PrivateKey
	Contact string // mailto: or https:, see package credentials
}

// Pusher sends pushes to browsers. It implements fallback.Pusher.
type Pusher struct {
	apps    map[string]*signer // by the name of the app
	list    []fallback.App
	guard   guard
	client  *http.Client
	maximum int
	now     func() time.Time

	mu     sync.Mutex
	madeBy map[string]fallback.App // endpoints whose subscription another key made than their registration says
}

var (
	_ fallback.Pusher        = (*Pusher)(nil)
	_ fallback.Laned         = (*Pusher)(nil)
	_ fallback.Fingerprinted = (*Pusher)(nil)
)

// appName is how long the part of the public key is that names an app.
const appName = 16

// New checks cfg and returns a Pusher; it does not connect.
func New(cfg Config) (*Pusher, error) {
	if len(cfg.Apps) == 0 {
		return nil, errors.New("fallback.webpush: no application server key")
	}
	p := &Pusher{
		apps: map[string]*signer{}, madeBy: map[string]fallback.App{}, guard: guard{allow: cfg.Allow, private: cfg.AllowPrivate},
		maximum: cmp.Or(cfg.MaxConcurrent, 100), now: cfg.Now,
	}
	if p.now == nil {
		p.now = time.Now
	}
	var errs []error
	for i, app := range cfg.Apps {
		if err := credentials.CheckContact(app.Contact); err != nil {
			errs = append(errs, fmt.Errorf("application server key %d: contact: %w", i+1, err))
		}
		public, err := credentials.VAPIDPublicKey(app.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("application server key %d: %w", i+1, err))
			continue
		}
		name := public[:appName]
		if p.apps[name] != nil {
			errs = append(errs, fmt.Errorf("application server key %s is configured twice", name))
			continue
		}
		p.apps[name] = newSigner(app, public, p.now)
		if cfg.Former != nil {
			if s := cfg.Former.apps[name]; s != nil && s.public == public && s.contact == app.Contact {
				p.apps[name] = s
			}
		}
		p.list = append(p.list, fallback.App{Server: delivery.ServerWebPush, Name: name})
	}
	for _, pattern := range cfg.Allow {
		if err := hosts.Check(pattern); err != nil {
			errs = append(errs, fmt.Errorf("allow %q: %w", pattern, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.client = &http.Client{
		Transport:     h2pool.NewTransport(transport(p.guard, cfg.RootCAs)),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p, nil
}

func transport(g guard, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		// No Proxy: a proxy resolves names by itself, behind the guard's back.
		DialContext: g.dialer().DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second, MaxConnsPerHost: 4, MaxIdleConnsPerHost: 1, MaxIdleConns: 256,
		IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 32 << 10, DisableCompression: true,
	}
}

// PublicKey returns the applicationServerKey of the first app, for pages.
func (p *Pusher) PublicKey() string { return p.apps[p.list[0].Name].public }

// Apps implements fallback.Pusher.
func (p *Pusher) Apps() []fallback.App { return append([]fallback.App(nil), p.list...) }

// Origin implements fallback.Laned: each push service has a lane of its own, so that
// the failure of one does not hold up the others.
func (p *Pusher) Origin(r delivery.Registration) string {
	u, err := parseEndpoint(r.Token)
	if err != nil {
		return ""
	}
	return u.Host
}

// OriginLabel implements fallback.Laned.
func (p *Pusher) OriginLabel(origin string) string { return Service(origin) }

// Normalize implements fallback.Pusher.
func (p *Pusher) Normalize(r delivery.Registration) (delivery.Registration, error) {
	r, err := CheckForm(r)
	if err != nil {
		return r, err
	}
	u, _ := url.Parse(r.Token) // CheckForm made it
	if !p.guard.host(u.Hostname()) {
		return r, &delivery.FieldError{Field: "webpush.endpoint", Rule: "must be at a push service of fallback.webpush.allow"}
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && !p.guard.address(a) {
		return r, &delivery.FieldError{Field: "webpush.endpoint", Rule: errForbidden.Error()}
	}
	r.App = cmp.Or(r.App, p.list[0].Name)
	for _, app := range p.list {
		if r.App != "" && (strings.HasPrefix(r.App, app.Name) || len(r.App) >= 8 && strings.HasPrefix(app.Name, r.App)) {
			r.App = app.Name
			return r, nil
		}
	}
	return r, fmt.Errorf("%w: the browser subscribed with another application server key", fallback.ErrNotConfigured)
}

// Fits implements fallback.Pusher.
func (p *Pusher) Fits(n *delivery.Notification) error { return fits(n) }

// Concurrency implements fallback.Pusher. It holds for each push service.
func (p *Pusher) Concurrency(fallback.App) int { return p.maximum }

// Close implements fallback.Pusher.
func (p *Pusher) Close() error {
	p.client.CloseIdleConnections()
	return nil
}

// maxTTL is the longest that every push service keeps a push.
const maxTTL = 28 * 24 * time.Hour

// ttl is the header field TTL in seconds, rounded up; 0 means now or never (RFC 8030 §5.2).
func ttl(n *delivery.Notification, now time.Time) int64 {
	if n.TTLZero {
		return 0
	}
	left := min(n.ExpiresAt.Sub(now), maxTTL)
	return max(1, int64((left+time.Second-1)/time.Second))
}

// topic is at most 32 characters of base64url (RFC 8030 §5.4), so keys are hashed. It
// makes a retry, or a newer notification of the same key, replace one that the push
// service still holds.
func topic(n *delivery.Notification) string {
	sum := sha256.Sum256([]byte(payload.Tag(n)))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// Push implements fallback.Pusher. The receipt is empty.
//
// A subscription that names no key may be older than a change of keys: it was made with one
// that is not the first any more. A push service that refuses the key has not taken the push,
// so the other keys are tried at once. A fault of one of these stops no push that the registration's
// own key makes.
func (p *Pusher) Push(ctx context.Context, r fallback.Request) (receipt string, err error) {
	own, endpoint := r.App, r.Registration.Token
	for _, app := range p.keys(own, endpoint) {
		r.App = app
		answer := p.push(ctx, r)
		if app == own {
			if err = answer; isOtherKey(answer) {
				continue
			}
			return "", answer
		}
		if pe, ok := errors.AsType[*fallback.PushError](answer); ok {
			switch {
			case isOtherKey(answer), pe.ConfigFault:
				continue
			case pe.Busy: // it may have made the subscription, which waits alone
				pe.Busy, pe.Throttled = false, true
			}
		}
		if answer == nil {
			p.setMaker(endpoint, app)
		}
		return "", answer
	}
	return "", err
}

// keys returns the apps in the order in which their keys are tried: the one that is known to have made
// the subscription, its own, the others.
func (p *Pusher) keys(own fallback.App, endpoint string) []fallback.App {
	keys := make([]fallback.App, 0, len(p.list)+1)
	if app, known := p.maker(endpoint); known {
		keys = append(keys, app)
	}
	for _, app := range append([]fallback.App{own}, p.list...) {
		if !slices.Contains(keys, app) {
			keys = append(keys, app)
		}
	}
	return keys
}

// maker returns the app whose key an endpoint was found to be made with.
func (p *Pusher) maker(endpoint string) (fallback.App, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	app, known := p.madeBy[endpoint]
	return app, known
}

func (p *Pusher) setMaker(endpoint string, app fallback.App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.madeBy) >= maxTokens {
		clear(p.madeBy)
	}
	p.madeBy[endpoint] = app
}

// push pushes with the key of r.App.
func (p *Pusher) push(ctx context.Context, r fallback.Request) error {
	q, err := p.request(ctx, r, maxPlain)
	if err != nil {
		return err
	}
	long := q.ContentLength
	err = p.send(r.App, q)
	if pe, ok := errors.AsType[*fallback.PushError](err); !ok || pe.StatusCode != http.StatusRequestEntityTooLarge {
		return err
	}
	// A distributor may take less than RFC 8030 asks for: once more, shorter.
	if short, again := p.request(ctx, r, shortPlain); again == nil && short.ContentLength < long {
		err = p.send(r.App, short)
	}
	return err
}

// send makes one request. Its error is a *fallback.PushError.
func (p *Pusher) send(app fallback.App, q *http.Request) error {
	res, err := p.client.Do(q)
	if err != nil {
		return connectionError(err, q.URL.Hostname())
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil && reasonDecides(res.StatusCode) {
		return &fallback.PushError{StatusCode: res.StatusCode, Reason: reasonCutOff, RetryAfter: backoff.RetryAfter(res.Header.Get("Retry-After"), p.now())}
	}
	err = reaction(Service(q.URL.Host), res.StatusCode, res.Header, body, p.now())
	if pe, ok := errors.AsType[*fallback.PushError](err); ok && (pe.ConfigFault || pe.Suspend) {
		p.apps[app.Name].refused(origin(q.URL), q.Header.Get("Authorization"))
	}
	return err
}

// request makes the request of RFC 8030 §5 with a plain text of at most limit bytes. Its
// errors are *fallback.PushError.
func (p *Pusher) request(ctx context.Context, r fallback.Request, limit int) (*http.Request, error) {
	n := r.Notification
	if !r.Dismiss && !shows(n) {
		return nil, &fallback.PushError{Permanent: true, Reason: "nothing to show", Err: errNothingToShow}
	}
	s := p.apps[r.App.Name]
	if s == nil {
		return nil, &fallback.PushError{Permanent: true, Err: fallback.ErrNotConfigured}
	}
	to, err := CheckForm(r.Registration)
	if err != nil {
		return nil, &fallback.PushError{Suspend: true, Reason: "malformed subscription", Err: err}
	}
	if r.Dismiss && !allowsSilent(to.Token) {
		return nil, &fallback.PushError{Permanent: true, Reason: "not sent: this browser must show something for each push", Err: errNothingToShow}
	}
	user, err := ecdh.P256().NewPublicKey(to.P256dh)
	if err != nil {
		return nil, &fallback.PushError{Suspend: true, Reason: "malformed subscription"}
	}
	plain, err := message(n, limit)
	if r.Dismiss {
		plain, err = dismissal(n)
	}
	if err != nil {
		return nil, &fallback.PushError{Permanent: true, Reason: "too large", Err: err}
	}
	body, err := seal(plain, user, to.Auth)
	if err != nil {
		return nil, &fallback.PushError{Permanent: true, Err: err}
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Token, bytes.NewReader(body))
	if err != nil {
		return nil, &fallback.PushError{Suspend: true, Reason: "malformed subscription"}
	}
	if !p.guard.host(q.URL.Hostname()) {
		return nil, &fallback.PushError{Suspend: true, Reason: "push service not allowed", Help: "fallback.webpush.allow does not name it"}
	}
	authorization, err := s.authorization(origin(q.URL))
	if err != nil {
		return nil, &fallback.PushError{ConfigFault: true, Err: err, Help: checkKey}
	}
	seconds := ttl(n, p.now())
	q.Header.Set("Authorization", authorization)
	q.Header.Set("Content-Encoding", "aes128gcm")
	q.Header.Set("Content-Type", "application/octet-stream")
	q.Header.Set("TTL", strconv.FormatInt(seconds, 10))
	q.Header.Set("Urgency", "high")
	if n.Urgency == delivery.UrgencyNormal {
		q.Header.Set("Urgency", "normal")
	}
	q.Header.Set("Topic", topic(n))
	if r.Dismiss && n.CollapseKey != "" { // a newer notification may wait under its Topic
		q.Header.Set("Topic", topic(&delivery.Notification{ID: n.ID + "\x00dismissal"}))
	}
	if Service(q.URL.Host) == serviceWindows { // which refuses a TTL without it
		q.Header.Set("X-WNS-Cache-Policy", "cache")
		if seconds == 0 {
			q.Header.Set("X-WNS-Cache-Policy", "no-cache")
		}
	}
	o, err := overlayOf(n)
	if err == nil {
		var more map[string]string
		if more, err = payload.Headers(o.Headers, "webpush.headers", settable...); err == nil {
			for name, value := range more {
				q.Header.Set(name, value)
			}
		}
	}
	if err != nil {
		return nil, &fallback.PushError{Permanent: true, Err: err}
	}
	return q, nil
}

// connectionError says why there was no answer, without the endpoint and without any
// address: a device could map our network with them. host is the endpoint's.
func connectionError(err error, host string) error {
	pe := &fallback.PushError{Reason: "connection"}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // whose own text has no endpoint
	}
	unresolved, isDNS := errors.AsType[*net.DNSError](err)
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case errors.Is(err, errForbidden):
		// A name may have another address at the next try: a wrong answer of the DNS passes.
		_, noAddress := netip.ParseAddr(host)
		pe.Suspend, pe.Reason = noAddress == nil, "address not allowed"
	case errors.Is(err, context.DeadlineExceeded):
		pe.Reason, pe.Err = "timeout", context.DeadlineExceeded
	case isDNS && unresolved.IsNotFound:
		pe.Reason = "no such host"
	case isTLS:
		pe.Reason, pe.Help = "certificate", "the push service's certificate is not trusted; of a distributor of your own give its CA to this machine"
	case errors.Is(err, syscall.ECONNREFUSED):
		pe.Reason = "connection refused"
	}
	return pe
}

// Fingerprint implements fallback.Fingerprinted.
func (p *Pusher) Fingerprint(app fallback.App) string {
	s := p.apps[app.Name]
	if s == nil {
		return ""
	}
	names := fmt.Append(nil, s.public, s.contact, p.guard.allow, p.guard.private)
	for _, other := range p.list {
		if other != app { // it may have made the subscription
			names = append(names, p.apps[other.Name].public...)
		}
	}
	sum := sha256.Sum256(names)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}
