package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/heartline-mqtt/heartline/config"
)

// The environment wins over the file; a configuration that Load returns has passed every
// rule.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "heartline-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "heartline.yaml")
	if err := os.WriteFile(file, []byte("delivery: {ack_window: 5s, ttl: 2h}\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	cfg, err := config.Load(config.Source{File: file, Environ: []string{"HEARTLINE_DELIVERY_ACK_WINDOW=4s"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cfg.Delivery.AckWindow, cfg.Delivery.TTL, cfg.MQTT.Address)
	// Output: 4s 2h0m0s 127.0.0.1:1883
}

// Errors holds every finding, each with its key.
func ExampleErrors() {
	_, err := config.Load(config.Source{Environ: []string{"HEARTLINE_LOG_LEVEL=loud", "HEARTLINE_DELIVERY_TTL=3"}})
	if findings, ok := errors.AsType[config.Errors](err); ok {
		for _, f := range findings {
			fmt.Println(f)
		}
	}
	// Output:
	// delivery.ttl: must be a duration with a unit: write a unit, as in 5s, 10m or 24h, got 3 (from HEARTLINE_DELIVERY_TTL)
	// log.level: must be debug, info, warn or error, got loud (from HEARTLINE_LOG_LEVEL)
}

// A plugin makes its configuration in Go, and checks it with Validate.
func ExampleConfig_Validate() {
	cfg := config.Default()
	cfg.Delivery.Ack = "read"
	fmt.Println(cfg.Validate())
	// Output: delivery.ack: must be received or displayed, got read
}
