package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// caller is who makes a request.
type caller struct {
	auth.Identity
	// basic is set where the request brings a username and a password: the handler
	// checks them, because the device that they must be good for is in its path or body.
	basic *auth.Credentials
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	who, _ := ctx.Value(callerKey{}).(caller)
	return who
}

// forDevices reports whether a call takes a device's own credentials.
func forDevices(pattern string) bool {
	return pattern == "POST /v1/notifications/{id}/acks" || pattern == "DELETE /v1/accounts/{account}/devices/{device}"
}

// authorize decides whether a request may be served, by the pattern that matched it: a
// path can be written in many ways. Calls are for services, a few for devices too.
// /metrics is open to this machine, as in most servers, and needs a token from
// elsewhere: its counts tell a stranger how busy the place is.
func (a *API) authorize(r *http.Request, pattern string) (caller, error) {
	if a.bearer == nil {
		return caller{Identity: auth.Identity{Service: true, Admin: true}}, nil
	}
	switch _, route, _ := strings.Cut(pattern, " "); route {
	case "/healthz", "/readyz", "/openapi.json":
		return caller{}, nil
	case "/metrics":
		if fromHere(r) {
			return caller{}, nil
		}
	}
	if username, password, ok := r.BasicAuth(); ok && forDevices(pattern) && a.opts.Password != nil {
		return caller{basic: &auth.Credentials{Username: username, Password: []byte(password), Remote: r.RemoteAddr}}, nil
	}
	token, ok := bearerToken(r)
	if !ok {
		p := newProblem(http.StatusUnauthorized, codeUnauthenticated, "send the header Authorization: Bearer with a token of the role service")
		if strings.HasSuffix(pattern, "/metrics") && !byAddress(r.Host) {
			p.Detail += fmt.Sprintf("; without one only this machine is answered, by an IP address or as localhost, not as %q", clip(r.Host))
		}
		p.headers.Set("WWW-Authenticate", "Bearer") // RFC 6750 §3: no error code where no token was sent
		if forDevices(pattern) {
			p.headers.Add("WWW-Authenticate", `Basic realm="heartline", charset="UTF-8"`)
		}
		return caller{}, p
	}
	id, err := a.bearer(r.Context(), token, r.RemoteAddr)
	if err != nil {
		return caller{}, a.denied(r, err, "the bearer token is unknown, expired or not meant for this server: get a new one", `Bearer error="invalid_token"`)
	}
	if !id.Service && !forDevices(pattern) {
		p := newProblem(http.StatusForbidden, codeForbidden, "this token is a device's; this call is for tokens of the role service")
		p.headers.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		return caller{}, p
	}
	return caller{Identity: id}, nil
}

// denied answers credentials that are wrong, or that cannot be checked now.
func (a *API) denied(r *http.Request, err error, detail, challenge string) *problem {
	if errors.Is(err, auth.ErrUnavailable) {
		p := newProblem(http.StatusServiceUnavailable, codeUnavailable, "the credentials cannot be checked now: try again")
		p.headers.Set("Retry-After", retryUnavailable)
		a.seldom.Warn(a.log, "credentials not checked", "remote", r.RemoteAddr, "error", err)
		return p
	}
	a.seldom.Info(a.log, "request refused", "remote", r.RemoteAddr, "path", r.URL.Path, "error", err)
	p := newProblem(http.StatusUnauthorized, codeUnauthenticated, "%s", detail)
	p.headers.Set("WWW-Authenticate", challenge)
	return p
}

// mayActFor refuses a service that is limited to other accounts.
func mayActFor(ctx context.Context, account string) error {
	if who := callerOf(ctx); !who.MayActFor(account) {
		return notForAccount(account)
	}
	return nil
}

func notForAccount(account string) *problem {
	if account == "" {
		return newProblem(http.StatusForbidden, codeForbidden, "these credentials are for some accounts only: name one of them with ?account=")
	}
	return newProblem(http.StatusForbidden, codeForbidden, "these credentials are not for account %q", clip(account))
}

// mayActOn refuses a service that is limited to other accounts than a notification's.
// It looks the notification up only for such a service.
func (a *API) mayActOn(ctx context.Context, id string) error {
	if who := callerOf(ctx); who.AllAccounts() {
		return nil
	}
	v, err := a.core.Get(ctx, id)
	if err != nil {
		return err
	}
	return mayKnow(ctx, v.Account)
}

// mayKnow is mayActFor where the caller has not named the account and must not learn it.
func mayKnow(ctx context.Context, account string) error {
	if who := callerOf(ctx); !who.MayActFor(account) {
		return ofAnother()
	}
	return nil
}

func ofAnother() *problem {
	return newProblem(http.StatusForbidden, codeForbidden, "these credentials are not for the account that this belongs to")
}

// asDevice returns the account for which the caller may speak as the device: its own,
// or, for a service, the account that holds the device.
func (a *API) asDevice(r *http.Request, device string) (account string, err error) {
	who := callerOf(r.Context())
	if who.basic != nil {
		who.basic.ClientID = device
		if holder, err := a.core.AccountOf(device); err == nil {
			withColon(who.basic, holder)
		}
		if who.Identity, err = a.opts.Password(r.Context(), *who.basic); err != nil {
			return "", a.denied(r, err, "the username or the password is wrong", `Basic realm="heartline", charset="UTF-8"`)
		}
	}
	if !who.MayUse(device) {
		return "", newProblem(http.StatusForbidden, codeNotYours, "device %q is not yours", clip(device))
	}
	holder, err := a.core.AccountOf(device)
	switch {
	case who.Service && err == nil && !who.MayActFor(holder):
		return "", ofAnother()
	case who.Service && errors.Is(err, delivery.ErrUnknownDevice):
		return "", newProblem(http.StatusNotFound, codeUnknownDevice, "there is no device %q", clip(device))
	case who.Service:
		return holder, err
	case errors.Is(err, delivery.ErrUnknownDevice):
		return who.Account, nil
	case err != nil:
		return "", err
	case holder != who.Account:
		return "", newProblem(http.StatusForbidden, codeNotYours, "device %q is not yours", clip(device))
	}
	return who.Account, nil
}

// withColon mends credentials whose username has a colon. HTTP Basic ends the username at the first
// one (RFC 7617 §2), and accounts may have some.
func withColon(c *auth.Credentials, account string) {
	if password, ok := strings.CutPrefix(c.Username+":"+string(c.Password), account+":"); ok {
		c.Username, c.Password = account, []byte(password)
	}
}

func bearerToken(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "bearer") && token != "" // RFC 9110 §11.1: the scheme is case-insensitive
}

// byAddress reports whether a Host header is an IP address or localhost. A web page of
// another site, in a browser on this machine, can make a name of its own lead here and
// read the answer (DNS rebinding); it cannot do that with an address.
func byAddress(hostport string) bool {
	host := withoutPort(hostport)
	_, err := netip.ParseAddr(host)
	return err == nil || loopback.Host(host)
}

func withoutPort(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

// fromHere reports whether a request comes from this machine, not by a proxy on it that
// says for whom it asks, and not by a web page of another site.
func fromHere(r *http.Request) bool {
	if !byAddress(r.Host) {
		return false
	}
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
	if !loopback.Host(withoutPort(r.Host)) {
		return newProblem(http.StatusForbidden, codeForbidden,
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
		return newProblem(http.StatusForbidden, codeForbidden,
			"without authentication (auth.mode none) web pages of other origins may not call this server, and %q is not its own", clip(origin))
	}
	return nil
}
