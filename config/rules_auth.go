package config

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// authRules are those of auth but for the entries of auth.acl.
func authRules() []rule {
	type c = *Config
	// The keys of a mode are checked only where the mode is in use.
	mode := func(m string) func(c) bool { return func(c c) bool { return c.Auth.Mode == m } }
	return []rule{
		word("auth.mode", func(c c) string { return c.Auth.Mode }, AuthNone, AuthFile, AuthJWT, AuthHTTP),
		openOnLoopback("mqtt.address", func(c c) string { return c.MQTT.Address }),
		openOnLoopback("mqtt.tls.address", func(c c) string { return c.MQTT.TLS.Address }),
		openOnLoopback("http.address", func(c c) string { return c.HTTP.Address }),
		needed("auth.file.path", "where auth.mode is file", mode(AuthFile), func(c c) string { return c.Auth.File.Path }),
		readable("auth.file.path", mode(AuthFile), func(c c) string { return c.Auth.File.Path }),
		{"auth.jwt", []string{"auth.mode", "auth.jwt.jwks_file", "auth.jwt.public_key_file", "auth.jwt.secret_file"}, func(c c) (string, any) {
			j := c.Auth.JWT
			n := set(j.JWKSFile) + set(j.PublicKeyFile) + set(j.SecretFile) + set(string(j.Secret))
			return unless(c.Auth.Mode != AuthJWT || n == 1,
				fmt.Sprintf("must have exactly one of jwks_file, public_key_file and secret_file (or HEARTLINE_AUTH_JWT_SECRET) where auth.mode is jwt, has %d", n), nil)
		}},
		readable("auth.jwt.jwks_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.JWKSFile }),
		readable("auth.jwt.public_key_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.PublicKeyFile }),
		readable("auth.jwt.secret_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.SecretFile }),
		needed("auth.http.url", "where auth.mode is http", mode(AuthHTTP), func(c c) string { return c.Auth.HTTP.URL }),
		webURL("auth.http.url", func(c c) string { return c.Auth.HTTP.URL }, "http", "https"),
		span("auth.http.timeout", func(c c) time.Duration { return c.Auth.HTTP.Timeout }, time.Millisecond, time.Minute),
	}
}

// openOnLoopback refuses to let everyone in from everywhere.
func openOnLoopback(key string, get func(*Config) string) rule {
	return rule{key, []string{"auth.mode"}, func(c *Config) (string, any) {
		host, _, err := net.SplitHostPort(get(c))
		return unless(c.Auth.Mode != AuthNone || get(c) == "" || err != nil || loopback.Host(host),
			"must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt or http to listen on others", get(c))
	}}
}

// aclRules are those of auth.acl, an entry each.
func aclRules(c *Config) []rule {
	var out []rule
	for i, e := range c.Auth.ACL {
		at := fmt.Sprintf("auth.acl[%d].", i)
		for _, r := range []rule{
			{at + "filter", nil, func(*Config) (string, any) { return aclFilter(e.Filter) }},
			{at + "filter", []string{"mqtt.topic_prefix"}, func(c *Config) (string, any) {
				below := e.Filter == c.MQTT.TopicPrefix || strings.HasPrefix(e.Filter, c.MQTT.TopicPrefix+"/")
				return unless(!below, "must not be below mqtt.topic_prefix ("+c.MQTT.TopicPrefix+"), where devices and services have their own topics", e.Filter)
			}},
			word(at+"access", func(*Config) string { return e.Access }, AccessDeny, AccessRead, AccessWrite, AccessReadWrite),
		} {
			r.needs = append(r.needs, "auth.acl")
			out = append(out, r)
		}
	}
	return out
}

// aclFilter: a topic filter as MQTT has it, in which %u and %c are levels.
func aclFilter(f string) (string, any) {
	if strings.HasPrefix(f, "$share/") {
		return "must be without $share: an entry holds for shared subscriptions as for others", f
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		switch {
		case l == "#" && i == len(levels)-1, l == "+", l == "%u", l == "%c":
		case strings.ContainsAny(l, "+#"): // [MQTT-4.7.1-1] [MQTT-4.7.1-2]
			return "must be a topic filter: + and # are levels of their own, and # is the last", f
		case strings.Contains(l, "%u"), strings.Contains(l, "%c"):
			return "must have %u and %c as levels of their own", f
		}
	}
	return unless(f != "" && len(f) <= 65535, "must be a topic filter of 1 to 65535 bytes", f) // [MQTT-4.7.3-1] [MQTT-4.7.3-3]
}
