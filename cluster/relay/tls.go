package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// Credentials are the files of a node: its certificate, and the authority that has
// signed those of all nodes. They are read at each stream, so that renewed ones count.
type Credentials struct{ CertFile, KeyFile, CAFile string }

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

// foreign says why the certificate that a stream has shown is not that of the node in its hello; "": it
// is, or there is none. The authority may have signed others, such as those of devices. The node that
// opens a stream has checked the other side's in the same way.
func foreign(conn net.Conn, h *hello) string {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(h.Address)
	if shown := secure.ConnectionState().PeerCertificates; err == nil && len(shown) > 0 {
		err = shown[0].VerifyHostname(host)
	}
	if err != nil {
		return fmt.Sprintf("the certificate of node %s is not for its address %q (cluster.advertise): %v", h.Name, h.Address, err)
	}
	return ""
}
