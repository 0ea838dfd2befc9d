// Package config is Heartline's configuration: structs with their defaults, one
// loader for file, environment and flags, and the rules that hold between values.
//
// Read config.go first (every key, its meaning and its default), then load.go
// (where values come from and which wins), decode.go (how text becomes a value),
// file.go (YAML, TOML and JSON), validate.go and rules_*.go (the rules, a file per
// section), forms.go (the common forms of rules), errors.go (a finding and its text)
// and render.go (a configuration as YAML).
//
// Nothing here runs in the background, and nothing is global: Load reads what its
// Source names and returns. A *Config is not changed once Load has returned it,
// so any number of goroutines may read it. It imports nothing of
// Heartline's but
// internal/loopback.
package config
