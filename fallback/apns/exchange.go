package apns

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sideshow/apns2"
	"golang.org/x/net/http2"

	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/internal/h2pool"
)

// connectionError is for a request without an answer.
func connectionError(err error) *fallback.PushError {
	pe := &fallback.PushError{Err: err}
	var signing *signingError
	var dial *h2pool.DialError
	var alert tls.AlertError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &signing):
		pe.ConfigFault, pe.Reason = true, "SigningFailed"
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid):
		pe.ConfigFault, pe.Reason, pe.Help = true, "BadServerCertificate", "the endpoint's certificate is not trusted: check endpoint and ca_file, and whether a proxy intercepts TLS"
	case errors.Is(err, h2pool.ErrNotHTTP2):
		pe.ConfigFault, pe.Reason, pe.Help = true, "NotHTTP2", "check endpoint, and whether a proxy intercepts TLS"
	case errors.As(err, &alert):
		pe.ConfigFault, pe.Reason, pe.Help = true, "TLSRefused", "the server refuses the TLS handshake: check certificate_file"
	case errors.As(err, &dial):
		// A dial that failed is a failure like others. The pool's pause after it is not
		// the server's word, which an urgent push would wait for.
		if dial.Untried {
			pe.Unsent, pe.RetryAfter = true, dial.RetryAfter
		}
	}
	return pe
}

// signingError is a provider token that could not be made.
type signingError struct{ err error }

func (e *signingError) Error() string { return e.err.Error() }
func (e *signingError) Unwrap() error { return e.err }

// exchange is the input and output of a round trip that apns2 does not carry. It
// travels in the request's context.
type exchange struct {
	payload []byte
	headers map[string]string // put over those of apns2

	conn       *h2pool.Conn
	bearer     string
	status     int
	reason     string
	timestamp  time.Time
	retryAfter time.Duration
	page       bool   // the answer is a web page
	cut        bool   // the rest of the answer, and with it the reason, was lost
	uniqueID   string // apns-unique-id, for Apple's delivery log; sandbox only
}

type exchangeKey struct{}

// exchange makes one request. It is sent again, on another connection, only if
// the server has said that it has not looked at it. A nil error means an answer.
func (x *appClient) exchange(ctx context.Context, q *apns2.Notification, e *exchange) error {
	ctx, release := x.slots.Take(context.WithValue(ctx, exchangeKey{}, e), q.Priority == apns2.PriorityHigh)
	defer release()
	x.poller.Poll()
	q.Payload = emptyPayload
	for try := 1; ; try++ {
		_, err := x.client.PushWithContext(ctx, q)
		if e.status != 0 {
			return nil
		}
		// Its text names the URL, which ends in the device token.
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		if err == nil {
			err = errors.New("no status")
		}
		refused, goingAway := unprocessed(err)
		if try == maxUnprocessed || !(refused || goingAway) || ctx.Err() != nil {
			return err
		}
		if goingAway {
			x.pool.Retire(e.conn)
		}
	}
}

// emptyPayload stands in for the payload while apns2 builds the request: it would
// escape <, > and & on the way and so change the size. RoundTrip puts the real
// one in.
var emptyPayload = []byte("{}")

// unprocessed reports whether the server has certainly not looked at a request:
// its stream was refused, or its connection is going away and it came after the
// last stream that counts.
// RFC 9113 §8.7: such a request may be sent again.
func unprocessed(err error) (refused, goingAway bool) {
	if se := (http2.StreamError{}); errors.As(err, &se) {
		return se.Code == http2.ErrCodeRefusedStream, false
	}
	// net/http does not export these errors. If it changes their text, these
	// requests become ordinary retries, with the same apns-id, a second later.
	switch err.Error() {
	case "http2: Transport received Server's graceful shutdown GOAWAY",
		"http2: client conn not usable",
		"http2: client conn could not be established":
		return false, true
	}
	return false, false
}

// maxUnprocessed is how often a request is sent that the server does not look
// at. Each connection may go away under it once.
const maxUnprocessed = 6

// maxAnswer bounds the bytes read of an answer's body; Apple's are under 100 bytes.
const maxAnswer = 4 << 10

// RoundTrip implements http.RoundTripper for apns2's client: it makes up for what
// that does not do. It puts in the provider token and the payload as it is, sends
// on a connection of the pool, and reads the answer: of any size, JSON or not,
// with what apns2 does not show.
func (x *appClient) RoundTrip(q *http.Request) (*http.Response, error) {
	e, _ := q.Context().Value(exchangeKey{}).(*exchange)
	if e == nil {
		return nil, errors.New("request was not made by Push")
	}
	if x.token != nil {
		bearer, err := x.token.get()
		if err != nil {
			return nil, &signingError{err}
		}
		e.bearer = bearer
		q.Header.Set("Authorization", "bearer "+bearer)
	}
	for name, value := range e.headers {
		q.Header.Set(name, value)
	}
	q.Body = io.NopCloser(bytes.NewReader(e.payload))
	q.ContentLength = int64(len(e.payload))
	q.GetBody = nil

	c, err := x.pool.Acquire(q.Context())
	if err != nil {
		return nil, err
	}
	e.conn = c
	res, err := c.RoundTrip(q)
	if err != nil {
		x.pool.Release(c, false, errors.Is(err, context.DeadlineExceeded))
		return nil, err
	}
	if res.ContentLength != 0 || res.StatusCode != http.StatusOK {
		e.reason, e.timestamp, err = readAnswer(res.Body)
		e.cut = err != nil
	}
	_ = res.Body.Close() // what was not read is not wanted
	e.status = res.StatusCode
	e.page = strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/html")
	e.uniqueID = cleanReason(res.Header.Get("apns-unique-id"))
	e.retryAfter = backoff.RetryAfter(res.Header.Get("Retry-After"), time.Now())
	// 410, too, is only said to a valid provider token.
	x.pool.Release(c, e.status == http.StatusOK && !e.page || e.status == http.StatusGone, e.status >= 500)
	res.Body = http.NoBody
	return res, nil
}

// readAnswer reads reason and timestamp of an answer, as far as there are any.
func readAnswer(r io.Reader) (reason string, timestamp time.Time, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer))
	if err != nil || len(b) == 0 {
		return "", time.Time{}, err
	}
	var a struct {
		Reason    string          `json:"reason"`
		Timestamp json.RawMessage `json:"timestamp"` // milliseconds since 1970; a string has been seen
	}
	_ = json.Unmarshal(b, &a) // of a proxy's page the status says enough
	if ms, err := strconv.ParseInt(strings.Trim(string(a.Timestamp), `"`), 10, 64); err == nil && ms > 0 {
		timestamp = time.UnixMilli(ms)
	}
	return cleanReason(a.Reason), timestamp, nil
}

// cleanReason keeps a reason fit for a log line and a metric's label.
func cleanReason(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, s)
}
