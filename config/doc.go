// Package config is Heartline's configuration: structs with their defaults, one
// loader for file, environment and flags, and the rules that hold between values.
//
// Read config.go first (every key, its default and what it means), then load.go
// (where values come from and which wins), decode.go (how text becomes a value),
// file.go (YAML, TOML and JSON), validate.go (a rule a line), errors.go (what a
// finding looks like) and render.go (how a configuration is written down).
//
// Nothing here runs in the background, and nothing is global: Load reads what its
// Source names and returns. A *Config is not changed once Load has returned it,
// so any number of goroutines may read it. The package imports nothing of
// Heartline's.
package config
