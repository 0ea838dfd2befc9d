package attack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// rows counts the attempts of all tests.
var rows atomic.Int64

// target is a running broker with a victim on it: alice, whose phone is connected.
type target struct {
	*testing.T
	broker *broker.Broker
	cfg    *config.Config
	dir    string
	alice  *rawmqtt.Client
}

func (t *target) write(name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (t *target) certificate() (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return t.write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		t.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const (
	serviceToken = "a-token-of-the-role-service"
	deviceToken  = "a-token-of-the-role-device"
	expiredToken = "a-token-that-has-expired"
)

func usersFile(t *testing.T) []byte {
	t.Helper()
	var b strings.Builder
	b.WriteString("users:\n")
	for _, name := range []string{"alice", "bob"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  - {name: %s, password_hash: %q}\n", name, hash)
	}
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	fmt.Fprintf(&b, "tokens:\n  - {name: shop, sha256: %s}\n  - {name: bob, sha256: %s, role: device, account: bob}\n  - {name: old, sha256: %s, expires: 2020-01-01T00:00:00Z}\n",
		sum(serviceToken), sum(deviceToken), sum(expiredToken))
	return []byte(b.String())
}

// start runs a broker on loopback; change sets its authentication.
func start(t *testing.T, change func(*target)) *target {
	t.Helper()
	a := &target{T: t, cfg: config.Default(), dir: t.TempDir()}
	a.cfg.DataDir, a.cfg.Store.Engine = filepath.Join(a.dir, "data"), config.EngineMemory
	a.cfg.MQTT.Address, a.cfg.MQTT.TLS.Address, a.cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	a.cfg.MQTT.TLS.CertFile, a.cfg.MQTT.TLS.KeyFile = a.certificate()
	a.cfg.HTTP.WebTerminal = true
	change(a)
	if err := a.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.broker, err = broker.New(a.cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := a.broker.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := a.broker.Start(); err != nil {
		t.Fatal(err)
	}
	return a
}

// victim connects alice's phone and subscribes it.
func (t *target) victim(password string) {
	t.Helper()
	t.alice = t.dial("tcp", 5)
	pk, err := t.alice.Connect(rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: password, SessionExpiry: 3600, Keepalive: 300})
	if err != nil || pk.ReasonCode != 0 {
		t.Fatalf("alice: 0x%02x %v", pk.ReasonCode, err)
	}
	if codes, err := t.alice.Subscribe(1, 1, "heartline/devices/alice-phone/notifications"); err != nil || codes[0] != 1 {
		t.Fatal(codes, err)
	}
}

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

func (t *target) dial(transport string, version byte) *rawmqtt.Client {
	t.Helper()
	var nc net.Conn
	var err error
	switch transport {
	case "tcp":
		nc, err = dialer().Dial("tcp", t.broker.MQTTAddr())
	case "tls":
		nc, err = tls.DialWithDialer(dialer(), "tcp", t.broker.TLSAddr(), &tls.Config{InsecureSkipVerify: true}) // the test's own certificate
	case "websocket":
		var ws *websocket.Conn
		if ws, _, err = (&websocket.Dialer{Subprotocols: []string{"mqtt"}, NetDial: dialer().Dial}).Dial("ws://"+t.broker.HTTPAddr()+"/mqtt", nil); err == nil {
			nc = &wsConn{Conn: ws.NetConn(), ws: ws}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := rawmqtt.New(nc, version)
	t.Cleanup(c.Close)
	return c
}

// unharmed checks that alice's phone is connected and got nothing.
func (t *target) unharmed(row string) {
	t.Helper()
	if t.alice == nil {
		return
	}
	if err := t.alice.Ping(); err != nil {
		t.Fatalf("%s: alice's connection: %v", row, err)
	}
	if pk, err := t.alice.Read(10 * time.Second); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		t.Fatalf("%s: alice's phone got %+v %v", row, pk.FixedHeader, err)
	}
}

// refusedConnect makes a row of a CONNECT that must not get in.
func (t *target) refusedConnect(row, transport string, version byte, o rawmqtt.Connect, codes ...byte) {
	t.Helper()
	rows.Add(1)
	o.Keepalive = 60
	c := t.dial(transport, version)
	pk, err := c.Connect(o)
	switch {
	case err != nil: // the connection was closed without an answer
	case pk.ReasonCode == 0:
		t.Errorf("%s over %s, version %d: let in", row, transport, version)
	case len(codes) > 0 && !contains(codes, pk.ReasonCode):
		t.Errorf("%s over %s, version %d: 0x%02x, want %x", row, transport, version, pk.ReasonCode, codes)
	}
	c.Close()
	t.unharmed(row)
}

func contains(codes []byte, code byte) bool { return slices.Contains(codes, code) }

func (t *target) transports(do func(transport string, version byte)) {
	for _, transport := range []string{"tcp", "tls", "websocket"} {
		for _, version := range []byte{4, 5} {
			do(transport, version)
		}
	}
}

// TestMQTT: a client without credentials gets nothing, and bob, with his own, gets
// nothing of alice's.
func TestMQTT(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
		a.cfg.Auth.DevicePattern = "{account}-*"
	})
	a.victim("alice")
	a.transports(func(transport string, version byte) {
		denied := []byte{packets.Err3NotAuthorized.Code, packets.ErrBadUsernameOrPassword.Code, packets.ErrNotAuthorized.Code}
		elsewhere := []byte{packets.Err3ClientIdentifierNotValid.Code, packets.ErrClientIdentifierNotValid.Code, packets.Err3NotAuthorized.Code, packets.ErrNotAuthorized.Code}
		for row, c := range map[string]struct {
			o     rawmqtt.Connect
			codes []byte
		}{
			"wrong password":          {rawmqtt.Connect{ID: "alice-2", Username: "alice", Password: "wrong", Clean: true}, denied},
			"unknown name":            {rawmqtt.Connect{ID: "eve-1", Username: "eve", Password: "eve", Clean: true}, denied},
			"no password":             {rawmqtt.Connect{ID: "alice-2", Username: "alice", Clean: true}, denied},
			"no name":                 {rawmqtt.Connect{ID: "alice-2", Clean: true}, denied},
			"name in other case":      {rawmqtt.Connect{ID: "Alice-2", Username: "Alice", Password: "alice", Clean: true}, denied},
			"hash as password":        {rawmqtt.Connect{ID: "alice-2", Username: "alice", Password: "$2a$04$", Clean: true}, denied},
			"long password":           {rawmqtt.Connect{ID: "alice-2", Username: "alice", Password: strings.Repeat("a", 20_000), Clean: true}, denied},
			"alice's device":          {rawmqtt.Connect{ID: "alice-phone", Username: "bob", Password: "bob", SessionExpiry: 60}, elsewhere},
			"alice's device, clean":   {rawmqtt.Connect{ID: "alice-phone", Username: "bob", Password: "bob", Clean: true}, elsewhere},
			"squatting":               {rawmqtt.Connect{ID: "alice-tablet", Username: "bob", Password: "bob", Clean: true}, elsewhere},
			"the server's own client": {rawmqtt.Connect{ID: "inline", Username: "bob", Password: "bob", Clean: true}, nil},
			"will to alice's device":  {rawmqtt.Connect{ID: "bob-w", Username: "bob", Password: "bob", Clean: true, WillTopic: "heartline/devices/alice-phone/notifications", WillPayload: "x"}, nil},
			"will as a backend":       {rawmqtt.Connect{ID: "bob-w", Username: "bob", Password: "bob", Clean: true, WillTopic: "heartline/accounts/alice/notifications", WillPayload: "{}"}, nil},
			"will to a closed topic":  {rawmqtt.Connect{ID: "bob-w", Username: "bob", Password: "bob", Clean: true, WillTopic: "news", WillPayload: "x"}, nil},
		} {
			a.refusedConnect(row, transport, version, c.o, c.codes...)
		}

		bob := a.dial(transport, version)
		if pk, err := bob.Connect(rawmqtt.Connect{ID: "bob-" + transport, Username: "bob", Password: "bob", Clean: true, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
			t.Fatalf("bob: 0x%02x %v", pk.ReasonCode, err)
		}
		for i, filter := range []string{
			"heartline/devices/alice-phone/notifications", "heartline/devices/alice-phone/messages", "heartline/devices/alice-phone/#",
			"heartline/devices/+/notifications", "heartline/#", "#", "+/devices/alice-phone/notifications", "$share/g/heartline/devices/alice-phone/notifications",
			"heartline/accounts/alice/notifications", "heartline/accounts/alice/events", "heartline/clients/alice-phone/refusals", "$SYS/#", "$SYS/broker/clients/connected", "news", "$share/g/news",
		} {
			rows.Add(1)
			codes, err := bob.Subscribe(uint16(i+1), 1, filter)
			if err != nil || len(codes) != 1 || codes[0] < 0x80 {
				t.Errorf("bob subscribes to %s over %s, version %d: %x %v", filter, transport, version, codes, err)
			}
		}
		for i, topic := range []string{
			"heartline/devices/alice-phone/notifications", "heartline/devices/alice-phone/messages", "heartline/devices/alice-phone/acks", "heartline/devices/alice-phone/state",
			"heartline/devices/alice-phone/push-token", "heartline/devices/alice-phone/sign-out", "heartline/accounts/alice/notifications", "heartline/accounts/bob/notifications",
			"heartline/accounts/alice/events", "heartline/nonsense", "heartline", "news",
		} {
			rows.Add(1)
			if err := bob.Publish(uint16(100+i), 1, topic, []byte(`{"id":"x","title":"t","app":"background","apns":null,"status":"displayed"}`)); err != nil {
				t.Fatal(err)
			}
			pk, err := bob.Read(10 * time.Second)
			// MQTT 3.1.1 has no negative acknowledgement: that nothing came of it is
			// checked with alice, and at the end.
			if err != nil || pk.FixedHeader.Type != packets.Puback || version == 5 && pk.ReasonCode < 0x80 {
				t.Errorf("bob publishes to %s over %s, version %d: %+v 0x%02x %v", topic, transport, version, pk.FixedHeader, pk.ReasonCode, err)
				return
			}
			a.unharmed(topic)
		}
		bob.Close()
	})
	if n := a.call("GET", "/v1/notifications", serviceToken, ""); !strings.Contains(n.body, `"notifications":[]`) {
		t.Errorf("notifications were made: %s", n.body)
	}
	if d := a.call("GET", "/v1/accounts/alice/devices", serviceToken, ""); strings.Count(d.body, `"device":`) != 1 || !strings.Contains(d.body, "alice-phone") {
		t.Errorf("alice's devices: %s", d.body)
	}
	t.Logf("%d attempts so far", rows.Load())
}

// answer is what an HTTP call got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (t *target) call(method, path, token, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+t.broker.HTTPAddr(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = path // as it is, not cleaned
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return answer{resp.StatusCode, resp.Header, ""}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// TestHTTP: no call answers without a service's token, however its path is written,
// and nothing of an answer helps a page of another site.
func TestHTTP(t *testing.T) {
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.File.Path = config.AuthFile, a.write("users.yaml", usersFile(t))
	})
	a.victim("alice")
	calls := [][3]string{
		{"POST", "/v1/notifications", `{"account":"alice","title":"x"}`}, {"POST", "/v1/notifications/batch", `{"account":"alice","title":"x"}`},
		{"GET", "/v1/notifications", ""}, {"GET", "/v1/notifications/x", ""}, {"DELETE", "/v1/notifications/x", ""}, {"GET", "/v1/devices", ""},
		{"GET", "/v1/accounts/alice/devices", ""}, {"GET", "/v1/accounts/alice/devices/alice-phone", ""}, {"PUT", "/v1/accounts/bob/devices/alice-phone", "{}"},
		{"DELETE", "/v1/accounts/alice/devices/alice-phone", ""}, {"GET", "/v1/events", ""}, {"HEAD", "/v1/events", ""}, {"GET", "/v1/nonsense", ""},
		{"GET", "/v1/../v1/notifications", ""}, {"GET", "//v1/notifications", ""}, {"GET", "/v1/%6eotifications", ""}, {"GET", "/v1/notifications/..%2f..%2fmetrics", ""}, {"GET", "/V1/notifications", ""},
	}
	for name, token := range map[string]string{"no token": "", "a wrong token": "wrong", "a device's token": deviceToken, "an expired token": expiredToken} {
		for _, c := range calls {
			rows.Add(1)
			got := a.call(c[0], c[1], token, c[2])
			if got.status < 300 || got.status >= 500 || strings.Contains(got.body, "alice-phone\"") {
				t.Errorf("%s %s with %s: %d %s", c[0], c[1], name, got.status, got.body)
			}
		}
	}
	for _, header := range [][]string{
		{"Authorization", "Basic c2hvcDpzaG9w"}, {"Authorization", serviceToken}, {"Authorization", "Bearer"}, {"Authorization", "Bearer " + serviceToken + " x"},
		{"X-Forwarded-For", "127.0.0.1"}, {"Cookie", "token=" + serviceToken}, {"X-Original-URL", "/healthz"}, {"X-HTTP-Method-Override", "GET"},
	} {
		rows.Add(1)
		if got := a.call("GET", "/v1/notifications", "", "", header...); got.status != http.StatusUnauthorized {
			t.Errorf("%v: %d", header, got.status)
		}
	}
	rows.Add(3)
	if got := a.call("GET", "/v1/notifications?token="+serviceToken, "", ""); got.status != http.StatusUnauthorized {
		t.Errorf("a token in the query: %d", got.status)
	}
	if got := a.call("GET", "/metrics", "", "", "X-Forwarded-For", "203.0.113.1"); got.status != http.StatusUnauthorized {
		t.Errorf("metrics through a proxy: %d", got.status)
	}
	if got := a.call("TRACE", "/v1/notifications", "", ""); got.status < 400 {
		t.Errorf("TRACE: %d", got.status)
	}
	for _, origin := range []string{"https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost:1"} {
		rows.Add(2)
		ws, resp, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+a.broker.HTTPAddr()+"/mqtt", http.Header{"Origin": {origin}})
		if err == nil {
			_ = ws.Close()
			t.Errorf("a page of %s opens the WebSocket", origin)
		} else if resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("WebSocket from %s: %v", origin, err)
		}
		if got := a.call("GET", "/v1/notifications", serviceToken, "", "Origin", origin); got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a page of %s may read answers", origin)
		}
	}
	for _, path := range []string{"/terminal/", "/terminal/?account=alice&device=alice-phone", "/terminal/..%2f..%2fetc/passwd", "/terminal/%00", "/../../etc/passwd"} {
		rows.Add(1)
		got := a.call("GET", path, "", "")
		if strings.Contains(got.body, "root:") || got.status == http.StatusOK && !strings.Contains(got.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
	}
	a.unharmed("HTTP")
	if got := a.call("GET", "/v1/accounts/alice/devices/alice-phone", serviceToken, ""); got.status != http.StatusOK {
		t.Errorf("alice's device: %d", got.status)
	}
}

// TestModeNone: without authentication a page of another site gets nothing, by DNS
// rebinding neither.
func TestModeNone(t *testing.T) {
	a := start(t, func(*target) {})
	for _, header := range [][]string{
		{"Host", "evil.example"}, {"Host", "127.0.0.1.evil.example"}, {"Host", "localhost.evil.example:8080"}, {"Origin", "https://evil.example"},
		{"Origin", "null"}, {"Origin", "http://127.0.0.1:1"}, {"Host", "[::2]"}, {"Host", "0.0.0.0"},
	} {
		for _, c := range [][2]string{{"GET", "/v1/notifications"}, {"POST", "/v1/notifications"}} {
			rows.Add(1)
			if got := a.call(c[0], c[1], "", "", header...); got.status != http.StatusForbidden {
				t.Errorf("%s with %v: %d", c[0], header, got.status)
			}
		}
	}
}

// TestJWT: tokens that nobody has issued, or that are for somebody or something else.
func TestJWT(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode = config.AuthJWT
		a.cfg.Auth.JWT = config.AuthFromJWT{SecretFile: a.write("secret", []byte(secret)), Issuer: "https://id.example", Audience: "heartline"}
	})
	later, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	base := func(more string) string {
		return fmt.Sprintf(`{"iss":"https://id.example","aud":"heartline",%s}`, more)
	}
	sub := `"sub":"alice"`
	a.victim(sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))))
	for name, token := range map[string]string{
		"alg none":           unsigned(`{"alg":"none"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"alg None":           unsigned(`{"alg":"None"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"no signature":       unsigned(`{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"other key":          sign("another-key-of-thirty-two-bytes!", `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"empty key":          sign("", `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"RS256 with secret":  sign(secret, `{"alg":"RS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"kid elsewhere":      sign("", `{"alg":"HS256","kid":"../../../dev/null"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"jwk in the header":  sign("x", `{"alg":"HS256","jwk":{"kty":"oct","k":"eA"}}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"crit":               sign(secret, `{"alg":"HS256","crit":["b64"]}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, later))),
		"expired":            sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d`, sub, before))),
		"no exp":             sign(secret, `{"alg":"HS256"}`, base(sub)),
		"Exp":                sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"Exp":%d`, sub, later))),
		"exp twice":          sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d,"exp":%d`, sub, before, later))),
		"not yet":            sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d,"nbf":%d`, sub, later, later))),
		"no sub":             sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`"exp":%d`, later))),
		"SUB":                sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`"SUB":"alice","exp":%d`, later))),
		"other issuer":       sign(secret, `{"alg":"HS256"}`, fmt.Sprintf(`{"iss":"https://evil.example","aud":"heartline",%s,"exp":%d}`, sub, later)),
		"other audience":     sign(secret, `{"alg":"HS256"}`, fmt.Sprintf(`{"iss":"https://id.example","aud":"other",%s,"exp":%d}`, sub, later)),
		"for another device": sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`%s,"exp":%d,"device":"alice-tablet"`, sub, later))),
		"not JSON":           sign(secret, `{"alg":"HS256"}`, `alice`),
		"three dots":         "...",
		"long":               strings.Repeat("a", 60_000),
	} {
		for _, version := range []byte{4, 5} {
			a.refusedConnect("JWT, "+name, "tcp", version, rawmqtt.Connect{ID: "alice-phone", Password: token, Clean: true})
		}
		rows.Add(1)
		if got := a.call("GET", "/v1/notifications", token, ""); got.status != http.StatusUnauthorized && got.status != http.StatusForbidden && got.status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("JWT, %s, over HTTP: %d", name, got.status)
		}
	}
	for _, role := range []string{`"role":"admin"`, `"ROLE":"service"`, `"Heartline_Role":"service"`, `"scope":"heartline:services"`, `"heartline_role":"device","role":"service"`} {
		rows.Add(1)
		if got := a.call("GET", "/v1/notifications", sign(secret, `{"alg":"HS256"}`, base(fmt.Sprintf(`"sub":"bob","exp":%d,%s`, later, role))), ""); got.status != http.StatusForbidden {
			t.Errorf("a device with %s: %d", role, got.status)
		}
	}
}

// TestHTTPMode: what the asked service does not clearly allow is refused.
func TestHTTPMode(t *testing.T) {
	var status atomic.Int64
	asked := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = asked.Serve(l) }()
	t.Cleanup(func() { _ = asked.Close(); <-done })
	a := start(t, func(a *target) {
		a.cfg.Auth.Mode, a.cfg.Auth.HTTP.URL, a.cfg.Auth.HTTP.Cache = config.AuthHTTP, "http://"+l.Addr().String(), 0
	})
	later := []byte{packets.Err3ServerUnavailable.Code, packets.ErrServerUnavailable.Code}
	for code, want := range map[int64][]byte{401: nil, 403: nil, 201: later, 204: later, 302: later, 307: later, 404: later, 500: later, 503: later} {
		status.Store(code)
		for _, version := range []byte{4, 5} {
			a.refusedConnect(fmt.Sprint("webhook says ", code), "tcp", version, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: "alice", Clean: true}, want...)
		}
		rows.Add(1)
		if got := a.call("GET", "/v1/notifications", "token", ""); got.status < 400 {
			t.Errorf("webhook says %d, over HTTP: %d", code, got.status)
		}
	}
	status.Store(200)
	a.refusedConnect("password that is not UTF-8", "tcp", 5, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: "a\xff", Clean: true})
}
