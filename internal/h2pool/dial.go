package h2pool

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// ErrNotHTTP2 is wrapped by the error of a dial to a server that does not speak
// HTTP/2.
var ErrNotHTTP2 = errors.New("the endpoint does not speak HTTP/2")

// Dialer returns a function for Options.Dial: it opens HTTP/2 connections over TLS to
// address, a host and port. cfg is cloned. The proxy of the environment is used.
func Dialer(address string, cfg *tls.Config) func(context.Context) (*http.ClientConn, error) {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != "h2" {
			return ErrNotHTTP2
		}
		return nil
	}
	if host, _, err := net.SplitHostPort(address); err == nil && cfg.ServerName == "" {
		cfg.ServerName = host
	}
	dialer := &net.Dialer{Timeout: DialTimeout, KeepAlive: 15 * time.Second}
	direct := newTransport(cfg, idlePing)
	// net/http does not look into a connection that it did not encrypt itself: it takes
	// our word for HTTP/2.
	direct.Protocols.SetUnencryptedHTTP2(true)
	direct.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		t := tls.Client(c, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close() // the handshake's error is the one to report
			return nil, err
		}
		return coalesce(t), nil
	}
	// Through a proxy net/http encrypts by itself, so that an idle connection has to
	// be asked as often as a busy one.
	proxied := newTransport(cfg, askAfter)
	proxied.DialContext = dialer.DialContext
	proxied.Proxy = http.ProxyFromEnvironment
	target := &http.Request{URL: &url.URL{Scheme: "https", Host: address}}
	return func(ctx context.Context) (*http.ClientConn, error) {
		transport := direct
		proxy, err := http.ProxyFromEnvironment(target)
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			transport = proxied
		}
		return transport.NewClientConn(ctx, "https", address)
	}
}

func newTransport(cfg *tls.Config, pingAfter time.Duration) *http.Transport {
	t := &http.Transport{
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    DialTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              &http.Protocols{},
		// The encoder's header table is off: Apple's is small, and Apple asks not to
		// fill it with values that differ from request to request. net/http would add
		// them and so evict the provider token all the time.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: answerWithin, MaxEncoderHeaderTableSize: 1},
	}
	t.Protocols.SetHTTP2(true)
	return t
}
