package cmd

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/bench"
	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

func TestBench(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.Store.Engine = t.TempDir(), config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0"
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	server := []string{"bench", "--server", "mqtt://" + b.MQTTAddr(), "--http", "http://" + b.HTTPAddr()}

	got := command(t, nil, "", append(server, "--devices", "3", "--publishers", "2", "--count", "40", "--inflight", "3", "--payload", "200", "--mqtt-version", "3.1.1", "--mode", "batch", "--json")...)
	var res bench.Result
	if err := json.Unmarshal([]byte(got.stdout), &res); err != nil || got.code != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if want := (bench.Totals{Sent: 40, Accepted: 40, Delivered: 40}); res.Totals != want || res.Devices != 3 || res.Publishers != 2 || res.Inflight != 3 || res.Payload != 200 || res.Mode != "batch" {
		t.Errorf("got %+v", res)
	}

	got = command(t, nil, "", append(server, "--devices", "3", "--count", "40")...)
	if got.code != 0 || !strings.Contains(got.stdout, "\nsent         40: 40 accepted") || got.stderr != "heartline: connecting 3 devices\nheartline: sending\nheartline: waiting for the acks in flight\n" {
		t.Errorf("got %+v", got)
	}
}

func TestBenchMistakes(t *testing.T) {
	const help = "heartline: see `heartline bench --help`\n"
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--server", "localhost"}, "heartline: --server: must be a URL that begins with mqtt:// or mqtts://, got \"localhost\"\n"},
		{[]string{"--http", "localhost"}, "heartline: --http: must be a URL that begins with http:// or https://, got \"localhost\"\n"},
		{[]string{"--mqtt-version", "4"}, "heartline: --mqtt-version: must be 3.1.1 or 5, got \"4\"\n"},
		{[]string{"--ca-file", "missing"}, "heartline: --ca-file: open missing: no such file or directory\n"},
		{[]string{"--password-file", "missing"}, "heartline: --password-file: open missing: no such file or directory\n"},
		{[]string{"--publisher-password-file", "missing"}, "heartline: --publisher-password-file: open missing: no such file or directory\n"},
		{[]string{"--token-file", "missing"}, "heartline: --token-file: open missing: no such file or directory\n"},
		{[]string{"--devices", "0", "--offline", "2"}, "heartline: --devices: must be 1 to 1000000, got 0\nheartline: --offline: is a share, 0 to 1, got 2\n"},
	} {
		got := command(t, nil, "", append([]string{"bench"}, tt.args...)...)
		check(t, got, 2, "", tt.want+help)
	}
	got := command(t, nil, "", "bench", "--server", "mqtt://127.0.0.1:1", "--count", "1")
	check(t, got, 1, "", "heartline: connecting 200 devices\nheartline: nothing listens on 127.0.0.1:1: start a broker, or name another with --server\n")
}
