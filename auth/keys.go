package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
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

// jwk is a key of a JWK set (RFC 7517, RFC 7518 §6, RFC 8037 §2).
type jwk struct {
	Kty string   `json:"kty"`
	Kid string   `json:"kid"`
	Use string   `json:"use"`
	Ops []string `json:"key_ops"`
	Alg string   `json:"alg"`
	Crv string   `json:"crv"`
	N   string   `json:"n"`
	E   string   `json:"e"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	K   string   `json:"k"`
}

// parseJWKS reads a JWK set. Keys that are not for signatures are passed over, as
// RFC 7517 §5 has it for what one does not understand; a broken one is an error.
func parseJWKS(content []byte) ([]verifyKey, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(content, &set); err != nil {
		return nil, fmt.Errorf("must be a JWK set, {\"keys\":[...]}: %w", err)
	}
	var keys []verifyKey
	var errs []error
	for i, j := range set.Keys {
		if j.Use != "" && j.Use != "sig" || j.Ops != nil && !slices.Contains(j.Ops, "verify") {
			continue
		}
		public, err := j.public()
		if err != nil {
			errs = append(errs, fmt.Errorf("keys[%d]: %w", i, err))
			continue
		}
		if public == nil {
			continue
		}
		k, err := keyOf(j.Kid, public)
		if err != nil {
			errs = append(errs, fmt.Errorf("keys[%d]: %w", i, err))
			continue
		}
		if j.Alg != "" {
			if !slices.Contains(k.algorithms, j.Alg) {
				errs = append(errs, fmt.Errorf("keys[%d]: alg %q does not go with its kty and crv", i, clip(j.Alg)))
				continue
			}
			k.algorithms = []string{j.Alg}
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("has no key to verify signatures with"))
	}
	return keys, errors.Join(errs...)
}

// public returns the key, nil for one of a kind that is not known.
func (j jwk) public() (any, error) {
	switch j.Kty {
	case "oct":
		k, err := base64url("k", j.K)
		return k, err
	case "RSA":
		n, err := base64url("n", j.N)
		if err != nil {
			return nil, err
		}
		e, err := base64url("e", j.E)
		if err != nil {
			return nil, err
		}
		exponent := new(big.Int).SetBytes(e)
		if !exponent.IsInt64() || exponent.Int64() > 1<<31-1 {
			return nil, errors.New("e: must fit into 31 bits")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
	case "EC":
		curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
		curve := curves[j.Crv]
		if curve == nil {
			return nil, nil
		}
		x, err := base64url("x", j.X)
		if err != nil {
			return nil, err
		}
		y, err := base64url("y", j.Y)
		if err != nil {
			return nil, err
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(x) != size || len(y) != size {
			return nil, fmt.Errorf("x and y: must have %d bytes each for %s", size, j.Crv)
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y)) // it checks that the point is on the curve
		if err != nil {
			return nil, fmt.Errorf("x and y: %w", err)
		}
		return key, nil
	case "OKP":
		if j.Crv != "Ed25519" {
			return nil, nil
		}
		x, err := base64url("x", j.X)
		if err != nil {
			return nil, err
		}
		if len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("x: must have %d bytes", ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, nil
}

func base64url(field, text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s: must be there, in base64url without padding", field)
	}
	return b, nil
}
