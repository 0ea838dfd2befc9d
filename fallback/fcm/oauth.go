package fcm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/credentials"
)

const (
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	// renewAhead is how long before its end an access token is renewed; a tenth of its
	// life where that is shorter.
	renewAhead = 5 * time.Minute
	// clockSkew is how far back the assertion is dated, for a clock that is fast.
	clockSkew = 10 * time.Second
	// renewTimeout bounds one request to the token endpoint.
	renewTimeout = 10 * time.Second
	// renewPause is the least time between two tries to renew a token that still lives.
	renewPause = 10 * time.Second
)

// access keeps the access token of one account (RFC 7523). It renews the token ahead,
// in the background, and goes on with the old one while that lives if renewing fails.
type access struct {
	account *credentials.ServiceAccount
	client  *http.Client
	now     func() time.Time
	stop    context.Context // ends at Close

	mu      sync.Mutex
	token   string
	issued  time.Time
	expires time.Time
	tried   time.Time     // the last try
	renewal chan struct{} // closed when the request under way is over; nil: none
	err     error         // of the last try
	running sync.WaitGroup
	closed  bool
}

// get returns an access token other than refused. The error is a *fallback.PushError.
func (a *access) get(ctx context.Context, refused string) (string, error) {
	for first := true; ; first = false {
		a.mu.Lock()
		now := a.now()
		usable := a.token != "" && a.token != refused && now.Before(a.expires)
		if usable {
			if a.expires.Sub(now) < a.aheadLocked() && now.Sub(a.tried) >= renewPause {
				a.renewLocked()
			}
			token := a.token
			a.mu.Unlock()
			return token, nil
		}
		if !first && a.renewal == nil {
			err := a.err
			a.mu.Unlock()
			return "", err
		}
		over := a.renewLocked()
		a.mu.Unlock()
		if over == nil {
			return "", &fallback.PushError{Err: fallback.ErrClosed}
		}
		select {
		case <-over:
		case <-ctx.Done():
			return "", &fallback.PushError{Reason: "oauth timeout", Err: ctx.Err()}
		}
	}
}

func (a *access) aheadLocked() time.Duration { return min(renewAhead, a.expires.Sub(a.issued)/10) }

// renewLocked starts a request for a token unless one is under way. It returns the
// channel that closes when the request is over, nil after close.
func (a *access) renewLocked() chan struct{} {
	if a.renewal != nil {
		return a.renewal
	}
	if a.closed {
		return nil
	}
	over := make(chan struct{})
	a.renewal, a.tried = over, a.now()
	a.running.Go(func() {
		// Not with the context of one push: others wait for this token, too.
		ctx, cancel := context.WithTimeout(a.stop, renewTimeout)
		defer cancel()
		token, life, err := a.exchange(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.renewal, a.err = nil, err
		if err == nil {
			now := a.now()
			a.token, a.issued, a.expires = token, now, now.Add(life)
		}
		close(over)
	})
	return over
}

// close waits for a renewal under way; stop has ended.
func (a *access) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.running.Wait()
}

// state is when the token in use was issued, when it ends, and why the last renewal
// failed.
func (a *access) state() (issued, expires time.Time, failure error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issued, a.expires, a.err
}

// exchange asks Google's token endpoint for an access token (RFC 7523 §2.1).
func (a *access) exchange(ctx context.Context) (token string, life time.Duration, err error) {
	issued := a.now().Add(-clockSkew)
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": a.account.Email, "scope": scope, "aud": a.account.TokenURI, "iat": issued.Unix(), "exp": issued.Add(time.Hour).Unix(),
	})
	t.Header["kid"] = a.account.KeyID
	assertion, err := t.SignedString(a.account.Key)
	if err != nil {
		return "", 0, &fallback.PushError{ConfigFault: true, Reason: "oauth private_key", Err: err}
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, a.account.TokenURI, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, &fallback.PushError{ConfigFault: true, Reason: "oauth token_uri", Err: err}
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := a.client.Do(q)
	if err != nil {
		return "", 0, &fallback.PushError{Err: fmt.Errorf("ask for an access token: %w", withoutURL(err))}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return "", 0, &fallback.PushError{Err: fmt.Errorf("ask for an access token: %w", withoutURL(err))}
	}
	var answer struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"`
		Error   string `json:"error"`
		Text    string `json:"error_description"`
	}
	_ = json.Unmarshal(body, &answer) // a proxy answers in HTML: the status decides
	switch {
	case res.StatusCode == http.StatusOK && answer.Token != "" && answer.Expires > 0:
		return answer.Token, time.Duration(min(answer.Expires, 24*3600)) * time.Second, nil
	case res.StatusCode == http.StatusOK:
		return "", 0, &fallback.PushError{StatusCode: res.StatusCode, Reason: "oauth answer without a token"}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return "", 0, &fallback.PushError{StatusCode: res.StatusCode, ConfigFault: true, Reason: "oauth redirect", Help: "check token_uri of the service account file"}
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden, res.StatusCode == http.StatusNotFound:
		return "", 0, &fallback.PushError{StatusCode: res.StatusCode, ConfigFault: true, Reason: "oauth " + clean(answer.Error), Help: oauthHelp(answer.Error, answer.Text)}
	}
	return "", 0, &fallback.PushError{StatusCode: res.StatusCode, Reason: "oauth", RetryAfter: backoff.RetryAfter(res.Header.Get("Retry-After"), a.now())}
}

func oauthHelp(code, text string) string {
	help := "the service account's key was deleted or revoked"
	if code == "invalid_grant" {
		help += ", or this machine's clock is wrong"
	}
	if text = clean(text); text != "" {
		help += fmt.Sprintf(" (Google says: %s)", text)
	}
	return help
}

// withoutURL takes the URL out of an error of net/http.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
