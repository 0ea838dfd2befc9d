package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// The metrics that an operator looks at exist, and report the events.
func TestMetrics(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Connect(rawmqtt.Connect{ID: "phone", Username: "anna", Keepalive: 60}); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(1, 1, "heartline/devices/phone/acks", []byte(`{"id":"nobody's","status":"displayed"}`)); err != nil {
		t.Fatal(err)
	}
	if pk, err := c.Read(10 * time.Second); err != nil || pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Fatalf("the answer to an ack of nothing: 0x%02x %v", pk.ReasonCode, err)
	}
	if _, err := c.Subscribe(2, 1, "heartline/devices/phone/notifications"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Notify(context.Background(), delivery.Request{Account: "anna", Title: "t"}); err != nil {
		t.Fatal(err)
	}
	url := "http://" + b.HTTPAddr() + "/metrics"
	if resp, err := http.Get("http://" + b.HTTPAddr() + "/v1/notifications/none"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatal(resp, err)
	} else if _, err := io.Copy(io.Discard, resp.Body); errors.Join(err, resp.Body.Close()) != nil {
		t.Fatal(err)
	}
	text := scrape(t, url)
	for _, want := range []string{
		"heartline_unaccounted 0", "heartline_store_ready 1", "heartline_mqtt_clients 1", "heartline_mqtt_foreign_acks_total 1",
		"heartline_mqtt_state_stalled 0", "heartline_http_connections 1", "heartline_http_evicted_total 0",
		"heartline_devices_up 1", "heartline_deliveries_outstanding 1",
		"heartline_publish_seconds_count 1", "heartline_auth_service_up 1",
		`heartline_mqtt_connacks_total{code="0x00"} 1`, `heartline_mqtt_refusals_total{code="0x87"} 1`,
		`heartline_http_problems_total{code="unknown_notification"} 1`, `heartline_logins_failed_total{reason="denied",via="password"} 0`,
		`heartline_push_request_seconds_count{outcome="accepted",server="apns"} 0`,
		`heartline_connections{listener="tcp"} 1`, `heartline_events_total{event="accepted"} 1`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(fmt.Errorf("%s: %s, %w", url, resp.Status, err))
	}
	return string(body)
}
