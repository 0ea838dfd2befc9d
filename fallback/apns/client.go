package apns

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sideshow/apns2"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
)

// The environments of Apple's service, as a PushToken names them.
const (
	EnvironmentProduction = "production"
	EnvironmentSandbox    = "sandbox"
)

// Config is what the Apple side is made of.
type Config struct {
	// Apps are the apps that may be pushed to; at least one. The first one is
	// meant by a token that names no topic.
	Apps []App
	// DefaultEnvironment is meant by a token that names none, where its topic is
	// configured for both; "production" if empty.
	DefaultEnvironment string

	// Endpoint replaces Apple's hosts, for a simulator or a proxy: an https URL.
	Endpoint string
	// CAFile, or CAPEM, is an extra CA for the endpoint.
	CAFile string
	CAPEM  []byte

	// MaxConnections bounds the connections of an app in an environment; 4. There
	// is one until its streams are all in use.
	MaxConnections int

	// Former is the Client that this one replaces; nil: none. Its provider tokens are used
	// further where key, key ID and team are the same: Apple refuses a new one within 20
	// minutes.
	Former *Client

	Logger *slog.Logger // nil: none
}

// App is one app: a topic, and either a key (.p8, with key and team ID) or a
// certificate (.p12 or .pem).
type App struct {
	// Topic is the app's bundle ID. With a certificate it may be empty: the
	// certificate names it.
	Topic string
	// Environment is "production" or "sandbox"; "" stands for both, with the same
	// key or certificate.
	Environment string

	KeyFile string // or KeyPEM
	KeyPEM  []byte
	KeyID   string
	TeamID  string

	CertificateFile     string
	CertificatePassword string // of a .p12 or an encrypted .pem
}

// Client is Apple's push service as a Pusher.
type Client struct {
	list       []fallback.App
	apps       map[fallback.App]*appClient
	tokens     map[string]*providerToken // by team and key ID: Apple counts updates by key
	defaultEnv string
	log        *slog.Logger
}

var (
	_ fallback.Pusher        = (*Client)(nil)
	_ fallback.Credentialed  = (*Client)(nil)
	_ fallback.Fingerprinted = (*Client)(nil)
)

// appClient is one app in one environment. It is the http.RoundTripper under
// apns2's client.
type appClient struct {
	app         fallback.App
	client      *apns2.Client
	pool        *h2pool.Pool
	slots       *h2pool.WriteSlots
	poller      h2pool.Netpoller
	token       *providerToken // nil: a certificate is used
	expires     time.Time      // of the certificate
	fingerprint string
	warnNext    atomic.Int64 // when to warn of the expiry again, Unix seconds
}

// New loads keys and certificates; it does not connect. All that is wrong
// with cfg is in the error, each thing with the app it belongs to.
func New(cfg Config) (*Client, error) {
	a := &Client{apps: map[fallback.App]*appClient{}, tokens: map[string]*providerToken{}, defaultEnv: cmp.Or(cfg.DefaultEnvironment, EnvironmentProduction), log: cfg.Logger}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Apps) == 0 {
		return nil, errors.New("apns: no app is configured")
	}
	var errs []error
	if !slices.Contains([]string{EnvironmentProduction, EnvironmentSandbox}, a.defaultEnv) {
		errs = append(errs, fmt.Errorf("apns: the default environment must be production or sandbox, got %q", a.defaultEnv))
	}
	roots, err := rootCAs(cfg)
	errs = append(errs, err)
	endpoint := (*url.URL)(nil)
	if cfg.Endpoint != "" {
		if endpoint, err = url.Parse(cfg.Endpoint); err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" {
			errs = append(errs, fmt.Errorf("apns: the endpoint must be like https://host:port, got %q", cfg.Endpoint))
		}
	}
	for i, c := range cfg.Apps {
		what := fmt.Sprintf("apns app %d (%s)", i+1, cmp.Or(c.Topic, "no topic"))
		pt, cert, err := c.credentials(a.tokens, cfg.Former)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			continue
		}
		topic := cmp.Or(c.Topic, certificateTopic(cert))
		if topic == "" {
			errs = append(errs, fmt.Errorf("%s: set the topic (the app's bundle ID)", what))
			continue
		}
		envs := []string{c.Environment}
		switch c.Environment {
		case EnvironmentProduction, EnvironmentSandbox:
		case "":
			envs = []string{EnvironmentProduction, EnvironmentSandbox}
			if a.defaultEnv == EnvironmentSandbox {
				slices.Reverse(envs)
			}
		default:
			errs = append(errs, fmt.Errorf("%s: the environment must be production or sandbox, got %q", what, c.Environment))
			continue
		}
		for _, env := range envs {
			app := fallback.App{Server: delivery.ServerAPNs, Name: topic, Environment: env}
			if a.apps[app] != nil {
				errs = append(errs, fmt.Errorf("%s: %s is configured twice", what, app))
				continue
			}
			a.list = append(a.list, app)
			a.apps[app] = newAppClient(app, endpoint, roots, pt, cert, cmp.Or(cfg.MaxConnections, 4))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	for _, app := range a.list {
		a.warnExpiry(a.apps[app], time.Now())
	}
	return a, nil
}

func newAppClient(app fallback.App, endpoint *url.URL, roots *x509.CertPool, pt *providerToken, cert *tls.Certificate, connections int) *appClient {
	host := apns2.HostProduction
	if app.Environment == EnvironmentSandbox {
		host = apns2.HostDevelopment
	}
	if endpoint != nil {
		host = "https://" + endpoint.Host
	}
	address := strings.TrimPrefix(host, "https://")
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "443")
	}

	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	x := &appClient{app: app, token: pt, slots: h2pool.NewWriteSlots()}
	credential := ""
	if pt != nil {
		credential = "key " + pt.teamID + "/" + pt.keyID
	}
	if cert != nil {
		credential = fmt.Sprintf("certificate %x", sha256.Sum256(cert.Certificate[0]))[:28]
		tlsConfig.Certificates = []tls.Certificate{*cert}
		x.expires = cert.Leaf.NotAfter
	}
	x.fingerprint = strings.Join([]string{app.String(), credential, address}, " ")
	x.pool = h2pool.New(h2pool.Options{Dial: h2pool.Dialer(address, tlsConfig), MaxConnections: connections, ProveFirst: true})
	x.client = &apns2.Client{Host: host, HTTPClient: &http.Client{
		Transport: x,
		// A redirect would take the provider token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return x
}

// Apps implements Pusher.
func (a *Client) Apps() []fallback.App { return slices.Clone(a.list) }

// maxTokenLength bounds a device token, in hex digits. Apple says that its size
// is not fixed; it is 64 today, 160 for some kinds.
const maxTokenLength = 256

// CheckForm checks the form of a registration, which needs no configuration, and
// returns it in its one spelling. The error does not repeat the token.
func CheckForm(r delivery.Registration) (delivery.Registration, error) {
	if err := checkHex(r.Token); err != nil {
		return r, err
	}
	switch {
	case len(r.App) > 155 || strings.Trim(r.App, topicAlphabet) != "":
		return r, errors.New("the topic must be a bundle ID: at most 155 of A-Z, a-z, 0-9, '.', '-' and '_'")
	case !slices.Contains([]string{"", EnvironmentProduction, EnvironmentSandbox}, r.Environment):
		return r, fmt.Errorf("the push token names the environment %.20q: it must be production or sandbox", r.Environment)
	}
	r.Server, r.Token = delivery.ServerAPNs, strings.ToLower(r.Token)
	return r, nil
}

const topicAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_"

// checkHex keeps anything but hex digits out of the request's path.
func checkHex(s string) error {
	switch {
	case s == "":
		return errors.New("the push token is empty")
	case len(s) > maxTokenLength:
		return fmt.Errorf("the push token has %d characters; at most %d are possible", len(s), maxTokenLength)
	case len(s)%2 != 0:
		return fmt.Errorf("the push token has an odd number of characters (%d): it must be the hex form of the device token's bytes", len(s))
	}
	for i := range len(s) {
		if c := s[i] | 0x20; (s[i] < '0' || s[i] > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("the push token is not hex: character %d is none of 0-9, a-f", i+1)
		}
	}
	return nil
}

// Normalize implements Pusher: hex digits in lower case, a configured topic and
// environment.
func (a *Client) Normalize(t delivery.Registration) (delivery.Registration, error) {
	t, err := CheckForm(t)
	if err != nil {
		return t, err
	}
	if t.App == "" {
		t.App = a.list[0].Name
	}
	var envs, topics []string
	for _, app := range a.list {
		if app.Name == t.App {
			envs = append(envs, app.Environment)
		} else if !slices.Contains(topics, app.Name) {
			topics = append(topics, app.Name)
		}
	}
	if len(envs) == 0 {
		return t, fmt.Errorf("%w: the push token names the topic %q; configured: %s", fallback.ErrNotConfigured, t.App, strings.Join(topics, ", "))
	}
	if t.Environment == "" {
		t.Environment = envs[0]
		if slices.Contains(envs, a.defaultEnv) {
			t.Environment = a.defaultEnv
		}
	}
	if !slices.Contains(envs, t.Environment) {
		return t, fmt.Errorf("%w: the push token is for %s in %s, which is configured for %s only: tokens of development builds belong to sandbox, those of TestFlight and the App Store to production",
			fallback.ErrNotConfigured, t.App, t.Environment, envs[0])
	}
	return t, nil
}

// Fits implements Pusher.
func (a *Client) Fits(n *delivery.Notification) error {
	// Escaped, no byte becomes more than six; the rest of a payload is below 512.
	texts := len(n.Title) + len(n.Subtitle) + len(n.Body) + len(n.Sound) + len(n.Category) + len(n.Thread) + len(n.Link) + len(n.Image) + 2*len(n.Account) + len(n.ID)
	if 6*texts <= maxPayload-512 && n.Localized == nil && n.Extra == nil && n.Overlay == nil && n.PushType == "" {
		return nil
	}
	if err := CheckContent(n); err != nil {
		return err
	}
	if _, err := payload(n, maxPayload); err != nil {
		return fmt.Errorf("apns: %w", err)
	}
	return nil
}

// Concurrency implements Pusher.
func (a *Client) Concurrency(app fallback.App) int {
	if x := a.apps[app]; x != nil {
		return x.pool.Concurrency()
	}
	return 1
}

// Fingerprint implements fallback.Fingerprinted: the credentials by their names, and
// the host.
func (a *Client) Fingerprint(app fallback.App) string {
	if x := a.apps[app]; x != nil {
		return x.fingerprint
	}
	return ""
}

// Close implements Pusher.
func (a *Client) Close() error {
	for _, x := range a.apps {
		x.pool.Close()
		x.poller.Close()
	}
	return nil
}

// apnsIDSpace makes apns-ids out of deliveries: a delivery has the same one
// however often it is asked for, also after a restart.
var apnsIDSpace = uuid.MustParse("7b1d6f0e-5c1f-5d0a-9a53-3f2f0f5f5b8e")

func apnsID(notificationID, device string) string {
	return uuid.NewSHA1(apnsIDSpace, []byte(notificationID+"\x00"+device)).String()
}

// request is a request for n without its payload.
func (x *appClient) request(r *fallback.Request) *apns2.Notification {
	n := r.Notification
	q := &apns2.Notification{
		ApnsID:      apnsID(n.ID, r.Device),
		CollapseID:  cmp.Or(n.CollapseKey, n.ID), // both are at most 64 bytes, as Apple asks
		DeviceToken: r.Registration.Token,
		Topic:       x.app.Name + topicSuffixes[n.PushType],
		Expiration:  n.ExpiresAt.Add(time.Second - 1).Truncate(time.Second), // apns2 rounds down
		Priority:    apns2.PriorityHigh,
		PushType:    apns2.EPushType(cmp.Or(n.PushType, pushTypeAlert)),
	}
	if n.Urgency == delivery.UrgencyNormal {
		q.Priority = apns2.PriorityLow
	}
	if r.Dismiss {
		// It is no copy of the notification, and must not replace one that Apple keeps.
		q.ApnsID, q.CollapseID = apnsID(n.ID+"\x00dismissal", r.Device), ""
	}
	if r.Dismiss || background(n) {
		// Apple: always priority 5, "using priority 10 is an error".
		q.PushType, q.Priority, q.Topic = apns2.PushTypeBackground, apns2.PriorityLow, x.app.Name
	}
	return q
}

// aboutPushType reports whether an answer is about the topic of a push type, and says
// nothing of the app or of the registration: a topic with a suffix was refused, or a token
// does not fit a topic that is not its registration's.
func (x *appClient) aboutPushType(topic, kind, reason string) bool {
	kind, _, _ = strings.Cut(kind, ":") // liveactivity: and a name
	other := topic != x.app.Name+topicSuffixes[kind]
	switch reason {
	case "BadTopic":
		return topic != x.app.Name
	case "TopicDisallowed":
		return other || topic != x.app.Name
	case "DeviceTokenNotForTopic":
		return other
	}
	return false
}

// extraHeaders are the header fields that apns2 cannot send.
func extraHeaders(r *fallback.Request) map[string]string {
	if r.Dismiss {
		return nil
	}
	h, _ := headers(r.Notification) // Fits has checked them
	if r.Notification.TTLZero {
		if h == nil {
			h = map[string]string{}
		}
		h["apns-expiration"] = "0" // now or never
	}
	return h
}

// Push implements Pusher.
func (a *Client) Push(ctx context.Context, r fallback.Request) (receipt string, err error) {
	x := a.apps[r.App]
	if x == nil {
		return "", &fallback.PushError{Permanent: true, Reason: "NotConfigured", Err: fallback.ErrNotConfigured}
	}
	if err := checkHex(r.Registration.Token); err != nil {
		// It came into the registry before there was a check, or past it.
		return "", &fallback.PushError{Suspend: true, Reason: "BadDeviceToken", Help: "not sent", Err: err}
	}
	a.warnExpiry(x, time.Now())
	body, err := payload(r.Notification, maxPayload)
	if r.Dismiss {
		body, err = dismissal(r.Notification)
	}
	if err != nil {
		return "", &fallback.PushError{Permanent: true, Reason: "PayloadTooLarge", Help: "not sent", Err: err}
	}
	q, more := x.request(&r), extraHeaders(&r)
	for again := false; ; again = true {
		e := &exchange{payload: body, headers: more}
		if err := x.exchange(ctx, q, e); err != nil {
			return "", connectionError(err)
		}
		if e.status == http.StatusOK && e.page {
			x.pool.Retire(e.conn) // it is not Apple's, for as long as it lasts
			return "", &fallback.PushError{StatusCode: e.status, Reason: "WebPage", ConfigFault: true, Help: "a proxy or a portal answers in Apple's place: check endpoint, and the network"}
		}
		if e.status == http.StatusOK {
			return e.uniqueID, nil
		}
		if e.cut { // no verdict without its reason
			return "", &fallback.PushError{StatusCode: e.status, Reason: "AnswerCutOff", RetryAfter: e.retryAfter}
		}
		do, help := reactionTo(e.status, e.reason)
		if x.aboutPushType(q.Topic, r.Registration.Kind, e.reason) {
			do, help = reactBug, "the topic of this push type was refused; check apns.push_type, and what the key or certificate may push to"
		}
		pe := &fallback.PushError{StatusCode: e.status, Reason: e.reason, RetryAfter: e.retryAfter, Help: help}
		switch do {
		case reactReconnect, reactNewKeyConnection:
			x.pool.Retire(e.conn)
			if !again {
				continue
			}
			pe.ConfigFault = do == reactNewKeyConnection
		case reactNewToken:
			if !again && x.token != nil && x.token.refused(e.bearer) {
				x.pool.Retire(e.conn)
				continue
			}
			pe.ConfigFault = true
		case reactOldToken:
			if x.token != nil && x.token.tooMany(e.bearer) {
				if !again {
					continue
				}
				break // with the older token, later
			}
			pe.ConfigFault = true
			pe.RetryAfter = max(pe.RetryAfter, tokenMinAge)
		case reactShorter:
			if !again && !r.Dismiss { // a dismissal has no text to shorten
				if short, err := payload(r.Notification, shortPayload); err == nil && len(short) < len(body) {
					body = short
					continue
				}
			}
			pe.Permanent = true
		case reactGone:
			pe.TokenGone, pe.GoneSince = true, e.timestamp
			if e.timestamp.IsZero() { // Apple gives one; a proxy's 410 is the same for every token
				pe.TokenGone, pe.Suspend, pe.Help = false, true, "a 410 without Apple's timestamp does not prove that the token has ended"
			}
		case reactSuspend:
			pe.Suspend = true
		case reactThrottle:
			pe.Throttled = true
		case reactBug:
			pe.Permanent = true
		case reactConfig:
			pe.ConfigFault = true
		case reactRetry:
		}
		return "", pe
	}
}
