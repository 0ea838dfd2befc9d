package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestRights: a service for some accounts gets no other, an event stream ends with its
// token, an account has no more devices than it may, and with an internal address the
// public one serves no API.
func TestRights(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.MQTT.Address, cfg.HTTP.Address, cfg.HTTP.Internal.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.MQTT.Limits.Devices = 1
	path := users(t, dir, "alice")
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, path
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("shop"))
	tokens := string(content) + "tokens:\n  - {name: shop, sha256: " + hex.EncodeToString(sum[:]) + ", accounts: ['a*']}\n"
	if err := os.WriteFile(path, []byte(tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	call := func(address, method, path, body string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer shop")
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, c := range []struct {
		address, method, path, body string
		want                        int
	}{
		{b.InternalAddr(), "GET", "/v1/accounts/alice/devices", "", 200},
		{b.InternalAddr(), "GET", "/v1/accounts/bob/devices", "", 403},
		{b.InternalAddr(), "GET", "/v1/accounts/%62ob/devices", "", 403},
		{b.InternalAddr(), "GET", "/v1/notifications?account=alice", "", 200},
		{b.InternalAddr(), "GET", "/v1/notifications", "", 403},
		{b.InternalAddr(), "GET", "/v1/devices", "", 403},
		{b.InternalAddr(), "GET", "/v1/events?account=bob", "", 403},
		{b.InternalAddr(), "POST", "/v1/notifications", `{"account":"bob","title":"x"}`, 403},
		{b.InternalAddr(), "POST", "/v1/notifications", `{"account":"alice","title":"x"}`, 404}, // no device yet
		{b.InternalAddr(), "GET", "/readyz", "", 200},
		{b.HTTPAddr(), "GET", "/readyz", "", 200},
		{b.HTTPAddr(), "GET", "/v1/accounts/alice/devices", "", 404},
		{b.HTTPAddr(), "GET", "//v1/devices", "", 404},
		{b.HTTPAddr(), "GET", "/metrics", "", 404},
	} {
		resp := call(c.address, c.method, c.path, c.body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.want)
		}
	}

	resp := call(b.HTTPAddr(), "GET", "/v1/devices", "")
	problem, err := io.ReadAll(resp.Body)
	if _ = resp.Body.Close(); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(problem), `"code":"not_found"`) {
		t.Errorf("the API at the public address: %s %s", resp.Header.Get("Content-Type"), problem)
	}

	for i, want := range []byte{1, 0x97} {
		c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		id := fmt.Sprint("alice-", i)
		if pk, err := c.Connect(rawmqtt.Connect{ID: id, Username: "alice", Password: "alice", Clean: true, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
			t.Fatal(pk.ReasonCode, err)
		}
		codes, err := c.Subscribe(1, 1, "heartline/devices/"+id+"/notifications")
		if err != nil || codes[0] != want {
			t.Errorf("device %d: %x %v", i, codes, err)
		}
	}

	stream := call(b.InternalAddr(), "GET", "/v1/events?account=alice", "")
	defer func() { _ = stream.Body.Close() }()
	if stream.StatusCode != http.StatusOK {
		t.Fatal(stream.StatusCode)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil { // without the token
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, stream.Body); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Error("the event stream goes on without its token")
	}
}

// withInternal makes a broker with an internal address, and a public one unless that is "".
func withInternal(t *testing.T, public string) *Broker {
	t.Helper()
	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address, cfg.HTTP.Internal.Address = "127.0.0.1:0", public, "127.0.0.1:0"
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInternalAlone: with http.address "" the internal address serves.
func TestInternalAlone(t *testing.T) {
	b := withInternal(t, "")
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + b.InternalAddr() + "/v1/devices")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || b.HTTPAddr() != "" {
		t.Errorf("the API answers %d, the public address is %q", resp.StatusCode, b.HTTPAddr())
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", b.InternalAddr()); err == nil {
		t.Error("the internal address takes connections after Close")
	}
}

// TestCloseBeforeStart: a broker that was not started leaves its addresses free.
func TestCloseBeforeStart(t *testing.T) {
	b := withInternal(t, "127.0.0.1:0")
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, address := range []string{b.MQTTAddr(), b.HTTPAddr(), b.InternalAddr()} {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			t.Errorf("%s takes connections", address)
		}
	}
}

// TestWillOfAFormerService: the will of a service whose user is removed is judged as a
// device's, which may use no ordinary topic here. A service whose password is changed is a
// service still.
func TestWillOfAFormerService(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0"
	path := users(t, dir, "removed", "changed", "watch")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(content), "}\n", ", role: service}\n")
	write := func() {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, path
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
	connect := func(name string) *rawmqtt.Client {
		c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if pk, err := c.Connect(rawmqtt.Connect{ID: name, Username: name, Password: name, Clean: true, Keepalive: 60, WillTopic: "status/" + name, WillPayload: "gone"}); err != nil || pk.ReasonCode != 0 {
			t.Fatal(pk.ReasonCode, err)
		}
		return c
	}
	watch := connect("watch")
	if codes, err := watch.Subscribe(1, 0, "status/+"); err != nil || codes[0] != 0 {
		t.Fatal(codes, err)
	}
	removed := connect("removed")
	connect("changed")
	lines := strings.SplitAfter(text, "\n")
	other := users(t, t.TempDir(), "changed") // another salt
	newLine, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	_, hash, _ := strings.Cut(string(newLine), "\n")
	text = lines[0] + strings.ReplaceAll(hash, "}\n", ", role: service}\n") + lines[3]
	write()
	for err == nil {
		_, err = removed.Read(time.Minute)
	}
	for end := time.Now().Add(time.Minute); b.hub.Connection("removed") != nil || b.hub.Connection("changed") != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a connection outlives its credentials")
		}
	}
	if pk, err := watch.Read(time.Minute); err != nil || pk.TopicName != "status/changed" {
		t.Errorf("got %s %v", pk.TopicName, err)
	}
	if err := watch.Ping(); err != nil {
		t.Fatal(err)
	}
	if pk, err := watch.Read(time.Minute); err != nil || pk.TopicName != "" {
		t.Errorf("got %s %v", pk.TopicName, err)
	}
}
