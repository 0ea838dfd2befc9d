package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/badger"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/hooks/storage/pebble"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// Environment variables that give runMochi a TLS listener: files in PEM.
const (
	mochiCert = "COMPARE_MOCHI_CERT"
	mochiKey  = "COMPARE_MOCHI_KEY"
)

// runMochi is a plain mochi broker with one of its own storage hooks, or none, as
// its documentation sets it up: everybody may do everything, all else by default.
// It says its address on out, and runs until it is interrupted.
func runMochi(store, dir string, out io.Writer) error {
	// Warnings only: a line for each connection would be measured, too.
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	var err error
	switch path := filepath.Join(dir, store); store {
	case "memory":
	case "badger":
		err = server.AddHook(new(badger.Hook), &badger.Options{Path: path})
	case "pebble":
		err = server.AddHook(new(pebble.Hook), &pebble.Options{Path: path, Mode: pebble.NoSync})
	case "pebble-sync":
		err = server.AddHook(new(pebble.Hook), &pebble.Options{Path: path, Mode: pebble.Sync})
	case "bolt":
		err = server.AddHook(new(bolt.Hook), &bolt.Options{Path: path})
	default:
		err = fmt.Errorf("mochi has no store %q: memory, badger, pebble, pebble-sync or bolt", store)
	}
	if err != nil {
		return err
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := server.AddListener(tcp); err != nil {
		return err
	}
	overTLS := ""
	if file := os.Getenv(mochiCert); file != "" {
		pair, err := tls.LoadX509KeyPair(file, os.Getenv(mochiKey))
		if err != nil {
			return err
		}
		l := listeners.NewTCP(listeners.Config{ID: "tls", Address: "127.0.0.1:0", TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}})
		if err := server.AddListener(l); err != nil {
			return err
		}
		overTLS = l.Address()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := server.Serve(); err != nil {
		return err
	}
	fmt.Fprintf(out, "mochi is ready mqtt=%s mqtt_tls=%s\n", tcp.Address(), overTLS)
	<-ctx.Done()
	return server.Close()
}
