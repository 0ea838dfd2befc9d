package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
)

// Credentials are the files of a node: its certificate, and the authority that has
// signed those of all nodes. They are read at each stream, so that renewed ones count.
type Credentials struct{ CertFile, KeyFile, CAFile string }

// Check reads the files once.
func (c Credentials) Check() error {
	_, err := c.load()
	return err
}

// load returns the configuration of both sides of a stream: each shows a certificate of
// the authority.
func (c Credentials) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read cluster.tls.cert_file and cluster.tls.key_file: %w", err)
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read cluster.tls.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cluster.tls.ca_file: no certificate in %s", c.CAFile)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// Dial is Options.Dial over TLS.
func (c Credentials) Dial(ctx context.Context, address string) (net.Conn, error) {
	config, err := c.load()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
}

// Listener has the streams of l begin with TLS.
func (c Credentials) Listener(l net.Listener) net.Listener {
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.load() },
	})
}

// errPlain says why a stream without TLS is not to be had.
var errPlain = errors.New("nodes speak to each other without TLS on loopback only: set cluster.tls")

// Listen opens the address at which other nodes reach this one. Without Credentials it
// must be loopback.
func Listen(ctx context.Context, address string, with *Credentials) (net.Listener, error) {
	if with == nil {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("cluster.address: %w", err)
		}
		ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("cluster.address: %w", err)
		}
		if len(ips) == 0 || slices.ContainsFunc(ips, func(ip net.IPAddr) bool { return !ip.IP.IsLoopback() }) {
			return nil, fmt.Errorf("cluster.address %s: %w", address, errPlain)
		}
	} else if err := with.Check(); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cluster.address: %w", err)
	}
	if with != nil {
		l = with.Listener(l)
	}
	return l, nil
}
