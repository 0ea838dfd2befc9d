package h2pool

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Transport is an http.RoundTripper that finds a silent HTTP/2 connection within 5 s while
// requests wait for it, as a Pool does: a NAT forgets a connection without a word. Unlike
// a Pool it speaks to many servers, also to those that know HTTP/1.1 only, where a
// connection holds up one request at most.
//
// HTTP2Config.SendPingTimeout alone would do with 3 s, but net/http asks an idle connection
// as often as a busy one, and a service may take that for abuse: Google's clients ask
// every 31 s, and servers of gRPC end the connection of a client that asks too often. So an
// idle connection is asked once a minute.
type Transport struct {
	watched *http.Transport // HTTP/2, on connections of its own making
	plain   *http.Transport // by net/http: through a proxy, and to servers without HTTP/2

	mu    sync.Mutex
	older map[string]time.Time // addresses without HTTP/2, and until when they are taken for such
	// unanswered are the requests in a row that got no answer in time, by address.
	unanswered map[string]int
}

const (
	// olderFor is how long an address without HTTP/2 is not asked for it again.
	olderFor = time.Hour
	// maxOlder bounds the addresses that are remembered: they come from devices.
	maxOlder = 1000
	// proxiedPing is how often a connection through a proxy is asked, idle or busy: net/http
	// encrypts it by itself, and so nothing else can.
	proxiedPing = 10 * time.Second
)

// NewTransport makes a Transport of base, which has DialContext, TLSClientConfig,
// TLSHandshakeTimeout, Proxy and the limits, and is the Transport's own from then on.
func NewTransport(base *http.Transport) *Transport {
	t := &Transport{watched: base.Clone(), plain: base, older: map[string]time.Time{}, unanswered: map[string]int{}}
	base.ForceAttemptHTTP2 = true
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: proxiedPing, PingTimeout: DialTimeout}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base.TLSClientConfig != nil {
		cfg = base.TLSClientConfig.Clone()
	}
	cfg.NextProtos = []string{"h2", "http/1.1"}
	dial := base.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	w := t.watched
	w.Proxy = nil
	w.HTTP2 = &http.HTTP2Config{SendPingTimeout: idlePing, PingTimeout: DialTimeout}
	w.Protocols = &http.Protocols{}
	w.Protocols.SetHTTP2(true)
	w.Protocols.SetUnencryptedHTTP2(true) // as in Dialer
	w.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		tc, err := handshake(ctx, c, cfg, address, base.TLSHandshakeTimeout)
		if err != nil {
			_ = c.Close() // the handshake's error is the one to report
			return nil, err
		}
		if tc.ConnectionState().NegotiatedProtocol != "h2" {
			_ = tc.Close() // nothing was asked of it
			t.remember(address)
			return nil, ErrNotHTTP2
		}
		return coalesce(tc), nil
	}
	return t
}

var errHandshake = errors.New("TLS handshake timeout")

func handshake(ctx context.Context, c net.Conn, cfg *tls.Config, address string, timeout time.Duration) (*tls.Conn, error) {
	if cfg.ServerName == "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
	}
	if timeout == 0 {
		timeout = DialTimeout
	}
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tc := tls.Client(c, cfg)
	err := tc.HandshakeContext(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = errHandshake
	}
	return tc, err
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Scheme != "https" || t.proxied(q) || t.isOlder(address(q)) {
		return t.plain.RoundTrip(q)
	}
	if t.takeStuck(address(q)) {
		q = q.Clone(q.Context())
		q.Close = true // the last request on its connection
	}
	res, err := t.watched.RoundTrip(q)
	if !errors.Is(err, ErrNotHTTP2) {
		t.note(address(q), err)
		return res, err
	}
	if q.Body != nil { // it has been closed
		if q.GetBody == nil {
			return nil, err
		}
		body, err := q.GetBody()
		if err != nil {
			return nil, err
		}
		q = q.Clone(q.Context())
		q.Body = body
	}
	return t.plain.RoundTrip(q)
}

func (t *Transport) proxied(q *http.Request) bool {
	if t.plain.Proxy == nil {
		return false
	}
	u, err := t.plain.Proxy(q)
	return u != nil || err != nil
}

func address(q *http.Request) string {
	port := q.URL.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(q.URL.Hostname(), port)
}

// takeStuck reports whether the next request without an answer in time is the MaxServerErrors-th
// in a row: its connection may answer PINGs, and no request, for as long as it lives. The count
// begins again with that request. Otherwise each request to a slow server would take a connection.
func (t *Transport) takeStuck(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unanswered[address] < MaxServerErrors-1 {
		return false
	}
	t.unanswered[address] = -1 // that of this request
	return true
}

// note counts the requests without an answer in time.
func (t *Transport) note(address string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		delete(t.unanswered, address)
	case errors.Is(err, context.DeadlineExceeded):
		if len(t.unanswered) >= maxOlder {
			clear(t.unanswered)
		}
		t.unanswered[address]++
	}
}

func (t *Transport) remember(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.older) >= maxOlder {
		clear(t.older)
	}
	t.older[address] = time.Now().Add(olderFor)
}

func (t *Transport) isOlder(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	until, ok := t.older[address]
	if ok && !time.Now().Before(until) {
		delete(t.older, address)
		ok = false
	}
	return ok
}

// CloseIdleConnections closes the connections without a request, as http.Client's does.
func (t *Transport) CloseIdleConnections() {
	t.watched.CloseIdleConnections()
	t.plain.CloseIdleConnections()
}
