package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/broker/internal/api"
	"github.com/heartline-mqtt/heartline/delivery"
)

func withTokens(o *api.Options, _ *delivery.Options) {
	o.Bearer = func(_ context.Context, token, remote string) (auth.Identity, error) {
		switch {
		case !strings.HasPrefix(remote, "127.0.0.1:"):
			return auth.Identity{}, fmt.Errorf("%w: remote %q", auth.ErrDenied, remote)
		case token == "service":
			return auth.Identity{Service: true}, nil
		case token == "admin":
			return auth.Identity{Service: true, Admin: true}, nil
		case token == "shop":
			return auth.Identity{Service: true, Accounts: []string{"shop-*"}}, nil
		case token == "device":
			return auth.Identity{Account: "alice"}, nil
		case token == "down":
			return auth.Identity{}, fmt.Errorf("%w: secret inner workings", auth.ErrUnavailable)
		}
		return auth.Identity{}, fmt.Errorf("%w: secret inner workings", auth.ErrDenied)
	}
}

func TestBearer(t *testing.T) {
	s := serve(t, withTokens)
	for _, c := range []struct {
		header       string
		status       int
		detail       string
		authenticate string
	}{
		{"", 401, "send the header Authorization: Bearer with a token of the role service", "Bearer"},
		{"Basic YTpi", 401, "send the header Authorization: Bearer", "Bearer"},
		{"Bearer", 401, "send the header Authorization: Bearer", "Bearer"},
		{"Bearer  ", 401, "send the header Authorization: Bearer", "Bearer"},
		{"Bearer wrong", 401, "the bearer token is unknown, expired or not meant for this server", `Bearer error="invalid_token"`},
		{"Bearer device", 403, "this token is a device's; this call is for tokens of the role service", `Bearer error="insufficient_scope"`},
		{"Bearer down", 503, "the credentials cannot be checked now: try again", ""},
	} {
		for _, call := range []string{"GET /v1/notifications", "POST /v1/notifications", "POST /v1/notifications/batch", "GET /v1/events", "GET /v1/nothing", "PATCH /v1/devices"} {
			method, path, _ := strings.Cut(call, " ")
			r := s.do(method, path, "", "Authorization", c.header)
			s.wantProblem(r, c.status, c.detail)
			if r.Header.Get("WWW-Authenticate") != c.authenticate || strings.Contains(r.text, "secret") {
				t.Errorf("%q: %v %s", c.header, r.Header, r.text)
			}
		}
	}
	for _, good := range []string{"Bearer service", "bearer   service"} {
		s.want(s.do("GET", "/v1/notifications", "", "Authorization", good), 200, nil)
	}
	for _, open := range []string{"/healthz", "/readyz", "/openapi.json", "/metrics"} {
		if r := s.do("GET", open, ""); r.StatusCode != 200 {
			t.Errorf("%s: %s", open, r.text)
		}
	}
	// Elsewhere, or behind a proxy, the counts are not everyone's.
	s.wantProblem(s.do("GET", "/metrics", "", "X-Forwarded-For", "192.0.2.1"), 401, "send the header Authorization: Bearer")
	if r := s.do("GET", "/metrics", "", "X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer service"); r.StatusCode != 200 {
		t.Error(r.text)
	}
	// A page of another site, in a browser on this machine, whose name leads here.
	for _, host := range []string{"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"} {
		s.wantProblem(s.do("GET", "/metrics", "", "Host", host), 401, "send the header Authorization: Bearer with a token of the role service; without one only this machine is answered")
		if r := s.do("GET", "/readyz", "", "Host", host); strings.Contains(r.text, "checks") {
			t.Errorf("%s: %s", host, r.text)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9", "[::1]", "192.0.2.7:80"} {
		if r := s.do("GET", "/metrics", "", "Host", host); r.StatusCode != 200 {
			t.Errorf("%s: %s", host, r.text)
		}
	}
	if r := s.do("GET", "/metrics", "", "Host", "evil.example", "Authorization", "Bearer service"); r.StatusCode != 200 {
		t.Error(r.text)
	}
	// With tokens the name of the host is the proxy's business.
	s.want(s.do("GET", "/v1/notifications", "", "Authorization", "Bearer service", "Host", "push.example.com"), 200, nil)
}

func TestForeignPagesAreRefused(t *testing.T) {
	s := serve(t)
	port := s.server.URL[strings.LastIndex(s.server.URL, ":"):]
	for _, c := range []struct {
		host, origin string
		detail       string // "": served
	}{
		{"localhost" + port, "", ""},
		{"LOCALHOST", "", ""},
		{"localhost.", "", ""},
		{"127.0.0.1" + port, "", ""},
		{"127.1.2.3", "", ""},
		{"[::1]" + port, "", ""},
		{"[::1]", "", ""},
		{"localhost" + port, "http://localhost" + port, ""},
		{"rebound.example" + port, "", `without authentication (auth.mode none) this server answers to localhost only, not to "rebound.example`},
		{"localhost.example", "", "without authentication (auth.mode none) this server answers to localhost only"},
		{"192.0.2.1", "", "without authentication (auth.mode none) this server answers to localhost only"},
		{"[::2]", "", "without authentication (auth.mode none) this server answers to localhost only"},
		{"rebound.example", "http://rebound.example", "without authentication (auth.mode none) this server answers to localhost only"},
		{"localhost" + port, "http://evil.example", `without authentication (auth.mode none) web pages of other origins may not call this server, and "http://evil.example" is not its own`},
		{"localhost" + port, "https://localhost" + port, "without authentication (auth.mode none) web pages of other origins"},
		{"localhost" + port, "http://localhost:1", "without authentication (auth.mode none) web pages of other origins"},
		{"localhost" + port, "http://127.0.0.1" + port, "without authentication (auth.mode none) web pages of other origins"},
		{"localhost" + port, "null", "without authentication (auth.mode none) web pages of other origins"},
	} {
		header := []string{"Host", c.host}
		if c.origin != "" {
			header = append(header, "Origin", c.origin)
		}
		for _, path := range []string{"/v1/notifications", "/healthz"} {
			r := s.do("GET", path, "", header...)
			if c.detail == "" {
				s.want(r, 200, nil)
			} else {
				s.wantProblem(r, 403, c.detail)
			}
		}
		// The same guard protects the handlers that are mounted next to the API.
		if r := s.do("GET", "/mqtt", "", header...); (r.StatusCode == 403) != (c.detail != "") {
			t.Errorf("%+v: /mqtt answers %s", c, r.Status)
		}
	}
}
