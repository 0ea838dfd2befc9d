//go:build !unix

package pgkit

import (
	"context"
	"fmt"
)

// Server is not to be had on this system.
type Server struct{}

// Installed reports whether Start can start a server here.
func Installed() error { return fmt.Errorf("%w: it is not started on this system", ErrMissing) }

// Start fails.
func Start(context.Context, ...string) (*Server, error) { return nil, Installed() }

// Close does nothing.
func (*Server) Close() error { return nil }

// URL is not reached: there is no Server.
func (*Server) URL(_, _, _ string) string { return "" }
