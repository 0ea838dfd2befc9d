package broker

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/wire"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmpptest"
)

// TestXMPP: the program with a component, over the API, /readyz, /metrics and two starts.
func TestXMPP(t *testing.T) {
	const account, full = "ann@example.org", "ann@example.org/phone"
	server := xmpptest.New(t, "push.example.org", "secret")
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = t.TempDir(), "", "127.0.0.1:0"
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.XMPP.Components = []config.XMPPComponent{{Domain: "push.example.org", Address: server.Addr(), SecretFile: secret, Hosts: []string{"example.org"}}}
	cfg.XMPP.Reconnect = config.Retry{Initial: time.Millisecond, Max: 10 * time.Millisecond}
	var key []byte
	for start := range 2 {
		b, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		link := server.Accept()
		for { // the second start knows where the device is
			if checks, err := b.Ready(); err == nil && checks["xmpp push.example.org"] == "up" {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if start == 0 {
			link.Announce(full, "push.example.org", "phone")
		}
		link.Sendf("<iq type='get' from='%s' to='push.example.org' id='s'><ping xmlns='urn:xmpp:ping'/></iq>", full)
		if s := link.Next(); s.ID != "s" {
			t.Fatalf("%+v", s)
		}
		var v wire.DeviceView
		device := xmpp.DeviceID(account, "phone")
		getJSON(t, b, "/v1/accounts/ann@example.org/devices/"+device, &v)
		if v.Via != "xmpp" || v.Channel.State != "up" || v.Channel.Remote != full {
			t.Errorf("start %d: %+v", start, v)
		}
		n, err := b.Notify(context.Background(), delivery.Request{Account: account, Title: "t"})
		if err != nil {
			t.Fatal(err)
		}
		s := link.Next()
		link.Result(s)
		link.Sendf("<iq type='get' from='%s' to='push.example.org' id='s'><ping xmlns='urn:xmpp:ping'/></iq>", full)
		link.Next()
		if view, err := b.Timeline(context.Background(), n.ID); err != nil || view.State != delivery.StateAcked {
			t.Errorf("start %d: %+v, %v", start, view, err)
		}
		if checks, err := b.Ready(); err != nil || checks["xmpp push.example.org"] != "up" {
			t.Errorf("%v, %v", checks, err)
		}
		if text := metricsOf(t, b); !strings.Contains(text, `heartline_xmpp_link_up{domain="push.example.org"} 1`) ||
			!strings.Contains(text, `heartline_xmpp_stanzas_total{direction="out",domain="push.example.org",kind="notification"} 1`) ||
			!strings.Contains(text, `heartline_xmpp_publishes_total{domain="push.example.org",outcome="echo"} 0`) {
			t.Error("/metrics does not tell of the link")
		}
		server.Refuse("host-unknown")
		link.Close()
		for { // without the link notifications are still accepted
			checks, err := b.Ready()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(checks["xmpp push.example.org"], "no component of this name") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		server.Refuse("")
		server.Accept()
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		now, err := os.ReadFile(filepath.Join(cfg.DataDir, registrationKeyFile))
		if err != nil || start > 0 && string(now) != string(key) {
			t.Errorf("the registration key: %q, before %q, %v", now, key, err)
		}
		key = now
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, registrationKeyFile), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "at least 16 bytes") {
		t.Errorf("a damaged key: %v", err)
	}
}

func getJSON(t *testing.T, b *Broker, path string, v any) {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTPAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
}

func metricsOf(t *testing.T, b *Broker) string {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTPAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
