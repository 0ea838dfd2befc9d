package auth

import (
	"context"
	"crypto/x509"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/config"
)

// tlsMode is auth.mode tls: the client's certificate, which the listener has verified,
// names its account. Callers of the API use the tokens of a users file.
type tlsMode struct {
	cfg  config.AuthFromTLS
	file *fileMode // nil: no API tokens
}

func newTLSMode(cfg config.AuthFromTLS, users config.AuthFromFile, files *watcher, o Options) (*tlsMode, error) {
	m := &tlsMode{cfg: cfg}
	if users.Path == "" {
		return m, nil
	}
	var err error
	m.file, err = newFileMode(users, files, o)
	return m, err
}

func (m *tlsMode) connect(_ context.Context, c Credentials) (Identity, error) {
	if c.Certificate == nil {
		return Identity{}, denied("no client certificate")
	}
	if !time.Now().Before(c.Certificate.NotAfter) {
		return Identity{}, denied("the client certificate has expired")
	}
	account := certName(c.Certificate, m.cfg.Account)
	if account == "" || !utf8.ValidString(account) {
		return Identity{}, denied("the client certificate has no %s to name an account", m.cfg.Account)
	}
	if c.Username != "" && c.Username != account {
		return Identity{}, denied("the username %q is not that of the client certificate", clip(c.Username))
	}
	id := Identity{Account: account, Service: slices.Contains(m.cfg.Services, account), Expires: c.Certificate.NotAfter}
	if m.cfg.Device != "" {
		if id.Device = certName(c.Certificate, m.cfg.Device); id.Device == "" {
			return Identity{}, denied("the client certificate has no %s to name a device", m.cfg.Device)
		}
	}
	return id, nil
}

func (m *tlsMode) bearer(ctx context.Context, token, remote string) (Identity, error) {
	if m.file == nil {
		return Identity{}, denied("there are no API tokens: auth.file.path names none")
	}
	return m.file.bearer(ctx, token, remote)
}

func (m *tlsMode) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.close()
}

// certName is the first name of a kind in a certificate.
func certName(c *x509.Certificate, kind string) string {
	var names []string
	switch kind {
	case config.NameCN:
		return c.Subject.CommonName
	case config.NameEmail:
		names = c.EmailAddresses
	case config.NameDNS:
		names = c.DNSNames
	case config.NameURI:
		for _, u := range c.URIs {
			names = append(names, u.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return names[0]
}
