package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadReportsEverything(t *testing.T) {
	path := write(t, "heartline.yaml", "mqtt:\n  adress: 1\n  max_keepalive: 5\n  topic_prefix: a/+/b\n  tls: 5\ndelivery:\n  fallback_window: 1s\n  ttl: 900h\nfallback.apns: 3\nlog:\n  level:\n")
	_, err := config.Load(config.Source{File: path, Environ: []string{"HEARTLINE_DELIVERY_ACK_WINDWO=5s", "HEARTLINE_HTTP_ADDRESS=0.0.0.0:80", "HEARTLINE_MQTT_PERSISTENCE=perhaps"}})
	if err == nil {
		t.Fatal("no error")
	}
	t.Log("\n" + strings.ReplaceAll(err.Error(), path, "FILE"))
}
