package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/bcrypt"
)

// Names and secrets of the throw-away server.
const (
	password      = "soak"
	service       = "soak-service" // the user name of the backends on MQTT
	webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// world is the server with everything around it that is not load.
type world struct {
	dir      string
	file     string // the configuration
	users    string // the users file
	names    string // the format of the accounts' names
	accounts int
	sims     *simulators
	server   *server
	receiver *httptest.Server
	hash     string // of password
	token    string // of an admin

	mu       sync.Mutex
	settings settings // as they are in the file
	broken   int      // configurations with mistakes that the server was given
}

// newWorld builds the binary unless one is given, writes a configuration and starts the
// server. names is the format of the accounts' names; receive is the handler behind the
// webhooks' URLs.
func newWorld(ctx context.Context, dir, binary, names string, accounts int, change func(settings), receive http.Handler, verbose io.Writer) (_ *world, err error) {
	w := &world{
		dir: dir, file: filepath.Join(dir, "heartline.yaml"), users: filepath.Join(dir, "users.yaml"),
		names: names, accounts: accounts, token: "hlt_" + rand.Text(),
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if binary == "" {
		binary = filepath.Join(dir, "heartline")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/heartline-mqtt/heartline") //nolint:gosec // the path is of our own making
		if text, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the binary: %w\n%s", err, text)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	w.hash = string(hash)
	if err := w.writeUsers(""); err != nil {
		return nil, err
	}
	if err := w.writeCertificate(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(w.path("webhook.secret"), []byte(webhookSecret), 0o600); err != nil {
		return nil, err
	}
	if w.sims, err = startSimulators(binary, filepath.Join(dir, "push-sim")); err != nil {
		return nil, err
	}
	w.receiver = httptest.NewServer(receive)
	w.settings = w.sims.settings.clone()
	for path, value := range map[string]any{
		"data_dir": w.path("data"), "mqtt.address": "127.0.0.1:0", "http.address": "127.0.0.1:0",
		"mqtt.tls.address": "127.0.0.1:0", "mqtt.tls.cert_file": w.path("cert.pem"), "mqtt.tls.key_file": w.path("key.pem"),
		"auth.mode": "file", "auth.file.path": w.users,
		"auth.acl":     []any{map[string]any{"filter": "soak/#", "access": "readwrite"}},
		"receipts":     map[string]any{"webhooks": []any{w.webhook("steady", "*1", "*2", "*3"), w.webhook("shaky", "*4", "*5", "*6")}},
		"store.engine": "pebble", "log.format": "json",
	} {
		w.settings.set(path, value)
	}
	change(w.settings)
	if err := w.settings.write(w.file); err != nil {
		return nil, err
	}
	w.server, err = startServer(binary, w.file, w.token, verbose)
	return w, err
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// webhook is an entry of receipts.webhooks for the accounts that match the patterns.
func (w *world) webhook(name string, accounts ...string) map[string]any {
	patterns := make([]any, len(accounts))
	for i, a := range accounts {
		patterns[i] = a
	}
	return map[string]any{
		"name": name, "url": w.receiver.URL + "/" + name, "secret_file": w.path("webhook.secret"), "accounts": patterns,
		"events": []any{"received", "displayed", "read", "expired", "cancelled", "superseded"},
	}
}

// close ends the processes. It may be called twice.
func (w *world) close() {
	if w.server != nil {
		w.server.kill()
		w.server.client.CloseIdleConnections()
	}
	if w.sims != nil {
		w.sims.kill()
	}
	if w.receiver != nil {
		w.receiver.CloseClientConnections()
		w.receiver.Close()
	}
}

func (w *world) account(i int) string { return fmt.Sprintf(w.names, i%w.accounts) }

// writeUsers writes the users file, with one more user if more is not empty. The server
// reads it again when it changes.
func (w *world) writeUsers(more string) error {
	var b strings.Builder
	user := func(name, role string) {
		fmt.Fprintf(&b, "  - {name: %q, password_hash: %q, role: %s}\n", name, w.hash, role)
	}
	b.WriteString("users:\n")
	for i := range w.accounts {
		user(w.account(i), "device")
	}
	user(service, "service")
	if more != "" {
		user(more, "device")
	}
	sum := sha256.Sum256([]byte(w.token))
	fmt.Fprintf(&b, "tokens:\n  - {name: soak, sha256: %s, role: admin}\n", hex.EncodeToString(sum[:]))
	return replaceFile(w.users, []byte(b.String()))
}

// writeCertificate makes a certificate for the TLS listener, and its key the first time.
func (w *world) writeCertificate() error {
	var key *ecdsa.PrivateKey
	if text, err := os.ReadFile(w.path("key.pem")); err == nil {
		block, _ := pem.Decode(text)
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			return err
		}
	} else {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return err
		}
		if err := replaceFile(w.path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})); err != nil {
			return err
		}
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return replaceFile(w.path("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// change changes the settings and writes the file.
func (w *world) change(f func(settings)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.settings.clone()
	f(next)
	if err := next.write(w.file); err != nil {
		return err
	}
	w.settings = next
	return nil
}

// The transports of MQTT.
const (
	overTCP = iota
	overTLS
	overWebSocket
)

// dial connects to the server. from is the address of this side, "" for any.
func (w *world) dial(ctx context.Context, transport int, from string) (net.Conn, error) {
	d := &net.Dialer{Timeout: patience, KeepAlive: -1}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	switch transport {
	case overTLS:
		return (&tls.Dialer{NetDialer: d, Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", w.server.tls) //nolint:gosec // the certificate is changed while clients connect
	case overWebSocket:
		u, err := url.Parse(w.server.http)
		if err != nil {
			return nil, err
		}
		dialer := websocket.Dialer{Subprotocols: []string{"mqtt"}, NetDialContext: d.DialContext, HandshakeTimeout: patience}
		ws, resp, err := dialer.DialContext(ctx, "ws://"+u.Host+"/mqtt", nil)
		if err != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		_ = resp.Body.Close() // empty after the upgrade
		return &webSocket{Conn: ws}, nil
	}
	return d.DialContext(ctx, "tcp", w.server.mqtt)
}

// webSocket is the stream of bytes that MQTT makes of a WebSocket's binary messages.
type webSocket struct {
	*websocket.Conn
	reader  io.Reader
	writing sync.Mutex
}

func (c *webSocket) Read(p []byte) (int, error) {
	for {
		if c.reader == nil {
			var err error
			if _, c.reader, err = c.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err := c.reader.Read(p)
		if errors.Is(err, io.EOF) {
			c.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *webSocket) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *webSocket) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// rest waits, and reports whether it waited all of d.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dialHTTP connects to the API.
func (w *world) dialHTTP(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(w.server.http, "http://"))
}
