package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
)

// verifyKey is a key that tokens are verified with, and the algorithms that it may
// be used in. A token's word for its algorithm only chooses among these: with a
// public key taken for a shared secret, or with "none", anyone could sign.
type verifyKey struct {
	id         string
	key        crypto.PublicKey // of HMAC: []byte
	algorithms []string
}

const (
	minSecret = 32   // RFC 7518 §3.2: as long as the hash of HS256
	minRSA    = 2048 // RFC 7518 §3.3
)

// keyOf pins the algorithms to the kind of the key.
func keyOf(id string, key any) (verifyKey, error) {
	k := verifyKey{id: id, key: key}
	switch p := key.(type) {
	case []byte:
		if len(p) < minSecret {
			return k, fmt.Errorf("a shared secret must have at least %d bytes, has %d", minSecret, len(p))
		}
		k.algorithms = []string{"HS256", "HS384", "HS512"}
	case *rsa.PublicKey:
		if p.N.BitLen() < minRSA {
			return k, fmt.Errorf("an RSA key must have at least %d bits, has %d", minRSA, p.N.BitLen())
		}
		if p.E < 3 || p.E%2 == 0 {
			return k, errors.New("is no RSA key: its exponent must be odd and at least 3")
		}
		k.algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		switch p.Curve { // RFC 7518 §3.4: one curve for each
		case elliptic.P256():
			k.algorithms = []string{"ES256"}
		case elliptic.P384():
			k.algorithms = []string{"ES384"}
		case elliptic.P521():
			k.algorithms = []string{"ES512"}
		default:
			return k, fmt.Errorf("an elliptic curve must be P-256, P-384 or P-521, is %s", p.Params().Name)
		}
	case ed25519.PublicKey:
		k.algorithms = []string{"EdDSA"}
	default:
		return k, errors.New("a key must be RSA, ECDSA, Ed25519 or a shared secret")
	}
	return k, nil
}

// parseSecret takes a file as the secret itself, without the newline that editors
// put at its end.
func parseSecret(content []byte) ([]verifyKey, error) {
	k, err := keyOf("", bytes.TrimRight(content, "\r\n"))
	return []verifyKey{k}, err
}

// parsePublicKey reads a PEM file: a public key, or a certificate that holds one.
func parsePublicKey(content []byte) ([]verifyKey, error) {
	block, rest := pem.Decode(content)
	if block == nil {
		return nil, errors.New("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("must hold one key; use jwks_file for several")
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		return nil, errors.New("holds a private key: give the public key alone, which is enough to verify, and keep the other where tokens are issued")
	default:
		return nil, fmt.Errorf("must be a public key in PEM, is a %q", clip(block.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be read: %w", err)
	}
	k, err := keyOf("", key)
	return []verifyKey{k}, err
}

// parseJWKS reads a JWK set. Keys that are not for signatures are passed over, as
// RFC 7517 §5 has it for what one does not understand; a broken one is an error.
func parseJWKS(content []byte) ([]verifyKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, errors.New("must be a JWK set, {\"keys\":[...]}: " + jsonFault(err))
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("must have at most %d keys, has %d", maxKeys, len(set.Keys))
	}
	var keys []verifyKey
	var errs []error
	for i, text := range set.Keys {
		k, err := parseJWK(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("keys[%d]: %w", i, err))
		case k != nil:
			keys = append(keys, *k)
		}
	}
	if len(keys) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("has no key to verify signatures with"))
	}
	return keys, errors.Join(errs...)
}

// maxKeys bounds a set: a token without kid is tried with all of one algorithm.
const maxKeys = 64

// jsonFault is an error of encoding/json without the values that it quotes.
func jsonFault(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("not JSON at byte %d", syntax.Offset)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("of another form at byte %d", kind.Offset)
	}
	return "not JSON"
}

// parseJWK returns nil for a key that is not for verifying or of an unknown kind.
func parseJWK(text json.RawMessage) (*verifyKey, error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, errors.New("is no JWK: " + jsonFault(err))
	}
	if m.USE != "" && m.USE != jwkset.UseSig || m.KEYOPS != nil && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify) {
		return nil, nil
	}
	switch {
	case m.KTY == jwkset.KtyOct, m.KTY == jwkset.KtyRSA:
	case m.KTY == jwkset.KtyEC && slices.Contains([]jwkset.CRV{jwkset.CrvP256, jwkset.CrvP384, jwkset.CrvP521}, m.CRV):
	case m.KTY == jwkset.KtyOKP && m.CRV == jwkset.CrvEd25519:
	default:
		return nil, nil
	}
	if m.D != "" && m.KTY != jwkset.KtyOct {
		return nil, errors.New("holds a private key: give the public key alone")
	}
	alg, kid := m.ALG, m.KID
	// Only the key's own members: certificates are not looked at, and an alg is
	// compared below with more words than the library has.
	bare := jwkset.JWKMarshal{KTY: m.KTY, CRV: m.CRV, N: m.N, E: m.E, X: m.X, Y: m.Y, K: m.K}
	key, err := jwkset.NewJWKFromMarshal(bare, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
	if err != nil {
		return nil, errors.New("is no valid key of its kty and crv") // the library's error may quote it
	}
	k, err := keyOf(kid, key.Key())
	if err != nil {
		return nil, err
	}
	if alg != "" {
		if !slices.Contains(k.algorithms, alg.String()) {
			return nil, fmt.Errorf("alg %q does not go with its kty and crv", clip(alg.String()))
		}
		k.algorithms = []string{alg.String()}
	}
	return &k, nil
}
