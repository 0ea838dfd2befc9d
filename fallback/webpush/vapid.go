package webpush

import (
	"crypto/ecdsa"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// tokenLife is how long a VAPID token is valid; RFC 8292 §2 allows 24 h.
	tokenLife = 12 * time.Hour
	// tokenUse is how long one is used. Apple asks for at most one new token an hour.
	tokenUse = 6 * time.Hour
	// maxTokens bounds the cache: origins are chosen by devices.
	maxTokens = 4096
)

// signer makes the Authorization field for an origin, and keeps it.
type signer struct {
	key     *ecdsa.PrivateKey
	public  string
	contact string
	now     func() time.Time

	mu     sync.Mutex
	tokens map[string]signed // by origin
}

type signed struct {
	header  string
	renewAt time.Time
}

// authorization returns the Authorization field of RFC 8292 §3. origin is the
// endpoint's scheme, host and port.
func (s *signer) authorization(origin string) (string, error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tokens[origin]; ok && now.Before(t.renewAt) && t.renewAt.Sub(now) <= tokenUse {
		return t.header, nil
	}
	// exp is a number: Mozilla refuses a string.
	claims := jwt.MapClaims{"aud": origin, "exp": now.Add(tokenLife).Unix(), "sub": s.contact}
	token, err := jwt.NewWithClaims(jwt.SigningMethodES256, claims).SignedString(s.key)
	if err != nil {
		return "", err
	}
	if len(s.tokens) >= maxTokens {
		s.makeRoomLocked(now)
	}
	t := signed{header: "vapid t=" + token + ", k=" + s.public, renewAt: now.Add(tokenUse)}
	s.tokens[origin] = t
	return t.header, nil
}

// makeRoomLocked drops tokens that are over, and if there are none any one.
func (s *signer) makeRoomLocked(now time.Time) {
	for origin, t := range s.tokens {
		if len(s.tokens) < maxTokens && now.Before(t.renewAt) {
			return
		}
		delete(s.tokens, origin)
	}
}
