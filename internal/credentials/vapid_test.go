package credentials

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
)

func TestParseVAPIDKey(t *testing.T) {
	made, err := GenerateVAPIDKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseVAPIDKey(made)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"SEC 1":               pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		"bare, base64url":     []byte(base64.RawURLEncoding.EncodeToString(raw) + "\n"),
		"bare, padded base64": []byte(base64.StdEncoding.EncodeToString(raw)),
	} {
		got, err := ParseVAPIDKey(text)
		if err != nil || !got.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}

	public, err := VAPIDPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaText, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for want, text := range map[string][]byte{
		"public key of web-push tools": []byte(public),
		"got P-384":                    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: other}),
		"another kind of key":          pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaText}),
		"is a public key; ":            pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		`PEM block "CERTIFICATE"`:      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
		"neither PEM nor":              []byte("secret-secret"),
		"not a private key on P-256":   []byte(base64.RawURLEncoding.EncodeToString(make([]byte, 32))),
	} {
		_, err := ParseVAPIDKey(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestContact(t *testing.T) {
	for contact, good := range map[string]bool{
		"mailto:ops@example.com": true, "https://example.com/contact": true,
		"": false, "ops@example.com": false, "mailto:ops@localhost": false, "mailto:ops@box.local": false, "mailto: ops@example.com": false,
		"mailto:<ops@example.com>": false, "mailto:mailto:ops@example.com": false, "http://example.com": false, "https://localhost/": false,
		"https://127.0.0.1/": false, "https://": false, "mailto:": false, "mailto:ops@example.invalid": false, "mailto:ops@example": false,
	} {
		if err := CheckContact(contact); (err == nil) != good {
			t.Errorf("%q: %v", contact, err)
		}
	}
}
