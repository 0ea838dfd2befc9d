package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// lineCount counts the lines that are logged.
type lineCount struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lineCount) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lineCount) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte("\n"))
}

// TestStopWhilePushesHang: Apple answers nothing. Close returns long before the requests
// time out, without an error, because the pushes are asked for again after the next start,
// and says so in few lines.
func TestStopWhilePushesHang(t *testing.T) {
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"ca.pem": sim.CAPEM(), "key.p8": sim.Key().PEM} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config.Default()
	cfg.Store.Engine, cfg.MQTT.Address, cfg.HTTP.Address = config.EngineMemory, "", "127.0.0.1:0"
	a := &cfg.Fallback.APNs
	a.Timeout = 5 * time.Minute
	a.Enabled, a.Topic, a.Endpoint, a.CAFile = true, "com.example.app", sim.URL(), filepath.Join(dir, "ca.pem")
	a.KeyFile, a.KeyID, a.TeamID = filepath.Join(dir, "key.p8"), sim.Key().KeyID, sim.Key().TeamID
	var log lineCount
	b, err := New(cfg, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	const devices = 50
	for i := range devices {
		r := delivery.Registration{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: fmt.Sprintf("%064x", i+1), App: "com.example.app", Environment: "production"}
		if err := b.core.PutDevice(ctx, "alice", fmt.Sprint("phone", i), &r); err != nil {
			t.Fatal(err)
		}
	}
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	// Apple allows one request on a new connection until it has answered it.
	if _, err := b.Notify(ctx, delivery.Request{Account: "alice", Title: "first", Devices: []string{"phone0"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := sim.Wait(wait, 1); err != nil {
		t.Fatal(err)
	}
	sim.Script(apnssim.Script{Action: apnssim.ActionHang})
	for i := range 3 {
		if _, err := b.Notify(ctx, delivery.Request{Account: "alice", Title: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sim.Wait(wait, devices); err != nil {
		t.Fatal(err)
	}
	before, begun := log.lines(), time.Now()
	if err := b.Close(wait); err != nil {
		t.Errorf("Close: %v", err)
	}
	t.Logf("Close took %v", time.Since(begun).Round(time.Millisecond))
	if n := log.lines() - before; n > 10 {
		t.Errorf("%d lines were logged meanwhile:\n%.3000s", n, log.buf.String())
	}
}
