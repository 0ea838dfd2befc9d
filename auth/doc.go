// Package auth finds out who someone is: an MQTT client by what it presents in
// CONNECT, a caller of the HTTP API by a bearer token (contract §3 and §5).
//
// Read auth.go (Auth and what it answers), then a file a mode.
//
// It imports config, for its section of the configuration, and nothing else of
// Heartline.
package auth
