// Package apnssim is a stand-in for Apple's push service, for tests, demos and
// load on one machine: HTTP/2 over TLS, the checks and the answers that Apple
// documents, and faults on demand.
//
// Start it, hand Server.URL, Server.CAPEM and Server.Key to a client (the key
// stands in for a .p8 from Apple), then read the pushes with Received, Shown and
// Wait, and say with Script how it shall misbehave. The same is to be had over
// HTTP on Server.ControlURL, for other processes; see control.go for the calls.
//
// Read server.go (options, life), apns.go (the checks and their order),
// script.go (faults), journal.go (requests, screens), h2.go (the HTTP/2 side, on frames rather than net/http so
// that GOAWAY, SETTINGS, resets and silence can be had exactly), control.go.
//
// Start runs a goroutine for each listener and each connection; Close stops them
// and waits. It imports internal/simkit.
package apnssim
