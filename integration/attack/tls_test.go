package attack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// authority issues client certificates.
type authority struct {
	*target
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newKey(t *target) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (t *target) authority(name string) *authority {
	t.Helper()
	a := &authority{target: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a client's certificate; change makes it wrong.
func (a *authority) issue(account, device string, change func(*x509.Certificate)) *tls.Certificate {
	a.Helper()
	key := newKey(a.target)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(account)*1000 + len(device))), Subject: pkix.Name{CommonName: account}, DNSNames: []string{device},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tlsConnect connects with a certificate, nil for none. code is -1 for a connection that
// ended before a CONNACK.
func (t *target) tlsConnect(cert *tls.Certificate, version byte, o rawmqtt.Connect) (c *rawmqtt.Client, code int) {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true} // the test's own certificate
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	nc, err := tls.DialWithDialer(dialer(), "tcp", t.broker.TLSAddr(), cfg)
	if err != nil {
		return nil, -1
	}
	c = rawmqtt.New(nc, version)
	t.Cleanup(c.Close)
	o.Keepalive = 60
	pk, err := c.Connect(o)
	if err != nil {
		return c, -1
	}
	return c, int(pk.ReasonCode)
}

// TestCertificates: with auth.mode tls only a certificate of the CA lets in, as the
// account and the device that it names, and no password, token or field of the CONNECT
// says otherwise.
func TestCertificates(t *testing.T) {
	var ca, foreign *authority
	a := start(t, func(a *target) {
		ca, foreign = a.authority("clients"), a.authority("clients") // the same name, another key
		a.cfg.MQTT.Address = ""                                      // certificates come by TLS only
		a.cfg.MQTT.TLS.ClientCAFile = a.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
		a.cfg.Auth.Mode, a.cfg.Auth.TLS.Device = config.AuthTLS, config.NameDNS
	})
	alice := ca.issue("alice", "alice-phone", nil)
	phone, code := a.tlsConnect(alice, 5, rawmqtt.Connect{ID: "alice-phone", SessionExpiry: 3600})
	if code != 0 {
		t.Fatalf("alice: %d", code)
	}
	a.alice = phone
	if codes, err := a.alice.Subscribe(1, 1, "heartline/devices/alice-phone/notifications"); err != nil || codes[0] != 1 {
		t.Fatal(codes, err)
	}
	bob := ca.issue("bob", "bob-phone", nil)
	if _, code := a.tlsConnect(bob, 5, rawmqtt.Connect{ID: "bob-phone", Clean: true}); code != 0 {
		t.Fatalf("bob: %d", code)
	}
	selfSigned := a.authority("alice")
	for row, c := range map[string]struct {
		cert *tls.Certificate
		o    rawmqtt.Connect
	}{
		"no certificate":                {nil, rawmqtt.Connect{ID: "alice-phone", Username: "alice"}},
		"no certificate, a password":    {nil, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: "alice"}},
		"of another CA with its name":   {foreign.issue("alice", "alice-phone", nil), rawmqtt.Connect{ID: "alice-phone"}},
		"that signs itself":             {&tls.Certificate{Certificate: [][]byte{selfSigned.cert.Raw}, PrivateKey: selfSigned.key}, rawmqtt.Connect{ID: "alice-phone"}},
		"that has expired":              {ca.issue("alice", "alice-phone", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), rawmqtt.Connect{ID: "alice-phone"}},
		"that is not valid yet":         {ca.issue("alice", "alice-phone", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), rawmqtt.Connect{ID: "alice-phone"}},
		"for servers":                   {ca.issue("alice", "alice-phone", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), rawmqtt.Connect{ID: "alice-phone"}},
		"of the CA itself, other's key": {&tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: newKey(a)}, rawmqtt.Connect{ID: "alice-phone"}},
		"alice's, bob's key":            {&tls.Certificate{Certificate: alice.Certificate, PrivateKey: bob.PrivateKey}, rawmqtt.Connect{ID: "alice-phone"}},
		"bob's, alice's name":           {bob, rawmqtt.Connect{ID: "bob-phone", Username: "alice", Clean: true}},
		"bob's, alice's device":         {bob, rawmqtt.Connect{ID: "alice-phone", SessionExpiry: 60}},
		"bob's, alice's device, clean":  {bob, rawmqtt.Connect{ID: "alice-phone", Clean: true}},
		"bob's, both":                   {bob, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Clean: true}},
		"without a name":                {ca.issue("", "alice-phone", nil), rawmqtt.Connect{ID: "alice-phone"}},
		"with two names in one":         {ca.issue("alice\x00bob", "alice-phone", nil), rawmqtt.Connect{ID: "alice-phone"}},
		"with a dot for a name":         {ca.issue("..", "alice-phone", nil), rawmqtt.Connect{ID: "alice-phone"}},
		"without a device":              {ca.issue("bob", "", func(c *x509.Certificate) { c.DNSNames = nil }), rawmqtt.Connect{ID: "alice-phone"}},
		"bob's, the server's client":    {bob, rawmqtt.Connect{ID: "inline", Clean: true}},
	} {
		for _, version := range []byte{4, 5} {
			rows.Add(1)
			if c, code := a.tlsConnect(c.cert, version, c.o); code == 0 {
				t.Errorf("a certificate %s, version %d: let in", row, version)
				c.Close()
			}
			a.unharmed(row)
		}
	}
	for _, transport := range []string{"websocket"} { // plain HTTP brings no certificate
		for _, version := range []byte{4, 5} {
			a.refusedConnect("no certificate", transport, version, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: "alice", Clean: true},
				packets.Err3NotAuthorized.Code, packets.ErrBadUsernameOrPassword.Code, packets.ErrNotAuthorized.Code)
		}
	}
}
