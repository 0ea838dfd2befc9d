package receipts

import (
	"net/http"
	"time"
)

// WithTransport replaces the network.
func (o Options) WithTransport(t http.RoundTripper) Options {
	o.transport = t
	return o
}

// WithMaxAside bounds the events that are kept apart.
func (o Options) WithMaxAside(n int) Options {
	o.aside = n
	return o
}

// Matches is what Webhook.Accounts are compared by.
var Matches = matches

// NewSlowTail looks for new events less often: a test lets days pass.
func NewSlowTail(s Source, pause time.Duration) *Tail {
	t := NewTail(s)
	t.pause = pause
	return t
}

// Signatures signs.
var Signatures = signatures

// RetryAfter reads the header of that name.
var RetryAfter = retryAfter
