// Fleet is a truck: it publishes its position as ordinary MQTT, retained, and takes
// notifications, over one connection. See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"github.com/heartline-mqtt/heartline/wire"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: fleet TRUCK (MQTT_SERVER names the server, mqtt://127.0.0.1:1883 unless set)")
	}
	address := os.Getenv("MQTT_SERVER")
	if address == "" {
		address = "mqtt://127.0.0.1:1883"
	}
	server, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("MQTT_SERVER: %w", err)
	}
	truck := args[0]
	position, own := "fleet/"+truck+"/position", "heartline/devices/"+truck+"/"
	seen := map[string]bool{} // on the disk in a real truck: docs/clients.md

	// The connection outlives ctx: the end is published on it.
	cm, err := autopaho.NewConnection(context.WithoutCancel(ctx), autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, KeepAlive: 30, SessionExpiryInterval: 24 * 60 * 60,
		ConnectUsername: truck, // its account
		WillMessage:     &paho.WillMessage{Topic: position, Payload: gone, Retain: true, QoS: 1},
		OnConnectionUp: func(cm *autopaho.ConnectionManager, _ *paho.Connack) {
			if _, err := cm.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
				{Topic: own + "notifications", QoS: 1}, {Topic: own + "dismissals", QoS: 1},
			}}); err != nil {
				fmt.Println("not subscribed:", err)
				return
			}
			fmt.Println("connected")
		},
		OnConnectError: func(err error) { fmt.Println("no connection yet:", err) },
		ClientConfig: paho.ClientConfig{
			ClientID: truck,
			// The PUBACK is sent after it returns.
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				var n wire.Pseudo
				if err := json.Unmarshal(p.Packet.Payload, &n); err != nil {
					return true, fmt.Errorf("a notification: %w", err)
				}
				switch {
				case p.Packet.Topic == own+"dismissals":
					fmt.Println("taken back:", n.ID)
				case !seen[n.ID]:
					fmt.Printf("%s: %s\n", n.Title, n.Body)
				}
				seen[n.ID] = true
				return true, nil
			}},
		},
	})
	if err != nil {
		return err
	}
	drive(ctx, cm, position)
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// A client that disconnects has no will any more.
	if _, err := cm.Publish(end, &paho.Publish{Topic: position, QoS: 1, Retain: true, Payload: gone}); err != nil {
		fmt.Println("the end is not published:", err)
	}
	return cm.Disconnect(end)
}

// gone is the last position of a truck that is not connected.
var gone = []byte(`{"connected":false}`)

// drive publishes the position each second, until the end. Nothing is queued while the
// connection is lost: the next position says more.
func drive(ctx context.Context, cm *autopaho.ConnectionManager, topicName string) {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for km := 0; ; km++ {
		if err := cm.AwaitConnection(ctx); err != nil {
			return // the end
		}
		payload, err := json.Marshal(map[string]any{"connected": true, "km": km})
		if err == nil {
			_, err = cm.Publish(ctx, &paho.Publish{Topic: topicName, QoS: 0, Retain: true, Payload: payload})
		}
		if err != nil && ctx.Err() == nil {
			fmt.Println("position not published:", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
	}
}
