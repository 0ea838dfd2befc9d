// Package pgkit starts a PostgreSQL of one's own on loopback, with its data in a directory
// that is thrown away. The demo and the tests use it.
//
// A Server is a child process; it runs no goroutine but one that waits for the process, and
// needs Close.
package pgkit

import "errors"

// ErrMissing: PostgreSQL cannot be started here. The text says why, and what to install.
var ErrMissing = errors.New("PostgreSQL is missing")
