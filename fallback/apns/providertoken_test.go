package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// twoClocks is a clock for tests: advance moves both, step the wall clock alone. Its times
// have a monotonic reading, as those of time.Now do.
type twoClocks struct {
	mu     sync.Mutex
	wall   time.Time
	steady time.Duration
}

func newTwoClocks() *twoClocks {
	return &twoClocks{wall: time.Now(), steady: time.Hour}
}

func (c *twoClocks) clock() clock {
	return clock{
		now:    func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.wall },
		steady: func() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return c.steady },
	}
}

func (c *twoClocks) now() time.Time { return c.clock().wall() }

func (c *twoClocks) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.steady = c.wall.Add(d), c.steady+d
}

func (c *twoClocks) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall = testtool.Stepped(c.wall, d)
}

func newTestToken(t *testing.T) (*providerToken, *twoClocks) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, c := newProviderToken(key, "KEY", "TEAM"), newTwoClocks()
	p.clock = c.clock()
	return p, c
}

func mustGet(t *testing.T, p *providerToken) string {
	t.Helper()
	v, err := p.get()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestProviderTokenAge(t *testing.T) {
	p, c := newTestToken(t)
	first := mustGet(t, p)
	c.advance(tokenRefresh - time.Second)
	if mustGet(t, p) != first {
		t.Error("made anew before it is due")
	}
	c.advance(2 * time.Second)
	second := mustGet(t, p)
	if second == first {
		t.Error("not made anew")
	}

	part := strings.Split(second, ".")[1]
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil || len(claims) != 2 || claims["iss"] != "TEAM" || claims["iat"] != float64(c.now().Unix()) {
		t.Errorf("%s %v", b, err)
	}
}

func TestProviderTokenRefused(t *testing.T) {
	p, c := newTestToken(t)
	first := mustGet(t, p)
	if p.refused(first) || mustGet(t, p) != first {
		t.Error("a fresh token was replaced")
	}
	c.advance(tokenMinAge)
	if !p.refused(first) {
		t.Error("not replaced after 20 minutes")
	}
	second := mustGet(t, p)
	if second == first {
		t.Error("the same token")
	}
	// The other requests that were under way with the first one.
	if !p.refused(first) || mustGet(t, p) != second {
		t.Error("replaced twice")
	}
}

func TestProviderTokenTooManyUpdates(t *testing.T) {
	p, c := newTestToken(t)
	first := mustGet(t, p)
	if p.tooMany(first) {
		t.Error("there is no older one to go back to")
	}
	c.advance(tokenRefresh)
	second := mustGet(t, p)
	if !p.tooMany(second) || mustGet(t, p) != first {
		t.Error("not back to the older one")
	}
	c.advance(5 * time.Minute) // due, but not allowed
	if mustGet(t, p) != first || p.refused(first) {
		t.Error("replaced within 20 minutes of the complaint")
	}
	c.advance(tokenMinAge)
	if mustGet(t, p) == first {
		t.Error("not replaced after 20 minutes")
	}
}

func TestProviderTokenClockSteps(t *testing.T) {
	for _, d := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		p, c := newTestToken(t)
		first := mustGet(t, p)
		c.advance(time.Minute)
		c.step(d)
		second := mustGet(t, p)
		if second == first {
			t.Errorf("step %v: a token from another time is used", d)
		}
		c.advance(time.Minute)
		if mustGet(t, p) != second {
			t.Errorf("step %v: replaced again", d)
		}
		c.step(-d) // a wrong time is mended
		if mustGet(t, p) != first {
			t.Errorf("step %v and back: not the token of before", d)
		}
		// A clock that flutters does not set off a storm of updates.
		c.step(d)
		if mustGet(t, p) != second {
			t.Errorf("step %v, back and forth: a new token within 20 minutes", d)
		}
		c.step(d)
		if mustGet(t, p) != second {
			t.Errorf("step %v twice: a new token within 20 minutes", d)
		}
	}
	p, c := newTestToken(t)
	first := mustGet(t, p)
	c.step(30 * time.Second)
	if mustGet(t, p) != first {
		t.Error("replaced after a small correction")
	}
}

func TestProviderTokenIsMadeOnce(t *testing.T) {
	p, c := newTestToken(t)
	for range 3 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]bool{}
		for range 50 {
			wg.Go(func() {
				v, err := p.get()
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				seen[v] = true
			})
		}
		wg.Wait()
		if len(seen) != 1 {
			t.Errorf("%d tokens", len(seen))
		}
		c.advance(tokenRefresh)
	}
}

func TestProviderTokenSigningError(t *testing.T) {
	p, c := newTestToken(t)
	first := mustGet(t, p)
	p.key = &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: elliptic.P384()}}
	c.advance(tokenRefresh)
	if mustGet(t, p) != first {
		t.Error("the old token is still good")
	}
	if _, err := p.state(); err == nil {
		t.Error("the error is not shown")
	}
	c.advance(tokenMaxAge - tokenRefresh)
	if v, err := p.get(); err == nil {
		t.Errorf("an old token is used: %q", v)
	}
}
