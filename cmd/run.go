package cmd

import (
	"context"
	"sync"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

// runBroker is the one place where the command line meets the broker.
func runBroker(ctx context.Context, cfg *config.Config, opts ServeOptions) error {
	b, err := broker.NewReloadable(cfg, opts.Log, broker.Reloading{Load: opts.Load, Level: opts.Level})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var reloading sync.WaitGroup
	defer reloading.Wait()
	defer stop()
	reloading.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-opts.Hangups:
				_ = b.Reload(ctx) // it has logged why not
			}
		}
	})
	return b.Run(ctx, func() { opts.Ready(b.MQTTAddr(), b.HTTPAddr()) })
}
