package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
	"github.com/heartline-mqtt/heartline/store/pebblestore"
)

// openOutbox opens the store that cfg names.
func openOutbox(cfg *config.Config, unread func() (time.Time, bool), log *slog.Logger) (*store.Outbox, error) {
	opts := store.Options{History: cfg.Store.History, HousekeepingInterval: cfg.Store.Housekeeping, Unread: unread, Logger: log, Open: memory.Open}
	if journal := cfg.Store.Engine == config.EngineJournal; journal || cfg.Store.Engine == config.EnginePebble {
		opts.Open = func(readOnly bool) (store.Engine, error) {
			return pebblestore.Open(cfg.DataDir, pebblestore.Options{Journal: journal, ReadOnly: readOnly, Logger: log})
		}
		if cfg.Store.MinFree > 0 {
			opts.MinFreeBytes = uint64(cfg.Store.MinFree)
			opts.FreeBytes = func() (uint64, error) { return pebblestore.FreeBytes(cfg.DataDir) }
		}
	}
	out, err := store.New(opts)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return out, nil
}

// stateDir is where parts other than the store keep small files: the data directory,
// "" for none.
func stateDir(cfg *config.Config) string {
	if cfg.Store.Engine == config.EngineMemory {
		return ""
	}
	return cfg.DataDir
}

// noBackup is why an engine has no backup of Heartline's.
var noBackup = map[string]string{
	config.EngineMemory:   "store.engine is memory, which keeps nothing on a disk; set store.engine: pebble",
	config.EnginePostgres: "store.engine is postgres: back the database up with pg_basebackup and WAL archiving, or pg_dump",
}

// CheckBackup reads a backup in dir and compares the totals with the deliveries that
// are there. Nothing of the backup changes.
func CheckBackup(dir string) (_ store.Audit, err error) {
	s, err := pebblestore.Open(dir, pebblestore.Options{ReadOnly: true})
	if err != nil {
		return store.Audit{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return store.AuditEngine(s)
}
