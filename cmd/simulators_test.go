package cmd

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
)

// TestPushSim: what push-sim prints is a configuration that a server takes, and one
// control API reaches the three simulators.
func TestPushSim(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	p := newProgram(IO{Args: []string{"push-sim", "--cert-dir", dir, "--apns", "127.0.0.1:0", "--fcm", "127.0.0.1:0", "--webpush", "127.0.0.1:0", "--control", "127.0.0.1:0"}, Stdout: w, Stderr: io.Discard})
	code := make(chan int, 1)
	go func() { code <- p.run(ctx); _ = w.Close() }()
	var text strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(text.String(), "# Control API: ") {
		n, err := r.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %s", err, text.String())
		}
	}
	yaml, control, _ := strings.Cut(text.String(), "# Control API: ")
	file := filepath.Join(dir, "heartline.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if checked := command(t, nil, "", "config", "check", "--config", file); checked.code != exitOK {
		t.Errorf("the printed configuration: %+v", checked)
	}
	if cfg, err := config.Load(config.Source{File: file}); err != nil || !cfg.Fallback.FCM.Enabled || !cfg.Fallback.WebPush.Enabled {
		t.Errorf("got %v", err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	for _, server := range []string{"apns", "fcm", "webpush"} {
		res, err := http.Get(strings.TrimSpace(control) + "/" + server + "/received")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != "[]" {
			t.Errorf("%s: got %d %s, %v", server, res.StatusCode, body, err)
		}
	}
	stop()
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d", c)
	}
}
