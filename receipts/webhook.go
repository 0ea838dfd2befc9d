package receipts

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Webhook is a backend's address for events, and the choice of them.
type Webhook struct {
	// Name identifies the webhook: its position in the events is kept under it.
	Name string
	URL  string
	// Secrets sign each request, each with a signature of its own: two while a backend
	// changes from one to the other.
	Secrets [][]byte
	// Events are the names of the events to send; empty: all.
	Events []string
	// Accounts are patterns of accounts, in which * stands for any text; empty: all.
	Accounts []string
	// RootCAs verifies the server; nil: the system's.
	RootCAs *x509.CertPool
	// Timeout bounds one request; 0: 15 s.
	Timeout time.Duration
}

// wants reports whether the webhook sends e.
func (w *Webhook) wants(e *delivery.AccountEvent) bool {
	if len(w.Events) > 0 && !slices.Contains(w.Events, e.Kind.String()) {
		return false
	}
	return len(w.Accounts) == 0 || slices.ContainsFunc(w.Accounts, func(p string) bool { return matches(p, e.Account) })
}

// matches reports whether text fits pattern, in which * stands for any text.
func matches(pattern, text string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return text == pattern
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(text, part)
		}
		_, left, ok := strings.Cut(text, part) // the leftmost leaves the most for the rest
		if !ok {
			return false
		}
		text, rest = left, after
	}
}

// shownURL is a URL without what may be secret in it.
func shownURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.User = nil
	if u.RawQuery != "" {
		u.RawQuery = "..."
	}
	return u.String()
}
