package h2pool

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

// ErrNotHTTP2 is wrapped by the error of a dial to a server that does not speak
// HTTP/2.
var ErrNotHTTP2 = errors.New("the endpoint does not speak HTTP/2")

// Dialer returns a function for Options.Dial: it opens HTTP/2 connections over TLS to
// address, a host and port. cfg is cloned. The proxy of the environment is used.
func Dialer(address string, cfg *tls.Config) func(context.Context) (*http.ClientConn, error) {
	cfg = cfg.Clone()
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if s.NegotiatedProtocol != "h2" {
			return ErrNotHTTP2
		}
		return nil
	}
	dialer := &net.Dialer{Timeout: DialTimeout, KeepAlive: 15 * time.Second}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return coalesce(c), nil
		},
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    DialTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              &http.Protocols{},
		// A silent connection is found within 5 s.
		//
		// The encoder's header table is off: Apple's is small, and Apple asks not to
		// fill it with values that differ from request to request. net/http would add
		// them and so evict the provider token all the time.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 3 * time.Second, PingTimeout: 2 * time.Second, MaxEncoderHeaderTableSize: 1},
	}
	transport.Protocols.SetHTTP2(true)
	return func(ctx context.Context) (*http.ClientConn, error) {
		return transport.NewClientConn(ctx, "https", address)
	}
}
