package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

func TestPlugin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addresses, ended := make(chan [2]string, 1), make(chan error, 1)
	dir := t.TempDir()
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "127.0.0.1:0", dir, func(mqttAddress, httpAddress string) { addresses <- [2]string{mqttAddress, httpAddress} })
	}()
	var at [2]string
	select {
	case at = <-addresses:
	case err := <-ended:
		t.Fatal(err)
	}

	for _, tt := range []struct {
		id   string
		lets bool
	}{{"ben-phone", false}, {"anna-phone", true}} {
		c, err := rawmqtt.Dial(at[0], 5)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		connack, err := c.Connect(rawmqtt.Connect{ID: tt.id, Username: "anna", Keepalive: 60, Clean: true})
		if err != nil || (connack.ReasonCode == 0) != tt.lets {
			t.Fatalf("%s: %#x, %v", tt.id, connack.ReasonCode, err)
		}
		if !tt.lets {
			continue
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/anna-phone/notifications"); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]int{"": http.StatusUnauthorized, "secret": http.StatusAccepted} {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at[1]+"/v1/notifications", strings.NewReader(`{"account":"anna","title":"Hello"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Api-Key", key)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != want {
				t.Errorf("key %q: %d, want %d", key, answer.StatusCode, want)
			}
		}
		for {
			pk, err := c.Read(10 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if pk.FixedHeader.Type == packets.Publish {
				if !strings.Contains(string(pk.Payload), `"title":"Hello"`) {
					t.Errorf("%s", pk.Payload)
				}
				break
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
