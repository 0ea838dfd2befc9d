package broker

import (
	"fmt"
	"log/slog"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery/outbox"
	"github.com/heartline-mqtt/heartline/delivery/outbox/memory"
	"github.com/heartline-mqtt/heartline/delivery/outbox/pebblestore"
)

// openOutbox opens the store that cfg names.
func openOutbox(cfg *config.Config, log *slog.Logger) (*outbox.Outbox, error) {
	opts := outbox.Options{History: cfg.Store.History, Logger: log, Open: memory.Open}
	if cfg.Store.Engine == config.EnginePebble {
		opts.Open = func(readOnly bool) (outbox.Engine, error) {
			return pebblestore.Open(cfg.DataDir, pebblestore.Options{ReadOnly: readOnly, Logger: log})
		}
		if cfg.Store.MinFree > 0 {
			opts.MinFreeBytes = uint64(cfg.Store.MinFree)
			opts.FreeBytes = func() (uint64, error) { return pebblestore.FreeBytes(cfg.DataDir) }
		}
	}
	out, err := outbox.New(opts)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return out, nil
}
