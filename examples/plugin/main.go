// Plugin is an MQTT server of one's own with Heartline in it. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/delivery"
)

// door is the hook of this program: a client's identifier begins with its user name.
type door struct{ mqtt.HookBase }

func (door) ID() string { return "door" }

func (door) Provides(b byte) bool { return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck }

func (door) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	name := string(cl.Properties.Username)
	return name != "" && strings.HasPrefix(cl.ID, name+"-")
}

func (door) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, "127.0.0.1:1884", "127.0.0.1:8081", "plugin-data", func(mqttAddress, httpAddress string) {
		fmt.Printf("MQTT on %s, API on http://%s\n", mqttAddress, httpAddress)
	})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It calls ready with the addresses that it listens on.
func run(ctx context.Context, mqttAddress, httpAddress, dataDir string, ready func(mqttAddress, httpAddress string)) (err error) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(door), nil); err != nil {
		return err
	}
	heartline, err := broker.Attach(server, broker.Options{DataDir: dataDir})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = errors.Join(err, heartline.Close(end), server.Close())
	}()
	socket, err := net.Listen("tcp", mqttAddress)
	if err != nil {
		return err
	}
	// Heartline's listener bounds what a hostile client can cost; mochi's own work, too.
	if err := server.AddListener(heartline.NewListener("tcp", socket, nil)); err != nil {
		return err
	}
	if err := server.Serve(); err != nil {
		return err
	}

	events := heartline.Subscribe(64)
	defer events.Close()
	go func() {
		for e := range events.C {
			if e.Kind == delivery.EventReceived {
				fmt.Printf("%s has received %s\n", e.Device, e.ID)
			}
		}
	}()

	mux := http.NewServeMux()
	mux.Handle("/", heartline.APIHandler(func(r *http.Request) error {
		if r.Header.Get("X-Api-Key") != "secret" {
			return errors.New("send your key as X-Api-Key")
		}
		return nil
	}))
	web, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	api := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- api.Serve(web) }()
	defer api.Close() //nolint:errcheck // the end
	ready(socket.Addr().String(), web.Addr().String())
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
