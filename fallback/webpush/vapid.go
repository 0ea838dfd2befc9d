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
	// tokenUse is how long one is used.
	tokenUse = 6 * time.Hour
	// tokenLeast is how long one is used at least: Apple asks for at most one new token an
	// hour. A wall clock may be set back by as much: the token still ends within 24 h.
	tokenLeast = time.Hour
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

func newSigner(app App, public string, now func() time.Time) *signer {
	return &signer{key: app.Key, public: public, contact: app.Contact, now: now, tokens: map[string]signed{}}
}

// signed is a token. Its time has no monotonic reading: a push service reads exp by the
// wall clock, so a token is judged by that, which may have been set since.
type signed struct {
	header string
	issued time.Time
}

func (t signed) usable(now time.Time) bool {
	age := now.Round(0).Sub(t.issued)
	return age < tokenUse && age >= -tokenLeast
}

// authorization returns the Authorization field of RFC 8292 §3. origin is the
// endpoint's scheme, host and port.
func (s *signer) authorization(origin string) (string, error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tokens[origin]; ok && t.usable(now) {
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
	t := signed{header: "vapid t=" + token + ", k=" + s.public, issued: now.Round(0)}
	s.tokens[origin] = t
	return t.header, nil
}

// refused says that a push service did not take the credentials. The next request has
// another token, unless this one is too young for that.
func (s *signer) refused(origin, header string) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tokens[origin]; ok && t.header == header && now.Round(0).Sub(t.issued) >= tokenLeast {
		delete(s.tokens, origin)
	}
}

// makeRoomLocked drops tokens that are over, and if there are none any one.
func (s *signer) makeRoomLocked(now time.Time) {
	for origin, t := range s.tokens {
		if len(s.tokens) < maxTokens && t.usable(now) {
			return
		}
		delete(s.tokens, origin)
	}
}
