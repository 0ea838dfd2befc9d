package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestReload: a changed configuration is taken up by SIGHUP and by the API, a broken one
// is refused whole with all its mistakes, and no connection is dropped.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "heartline.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("delivery: {ack_window: 1h}\nstore: {history: 72h}\n")
	s := serve(t, "HEARTLINE_CONFIG="+file)
	device, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := device.Connect(rawmqtt.Connect{ID: "phone", Username: "alice", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := device.Subscribe(1, 1, "heartline/devices/phone/notifications"); err != nil {
		t.Fatal(err)
	}
	other, err := rawmqtt.Dial(s.mqtt, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Connect(rawmqtt.Connect{ID: "tablet", Username: "bob", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Subscribe(1, 1, "heartline/devices/tablet/notifications"); err != nil {
		t.Fatal(err)
	}
	events := s.events("")

	write("delivery: {ack_window: 200ms, max_inflight_per_device: 1}\nstore: {history: 96h}\nlog: {level: debug}\n")
	s.signal(t, syscall.SIGHUP)
	s.stderr.until(t, `"msg":"configuration reloaded","changed_since_start":"delivery.ack_window delivery.max_inflight_per_device store.history log.level"`)
	s.stderr.until(t, `"msg":"these changes take effect at the next start","keys":"store.history"`)
	s.notify(`{"account":"alice","title":"nobody acknowledges","id":"short"}`)
	events.until("ack_timeout", "short") // the window of an hour would be waited for in vain

	// Two mistakes: both are named, and the windows stay.
	write("delivery: {ack_window: 1h, ttl: soon}\nlog: {level: loud}\n")
	status, body := s.call(http.MethodPost, "/v1/reload", "")
	for _, part := range []string{`"location":"delivery.ttl"`, `"location":"log.level"`, `"code":"invalid"`} {
		if status != http.StatusUnprocessableEntity || !strings.Contains(string(body), part) {
			t.Errorf("got %d %s, want %s in it", status, body, part)
		}
	}
	s.stderr.until(t, "reload refused, keeping the previous configuration")
	events = s.events("")
	s.notify(`{"account":"bob","title":"nobody acknowledges","id":"still-short"}`)
	events.until("ack_timeout", "still-short")

	write("delivery: {ack_window: 30m}\n")
	if status, body := s.call(http.MethodPost, "/v1/reload", ""); status != http.StatusNoContent {
		t.Errorf("got %d %s", status, body)
	}

	// The connection has lived through all of it.
	if err := device.Ping(); err != nil {
		t.Fatal(err)
	}
	for {
		pk, err := device.Read(patience)
		if err != nil {
			t.Fatal(err)
		}
		if pk.FixedHeader.Type == packets.Pingresp {
			break
		}
	}
}
