package auth

import (
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
	keys   func() []verifyKey
	parser *jwt.Parser
}

func newJWTMode(cfg config.AuthFromJWT, log *slog.Logger) (*jwtMode, error) {
	m := &jwtMode{}
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
		file, err := watch(source.key, source.path, log, source.parse)
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

func (m *jwtMode) close() {}

// connect takes the token from the password. A user name may be left out; one that
// is given must be the token's, so that a log never names another than the account.
func (m *jwtMode) connect(_ context.Context, c Credentials) (Identity, error) {
	id, err := m.identify(string(c.Password))
	if err != nil {
		return Identity{}, err
	}
	if c.Username != "" && c.Username != id.Account {
		return Identity{}, denied("the username %q is not the token's sub", clip(c.Username))
	}
	return id, nil
}

func (m *jwtMode) bearer(_ context.Context, token, _ string) (Identity, error) {
	return m.identify(token)
}

// claims are those that are looked at. A service has heartline_role "service", or
// role "service", or the scope heartline:service; heartline_role decides where it
// is there.
type claims struct {
	jwt.RegisteredClaims
	HeartlineRole *string         `json:"heartline_role"`
	Role          json.RawMessage `json:"role"`  // others use it, too, in their own forms
	Scope         json.RawMessage `json:"scope"` // RFC 8693 §4.2; some issuers make it a list
}

const serviceScope = "heartline:service"

func (m *jwtMode) identify(token string) (Identity, error) {
	if token == "" {
		return Identity{}, denied("no token")
	}
	var c claims
	if _, err := m.parser.ParseWithClaims(token, &c, m.candidates); err != nil {
		return Identity{}, denied("%s", whyRefused(err))
	}
	if c.Subject == "" {
		return Identity{}, denied("the token has no sub")
	}
	service, err := c.service()
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Account: c.Subject, Service: service}
	if c.ExpiresAt != nil {
		id.Expires = c.ExpiresAt.Add(leeway)
	}
	return id, nil
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

func (c *claims) service() (bool, error) {
	if c.HeartlineRole != nil {
		service, err := parseRole(*c.HeartlineRole, roleDevice)
		if err != nil {
			return false, denied("the token's heartline_role %w", err)
		}
		return service, nil
	}
	var role string
	if json.Unmarshal(c.Role, &role) == nil && role == roleService {
		return true, nil
	}
	var scope string
	var scopes []string
	if json.Unmarshal(c.Scope, &scope) == nil {
		scopes = strings.Fields(scope)
	} else {
		_ = json.Unmarshal(c.Scope, &scopes) // in a form of its own: none of ours
	}
	return slices.Contains(scopes, serviceScope), nil
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
