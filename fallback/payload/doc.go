// Package payload holds the parts that the payloads of several notification
// servers share: the member that identifies the notification, the shortening of
// texts, and the members that a backend puts over Heartline's own.
//
// Read fit.go (how a payload is made to fit), text.go (where a text may be cut),
// merge.go (what a backend may override). The package has no state and no
// goroutine. It imports delivery and fallback.
package payload
