package auth

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// health remembers whether the service that a mode asks gives answers. It logs each
// change once, not each login.
type health struct {
	log    *slog.Logger
	key    string // of the configuration, which names the service
	failed atomic.Pointer[outage]
	mu     sync.Mutex // held by changes
}

type outage struct {
	err   error
	since time.Time
}

// note takes the outcome of one question. Any answer, a refusal too, is good health.
func (h *health) note(err error) {
	down := errors.Is(err, ErrUnavailable)
	if !down && h.failed.Load() == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.failed.Load()
	switch {
	case down && before == nil:
		h.failed.Store(&outage{err, time.Now()})
		h.log.Error("authentication service failed, logins that it decides are refused until it answers", "key", h.key, "error", err)
	case down:
		h.failed.Store(&outage{err, before.since})
	case before != nil:
		h.failed.Store(nil)
		h.log.Info("authentication service answers again", "key", h.key, "failed_for", time.Since(before.since).Round(time.Millisecond))
	}
}

// Failures counts the logins that were refused since New.
type Failures struct {
	Denied      uint64 // the credentials were wrong
	Unavailable uint64 // they could not be checked
}

// failures counts for one way to log in.
type failures struct{ denied, unavailable atomic.Uint64 }

func (f *failures) note(err error) {
	switch {
	case errors.Is(err, ErrDenied):
		f.denied.Add(1)
	case errors.Is(err, ErrUnavailable):
		f.unavailable.Add(1)
	}
}

// Failures returns the refused logins by password (MQTT, and HTTP Basic) and by bearer
// token.
func (a *Auth) Failures() (password, bearer Failures) {
	read := func(f *failures) Failures { return Failures{f.denied.Load(), f.unavailable.Load()} }
	return read(&a.byPassword), read(&a.byBearer)
}

// Outage returns why the service that decides on logins gives no answers, at its last
// question, and since when; nil: it answers, was not asked yet, or there is none.
func (a *Auth) Outage() (since time.Time, err error) {
	if x := a.health.failed.Load(); x != nil {
		return x.since, x.err
	}
	return time.Time{}, nil
}
