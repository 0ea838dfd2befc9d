// Package cmd is the command line: a file a command, each a thin shell around the
// configuration, the broker, the simulator or the HTTP API.
//
// Read cmd.go first (Run, exit codes, how errors are told), then client.go (what
// the commands that call a server share) and print.go (columns and times); the
// rest can be read in any order.
//
// Run is the whole program but for the process: it takes its arguments, its
// environment and its streams from its caller, touches no global, and returns when
// the command is done or its context has ended. It imports config, broker, the
// simulator and wire.
package cmd
