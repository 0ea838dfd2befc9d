package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of fetching a JWK set.
const (
	jwksEvery   = 15 * time.Minute // between two fetches
	jwksRetry   = 30 * time.Second // after one that failed, and between two for tokens that no key fits
	jwksTimeout = 5 * time.Second
	jwksSize    = 1 << 20
)

// remoteKeys are the keys of auth.jwt.jwks_url. One goroutine fetches them, every jwksEvery
// and, at most every jwksRetry, for a token that no key fits. A fetch that fails keeps the
// keys that are there; an issuer that is down locks nobody out.
type remoteKeys struct {
	url    string
	client *http.Client
	log    *slog.Logger

	keys    atomic.Pointer[keySet]
	unknown *rate.Limiter
	wanted  chan struct{} // holds one: run fetches at once

	mu    sync.Mutex
	round chan struct{} // closed at the end of the fetch that is wanted or under way; nil: none is

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// keySet is a JWK set that was asked for at a time.
type keySet struct {
	keys  []verifyKey
	asked time.Time
}

func newRemoteKeys(from string, log *slog.Logger) *remoteKeys {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // minutes later the connection may be dead without a word
	r := &remoteKeys{
		url: from, log: log, unknown: rate.NewLimiter(rate.Every(jwksRetry), 1), wanted: make(chan struct{}, 1),
		client: &http.Client{
			Transport:     t,
			Timeout:       jwksTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	r.keys.Store(&keySet{})
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.fetch(r.ctx); err != nil {
		log.Error("JWK set not fetched, nobody can log in until it is", "key", "auth.jwt.jwks_url", "error", err)
	}
	r.running.Go(r.run)
	return r
}

func (r *remoteKeys) get() []verifyKey { return r.keys.Load().keys }

func (r *remoteKeys) run() {
	next := jwksEvery
	if len(r.get()) == 0 {
		next = jwksRetry
	}
	for {
		t := time.NewTimer(next)
		select {
		case <-r.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-r.wanted:
			t.Stop()
		}
		next = jwksEvery
		r.begin()
		if err := r.fetch(r.ctx); err != nil && r.ctx.Err() == nil {
			next = jwksRetry
			r.log.Error("JWK set not fetched, keeping the previous one", "key", "auth.jwt.jwks_url", "error", err)
		}
		r.end()
	}
}

func (r *remoteKeys) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.round == nil {
		r.round = make(chan struct{})
	}
}

func (r *remoteKeys) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.round)
	r.round = nil
	select {
	case <-r.wanted: // this fetch was the wanted one
	default:
	}
}

// refresh has the set fetched for a token that no key in before fits, and waits for that
// while ctx lasts. The end of ctx does not end the fetch: others wait for it, too, and a
// client that goes away at once would keep the new keys from them. It reports whether
// there may be new keys.
func (r *remoteKeys) refresh(ctx context.Context, before *keySet) bool {
	r.mu.Lock()
	if r.round == nil && r.keys.Load() == before && r.unknown.Allow() {
		r.round = make(chan struct{})
		r.wanted <- struct{}{}
	}
	round := r.round
	r.mu.Unlock()
	if round != nil && r.keys.Load() == before {
		select {
		case <-round:
		case <-ctx.Done():
		case <-r.ctx.Done():
		}
	}
	return r.keys.Load() != before
}

func (r *remoteKeys) fetch(ctx context.Context) error {
	asked := time.Now()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return errors.New("cannot be asked")
	}
	q.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := r.client.Do(q)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which may hold a key
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, jwksSize+1))
	if err != nil {
		return err
	}
	if len(text) > jwksSize {
		return fmt.Errorf("answered more than %d bytes", jwksSize)
	}
	keys, err := parseJWKS(text)
	if len(keys) == 0 {
		return err
	}
	for _, k := range keys {
		if _, shared := k.key.([]byte); shared {
			return errors.New("holds a shared secret, which everybody who can fetch it could sign with")
		}
	}
	if err != nil { // one broken key must not stop the rotation of the others
		r.log.Warn("some keys of the JWK set are not usable", "key", "auth.jwt.jwks_url", "error", err)
	}
	r.keys.Store(&keySet{keys, asked})
	return nil
}

func (r *remoteKeys) close() {
	r.cancel()
	r.running.Wait()
}
