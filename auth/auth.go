package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/config"
)

// Credentials is what an MQTT client presents in CONNECT.
type Credentials struct {
	ClientID string
	Username string
	Password []byte
	Remote   string // address and port of the client
	// Certificate is the client's verified TLS certificate; nil: it has none.
	Certificate *x509.Certificate
	// Open reports whether the client's connection is still open; nil: nobody can
	// tell. No password is hashed for a connection that is closed.
	Open func() bool
}

// Errors of Connect and Bearer. Neither ever holds a password or a token.
var (
	// ErrDenied: the credentials are wrong. The same ones will be refused again.
	ErrDenied = errors.New("not authenticated")
	// ErrUnavailable: the credentials could not be checked, or were not because of too
	// many failures. The same ones may be accepted later.
	ErrUnavailable = errors.New("authentication is not available")
)

// Bounds of credentials, far above honest use.
const (
	maxPassword = 1024
	maxName     = 256 // of a user or token of a users file
	maxToken    = 16 << 10
)

// Roles, as they are written in files, claims and answers.
const (
	roleDevice  = "device"
	roleService = "service"
	roleAdmin   = "admin"
)

// Auth authenticates clients and callers. Its methods are safe for concurrent use.
type Auth struct {
	mode          mode
	devicePattern string
	passwords     bool
	files         *watcher
	health        health // of the service that the mode asks

	byPassword, byBearer failures
}

// mode is one way to authenticate.
type mode interface {
	connect(ctx context.Context, c Credentials) (Identity, error)
	bearer(ctx context.Context, token, remote string) (Identity, error)
	close() error
}

// Options are the inputs of an Auth besides its section of the configuration.
type Options struct {
	Logger *slog.Logger
	// StateDir holds the verifiers of mode file across restarts; "" keeps them in
	// memory only.
	StateDir string
}

// New returns an Auth for a section of the configuration. Its errors name the key
// at fault; there may be several, joined. Close stops it.
func New(cfg config.Auth, o Options) (_ *Auth, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Auth{devicePattern: cfg.DevicePattern, passwords: cfg.Mode == config.AuthFile || cfg.Mode == config.AuthHTTP, files: newWatcher(o.Logger)}
	a.health.log = o.Logger
	defer func() {
		if err != nil {
			a.files.close()
		}
	}()
	switch cfg.Mode {
	case config.AuthNone:
		a.mode = open{}
	case config.AuthFile:
		var m *fileMode
		if m, err = newFileMode(cfg.File, a.files, o); err == nil && m.file.get().none() {
			err = errors.Join(fmt.Errorf("auth.file.path: %s: %w", cfg.File.Path, errNobody), m.close())
		}
		a.mode = m
	case config.AuthJWT:
		a.health.key = "auth.jwt.jwks_url"
		a.mode, err = newJWTMode(cfg.JWT, a.files, &a.health, o.Logger)
	case config.AuthHTTP:
		a.health.key = "auth.http.url"
		a.mode, err = newHTTPMode(cfg.HTTP, &a.health)
	case config.AuthTLS:
		a.mode, err = newTLSMode(cfg.TLS, cfg.File, a.files, o)
	default:
		err = fmt.Errorf("auth.mode: must be none, file, jwt, http or tls, got %q", clip(cfg.Mode))
	}
	if err != nil {
		return nil, err
	}
	a.files.start()
	return a, nil
}

// Open reports whether everyone is taken at their word (auth.mode: none).
func (a *Auth) Open() bool { _, is := a.mode.(open); return is }

// Passwords reports whether clients show a password (auth.mode: file or http).
func (a *Auth) Passwords() bool { return a.passwords }

// Connect authenticates an MQTT client. The error wraps ErrDenied or ErrUnavailable.
// It may take long under load: it returns early when ctx ends.
func (a *Auth) Connect(ctx context.Context, c Credentials) (_ Identity, err error) {
	defer func() { a.byPassword.note(err) }()
	if len(c.Password) > max(maxPassword, maxToken) {
		return Identity{}, denied("a password of %d bytes", len(c.Password))
	}
	if !utf8.ValidString(c.Username) || strings.ContainsRune(c.Username, 0) {
		return Identity{}, denied("the username is not UTF-8")
	}
	id, err := a.mode.connect(ctx, c)
	if err != nil {
		return Identity{}, err
	}
	if id.Device == "" {
		id.DevicePattern = a.devicePattern
	}
	return id, nil
}

// Bearer authenticates a caller of the HTTP API. The error wraps ErrDenied or
// ErrUnavailable.
func (a *Auth) Bearer(ctx context.Context, token, remote string) (_ Identity, err error) {
	defer func() { a.byBearer.note(err) }()
	if len(token) > maxToken {
		return Identity{}, denied("a token of %d bytes", len(token))
	}
	id, err := a.mode.bearer(ctx, token, remote)
	if err == nil && id.Device == "" {
		id.DevicePattern = a.devicePattern
	}
	return id, err
}

// Reload reads the files of users and keys again, but for those of the keys that skip
// reports. A file with a mistake, or one that cannot be read, is an error, and the
// previous version stays in use. Changes of the files need no Reload: they are watched.
func (a *Auth) Reload(skip func(key string) bool) error { return a.files.Reload(skip) }

// Close stops watching files, writes the verifiers and closes idle connections. It
// returns when all has stopped, and is safe to call twice.
func (a *Auth) Close() error {
	if a == nil {
		return nil
	}
	a.files.close()
	return a.mode.close()
}

// open is auth.mode none.
type open struct{}

func (open) connect(_ context.Context, c Credentials) (Identity, error) {
	account := c.Username
	if account == "" {
		account = c.ClientID
	}
	return Identity{Account: account, Service: true, Admin: true}, nil
}

func (open) bearer(context.Context, string, string) (Identity, error) {
	return Identity{Service: true, Admin: true}, nil
}

func (open) close() error { return nil }

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDenied}, args...)...)
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnavailable}, args...)...)
}
