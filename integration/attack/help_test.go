package attack

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"sync/atomic"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func unsigned(header, claims string) string { return b64(header) + "." + b64(claims) + "." }

func sign(key, header, claims string) string {
	text := b64(header) + "." + b64(claims)
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(text))
	return text + "." + b64(string(m.Sum(nil)))
}

var source atomic.Uint32

// dialer connects from an address of its own: failures of one are answered after a
// delay, and that is measured elsewhere.
func dialer() *net.Dialer {
	n := source.Add(1)
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+n>>16), byte(n>>8), byte(n))}}
}
