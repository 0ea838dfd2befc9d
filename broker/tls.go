package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/internal/filewatch"
)

// tlsFiles are the files of a TLS listener.
type tlsFiles struct{ cert, key, clientCA, crl string }

// certificates are a listener's certificates and CAs, which are read again when their
// files change. New connections get the new ones; broken files are not taken.
type certificates struct {
	section string // of the configuration, for errors
	files   tlsFiles
	log     *slog.Logger
	current atomic.Pointer[tls.Config]
	revoked atomic.Pointer[revocations]
	// onRevoked is called after new lists of revoked certificates.
	onRevoked func()
}

func loadCertificates(section string, files tlsFiles, watcher *filewatch.Watcher, log *slog.Logger) (*certificates, error) {
	c := &certificates{section: section, files: files, log: log}
	paths := []string{files.cert, files.key, files.clientCA, files.crl}
	watcher.Add(section, c.reload, slices.DeleteFunc(paths, func(path string) bool { return path == "" })...)
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// config is that of the listener; each handshake uses the newest certificates.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil },
	}
}

// reload fails between the changes of a certificate and of its key: they do not match.
func (c *certificates) reload() error {
	if err := c.read(); err != nil {
		return err
	}
	c.log.Info("certificates reloaded", "key", c.section)
	if c.onRevoked != nil {
		c.onRevoked()
	}
	return nil
}

func (c *certificates) read() error {
	cert, err := tls.LoadX509KeyPair(c.files.cert, c.files.key)
	if err != nil {
		return fmt.Errorf("%s.cert_file and %s.key_file: %w", c.section, c.section, err)
	}
	next := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	var revoked *revocations
	if c.files.clientCA != "" {
		text, err := os.ReadFile(c.files.clientCA)
		if err != nil {
			return fmt.Errorf("%s.client_ca_file: %w", c.section, err)
		}
		next.ClientCAs, next.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !next.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s.client_ca_file: %s holds no certificate in PEM", c.section, c.files.clientCA)
		}
		if c.files.crl != "" {
			if revoked, err = readCRLs(c.files.crl, text); err != nil {
				return fmt.Errorf("%s.crl_file: %w", c.section, err)
			}
			for _, list := range revoked.outdated(time.Now()) {
				c.log.Warn("list of revoked certificates is out of date, later revocations are unknown",
					"key", c.section+".crl_file", "issuer", list.issuer, "next_update", list.nextUpdate)
			}
		}
		// VerifyConnection, because nothing else is asked when a session is resumed.
		next.VerifyConnection = func(s tls.ConnectionState) error {
			if c.isRevoked(&s) {
				return errors.New("the client certificate has been revoked")
			}
			return nil
		}
	}
	if now := time.Now(); now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
		c.log.Warn("certificate is not valid now, clients refuse it",
			"key", c.section+".cert_file", "not_before", cert.Leaf.NotBefore, "not_after", cert.Leaf.NotAfter)
	}
	c.revoked.Store(revoked)
	c.current.Store(next)
	return nil
}

// expires returns when the current certificate does.
func (c *certificates) expires() time.Time {
	if cfg := c.current.Load(); cfg != nil && len(cfg.Certificates) > 0 && cfg.Certificates[0].Leaf != nil {
		return cfg.Certificates[0].Leaf.NotAfter
	}
	return time.Time{}
}

// revocationsEnd returns when the first list of revoked certificates is out of date; zero:
// there is none, or none says.
func (c *certificates) revocationsEnd() (end time.Time) {
	lists := c.revoked.Load()
	if lists == nil {
		return end
	}
	for _, list := range lists.lists {
		if next := list.nextUpdate; !next.IsZero() && (end.IsZero() || next.Before(end)) {
			end = next
		}
	}
	return end
}

func (c *certificates) isRevoked(s *tls.ConnectionState) bool {
	lists := c.revoked.Load()
	if lists == nil || s == nil {
		return false
	}
	for _, chain := range s.VerifiedChains {
		if slices.ContainsFunc(chain, lists.have) {
			return true
		}
	}
	return false
}
