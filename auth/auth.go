package auth

import (
	"errors"
	"time"
)

// Identity is who someone has been found to be.
type Identity struct {
	// Account is the user: a device of it is notified when it is. "" for an API
	// token that belongs to no account.
	Account string
	// Service may notify every account and use the API.
	Service bool
	// Expires is when what was presented stops being good; zero: never. A
	// connection may outlive it.
	Expires time.Time
}

// Credentials is what an MQTT client presents in CONNECT.
type Credentials struct {
	ClientID string
	Username string
	Password []byte
	Remote   string // address and port of the client
}

// Errors of Connect and Bearer that their callers tell apart. Neither ever holds
// a password or a token.
var (
	// ErrDenied: what was presented is not good.
	ErrDenied = errors.New("not authenticated")
	// ErrUnavailable: it could not be found out whether it is good. It is a
	// refusal all the same.
	ErrUnavailable = errors.New("authentication is not available")
)
