package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/singleflight"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
)

// Bounds of concurrent requests and of the answers.
const (
	httpConcurrent = 64
	httpAnswer     = 64 << 10
)

// httpMode is auth.mode http: a service of the user's is asked about each client.
// It must say yes; anything else, silence included, is a refusal.
type httpMode struct {
	health   *health
	url      string
	timeout  time.Duration
	client   *http.Client
	throttle *throttle
	queue    *queue
	answers  answers
	asking   singleflight.Group // one request at a time per question
}

// question is the body of a request. For an MQTT client it has the first three fields,
// for a caller of the API only the token; remote is in both.
type question struct {
	ClientID string `json:"client_id"`
	Username string `json:"username"`
	Password string `json:"password"`
	Token    string `json:"token,omitempty"`
	Remote   string `json:"remote"`
}

// verdict is what a 200 says. Without an account it is the username, without a role
// a device.
type verdict struct {
	Account string `json:"account"`
	Role    string `json:"role"`
	// Accounts limits a service to accounts that fit one of these patterns.
	Accounts patterns `json:"accounts"`
	// Device is the only client identifier that may be used.
	Device string `json:"device"`
	// Expires is when the connection must end.
	Expires time.Time `json:"expires_at"`
	// Result and OK are of services that were written for other brokers.
	Result json.RawMessage `json:"result"`
	OK     json.RawMessage `json:"ok"`
}

// refuses reports whether a 200 says no, as the services for EMQX ({"result":"deny"}), VerneMQ
// ({"result":{"error":...}}) and mosquitto-go-auth ({"Ok":false}) do.
func (v *verdict) refuses() bool {
	return v.Result != nil && string(v.Result) != "null" && !slices.Contains([]string{`"allow"`, `"ok"`, "true"}, string(v.Result)) || string(v.OK) == "false"
}

// patterns are a list in JSON. null is an empty list and not no list, which would mean all accounts.
type patterns []string

func (p *patterns) UnmarshalJSON(text []byte) error {
	err := json.Unmarshal(text, (*[]string)(p))
	if *p == nil {
		*p = patterns{}
	}
	return err
}

func newHTTPMode(cfg config.AuthFromHTTP, h *health) (*httpMode, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("auth.http.url: must be a URL that begins with http:// or https://")
	}
	if cfg.Timeout <= 0 {
		return nil, fmt.Errorf("auth.http.timeout: must be above 0, got %s", cfg.Timeout)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxConnsPerHost = httpConcurrent, httpConcurrent
	return &httpMode{
		url: cfg.URL, timeout: cfg.Timeout, throttle: newThrottle(), queue: newQueue(httpConcurrent, httpConcurrent/4, false),
		answers: newAnswers(cfg.Cache), health: h,
		client: &http.Client{
			Transport: h2pool.NewTransport(t),
			// A password is not carried on to wherever an answer points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (m *httpMode) close() error {
	m.client.CloseIdleConnections()
	return nil
}

func (m *httpMode) connect(ctx context.Context, c Credentials) (Identity, error) {
	// JSON would replace bytes that are not UTF-8, and make one password of many.
	if !utf8.Valid(c.Password) || !utf8.ValidString(c.ClientID) {
		return Identity{}, denied("the password or the client identifier is not UTF-8")
	}
	return m.check(ctx, question{ClientID: c.ClientID, Username: c.Username, Password: string(c.Password), Remote: c.Remote}, c.Open)
}

func (m *httpMode) bearer(ctx context.Context, token, remote string) (Identity, error) {
	if !utf8.ValidString(token) {
		return Identity{}, denied("the token is not UTF-8")
	}
	return m.check(ctx, question{Token: token, Remote: remote}, func() bool { return ctx.Err() == nil })
}

// check answers from the cache, or asks in turn.
func (m *httpMode) check(ctx context.Context, q question, open func() bool) (Identity, error) {
	address := addressKey(q.Remote)
	key := m.answers.key(q, address)
	now := time.Now()
	if a, ok := m.answers.get(key, now); ok {
		return m.answer(ctx, a.id, a.err, q, address, open)
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout+blindPatience)
	defer cancel()
	release, err := m.queue.acquire(ctx, address, func() class { return m.throttle.class(address, q.Username, time.Now()) }, open)
	if err != nil {
		return Identity{}, unavailable("auth.http.url was not asked: %w", err)
	}
	// The request has a context of its own: the first to ask may go away before the
	// others that wait for the same answer.
	v, err, _ := m.asking.Do(string(key[:]), func() (any, error) {
		if a, ok := m.answers.get(key, time.Now()); ok {
			return a.id, a.err
		}
		id, err := m.ask(context.WithoutCancel(ctx), q)
		m.health.note(err)
		m.answers.put(key, cachedAnswer{id: id, err: err}, time.Now())
		return id, err
	})
	release()
	id, _ := v.(Identity)
	return m.answer(ctx, id, err, q, address, open)
}

// answer delays a refusal where there were many.
func (m *httpMode) answer(ctx context.Context, id Identity, err error, q question, address string, open func() bool) (Identity, error) {
	if errors.Is(err, ErrDenied) {
		pause(ctx, m.throttle.onFailure(address, q.Username, time.Now()), open)
	}
	return id, err
}

func (m *httpMode) ask(ctx context.Context, q question) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return Identity{}, denied("the credentials cannot be checked by auth.http")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		return Identity{}, unavailable("auth.http.url cannot be asked")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	resp, err := m.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which may hold a key
		}
		return Identity{}, unavailable("auth.http.url does not answer: %w", err)
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, resp.Body, httpAnswer) // so that the connection can be used again
		_ = resp.Body.Close()
	}()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return Identity{}, denied("auth.http.url says %d", resp.StatusCode)
	default:
		return Identity{}, unavailable("auth.http.url says %d, which is neither 200 nor 401 or 403", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, httpAnswer+1))
	if err != nil || len(text) > httpAnswer {
		return Identity{}, unavailable("the answer of auth.http.url cannot be read to its end")
	}
	var v verdict
	if len(bytes.TrimSpace(text)) > 0 {
		if err := json.Unmarshal(text, &v); err != nil {
			return Identity{}, unavailable("the answer of auth.http.url is not the JSON that is expected")
		}
	}
	if v.refuses() {
		return Identity{}, denied("auth.http.url says 200 and no (result or ok in its answer)")
	}
	rights, err := parseRole(v.Role, roleDevice, v.Accounts)
	if err != nil {
		return Identity{}, unavailable("in the answer of auth.http.url, %w", err)
	}
	if v.Account == "" {
		v.Account = q.Username
	}
	id := rights.identity(v.Account)
	id.Device, id.Expires = v.Device, v.Expires
	if err := id.Check(time.Now()); err != nil {
		return Identity{}, denied("the answer of auth.http.url has expired")
	}
	return id, nil
}

// maxAnswers bounds the cache.
const maxAnswers = 1 << 15

// answers are the last yes and no by question, for a short time. A question is
// remembered by an HMAC under a key of this process: memory holds no passwords.
type answers struct {
	ttl    time.Duration
	secret []byte
	mu     *sync.Mutex
	known  map[answerKey]cachedAnswer
}

type answerKey [sha256.Size]byte

type cachedAnswer struct {
	id      Identity
	err     error
	expires time.Time
}

func newAnswers(ttl time.Duration) answers {
	a := answers{ttl: ttl, secret: make([]byte, sha256.Size), mu: new(sync.Mutex), known: map[answerKey]cachedAnswer{}}
	_, _ = rand.Read(a.secret) // it never fails
	return a
}

// key tells questions apart: by all that is asked, but for the client's port.
func (a *answers) key(q question, address string) (k answerKey) {
	m := hmac.New(sha256.New, a.secret)
	for _, s := range []string{q.ClientID, q.Username, q.Password, q.Token, address} {
		fmt.Fprintf(m, "%d:%s", len(s), s)
	}
	m.Sum(k[:0])
	return k
}

func (a *answers) get(k answerKey, now time.Time) (cachedAnswer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.known[k]
	return v, ok && now.Before(v.expires)
}

// put keeps an answer, but for one that nobody gave.
func (a *answers) put(k answerKey, v cachedAnswer, now time.Time) {
	if a.ttl <= 0 || errors.Is(v.err, ErrUnavailable) {
		return
	}
	v.expires = now.Add(a.ttl)
	if !v.id.Expires.IsZero() && v.id.Expires.Before(v.expires) {
		v.expires = v.id.Expires
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxAnswers {
		for k, old := range a.known {
			if !now.Before(old.expires) {
				delete(a.known, k)
			}
		}
		if len(a.known) >= maxAnswers {
			clear(a.known)
		}
	}
	a.known[k] = v
}
