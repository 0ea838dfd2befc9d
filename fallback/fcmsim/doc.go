// Package fcmsim stands in for Google's token endpoint and for Firebase Cloud Messaging,
// HTTP v1: it checks requests as Google documents them and keeps what a phone would
// show.
//
// server.go is both endpoints, check.go the rules of a message, script.go how a test makes
// it fail.
package fcmsim
