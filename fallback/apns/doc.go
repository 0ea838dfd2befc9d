// Package apns pushes through Apple's notification service. It implements
// fallback.Pusher.
//
// Read client.go (configuration, and one push), exchange.go (one request and its
// answer), reasons.go (every answer of Apple's and the one reaction to it), payload.go,
// credentials.go and providertoken.go (how requests are authenticated).
//
// The package starts no goroutine of its own; the connections of internal/h2pool do.
// Close ends them and waits. It imports fallback and delivery.
package apns
