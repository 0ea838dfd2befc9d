package broker

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/overview"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/hooks/persist"
	"github.com/heartline-mqtt/heartline/store"
)

// TestReadyWhileMQTTStateStalls: state of ordinary MQTT that does not reach the disk is
// reported, and does not make anyone send notifications elsewhere.
func TestReadyWhileMQTTStateStalls(t *testing.T) {
	cfg := config.Default()
	cfg.Store.Engine, cfg.MQTT.Address, cfg.HTTP.Address = config.EngineMemory, "", "127.0.0.1:0"
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	b.persist = persist.New(b.hub, persist.Options{Store: hanging(hang), Gather: time.Millisecond, StallAfter: time.Millisecond})
	if err := b.persist.Restore(); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		close(hang)
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if checks, err := b.Ready(); err != nil || checks["mqtt state"] != "" {
		t.Errorf("before: %v, %v", checks, err)
	}
	if _, err := b.hub.Publish(&ordinary.Message{TopicName: "a", Payload: []byte("1"), Retain: true}); err != nil {
		t.Fatal(err)
	}
	for !b.persist.Stats().Stalled {
		time.Sleep(time.Millisecond)
	}
	if checks, err := b.Ready(); err != nil || !strings.Contains(checks["mqtt state"], "has not returned") {
		t.Errorf("stalled: %v, %v", checks, err)
	}
	resp, err := http.Get("http://" + b.HTTPAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "\nheartline_mqtt_state_stalled 1\n") {
		t.Errorf("/metrics does not tell of it: %v", err)
	}
}

// TestReadyNamesEachPushService: an app that speaks to several push services is ok only if
// all of them are.
func TestReadyNamesEachPushService(t *testing.T) {
	t.Parallel()
	web := fallback.App{Server: "webpush", Name: "BG12"}
	google := fallback.AppStatus{App: web, Origin: "google", State: "paused", Cause: "403 BadJwtToken"}
	apple := fallback.AppStatus{App: web, Origin: "apple", State: "resting"}
	fine := fallback.AppStatus{App: web, Origin: "mozilla", State: "ok"}
	const says = "paused at google: 403 BadJwtToken"
	for _, c := range []struct {
		want string
		apps []fallback.AppStatus
	}{
		{"ok", []fallback.AppStatus{fine}},
		{says, []fallback.AppStatus{google, fine}},
		{says, []fallback.AppStatus{fine, google}},
		{says + "; resting at apple", []fallback.AppStatus{fine, google, fine, apple, fine}},
		{"open: timeout", []fallback.AppStatus{{App: web, State: "open", Cause: "timeout", Warnings: []string{"timeout"}}}},
		{"it expires; " + says, []fallback.AppStatus{{App: web, Origin: "mozilla", State: "ok", Warnings: []string{"it expires"}}, google}},
		{"it expires; resting at apple", []fallback.AppStatus{{App: web, State: "ok", Warnings: []string{"it expires"}}, {App: web, Origin: "apple", State: "resting", Warnings: []string{"it expires"}}}},
	} {
		var r overview.Readiness
		pushReady(&r, c.apps)
		const part = "push webpush/BG12"
		if got := r.Checks[part]; got != c.want || len(r.Checks) != 1 || slices.Equal(r.Faults, []string{part}) == (got == "ok") {
			t.Errorf("%+v, want %q", r, c.want)
		}
	}
}

// hanging is a store of MQTT's state whose writes come back when it is closed.
type hanging chan struct{}

func (hanging) ScanState(string, func(string, []byte) error) error { return nil }

func (h hanging) ApplyState([]store.StateChange) error {
	<-h
	return nil
}
