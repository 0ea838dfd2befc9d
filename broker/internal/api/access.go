package api

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// authorize decides whether a request may be served, by the pattern that it has
// matched: a path can be written in many ways. Calls are for services. /metrics is
// open to this machine, as it is in most servers, and asks for a token from
// elsewhere: its counts tell a stranger how busy the place is.
func (a *API) authorize(r *http.Request, pattern string) error {
	if a.bearer == nil {
		return nil
	}
	switch _, route, _ := strings.Cut(pattern, " "); route {
	case "/healthz", "/readyz", "/openapi.json":
		return nil
	case "/metrics":
		if fromHere(r) {
			return nil
		}
	}
	token, ok := bearerToken(r)
	if !ok {
		p := newProblem(http.StatusUnauthorized, "send the header Authorization: Bearer with a token of the role service")
		p.headers.Set("WWW-Authenticate", "Bearer") // RFC 6750 §3: no error code where no token was sent
		return p
	}
	id, err := a.bearer(r.Context(), token, r.RemoteAddr)
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		p := newProblem(http.StatusServiceUnavailable, "the token cannot be checked now; try again")
		p.headers.Set("Retry-After", retryUnavailable)
		a.log.Warn("token not checked", "remote", r.RemoteAddr, "error", err)
		return p
	case err != nil:
		a.log.Info("call refused", "remote", r.RemoteAddr, "path", r.URL.Path, "error", err)
		p := newProblem(http.StatusUnauthorized, "the bearer token is unknown, expired or not meant for this server: get a new one")
		p.headers.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return p
	case !id.Service:
		p := newProblem(http.StatusForbidden, "this token is a device's; the API is for tokens of the role service")
		p.headers.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		return p
	}
	return nil
}

func bearerToken(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "bearer") && token != "" // RFC 9110 §11.1: the scheme is case-insensitive
}

// fromHere reports whether a request comes from this machine, and not by a proxy
// on it that says for whom it asks.
func fromHere(r *http.Request) bool {
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && loopback.Host(host)
}

// foreign tells why a request without authentication is refused: a web page of
// another site must not be able to use this server through its reader's browser.
// Host is what such a page cannot choose freely where its own name leads here (DNS
// rebinding), Origin where it calls by our address.
func foreign(r *http.Request) *problem {
	host := r.Host
	if h, _, err := net.SplitHostPort(r.Host); err == nil {
		host = h
	}
	if !loopback.Host(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")) {
		return newProblem(http.StatusForbidden,
			"without authentication (auth.mode none) this server answers to localhost only, not to %q: call it as localhost, or set auth.mode to file, jwt or http", clip(r.Host))
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if u, err := url.Parse(origin); err != nil || u.Scheme != scheme || !strings.EqualFold(u.Host, r.Host) {
		return newProblem(http.StatusForbidden,
			"without authentication (auth.mode none) web pages of other origins may not call this server, and %q is not its own", clip(origin))
	}
	return nil
}
