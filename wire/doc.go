// Package wire is the JSON that users see (contract §3 and §4), as Go types: the
// requests of backends, the messages to devices and the answers of devices. The MQTT
// hooks, the HTTP API, the commands and the terminal share it.
//
// It imports delivery for the words, and decides nothing.
package wire
