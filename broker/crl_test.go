package broker

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/filewatch"
)

// TestEveryRevocationListCounts: a file may hold the lists of several CAs, and a list of
// an intermediate CA after that of its root.
func TestEveryRevocationListCounts(t *testing.T) {
	one, two := newAuthorityNamed(t, "one", nil), newAuthorityNamed(t, "two", nil)
	inner := newAuthorityNamed(t, "inner", two)
	below := func(ca *authority, serial int64) tls.Certificate {
		c := ca.issue(serial, "alice", "phone")
		c.Certificate = append(c.Certificate, ca.cert.Raw)
		return c
	}
	for _, c := range []struct {
		name  string
		lists [][]byte
		cert  tls.Certificate
		ok    bool
	}{
		{"in the first list", [][]byte{one.crl(10), two.crl(11)}, one.issue(10, "alice", "phone"), false},
		{"in the second list", [][]byte{one.crl(10), two.crl(11)}, two.issue(11, "alice", "phone"), false},
		{"in no list", [][]byte{one.crl(10), two.crl(11)}, two.issue(12, "alice", "phone"), true},
		{"of another CA", [][]byte{one.crl(10), two.crl(11)}, two.issue(10, "alice", "phone"), true},
		{"in two lists of one CA", [][]byte{one.crl(10), one.crl(13)}, one.issue(13, "alice", "phone"), false},
		{"in the list of an intermediate", [][]byte{two.crl(), inner.crl(14)}, below(inner, 14), false},
		{"of a revoked intermediate", [][]byte{inner.crl(), two.crl(inner.cert.SerialNumber.Int64())}, below(inner, 15), false},
		{"of a good intermediate", [][]byte{two.crl(), inner.crl(14)}, below(inner, 16), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var text []byte
			for _, der := range c.lists {
				text = append(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
			}
			if err := handshake(t, text, c.cert, one, two, inner); (err == nil) != c.ok {
				t.Errorf("handshake: %v", err)
			}
		})
	}
}

// handshake presents a certificate to a listener with these CAs and this CRL file.
func handshake(t *testing.T, crls []byte, cert tls.Certificate, cas ...*authority) error {
	t.Helper()
	dir := t.TempDir()
	files := tlsFiles{clientCA: filepath.Join(dir, "ca.pem"), crl: filepath.Join(dir, "crl.pem")}
	files.cert, files.key = certificate(t, dir)
	if err := os.WriteFile(files.clientCA, caFile(cas...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.crl, crls, 0o600); err != nil {
		t.Fatal(err)
	}
	certs, err := loadCertificates("mqtt.tls", files, filewatch.New(slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	go func() {
		client := tls.Client(far, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}) // the server's certificate is the test's own
		_ = client.Handshake()                                                                                  // the server says what came of it
		_, _ = client.Read(make([]byte, 1))                                                                     // its alert
	}()
	return tls.Server(near, certs.config()).Handshake()
}

func caFile(cas ...*authority) (text []byte) {
	for _, ca := range cas {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...)
	}
	return text
}

// TestCertificatesRunOut: an expired certificate is in the log, and the metrics have the time at
// which the first list of revoked certificates is out of date.
func TestCertificatesRunOut(t *testing.T) {
	ca := newAuthorityNamed(t, "one", nil)
	soon := time.Now().Add(time.Minute).Truncate(time.Second)
	for _, c := range []struct {
		name   string
		end    time.Time // of the certificate
		warned bool
	}{{"valid", time.Now().Add(time.Hour), false}, {"expired", time.Now().Add(-time.Minute), true}} {
		dir := t.TempDir()
		files := tlsFiles{clientCA: filepath.Join(dir, "ca.pem"), crl: filepath.Join(dir, "crl.pem")}
		files.cert, files.key = certificateUntil(t, dir, c.end)
		var lists []byte
		for _, der := range [][]byte{ca.crl(10), ca.crlUntil(soon), ca.crl(11)} {
			lists = append(lists, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
		}
		if err := errors.Join(os.WriteFile(files.clientCA, caFile(ca), 0o600), os.WriteFile(files.crl, lists, 0o600)); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		certs, err := loadCertificates("mqtt.tls", files, filewatch.New(logger), logger)
		if err != nil {
			t.Fatal(err)
		}
		if got := certs.revocationsEnd(); !got.Equal(soon) {
			t.Errorf("%s: the lists end at %s, want %s", c.name, got, soon)
		}
		if got := strings.Contains(log.String(), `msg="certificate is not valid now, clients refuse it" key=mqtt.tls.cert_file`); got != c.warned {
			t.Errorf("%s: %s", c.name, &log)
		}
	}
}

// TestBrokenRevocationLists: a list that cannot be read, or that nobody vouches for, makes
// the whole file a mistake. Without it revoked certificates would be let in.
func TestBrokenRevocationLists(t *testing.T) {
	one, stranger := newAuthorityNamed(t, "one", nil), newAuthorityNamed(t, "stranger", nil)
	good := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: one.crl(10)})
	foreign := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: stranger.crl(10)})
	for _, c := range []struct {
		name, want string
		text       []byte
	}{
		{"good", "", good},
		{"DER", "", one.crl(10)},
		{"nothing", "holds no CRL", nil},
		{"garbage", "holds no CRL", []byte("garbage")},
		{"two in DER", "holds no CRL", slices.Concat(one.crl(10), one.crl(11))},
		{"a certificate after it", "list 2 of 2", slices.Concat(good, caFile(one))},
		{"a stranger's after it", `no CA of client_ca_file has signed the list of "CN=stranger"`, slices.Concat(good, foreign)},
		{"damaged after it", "1 of its 2 PEM blocks are damaged", slices.Concat(good, bytes.Replace(good, []byte("\nMI"), []byte("\n!!"), 1))},
		{"cut off after it", "1 of its 2 PEM blocks are damaged", slices.Concat(good, good[:len(good)/2])},
	} {
		path := filepath.Join(t.TempDir(), "crl")
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readCRLs(path, caFile(one))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
