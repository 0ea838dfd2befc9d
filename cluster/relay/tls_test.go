package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func (a *authority) sign(what *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = what, key
	}
	der, err := x509.CreateCertificate(rand.Reader, what, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t *testing.T, kind string, der []byte) string {
	file := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	key := newKey(t)
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key, a.file = cert, key, write(t, "CERTIFICATE", der)
	return a
}

func (a *authority) node() *Credentials {
	key := newKey(a.t)
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &Credentials{CertFile: write(a.t, "CERTIFICATE", der), KeyFile: write(a.t, "PRIVATE KEY", pkcs), CAFile: a.file}
}

// Nodes with certificates of one authority work together over TCP, one with another's
// does not.
func TestTLS(t *testing.T) {
	good, other := newAuthority(t), newAuthority(t)
	for _, tt := range []struct {
		name string
		two  *Credentials
		ok   bool
	}{{"same authority", good.node(), true}, {"another", other.node(), false}} {
		t.Run(tt.name, func(t *testing.T) {
			socket, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l := good.node().Listener(socket)
			one, two := newFake(), newFake()
			log := &lockedBuffer{}
			a := NewMesh(Options{Name: "one", Local: one, Patience: time.Minute, Beat: time.Second, Log: slog.New(slog.NewTextHandler(log, nil))})
			defer a.Close()
			a.Begin(1)
			a.Serve(l)
			b := NewMesh(Options{Name: "two", Local: two, Dial: tt.two.Dial, Patience: time.Minute, Beat: time.Second, Log: silent})
			defer b.Close()
			b.Begin(2)
			b.Update([]Member{{ID: 1, Name: "one", Address: l.Addr().String()}})
			if !tt.ok {
				for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), "certificate"); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("no word of a certificate in the log:", log.String())
					}
				}
				if len(b.Sessions()) > 0 {
					t.Error("a node with another authority's certificate has a session")
				}
				return
			}
			answered := make(chan error)
			two.session().Owner(0, 1).AcceptAsync(delivery.Request{Title: "t"}, func(_ delivery.Receipt, err error) { answered <- err })
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}
