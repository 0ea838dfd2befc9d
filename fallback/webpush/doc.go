// Package webpush is Web Push as a notification server: browsers, and UnifiedPush
// distributors on Android.
//
// Read pusher.go (the fallback.Pusher), subscription.go (what a device registers),
// guard.go (which endpoints may be reached), message.go (what a browser shows),
// encrypt.go (RFC 8291), vapid.go (RFC 8292),
// reason.go (every answer and the reaction to it).
//
// A subscription's endpoint is a URL that a device chose and that lets everybody who
// knows it send pushes. So the package connects to public addresses only, never
// follows a redirect, and never shows or logs an endpoint or its keys.
//
// A Pusher has no goroutine of its own; net/http and internal/h2pool keep connections,
// which Close closes. The package imports these, delivery, fallback, fallback/payload and
// internal/credentials.
package webpush
