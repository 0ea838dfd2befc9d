package terminal_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/terminal"
	"github.com/heartline-mqtt/heartline/wire"
)

// screen shows tips on a channel.
type screen struct{ tips chan wire.Pseudo }

func (s screen) Tip(p wire.Pseudo)    { s.tips <- p }
func (s screen) Notice(wire.Pseudo)   {}
func (s screen) Message(wire.Message) {}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// A device connects, shows a tip and acknowledges it.
func ExampleOpen() {
	ctx := context.Background()
	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", ""
	server, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	must(err)
	must(server.Start())
	defer func() { must(server.Close(ctx)) }()

	s := screen{make(chan wire.Pseudo, 1)}
	phone, err := terminal.Open(terminal.Options{
		Server: "mqtt://" + server.MQTTAddr(), Account: "alice", Device: "phone", Display: s,
	})
	must(err)
	defer func() { must(phone.Close(ctx)) }()
	must(phone.WaitUp(ctx))

	_, err = server.Core().Accept(ctx, delivery.Request{Account: "alice", ID: "order-7", Title: "Order 7"})
	must(err)
	tip := <-s.tips
	fmt.Println(tip.ID, tip.Title)
	// Output: order-7 Order 7
}
