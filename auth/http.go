package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/heartline-mqtt/heartline/config"
)

// Bounds of what is asked at a time and of what is listened to.
const (
	httpConcurrent = 64
	httpAnswer     = 64 << 10
)

// httpMode is auth.mode http: a service of the user's is asked about each client.
// It must say yes; anything else, silence included, is a refusal.
type httpMode struct {
	url     string
	timeout time.Duration
	client  *http.Client
	slots   chan struct{}
}

// question is what is asked. Of an MQTT client it has the first three fields, of a
// caller of the API the token alone; remote is in both.
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
}

func newHTTPMode(cfg config.AuthFromHTTP) (*httpMode, error) {
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
		url: cfg.URL, timeout: cfg.Timeout, slots: make(chan struct{}, httpConcurrent),
		client: &http.Client{
			Transport: t,
			// A password is not carried on to wherever an answer points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (m *httpMode) close() { m.client.CloseIdleConnections() }

func (m *httpMode) connect(ctx context.Context, c Credentials) (Identity, error) {
	return m.ask(ctx, question{ClientID: c.ClientID, Username: c.Username, Password: string(c.Password), Remote: c.Remote})
}

func (m *httpMode) bearer(ctx context.Context, token, remote string) (Identity, error) {
	return m.ask(ctx, question{Token: token, Remote: remote})
}

func (m *httpMode) ask(ctx context.Context, q question) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return Identity{}, unavailable("auth.http.url has %d questions to answer already", httpConcurrent)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return Identity{}, denied("what was presented cannot be asked about")
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
	service, err := parseRole(v.Role, roleDevice)
	if err != nil {
		return Identity{}, unavailable("in the answer of auth.http.url, role %w", err)
	}
	if v.Account == "" {
		v.Account = q.Username
	}
	return Identity{Account: v.Account, Service: service}, nil
}
