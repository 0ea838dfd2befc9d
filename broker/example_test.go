package broker_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

// The plugin: Heartline on a mochi server of one's own. The account's device is
// offline and has no push token here, so that the notification waits for it.
func ExampleAttach() {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	must(server.AddHook(new(auth.AllowHook), nil))
	must(server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})))

	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory // a trial; on the disk otherwise, in cfg.DataDir
	heartline, err := broker.Attach(server, cfg)
	must(err)
	must(server.Serve())

	ctx := context.Background()
	events := heartline.Subscribe(16)
	must(heartline.Core().PutDevice(ctx, "alice", "phone", nil)) // or it connects and subscribes
	_, err = heartline.Notify(ctx, delivery.Request{Account: "alice", ID: "order-7", Title: "Order 7"})
	must(err)
	for range 2 {
		fmt.Println((<-events.C).Kind)
	}

	must(heartline.Close(ctx))
	must(server.Close())
	// Output:
	// accepted
	// waiting
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
