package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// wsConn is the bytes of a WebSocket's binary messages.
type wsConn struct {
	net.Conn
	ws   *websocket.Conn
	rest io.Reader
}

func (c *wsConn) Write(p []byte) (int, error) {
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.rest == nil {
			_, r, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			c.rest = r
		}
		if n, err := c.rest.Read(p); err == nil || n > 0 {
			return n, nil
		}
		c.rest = nil
	}
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate writes a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	return certificateUntil(t, dir, time.Now().Add(time.Hour))
}

func certificateUntil(t *testing.T, dir string, end time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", cert)
	writePEM(t, keyFile, "PRIVATE KEY", der)
	return certFile, keyFile
}

// users writes a file for auth.mode file; every password is the name.
func users(t *testing.T, dir string, names ...string) string {
	t.Helper()
	text := "users:\n"
	for _, name := range names {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - {name: %q, password_hash: %q}\n", name, hash)
	}
	path := filepath.Join(dir, "users.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDeviceBelongsToItsAccount has bob connect as alice's phone, as her kept session
// of an ordinary client, and as both again after a restart: over every transport and
// both versions of MQTT.
func TestDeviceBelongsToItsAccount(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.MQTT.TLS.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.MQTT.TLS.CertFile, cfg.MQTT.TLS.KeyFile = certificate(t, dir)
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, users(t, dir, "alice", "bob")

	var b *Broker
	start := func() {
		var err error
		if b, err = New(cfg, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
	}
	stop := func() {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	start()
	defer func() { stop() }()

	transports := map[string]func() (net.Conn, error){
		"tcp": func() (net.Conn, error) { return net.Dial("tcp", b.MQTTAddr()) },
		"tls": func() (net.Conn, error) {
			return tls.Dial("tcp", b.TLSAddr(), &tls.Config{InsecureSkipVerify: true}) // a test's own certificate
		},
		"websocket": func() (net.Conn, error) {
			ws, answer, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+b.HTTPAddr()+"/mqtt", http.Header{})
			if err != nil {
				return nil, err
			}
			return &wsConn{Conn: ws.NetConn(), ws: ws}, answer.Body.Close()
		},
	}
	connect := func(transport string, version byte, account, id string) (*rawmqtt.Client, packets.Packet) {
		t.Helper()
		nc, err := transports[transport]()
		if err != nil {
			t.Fatal(err)
		}
		c := rawmqtt.New(nc, version)
		t.Cleanup(c.Close)
		pk, err := c.Connect(rawmqtt.Connect{ID: id, Username: account, Password: account, SessionExpiry: 3600, Keepalive: 60})
		if err != nil {
			t.Fatalf("%s as %s over %s, version %d: %v", account, id, transport, version, err)
		}
		return c, pk
	}
	refused := map[byte]byte{4: packets.Err3NotAuthorized.Code, 5: packets.ErrNotAuthorized.Code}
	bobTries := func(when, id string) {
		t.Helper()
		for transport := range transports {
			for version, code := range refused {
				if _, pk := connect(transport, version, "bob", id); pk.ReasonCode != code {
					t.Errorf("%s: bob as %s over %s, version %d: CONNACK 0x%02x, want 0x%02x", when, id, transport, version, pk.ReasonCode, code)
				}
			}
		}
	}

	phone, pk := connect("tcp", 5, "alice", "alicephone")
	if pk.ReasonCode != 0 {
		t.Fatalf("alice: CONNACK 0x%02x", pk.ReasonCode)
	}
	if _, err := phone.Subscribe(1, 1, "heartline/devices/alicephone/notifications"); err != nil {
		t.Fatal(err)
	}
	ordinary, _ := connect("tls", 4, "alice", "alices-lamp")
	if _, err := ordinary.Subscribe(1, 1, "lamp/on"); err != nil {
		t.Fatal(err)
	}
	bobTries("connected", "alicephone")
	bobTries("connected", "alices-lamp")
	if err := phone.Ping(); err != nil {
		t.Error(err)
	}
	if pk, err := phone.Read(10 * time.Second); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("alice's phone got %+v, %v", pk, err)
	}
	phone.Close()
	ordinary.Close()
	bobTries("away", "alicephone")
	bobTries("away", "alices-lamp")

	stop()
	start()
	bobTries("after a restart", "alicephone")
	bobTries("after a restart", "alices-lamp")
	if _, pk := connect("websocket", 4, "alice", "alices-lamp"); pk.ReasonCode != 0 || !pk.SessionPresent {
		t.Errorf("alice's lamp: CONNACK 0x%02x, session %v", pk.ReasonCode, pk.SessionPresent)
	}
}
