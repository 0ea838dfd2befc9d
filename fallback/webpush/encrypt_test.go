package webpush

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"testing"
)

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRFC8291 is the example of RFC 8291 §5 and appendix A, byte for byte.
func TestRFC8291(t *testing.T) {
	user, err := ecdh.P256().NewPublicKey(unbase64(t, "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"))
	if err != nil {
		t.Fatal(err)
	}
	sender, err := ecdh.P256().NewPrivateKey(unbase64(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := encrypt([]byte("When I grow up, I want to be a watermelon"), user, unbase64(t, "BTBZMqHH6r4Tts7J_aSIgg"), sender, unbase64(t, "DGv6ra1nlYgDCS1FRnbzlw"), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := unbase64(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestSealedSize: the largest plain text makes a body of 4096 bytes, which is all that a
// push service must take (RFC 8030 §7.2), and lengths that differ by little look alike.
func TestSealedSize(t *testing.T) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	auth := make([]byte, authSize)
	size := func(n int) int {
		b, err := seal(make([]byte, n), key.PublicKey(), auth)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	if got := size(maxPlain); got != recordSize {
		t.Errorf("%d bytes of plain text make %d bytes, want %d", maxPlain, got, recordSize)
	}
	if size(1) != size(padTo) || size(padTo) == size(padTo+1) {
		t.Error("plain text is not padded to steps of", padTo)
	}
	if _, err := seal(make([]byte, maxPlain+1), key.PublicKey(), auth); err == nil {
		t.Error("a plain text over the limit was encrypted")
	}
}

func BenchmarkSeal(b *testing.B) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	plain, auth := make([]byte, 512), make([]byte, authSize)
	for b.Loop() {
		if _, err := seal(plain, key.PublicKey(), auth); err != nil {
			b.Fatal(err)
		}
	}
}
