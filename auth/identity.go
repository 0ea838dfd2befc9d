package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Identity is an authenticated client or caller.
type Identity struct {
	// Account is notified on its devices. "" for an API token without an account.
	Account string
	// Service may notify accounts and use the API. Admin may also disconnect devices
	// and release identifiers; an admin is a service.
	Service, Admin bool
	// Accounts are patterns of the accounts that a service may act for, in which *
	// stands for any text. Empty: all accounts.
	Accounts []string
	// Device is the only client identifier that may be used; "": DevicePattern decides.
	Device string
	// DevicePattern is auth.device_pattern; "" allows every client identifier.
	DevicePattern string
	// Expires is when the credentials expire; zero: never.
	Expires time.Time

	// revoked returns why the credentials are no longer valid; nil: they are, or
	// nobody can tell.
	revoked func() error
}

var (
	errExpired = errors.New("the credentials have expired")
	errChanged = errors.New("the password or the expiry of the token was changed")
	// ErrRemoved says that the user or token was removed, or has another role now.
	ErrRemoved = errors.New("the user or token was removed, or its role was changed")
)

// Check returns an error if the credentials have expired or were revoked since they
// were presented. It is cheap: callers poll it for as long as a connection or an
// event stream lasts.
func (id *Identity) Check(now time.Time) error {
	if !id.Expires.IsZero() && !now.Before(id.Expires) {
		return errExpired
	}
	if id.revoked != nil {
		return id.revoked()
	}
	return nil
}

// MayUse reports whether the identity may connect under a client identifier.
// Services may use any.
func (id *Identity) MayUse(clientID string) bool {
	switch {
	case id.Service:
		return true
	case id.Device != "":
		return clientID == id.Device
	case id.DevicePattern != "":
		return matchPattern(id.DevicePattern, map[string]string{"{account}": topicLevel(id.Account)}, clientID)
	}
	return true
}

// MayActFor reports whether a service may notify an account and see its data.
func (id *Identity) MayActFor(account string) bool {
	if !id.Service {
		return false
	}
	return len(id.Accounts) == 0 || slices.ContainsFunc(id.Accounts, func(p string) bool { return matchPattern(p, nil, account) })
}

// AllAccounts reports whether a service is not limited to some accounts.
func (id *Identity) AllAccounts() bool { return id.Service && len(id.Accounts) == 0 }

// matchPattern reports whether text fits pattern, in which * stands for any text.
// names maps each placeholder to its replacement. A * in a replacement is literal.
func matchPattern(pattern string, names map[string]string, text string) bool {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		for name, value := range names {
			p = strings.ReplaceAll(p, name, value)
		}
		parts[i] = p
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return text == first
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		_, rest, ok := strings.Cut(text, p) // the leftmost leaves the most for the rest
		if !ok {
			return false
		}
		text = rest
	}
	return strings.HasSuffix(text, last)
}

// topicLevel is a name as one level of a topic (contract §1).
func topicLevel(name string) string {
	if !strings.ContainsAny(name, "%/+#") {
		return name // asked for every receiver of a message: a Replacer costs microseconds
	}
	return strings.NewReplacer("%", "%25", "/", "%2F", "+", "%2B", "#", "%23").Replace(name)
}

// validPattern checks a pattern of accounts.
func validPattern(p string) error {
	if p == "" || len(p) > 256 || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '�' }) {
		return fmt.Errorf("must be 1 to 256 bytes of UTF-8 without control characters, got %q", clip(p))
	}
	return nil
}
