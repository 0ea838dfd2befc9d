package config

import (
	"fmt"
	"time"
)

// storeRules are those of data_dir, store and log.
func storeRules() []rule {
	type c = *Config
	return []rule{
		{"data_dir", []string{"store.engine"}, func(c c) (string, any) {
			return unless(c.DataDir != "" || c.Store.Engine == EngineMemory, "must name a directory (only store.engine memory does without)", c.DataDir)
		}},
		word("store.engine", func(c c) string { return c.Store.Engine }, EnginePebble, EngineMemory),
		span("store.housekeeping", func(c c) time.Duration { return c.Store.Housekeeping }, time.Second, time.Hour),
		span("store.history", func(c c) time.Duration { return c.Store.History }, 0, 8760*time.Hour),
		{"store.history", []string{"store.housekeeping"}, func(c c) (string, any) {
			return unless(c.Store.History < 0 || c.Store.History >= c.Store.Housekeeping, fmt.Sprintf("must be at least store.housekeeping (%s), after which it is looked at", formatDuration(c.Store.Housekeeping)), c.Store.History)
		}},
		size("store.min_free", func(c c) ByteSize { return c.Store.MinFree }, 0, 1<<50),
		word("log.level", func(c c) string { return c.Log.Level }, "debug", "info", "warn", "error"),
		word("log.format", func(c c) string { return c.Log.Format }, FormatText, FormatJSON),
	}
}
