// Package wire is the JSON that users see (contract §3 and §4), as Go types: what
// a backend asks for, what a device is sent, what it answers. The MQTT hooks, the
// HTTP API, the commands and the terminal share it.
//
// It imports delivery for the words, and decides nothing.
package wire
