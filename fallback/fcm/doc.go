// Package fcm is Firebase Cloud Messaging, HTTP v1, as a notification server: Android,
// and whatever else a Firebase project reaches.
//
// Read pusher.go (the fallback.Pusher), oauth.go
// (the access token, renewed ahead), message.go (what a phone is sent), reason.go (every
// answer and the reaction to it).
//
// A project has at most one goroutine, which renews its access token; Close waits for
// it. The package imports delivery, fallback, fallback/payload, internal/credentials and
// internal/h2pool, whose connections have goroutines.
package fcm
