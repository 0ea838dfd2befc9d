package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heartline-mqtt/heartline/config"
)

// leeway is how far the clocks of the issuer and this machine may be apart.
const leeway = 30 * time.Second

// jwtMode is auth.mode jwt: an MQTT client presents a token as its password, a
// caller of the API as its bearer token.
type jwtMode struct {
	health        *health
	keys          func() []verifyKey
	remote        *remoteKeys // nil: the keys are on this machine
	parser        *jwt.Parser
	withoutExpiry bool
}

func newJWTMode(cfg config.AuthFromJWT, files *watcher, h *health, log *slog.Logger) (*jwtMode, error) {
	m := &jwtMode{health: h, withoutExpiry: cfg.AllowWithoutExpiry}
	for _, source := range []struct {
		key, path string
		parse     func([]byte) ([]verifyKey, error)
	}{
		{"auth.jwt.jwks_file", cfg.JWKSFile, parseJWKS},
		{"auth.jwt.public_key_file", cfg.PublicKeyFile, parsePublicKey},
		{"auth.jwt.secret_file", cfg.SecretFile, parseSecret},
	} {
		if source.path == "" {
			continue
		}
		if m.keys != nil {
			return nil, errors.New("auth.jwt: must have exactly one source of keys")
		}
		file, err := watch(files, source.key, source.path, source.key == "auth.jwt.secret_file", source.parse)
		if err != nil {
			return nil, err
		}
		m.keys = func() []verifyKey { return *file.get() }
	}
	if secret := cfg.Secret.Reveal(); secret != "" {
		if m.keys != nil {
			return nil, errors.New("auth.jwt: must have exactly one source of keys")
		}
		keys, err := parseSecret([]byte(secret))
		if err != nil {
			return nil, fmt.Errorf("auth.jwt.secret: %w", err)
		}
		m.keys = func() []verifyKey { return keys }
	}
	if cfg.JWKSURL != "" && m.keys == nil {
		m.remote = newRemoteKeys(cfg.JWKSURL, log)
		m.keys = m.remote.get
	} else if cfg.JWKSURL != "" {
		m.keys = nil // two sources
	}
	if m.keys == nil {
		return nil, errors.New("auth.jwt: must have exactly one source of keys")
	}
	options := []jwt.ParserOption{
		jwt.WithLeeway(leeway),
		// The key's kind narrows it further; "none" is in no list.
		jwt.WithValidMethods([]string{
			"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
		}),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	m.parser = jwt.NewParser(options...)
	return m, nil
}

func (m *jwtMode) close() error {
	if m.remote != nil {
		m.remote.close()
	}
	return nil
}

// connect takes the token from the password. A user name may be left out; one that
// is given must be the token's, so that a log never names another than the account.
func (m *jwtMode) connect(ctx context.Context, c Credentials) (Identity, error) {
	id, err := m.identify(ctx, string(c.Password))
	if err != nil {
		return Identity{}, err
	}
	if c.Username != "" && c.Username != id.Account {
		return Identity{}, denied("the username %q is not the token's sub", clip(c.Username))
	}
	return id, nil
}

func (m *jwtMode) bearer(ctx context.Context, token, _ string) (Identity, error) {
	return m.identify(ctx, token)
}

// claims are the claims that Heartline reads. A service has heartline_role "service"
// or "admin", or role "service", or the scope heartline:service; heartline_role decides
// where it is present. heartline_accounts limits a service to some accounts, device
// limits a device to one client identifier.
type claims struct {
	jwt.RegisteredClaims
	heartlineRole *string
	accounts      []string
	device        *string
	role          json.RawMessage // others use it, too, in their own forms
	scope         json.RawMessage // RFC 8693 §4.2; some issuers make it a list
}

// UnmarshalJSON reads claims by their exact names. encoding/json would take SUB for
// sub, and an issuer that lets its users choose some claims does not expect that. A
// name that is there twice is an error (RFC 7519 §4).
func (c *claims) UnmarshalJSON(text []byte) error {
	fields, err := members(text)
	if err != nil {
		return err
	}
	var errs []error
	for name, to := range map[string]any{
		"iss": &c.Issuer, "sub": &c.Subject, "aud": &c.Audience, "exp": &c.ExpiresAt, "nbf": &c.NotBefore, "iat": &c.IssuedAt,
		"heartline_role": &c.heartlineRole, "heartline_accounts": &c.accounts, "device": &c.device,
	} {
		if value, ok := fields[name]; ok {
			if string(value) == "null" && (name == "heartline_accounts" || name == "device") { // it would be no limit
				errs = append(errs, fmt.Errorf("%s is null", name))
			}
			errs = append(errs, json.Unmarshal(value, to))
		}
	}
	c.role, c.scope = fields["role"], fields["scope"]
	return errors.Join(errs...)
}

// members splits a JSON object into its members.
func members(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("claims are no JSON object"), err)
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if _, twice := fields[name.(string)]; twice { // a member's name is a string
			return nil, errors.New("a claim is there twice")
		}
		fields[name.(string)] = value
	}
	return fields, nil
}

const serviceScope = "heartline:service"

func (m *jwtMode) identify(ctx context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, denied("no token")
	}
	var c claims
	var before *keySet
	if m.remote != nil {
		before = m.remote.keys.Load()
	}
	t, err := m.parser.ParseWithClaims(token, &c, m.candidates)
	if m.remote != nil && mayBeOfNewKey(t, err) {
		fresh := m.remote.refresh(ctx, before)
		switch {
		case fresh:
			c = claims{}
			_, err = m.parser.ParseWithClaims(token, &c, m.candidates)
		case ctx.Err() != nil:
			return Identity{}, unavailable("auth.jwt.jwks_url has not answered yet: %w", ctx.Err())
		case len(before.keys) > 0 && errors.Is(err, errNoKey) && !c.settled(before.asked):
			return Identity{}, unavailable("there is no key for the token's kid and alg yet, and auth.jwt.jwks_url has given no newer keys")
		}
	}
	if m.remote != nil && len(m.remote.get()) == 0 {
		err := unavailable("auth.jwt.jwks_url has given no keys yet")
		m.health.note(err)
		return Identity{}, err
	}
	m.health.note(nil) // there are keys
	if err != nil {
		return Identity{}, denied("%s", whyRefused(err))
	}
	if c.Subject == "" {
		return Identity{}, denied("the token has no sub")
	}
	if c.ExpiresAt == nil && !m.withoutExpiry {
		return Identity{}, denied("the token has no exp: it would be valid for ever (auth.jwt.allow_without_expiry accepts it)")
	}
	r, err := c.rights()
	if err != nil {
		return Identity{}, err
	}
	id := r.identity(c.Subject)
	if c.device != nil {
		if *c.device == "" {
			return Identity{}, denied("the token's device is empty")
		}
		id.Device = *c.device
	}
	if c.ExpiresAt != nil {
		id.Expires = c.ExpiresAt.Add(leeway)
	}
	return id, nil
}

// mayBeOfNewKey reports whether a token that was refused with err can be good by a key that
// auth.jwt.jwks_url gives. A bad signature may be of a new key, too: not every issuer names
// its keys. A set that everybody can fetch has no key for "none" or for HMAC.
func mayBeOfNewKey(t *jwt.Token, err error) bool {
	if !errors.Is(err, errNoKey) && !errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		return false
	}
	alg := t.Method.Alg()
	return alg != jwt.SigningMethodNone.Alg() && !strings.HasPrefix(alg, "HS")
}

// settled reports whether no newer keys than those asked for at a time would change that the
// token is refused: it has expired, or it is older than they are, and an issuer publishes a
// key before it signs with it.
func (c *claims) settled(asked time.Time) bool {
	return c.ExpiresAt != nil && time.Since(c.ExpiresAt.Time) > leeway || c.IssuedAt != nil && asked.Sub(c.IssuedAt.Time) > leeway
}

// candidates are the keys that a token may have been signed with.
func (m *jwtMode) candidates(t *jwt.Token) (any, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errCritical // RFC 7515 §4.1.11: there is no extension that we know
	}
	kid, _ := t.Header["kid"].(string)
	var set jwt.VerificationKeySet
	for _, k := range m.keys() {
		if slices.Contains(k.algorithms, t.Method.Alg()) && (kid == "" || k.id == "" || k.id == kid) {
			set.Keys = append(set.Keys, k.key)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errNoKey
	}
	return set, nil
}

var (
	errNoKey    = errors.New("no key for its kid and alg")
	errCritical = errors.New("crit")
)

func (c *claims) rights() (role, error) {
	name := roleDevice
	var text string
	switch {
	case c.heartlineRole != nil:
		name = *c.heartlineRole
	case json.Unmarshal(c.role, &text) == nil && text == roleService:
		name = roleService
	default:
		var scopes []string
		if json.Unmarshal(c.scope, &text) == nil {
			scopes = strings.Fields(text)
		} else {
			_ = json.Unmarshal(c.scope, &scopes) // in a form of its own: none of ours
		}
		if slices.Contains(scopes, serviceScope) {
			name = roleService
		}
	}
	if c.accounts != nil && len(c.accounts) == 0 {
		return role{}, denied("the token's heartline_accounts is empty: leave it out for all accounts")
	}
	r, err := parseRole(name, roleDevice, c.accounts)
	if err != nil {
		return r, denied("the token's heartline_%w", err)
	}
	return r, nil
}

// whyRefused names the reason without quoting anything of the token.
func whyRefused(err error) string {
	for _, r := range []struct {
		err  error
		text string
	}{
		{errCritical, "the token asks for an extension (crit) that is not known"},
		{errNoKey, "there is no key for the token's kid and alg"},
		{jwt.ErrTokenExpired, "the token has expired (exp)"},
		{jwt.ErrTokenNotValidYet, "the token is not valid yet (nbf)"},
		{jwt.ErrTokenInvalidIssuer, "the token is of another issuer (iss)"},
		{jwt.ErrTokenInvalidAudience, "the token is for another audience (aud)"},
		{jwt.ErrTokenRequiredClaimMissing, "the token lacks iss or aud"},
		{jwt.ErrTokenMalformed, "the token is no JWT"},
		{jwt.ErrTokenSignatureInvalid, "the token's signature is not good"},
	} {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return "the token is not good"
}
