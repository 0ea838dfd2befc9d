// Package api is the HTTP side of Heartline (contract §4): JSON calls for
// backends and people, server-sent events, health and metrics.
//
// Read api.go (the options and the way of a request), access.go (who may call),
// problem.go (errors and their codes), body.go (strict reading of bodies), then the
// calls: notifications.go, batch.go, devices.go, events.go, health.go.
//
// An API is an http.Handler. It starts no goroutine of its own; each call runs on
// its request's, and a batch has two more while it lasts. Close ends the streams
// (events, batches), so that an http.Server can shut down: give it to
// RegisterOnShutdown. The types of the calls make the OpenAPI document, and
// bodies are checked against it.
//
// It may import delivery, receipts, wire, auth, broker/internal/metrics, broker/internal/overview,
// internal/loopback, internal/seldom and internal/text.
package api
