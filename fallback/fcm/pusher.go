package fcm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/credentials"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
)

// googleEndpoint is where messages are sent to.
const googleEndpoint = "https://fcm.googleapis.com"

// Config is a set of Firebase projects.
type Config struct {
	// Apps are the projects; at least one. A registration that names no project means
	// the first.
	Apps []App
	// Endpoint replaces Google's, for a simulator or a proxy: an https URL.
	Endpoint string
	// MaxConcurrent bounds the requests of one project that are under way; 500.
	MaxConcurrent int

	RootCAs *x509.CertPool   // nil: the system's
	Now     func() time.Time // nil: time.Now
}

// App is one project.
type App struct {
	// ServiceAccount is the content of the JSON file that the Firebase console makes:
	// Project settings, Service accounts, Generate new private key.
	ServiceAccount []byte
	Style          string // StyleNotification if empty
	Channel        string // Android notification channel; "" leaves it to the app's manifest
}

// Pusher sends pushes through FCM. It implements fallback.Pusher.
type Pusher struct {
	list    []fallback.App
	apps    map[string]*project // by project ID
	host    string              // of the endpoint
	client  *http.Client
	now     func() time.Time
	maximum int
	cancel  context.CancelFunc
}

var (
	_ fallback.Pusher        = (*Pusher)(nil)
	_ fallback.Credentialed  = (*Pusher)(nil)
	_ fallback.Fingerprinted = (*Pusher)(nil)
)

type project struct {
	app     fallback.App
	style   string
	channel string
	url     string
	access  access
}

// New checks cfg and returns a Pusher; it does not connect.
func New(cfg Config) (*Pusher, error) {
	if len(cfg.Apps) == 0 {
		return nil, errors.New("no service account")
	}
	endpoint := strings.TrimSuffix(cmp.Or(cfg.Endpoint, googleEndpoint), "/")
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("endpoint: must be https://host[:port], got %q", endpoint)
	}
	p := &Pusher{host: u.Host, apps: map[string]*project{}, now: cfg.Now, maximum: cmp.Or(cfg.MaxConcurrent, 500)}
	if p.now == nil {
		p.now = time.Now
	}
	p.client = &http.Client{
		Transport: h2pool.NewTransport(&http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 5 * time.Second, MaxConnsPerHost: 8, MaxIdleConnsPerHost: 8, IdleConnTimeout: 5 * time.Minute,
			MaxResponseHeaderBytes: 32 << 10,
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	stop, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	for i, a := range cfg.Apps {
		account, err := credentials.ParseServiceAccount(a.ServiceAccount)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("service account %d: %w", i+1, err)
		}
		id := account.Project
		if p.apps[id] != nil {
			cancel()
			return nil, fmt.Errorf("project %s is configured twice", id)
		}
		if a.Style != "" && a.Style != StyleNotification && a.Style != StyleData {
			cancel()
			return nil, fmt.Errorf("project %s: style: must be notification or data, got %q", id, a.Style)
		}
		x := &project{
			app: fallback.App{Server: delivery.ServerFCM, Name: id}, style: cmp.Or(a.Style, StyleNotification), channel: a.Channel,
			url:    endpoint + "/v1/projects/" + url.PathEscape(id) + "/messages:send",
			access: access{account: account, client: p.client, now: p.now, stop: stop},
		}
		p.apps[id] = x
		p.list = append(p.list, x.app)
	}
	return p, nil
}

// Apps implements fallback.Pusher.
func (p *Pusher) Apps() []fallback.App { return slices.Clone(p.list) }

// CheckForm checks the form of a registration token (1 to 1,024 of A-Za-z0-9_:.-) or
// of an installation ID (22 of A-Za-z0-9_-), without any configuration. The error is a
// *delivery.FieldError; it does not repeat the token, which is a secret.
func CheckForm(r delivery.Registration) (delivery.Registration, error) {
	r.Form = cmp.Or(r.Form, delivery.FormToken)
	switch r.Form {
	case delivery.FormToken:
		if len(r.Token) < 1 || len(r.Token) > 1024 || strings.ContainsFunc(r.Token, func(c rune) bool { return !tokenRune(c) && c != ':' && c != '.' }) {
			return r, &delivery.FieldError{Field: "fcm.token", Rule: "must be 1 to 1024 of A-Za-z0-9_:.-"}
		}
	case delivery.FormFID:
		if len(r.Token) != 22 || strings.ContainsFunc(r.Token, func(c rune) bool { return !tokenRune(c) }) {
			return r, &delivery.FieldError{Field: "fcm.fid", Rule: "must be 22 of A-Za-z0-9_-"}
		}
	default:
		return r, &delivery.FieldError{Field: "fcm", Rule: "must have token or fid"}
	}
	if r.Environment != "" {
		return r, &delivery.FieldError{Field: "fcm.environment", Rule: "must be absent: FCM has no environments"}
	}
	if r.App != "" && !credentials.ValidProject(r.App) {
		return r, &delivery.FieldError{Field: "fcm.project", Rule: "must be a Firebase project ID"}
	}
	return r, nil
}

func tokenRune(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_'
}

// Normalize implements fallback.Pusher.
func (p *Pusher) Normalize(r delivery.Registration) (delivery.Registration, error) {
	r, err := CheckForm(r)
	if err != nil {
		return r, err
	}
	r.App = cmp.Or(r.App, p.list[0].Name)
	if p.apps[r.App] == nil {
		return r, fmt.Errorf("%w: Firebase project %s", fallback.ErrNotConfigured, r.App)
	}
	return r, nil
}

// Fits implements fallback.Pusher.
func (p *Pusher) Fits(n *delivery.Notification) error {
	longest := &delivery.Registration{Token: strings.Repeat("x", 256)}
	for _, app := range p.list {
		if _, err := p.apps[app.Name].message(longest, n, false, p.now(), maxPayload); err != nil {
			return fmt.Errorf("fcm: %w", err)
		}
	}
	return nil
}

// Concurrency implements fallback.Pusher.
func (p *Pusher) Concurrency(fallback.App) int { return p.maximum }

// Credentials implements fallback.Credentialed.
func (p *Pusher) Credentials(app fallback.App) fallback.Credentials {
	x := p.apps[app.Name]
	if x == nil {
		return fallback.Credentials{}
	}
	issued, expires, failure := x.access.state()
	c := fallback.Credentials{TokenIssued: issued, TokenExpires: expires}
	if failure != nil {
		c.Warning = "the access token cannot be renewed: " + failure.Error()
	}
	return c
}

// Close implements fallback.Pusher.
func (p *Pusher) Close() error {
	p.cancel()
	for _, x := range p.apps {
		x.access.close()
	}
	p.client.CloseIdleConnections()
	return nil
}

// Push implements fallback.Pusher. The receipt is Google's name of the message.
func (p *Pusher) Push(ctx context.Context, r fallback.Request) (receipt string, err error) {
	x := p.apps[r.App.Name]
	if x == nil {
		return "", &fallback.PushError{Permanent: true, Err: fallback.ErrNotConfigured}
	}
	limit, refused := maxPayload, ""
	for {
		body, err := x.message(&r.Registration, r.Notification, r.Dismiss, p.now(), limit)
		if err != nil {
			return "", &fallback.PushError{Permanent: true, Reason: "too large", Err: err}
		}
		token, err := x.access.get(ctx, refused)
		if err != nil {
			return "", err
		}
		receipt, pe, tooBig := p.send(ctx, x, token, body)
		switch {
		case pe == nil:
			return receipt, nil
		case pe.StatusCode == http.StatusUnauthorized && pe.ConfigFault && refused == "":
			refused = token // ended early: once more with a new one
		case tooBig && limit == maxPayload:
			limit = shortPayload
		default:
			return "", pe
		}
	}
}

// send makes one request (projects.messages.send).
func (p *Pusher) send(ctx context.Context, x *project, token string, body []byte) (receipt string, pe *fallback.PushError, tooBig bool) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, x.url, bytes.NewReader(body))
	if err != nil {
		return "", &fallback.PushError{Permanent: true, Err: err}, false
	}
	q.Header.Set("Content-Type", "application/json; charset=utf-8")
	q.Header.Set("Authorization", "Bearer "+token)
	res, err := p.client.Do(q)
	if err != nil {
		return "", connectionError(ctx, err), false
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode == http.StatusOK && strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/html") {
		return "", &fallback.PushError{StatusCode: res.StatusCode, Reason: "web page", ConfigFault: true, Help: "a proxy or a portal answers in Google's place: check endpoint, and the network"}, false
	}
	if res.StatusCode == http.StatusOK {
		return messageName(text), nil, false // also without the rest of its answer
	}
	if err != nil { // why it was refused is not known
		pe = connectionError(ctx, err)
		pe.StatusCode, pe.RetryAfter = res.StatusCode, backoff.RetryAfter(res.Header.Get("Retry-After"), p.now())
		return "", pe, false
	}
	pe, tooBig = reaction(res.StatusCode, res.Header, text, p.now())
	return "", pe, tooBig
}

// Email returns the address of the service account of a project; "" for an unknown one.
func (p *Pusher) Email(app fallback.App) string {
	if x := p.apps[app.Name]; x != nil {
		return x.access.account.Email
	}
	return ""
}

// Fingerprint implements fallback.Fingerprinted: the account by its names, and the host of
// the endpoint unless it is Google's.
func (p *Pusher) Fingerprint(app fallback.App) string {
	x := p.apps[app.Name]
	if x == nil {
		return ""
	}
	names := x.access.account.Project + " " + x.access.account.Email + " " + x.access.account.KeyID
	if "https://"+p.host != googleEndpoint {
		names += " " + p.host
	}
	return names
}
