package broker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// authority is a CA of a test's own.
type authority struct {
	*testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	return newAuthorityNamed(t, "test CA", nil)
}

// newAuthorityNamed is a root, or an intermediate CA where parent is given.
func newAuthorityNamed(t *testing.T, name string, parent *authority) *authority {
	t.Helper()
	a := &authority{T: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	if parent != nil {
		a.cert = parent.sign(template, a.key.Public(), parent.cert)
	} else {
		a.cert = a.sign(template, a.key.Public(), template)
	}
	return a
}

func (a *authority) sign(c *x509.Certificate, public crypto.PublicKey, parent *x509.Certificate) *x509.Certificate {
	a.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	if err != nil {
		a.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.Fatal(err)
	}
	return cert
}

func (a *authority) issue(serial int64, account, device string) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	c := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: account}, DNSNames: []string{device},
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key.Public(), a.cert)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

func (a *authority) writeCRL(path string, serials ...int64) {
	a.Helper()
	writePEM(a.T, path, "X509 CRL", a.crl(serials...))
}

func (a *authority) crl(serials ...int64) (der []byte) {
	a.Helper()
	return a.crlUntil(time.Now().Add(time.Hour), serials...)
}

func (a *authority) crlUntil(end time.Time, serials ...int64) (der []byte) {
	a.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), NextUpdate: end}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		a.Fatal(err)
	}
	return der
}

// TestClientCertificates: a certificate names account and device; a revoked one loses
// its connection and gets no other; the server's own certificate is replaced while it
// runs.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	caFile, crl := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "crl.pem")
	writePEM(t, caFile, "CERTIFICATE", ca.cert.Raw)
	ca.writeCRL(crl)
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "", ""
	cfg.MQTT.TLS = config.MQTTTLS{Address: "127.0.0.1:0", ClientCAFile: caFile, CRLFile: crl}
	cfg.MQTT.TLS.CertFile, cfg.MQTT.TLS.KeyFile = certificate(t, dir)
	cfg.Auth.Mode, cfg.Auth.TLS.Device = config.AuthTLS, config.NameDNS
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	refused := &signalOf{text: "reload failed", seen: make(chan struct{}, 1)}
	b, err := New(cfg, slog.New(slog.NewTextHandler(refused, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	var serverSerial *big.Int
	connect := func(cert *tls.Certificate, username, id string) (*rawmqtt.Client, int) {
		t.Helper()
		c := &tls.Config{InsecureSkipVerify: true} // the server's certificate is the test's own
		if cert != nil {
			c.Certificates = []tls.Certificate{*cert}
		}
		nc, err := tls.Dial("tcp", b.TLSAddr(), c)
		if err != nil {
			return nil, -1
		}
		serverSerial = nc.ConnectionState().PeerCertificates[0].SerialNumber
		client := rawmqtt.New(nc, 5)
		t.Cleanup(client.Close)
		pk, err := client.Connect(rawmqtt.Connect{ID: id, Username: username, Clean: true, Keepalive: 60})
		if err != nil {
			return nil, -1
		}
		return client, int(pk.ReasonCode)
	}
	alice, bob := ca.issue(10, "alice", "alice-phone"), ca.issue(11, "bob", "bob-phone")
	foreign := newAuthority(t).issue(12, "alice", "alice-phone")
	phone, code := connect(&alice, "", "alice-phone")
	if code != 0 {
		t.Fatalf("alice: 0x%02x", code)
	}
	for _, c := range []struct {
		name         string
		cert         *tls.Certificate
		username, id string
		want         int
	}{
		{"her name", &alice, "alice", "alice-phone", 0},
		{"another name", &alice, "bob", "alice-phone", int(packets.ErrBadUsernameOrPassword.Code)},
		{"another device", &alice, "", "bob-phone", int(packets.ErrClientIdentifierNotValid.Code)}, // nobody's yet
		{"bob", &bob, "", "bob-phone", 0},
		{"foreign CA", &foreign, "", "alice-phone", -1},
		{"no certificate", nil, "alice", "alice-phone", -1},
	} {
		if client, code := connect(c.cert, c.username, c.id); code != c.want {
			t.Errorf("%s: %d, want %d", c.name, code, c.want)
		} else if c.name == "her name" {
			phone = client // which took the session over
		}
	}
	ca.writeCRL(crl, 10)
	for {
		pk, err := phone.Read(10 * time.Second)
		if err != nil {
			break
		}
		if pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrNotAuthorized.Code {
			t.Errorf("got %+v", pk)
		}
	}
	if _, code := connect(&alice, "", "alice-phone"); code != -1 {
		t.Errorf("a revoked certificate: %d", code)
	}
	if _, code := connect(&bob, "", "bob-phone"); code != 0 {
		t.Errorf("bob: %d", code)
	}

	next := ca.issue(77, "server", "server")
	der, err := x509.MarshalPKCS8PrivateKey(next.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, cfg.MQTT.TLS.CertFile, "CERTIFICATE", next.Certificate[0])
	writePEM(t, cfg.MQTT.TLS.KeyFile, "PRIVATE KEY", der)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, code := connect(&bob, "", "bob-phone"); code != 0 {
			t.Fatalf("bob: %d", code)
		}
		if serverSerial.Int64() == 77 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the new certificate is not in use")
		}
	}
	select {
	case <-refused.seen: // the new certificate without its key
	default:
	}
	if err := os.WriteFile(cfg.MQTT.TLS.CertFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-refused.seen:
	case <-time.After(2 * time.Minute):
		t.Fatal("the broken file was not looked at")
	}
	if _, code := connect(&bob, "", "bob-phone"); code != 0 {
		t.Errorf("with a broken file: %d", code)
	}
}

// signalOf is a log that says when a record with a text has come.
type signalOf struct {
	text string
	seen chan struct{} // has room for one
}

func (s *signalOf) Write(record []byte) (int, error) {
	if strings.Contains(string(record), s.text) {
		select {
		case s.seen <- struct{}{}:
		default:
		}
	}
	return len(record), nil
}

// TestForwardedAddress: only trusted proxies are believed, and of the list only what
// they have added.
func TestForwardedAddress(t *testing.T) {
	trusted := newProxies([]string{"10.0.0.0/8", "::1"})
	for _, c := range []struct{ peer, header, want string }{
		{"203.0.113.1:5", "198.51.100.1", "203.0.113.1:5"},
		{"10.0.0.1:5", "", "10.0.0.1:5"},
		{"10.0.0.1:5", "198.51.100.1", "198.51.100.1:0"},
		{"10.0.0.1:5", "127.0.0.1, 198.51.100.1", "198.51.100.1:0"},
		{"10.0.0.1:5", "127.0.0.1, 198.51.100.1, 10.9.9.9", "198.51.100.1:0"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1:5"},
		{"10.0.0.1:5", "nonsense, 10.1.1.1", "10.1.1.1:0"},
		{"[::1]:5", "2001:db8::1", "[2001:db8::1]:0"},
		{"10.0.0.1:5", "127.0.0.1:80, 198.51.100.1:4711, 10.9.9.9:443", "198.51.100.1:0"},
		{"10.0.0.1:5", "198.51.100.9, [2001:db8::1]:4711", "[2001:db8::1]:0"},
		{"10.0.0.1:5", "198.51.100.9, [2001:db8::1]", "[2001:db8::1]:0"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.peer
		if c.header != "" {
			r.Header.Set("X-Forwarded-For", c.header)
		}
		trusted.handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.RemoteAddr != c.want {
				t.Errorf("%s says %q: %s, want %s", c.peer, c.header, r.RemoteAddr, c.want)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}

// TestRemovedUserIsDisconnected removes a user from the file of a running server.
func TestRemovedUserIsDisconnected(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, users(t, dir, "alice", "bob")
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	clients := map[string]*rawmqtt.Client{}
	for _, name := range []string{"alice", "bob"} {
		c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if pk, err := c.Connect(rawmqtt.Connect{ID: name, Username: name, Password: name, Clean: true, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
			t.Fatal(pk.ReasonCode, err)
		}
		clients[name] = c
	}
	content, err := os.ReadFile(cfg.Auth.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(content), "\n")
	if err := os.WriteFile(cfg.Auth.File.Path, []byte(lines[0]+lines[2]), 0o600); err != nil { // without alice
		t.Fatal(err)
	}
	pk, err := clients["alice"].Read(10 * time.Second)
	if err != nil || pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("alice: %+v %v", pk, err)
	}
	if err := clients["bob"].Ping(); err != nil {
		t.Fatal(err)
	}
	if pk, err := clients["bob"].Read(10 * time.Second); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("bob: %+v %v", pk, err)
	}
}
