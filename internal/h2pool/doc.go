// Package h2pool sends many requests over few HTTP/2 connections to one server, without
// keeping the rest of the program from running, and finds connections that have gone silent.
//
// Read pool.go (connections: how many, when one is opened, when it is replaced), then
// coalesce.go (many small writes become one), liveness.go (a silent connection is found),
// transport.go (the same for many servers, with net/http's own pool), writeslots.go (how
// many requests are written at the same time) and netpoller.go (the network is polled in
// a storm).
//
// A Pool runs a goroutine while it dials, a connection one for its writes, a Netpoller
// one for its pipe. Close of each ends and waits for them. It imports internal/backoff.
package h2pool
