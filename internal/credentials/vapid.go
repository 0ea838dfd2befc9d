package credentials

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// GenerateVAPIDKey makes an application server key and returns it as PEM (PKCS 8). A
// browser's subscription is bound to this key for life: losing it loses every browser.
func GenerateVAPIDKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseVAPIDKey reads an application server key: PEM (PKCS 8 or SEC 1), or the bare 32
// bytes in base64url that the web-push tools print. The errors do not repeat text.
func ParseVAPIDKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return bareKey(text)
	}
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the PEM block PRIVATE KEY holds no PKCS 8 key")
		}
		key, ok := parsed.(*ecdsa.PrivateKey)
		if !ok {
			return nil, errors.New("must be a P-256 key (heartline webpush-key makes one), got another kind of key")
		}
		return p256(key)
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("the PEM block EC PRIVATE KEY holds no SEC 1 key")
		}
		return p256(key)
	case "PUBLIC KEY":
		return nil, errors.New("is a public key; the private key is needed")
	}
	return nil, fmt.Errorf("holds a PEM block %q; must hold PRIVATE KEY or EC PRIVATE KEY", block.Type)
}

func bareKey(text []byte) (*ecdsa.PrivateKey, error) {
	raw, err := decodeBase64(strings.TrimSpace(string(text)))
	switch {
	case err == nil && len(raw) == 65:
		return nil, errors.New("is a public key of web-push tools; the private key is needed")
	case err != nil || len(raw) != 32:
		return nil, errors.New("holds neither PEM nor the 32 bytes in base64url that web-push tools print; heartline webpush-key makes a key")
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		return nil, errors.New("is not a private key on P-256")
	}
	return key, nil
}

func p256(key *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	if key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("must be a P-256 key, got %s", key.Curve.Params().Name)
	}
	return key, nil
}

// VAPIDPublicKey returns the applicationServerKey that a page gives to
// PushManager.subscribe: base64url without padding.
func VAPIDPublicKey(key *ecdsa.PrivateKey) (string, error) {
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(public), nil
}

// decodeBase64 takes both alphabets, with and without padding.
func decodeBase64(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "=")))
}
