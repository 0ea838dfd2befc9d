package auth

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many failures an address and a username have before the answers to further
// ones are delayed, and how fast they are forgiven.
const (
	failureBurst = 8
	failureEvery = 2 * time.Second
	maxDelay     = 10 * time.Second
	// maxFailures bounds the memory of failures. Over it the oldest half goes.
	maxFailures = 1 << 16
)

// throttle counts failures by address and by username. It delays no success: failures
// put the passwords of their address behind everybody else's, and delay the answer to
// the next failure. Who knows only a name can delay
// nothing but the refusals that its owner gets.
type throttle struct {
	mu       sync.Mutex
	failures map[failureKey]*rate.Limiter
	previous map[failureKey]*rate.Limiter // the generation before: dropped when failures is full
}

// failureKey is a hash: whoever has no credentials chooses the username, and how long it is.
type failureKey [sha256.Size]byte

func addressFailures(address string) failureKey { return sha256.Sum256([]byte("a" + address)) }

func usernameFailures(username string) failureKey { return sha256.Sum256([]byte("u" + username)) }

func newThrottle() *throttle { return &throttle{failures: map[failureKey]*rate.Limiter{}} }

func (t *throttle) limiterLocked(key failureKey, create bool) *rate.Limiter {
	if l := t.failures[key]; l != nil {
		return l
	}
	l := t.previous[key]
	if l == nil {
		if !create {
			return nil
		}
		l = rate.NewLimiter(rate.Every(failureEvery), failureBurst)
	}
	if len(t.failures) >= maxFailures/2 {
		t.previous, t.failures = t.failures, map[failureKey]*rate.Limiter{}
	}
	t.failures[key] = l
	return l
}

// onFailure records a failure and returns how long its answer must be delayed.
func (t *throttle) onFailure(address, username string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var delay time.Duration
	for _, key := range []failureKey{addressFailures(address), usernameFailures(username)} {
		r := t.limiterLocked(key, true).ReserveN(now, 1)
		d := r.DelayFrom(now)
		if d > maxDelay {
			r.CancelAt(now) // the debt must not grow without bound
			d = maxDelay
		}
		delay = max(delay, d)
	}
	return delay
}

// class returns how urgent a check is. An address is a suspect when it has used up half
// of its failures, or has failed at all while many fail for this username.
func (t *throttle) class(address, username string, now time.Time) class {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.limiterLocked(addressFailures(address), false)
	if a == nil {
		return classClean
	}
	left := a.TokensAt(now)
	if left >= failureBurst-0.5 {
		return classClean
	}
	guessed := false
	if u := t.limiterLocked(usernameFailures(username), false); u != nil {
		n := u.TokensAt(now)
		if n < 1 {
			return classSuspectFor
		}
		guessed = n < failureBurst-0.5
	}
	switch {
	case left >= failureBurst/2:
		return classFailed
	case guessed:
		return classSuspectFor
	}
	return classSuspect
}

// addressKey is the IPv4 address or the IPv6 /64 of a peer.
func addressKey(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // the length fits the family
	return p.Addr().String()
}
