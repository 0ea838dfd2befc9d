// Package webpushsim stands in for a push service of Web Push and for the browser that
// subscribed: it checks a request as the vendors document it (RFC 8030, 8188, 8291,
// 8292; Apple is the strictest), decrypts it and keeps what the browser would show.
//
// server.go is the service, check.go the rules, script.go how a test makes it fail, decrypt.go the browser's side of the
// encryption. browser.go is for real browsers: Firefox can subscribe here. It has a
// goroutine for each browser's connection; Close ends them and waits.
package webpushsim
