package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// authRules are those of auth but for the entries of auth.acl.
func authRules() []rule {
	type c = *Config
	// The keys of a mode are checked only where the mode is in use.
	mode := func(m string) func(c) bool { return func(c c) bool { return c.Auth.Mode == m } }
	return []rule{
		word("auth.mode", func(c c) string { return c.Auth.Mode }, AuthNone, AuthFile, AuthJWT, AuthHTTP, AuthTLS),
		openOnLoopback("mqtt.address", func(c c) string { return c.MQTT.Address }),
		openOnLoopback("mqtt.tls.address", func(c c) string { return c.MQTT.TLS.Address }),
		openOnLoopback("http.address", func(c c) string { return c.HTTP.Address }),
		openOnLoopback("http.internal.address", func(c c) string { return c.HTTP.Internal.Address }),
		needed("auth.file.path", "where auth.mode is file", mode(AuthFile), func(c c) string { return c.Auth.File.Path }),
		readable("auth.file.path", mode(AuthFile), func(c c) string { return c.Auth.File.Path }),
		{"auth.jwt", []string{"auth.mode", "auth.jwt.jwks_url", "auth.jwt.jwks_file", "auth.jwt.public_key_file", "auth.jwt.secret_file"}, func(c c) (string, any) {
			j := c.Auth.JWT
			n := set(j.JWKSURL) + set(j.JWKSFile) + set(j.PublicKeyFile) + set(j.SecretFile) + set(string(j.Secret))
			return unless(c.Auth.Mode != AuthJWT || n == 1,
				fmt.Sprintf("must have exactly one of jwks_url, jwks_file, public_key_file and secret_file (or HEARTLINE_AUTH_JWT_SECRET) where auth.mode is jwt, has %d", n), nil)
		}},
		readable("auth.jwt.jwks_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.JWKSFile }),
		readable("auth.jwt.public_key_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.PublicKeyFile }),
		readable("auth.jwt.secret_file", mode(AuthJWT), func(c c) string { return c.Auth.JWT.SecretFile }),
		needed("auth.http.url", "where auth.mode is http", mode(AuthHTTP), func(c c) string { return c.Auth.HTTP.URL }),
		webURL("auth.http.url", func(c c) string { return c.Auth.HTTP.URL }, "http", "https"),
		webURL("auth.jwt.jwks_url", func(c c) string { return c.Auth.JWT.JWKSURL }, "http", "https"),
		{"auth.jwt.jwks_url", nil, func(c c) (string, any) {
			return unless(c.Auth.Mode != AuthJWT || !plainHTTPElsewhere(c.Auth.JWT.JWKSURL),
				"must be an https:// URL, or lead to this machine: who can change the answer can sign tokens", withoutPassword(c.Auth.JWT.JWKSURL))
		}},
		{"auth.http.url", []string{"auth.http.insecure"}, func(c c) (string, any) {
			return unless(c.Auth.Mode != AuthHTTP || c.Auth.HTTP.Insecure || !plainHTTPElsewhere(c.Auth.HTTP.URL),
				"must be an https:// URL, or lead to this machine, unless auth.http.insecure is true: passwords cross the network for everybody to read", withoutPassword(c.Auth.HTTP.URL))
		}},
		span("auth.http.cache", func(c c) time.Duration { return c.Auth.HTTP.Cache }, 0, time.Hour),
		{"auth.device_pattern", nil, func(c c) (string, any) {
			p := c.Auth.DevicePattern
			rest := strings.ReplaceAll(p, "{account}", "")
			return unless(p == "" || len(p) <= 256 && utf8.ValidString(p) && !strings.ContainsAny(rest, "{}/+#"),
				"must be a client identifier in which {account} stands for the account and * for any text, as in {account}-*", p)
		}},
		span("auth.file.verifier_ttl", func(c c) time.Duration { return c.Auth.File.VerifierTTL }, time.Minute, 8760*time.Hour),
		{"auth.file.verifier_key_file", nil, func(c c) (string, any) {
			return unless(c.Auth.File.VerifierKeyFile == "" || c.Auth.File.VerifierKey == "", "must not be set together with HEARTLINE_AUTH_FILE_VERIFIER_KEY", c.Auth.File.VerifierKeyFile)
		}},
		{"auth.file.verifier_key_file", []string{"data_dir"}, func(c c) (string, any) {
			return unless(c.Auth.Mode != AuthFile || !within(c.DataDir, c.Auth.File.VerifierKeyFile),
				"must not be in data_dir: who takes a backup of one must not have the other", c.Auth.File.VerifierKeyFile)
		}},
		word("auth.tls.account", func(c c) string { return c.Auth.TLS.Account }, NameCN, NameEmail, NameDNS, NameURI),
		word("auth.tls.device", func(c c) string { return c.Auth.TLS.Device }, "", NameCN, NameEmail, NameDNS, NameURI),
		{"auth.mode", []string{"mqtt.tls.address", "mqtt.tls.client_ca_file"}, func(c c) (string, any) {
			return unless(c.Auth.Mode != AuthTLS || c.MQTT.TLS.Address != "" && c.MQTT.TLS.ClientCAFile != "",
				"must not be tls without mqtt.tls.address and mqtt.tls.client_ca_file", c.Auth.Mode)
		}},
		secureListener("mqtt.address", "mqtt.insecure", func(c c) (string, bool) { return c.MQTT.Address, c.MQTT.Insecure }),
		secureListener("http.address", "http.insecure", func(c c) (string, bool) {
			return c.HTTP.Address, c.HTTP.Insecure || c.HTTP.TLS.CertFile != ""
		}),
		plainListener("http.internal.address", "http.internal.insecure", "", func(c c) (string, bool) { return c.HTTP.Internal.Address, c.HTTP.Internal.Insecure }),
		{"trusted_proxies", []string{"mqtt.proxy_protocol", "http.proxy_protocol"}, func(c c) (string, any) {
			return unless(len(c.TrustedProxies) > 0 || !c.MQTT.ProxyProtocol && !c.HTTP.ProxyProtocol,
				"must name the proxies where proxy_protocol is on: anybody could claim any address", nil)
		}},
		{"trusted_proxies", nil, func(c c) (string, any) {
			for _, p := range c.TrustedProxies {
				if _, err := ProxyPrefix(p); err != nil {
					return "must be addresses or prefixes, as in 192.0.2.7 and 10.0.0.0/8", p
				}
			}
			return "", nil
		}},
		span("auth.http.timeout", func(c c) time.Duration { return c.Auth.HTTP.Timeout }, time.Millisecond, time.Minute),
	}
}

// openOnLoopback refuses to let everyone in from everywhere.
func openOnLoopback(key string, get func(*Config) string) rule {
	return rule{key, []string{"auth.mode"}, func(c *Config) (string, any) {
		host, _, err := net.SplitHostPort(get(c))
		return unless(c.Auth.Mode != AuthNone || get(c) == "" || err != nil || loopback.Host(host),
			"must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt, http or tls to listen on others", get(c))
	}}
}

// secureListener refuses plain text off this machine unless that is asked for.
func secureListener(key, insecure string, get func(*Config) (address string, allowed bool)) rule {
	return plainListener(key, insecure, " or speak TLS,", get)
}

// plainListener is secureListener where or says what else would do.
func plainListener(key, insecure, or string, get func(*Config) (address string, allowed bool)) rule {
	return rule{key, []string{"auth.mode", insecure}, func(c *Config) (string, any) {
		a, allowed := get(c)
		host, _, err := net.SplitHostPort(a)
		// With auth.mode none it is refused anyway.
		return unless(allowed || c.Auth.Mode == AuthNone || a == "" || err != nil || loopback.Host(host),
			"must be a loopback address,"+or+" unless "+insecure+" is true: passwords and notifications cross the network for everybody to read", a)
	}}
}

// plainHTTPElsewhere reports whether a URL is http:// and leads off this machine.
func plainHTTPElsewhere(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "http" && !loopback.Host(u.Hostname())
}

// within reports whether path is below dir. Both may be relative.
func within(dir, path string) bool {
	if dir == "" || path == "" {
		return false
	}
	d, err := filepath.Abs(dir)
	p, err2 := filepath.Abs(path)
	rel, err3 := filepath.Rel(d, p)
	return err == nil && err2 == nil && err3 == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// ProxyPrefix parses an entry of trusted_proxies.
func ProxyPrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
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

// aclFilter: a topic filter as MQTT has it, in which {account}, {device}, %u and %c are levels.
func aclFilter(f string) (string, any) {
	if strings.HasPrefix(f, "$share/") {
		return "must be without $share: an entry holds for shared subscriptions as for others", f
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		switch {
		case l == "#" && i == len(levels)-1, l == "+", l == "%u", l == "%c", l == "{account}", l == "{device}":
		case strings.ContainsAny(l, "+#"): // [MQTT-4.7.1-1] [MQTT-4.7.1-2]
			return "must be a topic filter: + and # are levels of their own, and # is the last", f
		case strings.Contains(l, "%u"), strings.Contains(l, "%c"):
			return "must have %u and %c as levels of their own", f
		case strings.Contains(l, "{account}"), strings.Contains(l, "{device}"):
			return "must have {account} and {device} as levels of their own", f
		}
	}
	return unless(f != "" && len(f) <= 65535, "must be a topic filter of 1 to 65535 bytes", f) // [MQTT-4.7.3-1] [MQTT-4.7.3-3]
}
