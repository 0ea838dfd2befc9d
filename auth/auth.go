package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/heartline-mqtt/heartline/config"
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

// Bounds of what is looked at. They are far above any honest use.
const (
	maxPassword = 1024
	maxToken    = 16 << 10
)

// Roles, as they are written in files, claims and answers.
const (
	roleDevice  = "device"
	roleService = "service"
)

// Auth finds out who someone is. Its methods are safe for concurrent use.
type Auth struct {
	mode mode
}

// mode is a way to find out.
type mode interface {
	connect(ctx context.Context, c Credentials) (Identity, error)
	bearer(ctx context.Context, token, remote string) (Identity, error)
	close()
}

// New returns an Auth for a section of the configuration. Its errors name the key
// at fault, and there may be several, joined.
func New(cfg config.Auth, log *slog.Logger) (*Auth, error) {
	var m mode
	var err error
	switch cfg.Mode {
	case config.AuthNone:
		m = open{}
	case config.AuthFile:
		m, err = newFileMode(cfg.File, log)
	case config.AuthJWT:
		m, err = newJWTMode(cfg.JWT, log)
	case config.AuthHTTP:
		m, err = newHTTPMode(cfg.HTTP)
	default:
		err = fmt.Errorf("auth.mode: must be none, file, jwt or http, got %q", cfg.Mode)
	}
	if err != nil {
		return nil, err
	}
	return &Auth{mode: m}, nil
}

// Open reports whether everyone is taken for what they say (auth.mode: none).
func (a *Auth) Open() bool { _, is := a.mode.(open); return is }

// Connect says who an MQTT client is. The error wraps ErrDenied or ErrUnavailable.
func (a *Auth) Connect(ctx context.Context, c Credentials) (Identity, error) {
	if len(c.Password) > max(maxPassword, maxToken) {
		return Identity{}, denied("a password of %d bytes", len(c.Password))
	}
	return a.mode.connect(ctx, c)
}

// Bearer says who presents a token to the HTTP API. The error wraps ErrDenied or
// ErrUnavailable.
func (a *Auth) Bearer(ctx context.Context, token, remote string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, denied("a token of %d bytes", len(token))
	}
	return a.mode.bearer(ctx, token, remote)
}

// Close lets go of idle connections. It is safe to call twice.
func (a *Auth) Close() error {
	a.mode.close()
	return nil
}

// open is auth.mode none.
type open struct{}

func (open) connect(_ context.Context, c Credentials) (Identity, error) {
	account := c.Username
	if account == "" {
		account = c.ClientID
	}
	return Identity{Account: account, Service: true}, nil
}

func (open) bearer(context.Context, string, string) (Identity, error) {
	return Identity{Service: true}, nil
}

func (open) close() {}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDenied}, args...)...)
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnavailable}, args...)...)
}
