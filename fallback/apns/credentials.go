package apns

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sideshow/apns2/certificate"
	"github.com/sideshow/apns2/token"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/heartline-mqtt/heartline/fallback"
)

func rootCAs(cfg Config) (*x509.CertPool, error) {
	pem := cfg.CAPEM
	if cfg.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("apns: read the CA file: %w", err)
		}
	}
	if len(pem) == 0 {
		return nil, nil // the system's
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("apns: the CA file holds no PEM certificate")
	}
	return roots, nil
}

func (c *App) credentials(tokens map[string]*providerToken, former *Client) (*providerToken, *tls.Certificate, error) {
	hasKey := c.KeyFile != "" || len(c.KeyPEM) > 0
	if hasKey == (c.CertificateFile != "") {
		return nil, nil, errors.New("set either a key file with its key ID and team ID, or a certificate file")
	}
	if !hasKey {
		cert, err := loadCertificate(c.CertificateFile, c.CertificatePassword)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate file %s: %w", c.CertificateFile, err)
		}
		return nil, &cert, nil
	}
	if c.KeyID == "" || c.TeamID == "" {
		return nil, nil, errors.New("a key file needs its key ID and team ID")
	}
	name := cmp.Or(c.KeyFile, "given as PEM")
	pem := c.KeyPEM
	if c.KeyFile != "" {
		var err error
		if pem, err = os.ReadFile(c.KeyFile); err != nil {
			return nil, nil, fmt.Errorf("key file: %w", err)
		}
	}
	key, err := token.AuthKeyFromBytes(pem)
	if err != nil {
		return nil, nil, fmt.Errorf("key file %s: not a .p8 key: %w", name, err)
	}
	if key.Curve != elliptic.P256() {
		return nil, nil, fmt.Errorf("key file %s: APNs keys are P-256 keys, this one is %s", name, key.Params().Name)
	}
	id := c.TeamID + "/" + c.KeyID
	if t := tokens[id]; t != nil {
		if !t.key.Equal(key) {
			return nil, nil, fmt.Errorf("key file %s: another key is configured with the same key ID %s", name, c.KeyID)
		}
		return t, nil, nil
	}
	var t *providerToken
	if former != nil {
		t = former.tokens[id]
	}
	if t == nil || !t.key.Equal(key) {
		t = newProviderToken(key, c.KeyID, c.TeamID)
	}
	tokens[id] = t
	return t, nil, nil
}

func newProviderToken(key *ecdsa.PrivateKey, keyID, teamID string) *providerToken {
	return &providerToken{key: key, keyID: keyID, teamID: teamID, clock: systemClock()}
}

func loadCertificate(file, password string) (tls.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return tls.Certificate{}, err
	}
	var cert tls.Certificate
	switch {
	case bytes.Contains(b, []byte("-----BEGIN ENCRYPTED PRIVATE KEY")): // PKCS #8
		return cert, errors.New("the private key is encrypted in a form that cannot be read: configure the .p12 file itself, or let `openssl pkey` write the key without a password")
	case bytes.Contains(b, []byte("-----BEGIN")):
		cert, err = certificate.FromPemBytes(b, password)
	default:
		cert, err = fromPKCS12(b, password)
	}
	if err != nil {
		return cert, err
	}
	if cert.Leaf == nil {
		return cert, errors.New("the certificate cannot be parsed")
	}
	if key, ok := cert.PrivateKey.(crypto.Signer); !ok || !belongsTo(key, cert.Leaf) {
		return cert, errors.New("the first certificate is not that of the private key")
	}
	return cert, nil
}

func belongsTo(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// fromPKCS12 reads a .p12 file, old (RC2, 3DES, SHA-1: macOS) or new (AES, SHA-256: OpenSSL 3).
func fromPKCS12(content []byte, password string) (tls.Certificate, error) {
	key, leaf, others, err := pkcs12.DecodeChain(content, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && password == "":
		return tls.Certificate{}, errors.New("the file has a password: set certificate_password_file")
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return tls.Certificate{}, errors.New("the password is wrong")
	case err != nil:
		return tls.Certificate{}, fmt.Errorf("%w; `openssl pkcs12 -in FILE -out NEW.pem -nodes` (add -legacy for an old file) makes a .pem that can be read", err)
	}
	cert := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, c := range others {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

// certificateTopic is the UID of a push certificate's subject: its bundle ID.
func certificateTopic(cert *tls.Certificate) string {
	if cert == nil {
		return ""
	}
	for _, name := range cert.Leaf.Subject.Names {
		if name.Type.String() == "0.9.2342.19200300.100.1.1" {
			s, _ := name.Value.(string)
			return s
		}
	}
	return ""
}

// certificateWarning is how long before its end a certificate is warned of.
const certificateWarning = 30 * 24 * time.Hour

// Credentials implements Credentialed.
func (a *Client) Credentials(app fallback.App) fallback.Credentials {
	x := a.apps[app]
	if x == nil {
		return fallback.Credentials{}
	}
	c := fallback.Credentials{CertificateExpires: x.expires, Connections: x.pool.Open()}
	if x.token != nil {
		issued, err := x.token.state()
		c.TokenIssued = issued
		if err != nil {
			c.Warning = err.Error()
		}
	}
	if w := expiryWarning(x.expires, time.Now()); w != "" {
		c.Warning = w
	}
	return c
}

func expiryWarning(expires, now time.Time) string {
	switch left := expires.Sub(now); {
	case expires.IsZero() || left > certificateWarning:
		return ""
	case left <= 0:
		return "the certificate expired on " + expires.UTC().Format(time.DateOnly)
	default:
		return fmt.Sprintf("the certificate expires on %s, in %d days", expires.UTC().Format(time.DateOnly), int(left/(24*time.Hour)))
	}
}

// warnExpiry logs once a day that a certificate ends soon.
func (a *Client) warnExpiry(x *appClient, now time.Time) {
	if x.expires.IsZero() || now.Add(certificateWarning).Before(x.expires) {
		return
	}
	next := x.warnNext.Load()
	if now.Unix() >= next && x.warnNext.CompareAndSwap(next, now.Add(24*time.Hour).Unix()) {
		a.log.Warn("APNs certificate ends soon", "app", x.app.String(), "warning", expiryWarning(x.expires, now))
	}
}
