package receipts

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/internal/h2pool"
	"github.com/heartline-mqtt/heartline/internal/text"
)

const (
	defaultTimeout = 15 * time.Second // Standard Webhooks ask for 15 to 30 s
	dialTimeout    = 5 * time.Second
	// maxAnswer is how much of an answer is read. More is no error: the connection is
	// closed and not used again.
	maxAnswer = 64 << 10
	// maxExcerpt is how much of an answer of failure is shown.
	maxExcerpt = 200
	// maxRetryAfter bounds the pause that a receiver may ask for.
	maxRetryAfter = 24 * time.Hour
)

// sender makes the requests of one webhook.
type sender struct {
	hook   Webhook
	client *http.Client
	agent  string
}

func newSender(w Webhook, agent string) *sender {
	if w.Timeout == 0 {
		w.Timeout = defaultTimeout
	}
	return &sender{hook: w, agent: agent, client: &http.Client{
		// A redirect is a mistake in the configuration, or an attempt to send the events
		// elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: h2pool.NewTransport(&http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: w.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: dialTimeout,
			ForceAttemptHTTP2:   true,
			MaxConnsPerHost:     concurrency, MaxIdleConnsPerHost: concurrency,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxAnswer,
			DisableCompression:     true,
		}),
	}}
}

func (s *sender) close() { s.client.CloseIdleConnections() }

// outcome is how a receiver has answered.
type outcome struct {
	status     int // 0: there was no answer
	retryAfter time.Duration
	err        error  // nil: the receiver has it
	excerpt    string // of an answer of failure; it may be about anybody, and is not kept
	local      bool   // nothing was sent: the store could not be read, or the lease has run out
	dropped    bool   // nothing was sent: the event is not in the store any more, or not wanted any more
	url        string // that was asked
}

func (o outcome) gone() bool { return o.status == http.StatusGone }

// aboutEvent reports whether the receiver refuses this event, and so works.
func (o outcome) aboutEvent() bool {
	switch o.status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// send makes one request. id is the same in every attempt.
func (s *sender) send(ctx context.Context, id string, body []byte) outcome {
	ctx, cancel := context.WithTimeout(ctx, s.hook.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.hook.URL, bytes.NewReader(body))
	if err != nil {
		return outcome{err: oneLine(err)}
	}
	now := time.Now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", s.agent)
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Webhook-Signature", signatures(s.hook.Secrets, id, now, body))
	resp, err := s.client.Do(r)
	if err != nil {
		return outcome{err: oneLine(s.cause(ctx, err))}
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	o := outcome{status: resp.StatusCode}
	switch resp.StatusCode / 100 {
	case 2:
		return o // the rest of the answer does not matter
	case 3:
		o.err = fmt.Errorf("answered %d: redirects are not followed, set url to the address itself", resp.StatusCode)
		return o
	}
	o.err = fmt.Errorf("answered %d", resp.StatusCode)
	if err == nil {
		o.excerpt = text.OneLine(text.Clip(strings.TrimSpace(string(answer)), maxExcerpt))
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		o.retryAfter = retryAfter(resp.Header.Get("Retry-After"), now)
	}
	return o
}

// cause is err in fewer words and without the URL, which may hold a secret.
func (s *sender) cause(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", s.hook.Timeout)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the connection was closed before the answer")
	}
	return err
}

func oneLine(err error) error { return errors.New(text.OneLine(err.Error())) }

// signatures are the values of the header webhook-signature, one for each secret.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func signatures(secrets [][]byte, id string, at time.Time, body []byte) string {
	var b strings.Builder
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
		mac.Write(body)
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("v1,")
		b.WriteString(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}

// retryAfter reads the header of that name (RFC 9110 §10.2.3); 0: there is none that
// can be read.
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseInt(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) { // the limits of int64 then
		d = time.Duration(min(max(n, 0), int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
