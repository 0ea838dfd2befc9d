// Package simkit holds the parts that the stand-ins for notification servers share: a
// certificate (certificate.go), a journal of requests (journal.go), scripted answers
// (script.go), the server and its control API (server.go, control.go).
//
// A Server has a goroutine for each listener that it serves and those of net/http; Close
// waits for them. The package imports nothing of Heartline.
package simkit
