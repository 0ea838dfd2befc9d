package cmd

import (
	"context"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

// runBroker is the one place where the command line meets the broker.
func runBroker(ctx context.Context, cfg *config.Config, opts ServeOptions) error {
	b, err := broker.New(cfg, opts.Log)
	if err != nil {
		return err
	}
	return b.Run(ctx, func() { opts.Ready(b.MQTTAddr(), b.HTTPAddr()) })
}
