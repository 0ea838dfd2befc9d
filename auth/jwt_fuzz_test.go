package auth

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/heartline-mqtt/heartline/config"
)

// FuzzToken: no token gets in but those that were signed with the key, whatever their
// claims are; and members and the strict decoder agree.
func FuzzToken(f *testing.F) {
	const secret = "0123456789abcdef0123456789abcdef"
	good, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "exp": 4102444800}).SignedString([]byte(secret))
	if err != nil {
		f.Fatal(err)
	}
	files := newWatcher(slog.New(slog.DiscardHandler))
	m, err := newJWTMode(config.AuthFromJWT{Secret: secret}, files, &health{log: files.log}, files.log)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, `{"sub":"alice","exp":4102444800}`)
	f.Add(good[:len(good)-1], `{"sub":"a","SUB":"b","exp":1e99}`)
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.", `{"sub":"a","sub":"b"}`)
	f.Add("..", `[]`)
	f.Fuzz(func(t *testing.T, token, claims string) {
		if id, err := m.identify(context.Background(), token); err == nil && token != good {
			t.Fatalf("%q is let in as %+v", token, id)
		}
		signed, err := signRaw([]byte(secret), claims)
		if err != nil {
			return
		}
		id, err := m.identify(context.Background(), signed)
		if err != nil {
			return
		}
		fields, err := members([]byte(claims))
		if err != nil || fields["sub"] == nil || fields["exp"] == nil || id.Account == "" {
			t.Fatalf("%q is let in as %+v: %v", claims, id, err)
		}
		if id.Service && fields["role"] == nil && fields["scope"] == nil && fields["heartline_role"] == nil {
			t.Fatalf("%q is a service", claims)
		}
	})
}

// signRaw signs claims that need not be JSON.
func signRaw(key []byte, claims string) (string, error) {
	t := jwt.New(jwt.SigningMethodHS256)
	head, err := t.SigningString()
	if err != nil {
		return "", err
	}
	head, _, _ = strings.Cut(head, ".")
	text := head + "." + t.EncodeSegment([]byte(claims))
	sum, err := jwt.SigningMethodHS256.Sign(text, key)
	return text + "." + t.EncodeSegment(sum), err
}
