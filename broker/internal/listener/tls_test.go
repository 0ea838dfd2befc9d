package listener

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"
)

// certificate makes one for 127.0.0.1, signed by itself.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	server, roots := certificate(t, "server")
	user, users := certificate(t, "device-7")
	options := func() Options {
		return Options{TLS: &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: users, ClientAuth: tls.VerifyClientCertIfGiven}}
	}
	dialTLS := func(t *testing.T, addr string, certs ...tls.Certificate) *client {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		return newClient(t, c, true)
	}
	t.Run("client certificate", func(t *testing.T) {
		s, l := ours(t, nil, options())
		if l.Protocol() != "tls" || l.ID() != "tls" {
			t.Error(l.Protocol(), l.ID())
		}
		c := dialTLS(t, l.Address(), user)
		c.connect("id")
		state := connOf(t, s, "id").TLS()
		if state == nil || len(state.PeerCertificates) != 1 || state.PeerCertificates[0].Subject.CommonName != "device-7" {
			t.Errorf("%+v", state)
		}
		c.ping()
	})
	t.Run("violation", func(t *testing.T) {
		_, l := ours(t, nil, options())
		c := dialTLS(t, l.Address())
		c.connect("id")
		c.send(subscribeCut...)
		if p, err := c.packet(patience); err != nil || p[2] != 0x81 || !c.gone(patience) {
			t.Errorf("%x, %v", p, err)
		}
	})
	t.Run("reader that stops", func(t *testing.T) {
		s, l := ours(t, nil, options())
		c := dialTLS(t, l.Address())
		c.connect("deaf")
		c.subscribe("n/#", 1)
		payload := make([]byte, 64<<10)
		if !done(patience, func() {
			for range 400 {
				_ = s.Publish("n/1", payload, false, 1)
			}
		}) {
			t.Fatal("publishers wait")
		}
		eventually(t, "it is cut", func() bool { return l.Stats().SlowConsumers == 1 })
	})
	t.Run("handshake that never comes", func(t *testing.T) {
		o := options()
		o.HandshakeTimeout = 3 * time.Second // it binds the good client, too
		_, l := ours(t, nil, o)
		silent := dial(t, l.Address(), false)
		half := dial(t, l.Address(), false)
		half.send(0x16, 3, 1)
		dialTLS(t, l.Address()).connect("id") // is not kept waiting
		if !silent.gone(patience) || !half.gone(patience) {
			t.Error("still open")
		}
		eventually(t, "counted", func() bool { return l.Stats().HandshakeTimeouts == 2 })
	})
	t.Run("CONNECT that never comes", func(t *testing.T) {
		o := options()
		o.ConnectTimeout = 3 * time.Second // the handshake counts
		_, l := ours(t, nil, o)
		if !dialTLS(t, l.Address()).gone(patience) {
			t.Error("still open")
		}
		eventually(t, "counted", func() bool { return l.Stats().ConnectTimeouts == 1 })
	})
	t.Run("no TLS", func(t *testing.T) {
		_, l := ours(t, nil, options())
		c := dial(t, l.Address(), false)
		c.send(connectPacket("id", false)...)
		if !c.gone(patience) {
			t.Error("still open")
		}
		eventually(t, "counted", func() bool { return l.Stats().HandshakeFailures == 1 })
	})
	t.Run("close", func(t *testing.T) {
		l := New(func() Options { o := options(); o.Address = "127.0.0.1:0"; return o }())
		s := newServer(t, nil, l)
		dial(t, l.Address(), false)
		dialTLS(t, l.Address()) // and no CONNECT
		served := dialTLS(t, l.Address())
		served.connect("id")
		if !done(patience, func() { _ = s.Close() }) {
			t.Fatal("Close waits")
		}
		if p, err := served.packet(patience); err != nil || p[0] != 0xE0 || p[2] != 0x8B {
			t.Errorf("%x, %v", p, err)
		}
	})
}
