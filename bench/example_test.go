package bench_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/bench"
)

// A small load on someone else's broker, with every message accounted for.
func ExampleRun() {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	defer server.Close()
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		fmt.Println(err)
		return
	}
	if err := server.AddListener(listeners.NewNet("tcp", socket)); err != nil {
		fmt.Println(err)
		return
	}
	if err := server.Serve(); err != nil {
		fmt.Println(err)
		return
	}

	o := bench.Defaults()
	o.Address, o.Mode = socket.Addr().String(), bench.ModeTopics
	o.Devices, o.Publishers, o.Inflight, o.Count = 3, 1, 4, 30
	result, err := bench.Run(context.Background(), o)
	if err != nil {
		fmt.Println(err)
		return
	}
	t := result.Totals
	fmt.Println(t.Sent, t.Delivered, t.Lost, t.Duplicated)
	// Output: 30 30 0 0
}
