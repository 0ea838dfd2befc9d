package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Apple: refresh the provider token no more often than every 20 minutes, and no
// less often than every 60.
// https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
const (
	tokenRefresh  = 45 * time.Minute
	tokenMinAge   = 20 * time.Minute
	tokenMaxAge   = 58 * time.Minute // leaves time for the way, and for clocks apart
	clockStepSize = time.Minute
)

// providerToken makes the JWT that requests carry, for one key. Apps and
// environments with the same key share it: Apple counts updates by key.
//
// apns2's token.Token looks at the wall clock only, drops signing errors and
// has no call to report a refusal, so it is not used.
type providerToken struct {
	key    *ecdsa.PrivateKey
	keyID  string
	teamID string
	clock  clock

	mu       sync.Mutex
	current  bearer
	previous bearer
	// notBefore: no new one before this time (by the steady clock), after Apple
	// complained of too many.
	notBefore time.Duration
	stepped   time.Duration // when a clock step last made a new one
	err       error         // why the last attempt to make one failed
}

// clock is a wall clock, which may be stepped, and a steady one, which may not.
type clock struct {
	now    func() time.Time
	steady func() time.Duration
}

func systemClock() clock {
	start := time.Now()
	return clock{now: time.Now, steady: func() time.Duration { return time.Since(start) }}
}

// wall is the time without its monotonic reading: the difference of two times that have
// one is steady, and shows no step.
func (c clock) wall() time.Time { return c.now().Round(0) }

// bearer is a provider token and when it was made by both clocks.
type bearer struct {
	value  string
	issued time.Time
	steady time.Duration
}

func (p *providerToken) age(b bearer) time.Duration { return p.clock.steady() - b.steady }

// fits reports whether b is of the time that the wall clock shows. The steady clock stands
// still while some machines sleep, and the wall clock jumps: a token is judged by both. A wall
// clock that was put back leaves a token from the future, which Apple refuses, however young
// it is.
func (p *providerToken) fits(b bearer) bool {
	step := p.clock.wall().Sub(b.issued) - p.age(b)
	return step.Abs() <= clockStepSize
}

// get returns the token to use now. It makes one if there is none or the current
// one is due; concurrent callers wait for the one that makes it. The error, if
// there is no usable token, is the signature's.
func (p *providerToken) get() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current.value == "" {
		return p.makeLocked()
	}
	age := p.age(p.current)
	switch {
	case !p.fits(p.current):
		if p.previous.value != "" && p.fits(p.previous) && p.age(p.previous) < tokenMaxAge {
			p.current, p.previous = p.previous, p.current // the clock is what it was before a step
			return p.current.value, nil
		}
		if p.stepped != 0 && p.clock.steady()-p.stepped < tokenMinAge {
			return p.current.value, nil
		}
		p.stepped = max(p.clock.steady(), 1)
	case age < tokenRefresh, p.clock.steady() < p.notBefore:
		return p.current.value, nil
	}
	if v, err := p.makeLocked(); err == nil {
		return v, nil
	} else if age < tokenMaxAge {
		return p.current.value, nil // the error is kept, and shown by status
	}
	return "", p.err
}

// refused is told that Apple called value expired. It reports whether get now
// gives another one: made by someone else since, or made now. A token is not
// replaced before it is 20 minutes old, whatever Apple says: a fresh one that
// is called expired is a matter of clocks, and more of them make it worse.
func (p *providerToken) refused(value string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if value != p.current.value {
		return true
	}
	if p.age(p.current) < tokenMinAge || p.clock.steady() < p.notBefore {
		return false
	}
	_, err := p.makeLocked()
	return err == nil
}

// tooMany is told that Apple found value to be one update too many. It reports
// whether get now gives another one: the one before it, which is kept for the
// next 20 minutes.
func (p *providerToken) tooMany(value string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if value != p.current.value {
		return true
	}
	p.notBefore = p.clock.steady() + tokenMinAge
	if p.previous.value == "" || p.age(p.previous) >= tokenMaxAge {
		return false
	}
	p.current, p.previous = p.previous, bearer{}
	return true
}

func (p *providerToken) makeLocked() (string, error) {
	b := bearer{issued: p.clock.wall(), steady: p.clock.steady()}
	if b.value, p.err = signProviderToken(p.key, p.keyID, p.teamID, b.issued); p.err != nil {
		return "", p.err
	}
	p.previous, p.current = p.current, b
	return b.value, nil
}

// state is for status: when the token in use was made, and the error of the last
// attempt to make another.
func (p *providerToken) state() (issued time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current.issued, p.err
}

// signProviderToken makes a JWT as Apple asks for it: ES256, with kid, iss, iat
// and nothing else.
func signProviderToken(key *ecdsa.PrivateKey, keyID, teamID string, issued time.Time) (string, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return "", fmt.Errorf("sign the provider token: not a P-256 key")
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": keyID})
	if err != nil {
		return "", fmt.Errorf("sign the provider token: %w", err)
	}
	claims, err := json.Marshal(map[string]any{"iss": teamID, "iat": issued.Unix()})
	if err != nil {
		return "", fmt.Errorf("sign the provider token: %w", err)
	}
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString(header) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign the provider token: %w", err)
	}
	// RFC 7518 §3.4: R and S, 32 bytes each, big-endian.
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + enc.EncodeToString(sig), nil
}
