package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Validate checks every rule and returns an Errors with every finding, or nil. It
// looks at the files that the configuration names, where the configuration makes
// use of them. Load has called it already; it is for a Config made in Go.
func (c *Config) Validate() error {
	return Errors(c.check(nil)).orNil()
}

// rule is one thing that must hold. Each is checked on its own and none hides
// another, but for one case: a key that already has a finding (its text could not
// be read) keeps quiet the rules that need it.
type rule struct {
	key   string   // that a finding is about
	needs []string // others that check reads
	// check returns what must hold, where it does not, and the value that is there.
	check func(c *Config) (broken string, got any)
}

func (c *Config) check(unreadable map[string]bool) []Finding {
	var out []Finding
	for _, r := range slices.Concat(rules(), aclRules(c), appRules(c)) {
		if anyOf(unreadable, append(r.needs, r.key)) {
			continue
		}
		if broken, got := r.check(c); broken != "" {
			f := Finding{Key: r.key, Rule: broken}
			if got != nil {
				f.Got, f.HasGot = show(got), true
			}
			out = append(out, f)
		}
	}
	return out
}

func anyOf(set map[string]bool, keys []string) bool {
	for _, k := range keys {
		if set[k] {
			return true
		}
	}
	return false
}

func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return formatDuration(v)
	default:
		return fmt.Sprint(v)
	}
}

func rules() []rule {
	type c = *Config
	// Which parts are in use; the rules of the others wait until they are.
	mode := func(m string) func(c) bool { return func(c c) bool { return c.Auth.Mode == m } }
	pushes := func(c c) bool { return c.Fallback.APNs.Enabled }
	pushKey := func(c c) bool { return pushes(c) && (c.Fallback.APNs.KeyFile != "" || c.Fallback.APNs.Key != "") }
	mqttTLS := func(c c) bool { return c.MQTT.TLS.Address != "" }
	always := func(c) bool { return true }

	return []rule{
		{"data_dir", []string{"store.engine"}, func(c c) (string, any) {
			return unless(c.DataDir != "" || c.Store.Engine == EngineMemory, "must name a directory (only store.engine memory does without)", c.DataDir)
		}},

		address("mqtt.address", func(c c) string { return c.MQTT.Address }),
		address("mqtt.tls.address", func(c c) string { return c.MQTT.TLS.Address }),
		address("http.address", func(c c) string { return c.HTTP.Address }),
		distinct("mqtt.tls.address", "mqtt.address", func(c c) (string, string) { return c.MQTT.TLS.Address, c.MQTT.Address }),
		distinct("http.address", "mqtt.address", func(c c) (string, string) { return c.HTTP.Address, c.MQTT.Address }),
		distinct("http.address", "mqtt.tls.address", func(c c) (string, string) { return c.HTTP.Address, c.MQTT.TLS.Address }),

		needed("mqtt.tls.cert_file", "where mqtt.tls.address is set", mqttTLS, func(c c) string { return c.MQTT.TLS.CertFile }),
		needed("mqtt.tls.key_file", "where mqtt.tls.address is set", mqttTLS, func(c c) string { return c.MQTT.TLS.KeyFile }),
		// Without an address they would be ignored, and the listener that is on is
		// the one without TLS.
		needed("mqtt.tls.address", "where mqtt.tls.cert_file, key_file or client_ca_file is", func(c c) bool {
			return c.MQTT.TLS.CertFile+c.MQTT.TLS.KeyFile+c.MQTT.TLS.ClientCAFile != ""
		}, func(c c) string { return c.MQTT.TLS.Address }),
		readable("mqtt.tls.cert_file", mqttTLS, func(c c) string { return c.MQTT.TLS.CertFile }),
		readable("mqtt.tls.key_file", mqttTLS, func(c c) string { return c.MQTT.TLS.KeyFile }),
		keyPair("mqtt.tls.cert_file", "mqtt.tls.key_file", mqttTLS, func(c c) (string, string) { return c.MQTT.TLS.CertFile, c.MQTT.TLS.KeyFile }),
		certificates("mqtt.tls.client_ca_file", mqttTLS, func(c c) string { return c.MQTT.TLS.ClientCAFile }),

		{"mqtt.topic_prefix", nil, func(c c) (string, any) { return topicPrefix(c.MQTT.TopicPrefix) }},
		// Above 43,690 s one and a half keepalives do not fit the 16 bits that mochi
		// counts them in.
		span("mqtt.max_keepalive", func(c c) time.Duration { return c.MQTT.MaxKeepalive }, time.Second, 12*time.Hour),
		{"mqtt.max_keepalive", nil, func(c c) (string, any) {
			return unless(c.MQTT.MaxKeepalive%time.Second == 0, "must be whole seconds, which is what MQTT counts in", c.MQTT.MaxKeepalive)
		}},
		size("mqtt.max_packet_size", func(c c) ByteSize { return c.MQTT.MaxPacketSize }, 1*KiB, 256*MiB),
		count("mqtt.max_connections", func(c c) int { return c.MQTT.MaxConnections }, 1, 10_000_000),
		count("mqtt.max_connections_per_address", func(c c) int { return c.MQTT.MaxConnectionsPerAddress }, 0, 10_000_000),
		span("mqtt.connect_timeout", func(c c) time.Duration { return c.MQTT.ConnectTimeout }, 10*time.Millisecond, 5*time.Minute),
		span("mqtt.write_timeout", func(c c) time.Duration { return c.MQTT.WriteTimeout }, 10*time.Millisecond, 5*time.Minute),

		needed("http.tls.key_file", "where http.tls.cert_file is set", func(c c) bool { return c.HTTP.TLS.CertFile != "" }, func(c c) string { return c.HTTP.TLS.KeyFile }),
		needed("http.tls.cert_file", "where http.tls.key_file is set", func(c c) bool { return c.HTTP.TLS.KeyFile != "" }, func(c c) string { return c.HTTP.TLS.CertFile }),
		readable("http.tls.cert_file", always, func(c c) string { return c.HTTP.TLS.CertFile }),
		readable("http.tls.key_file", always, func(c c) string { return c.HTTP.TLS.KeyFile }),
		keyPair("http.tls.cert_file", "http.tls.key_file", always, func(c c) (string, string) { return c.HTTP.TLS.CertFile, c.HTTP.TLS.KeyFile }),

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

		word("delivery.ack", func(c c) string { return c.Delivery.Ack }, AckReceived, AckDisplayed),
		span("delivery.ack_window", func(c c) time.Duration { return c.Delivery.AckWindow }, time.Millisecond, time.Hour),
		longer("delivery.fallback_window", "delivery.ack_window", func(c c) (time.Duration, time.Duration) {
			return c.Delivery.FallbackWindow, c.Delivery.AckWindow
		}),
		longer("delivery.ttl", "delivery.ack_window", func(c c) (time.Duration, time.Duration) { return c.Delivery.TTL, c.Delivery.AckWindow }),
		{"delivery.ttl", nil, func(c c) (string, any) {
			return unless(c.Delivery.TTL <= MaxTTL, "must be at most "+formatDuration(MaxTTL), c.Delivery.TTL)
		}},
		count("delivery.max_outstanding_per_device", func(c c) int { return c.Delivery.MaxOutstandingPerDevice }, 1, 1_000_000),
		// The packet IDs of notifications are the upper half of the 16 bits.
		count("delivery.max_inflight_per_device", func(c c) int { return c.Delivery.MaxInflightPerDevice }, 1, 32_768),
		{"delivery.max_inflight_per_device", []string{"delivery.max_outstanding_per_device"}, func(c c) (string, any) {
			return unless(c.Delivery.MaxInflightPerDevice <= c.Delivery.MaxOutstandingPerDevice,
				fmt.Sprintf("must be at most delivery.max_outstanding_per_device (%d)", c.Delivery.MaxOutstandingPerDevice), c.Delivery.MaxInflightPerDevice)
		}},
		// A device that is forgotten takes its unfinished deliveries with it.
		longer("delivery.forget_device_after", "delivery.ttl", func(c c) (time.Duration, time.Duration) {
			return c.Delivery.ForgetDeviceAfter, c.Delivery.TTL
		}),

		{"fallback.apns", []string{"fallback.apns.enabled", "fallback.apns.key_file", "fallback.apns.certificate_file", "fallback.apns.apps"}, func(c c) (string, any) {
			a := c.Fallback.APNs
			n := min(1, set(a.KeyFile)+set(string(a.Key))) + set(a.CertificateFile)
			return unless(!a.Enabled || n == 1 || n == 0 && len(a.Apps) > 0,
				fmt.Sprintf("must have exactly one of key_file (or HEARTLINE_FALLBACK_APNS_KEY) and certificate_file where it is enabled, or entries in apps, has %d", n), nil)
		}},
		{"fallback.apns.key_file", nil, func(c c) (string, any) {
			return unless(c.Fallback.APNs.KeyFile == "" || c.Fallback.APNs.Key == "", "must not be set together with HEARTLINE_FALLBACK_APNS_KEY", c.Fallback.APNs.KeyFile)
		}},
		signingKey("fallback.apns.key_file", pushes, func(c c) string { return c.Fallback.APNs.KeyFile }),
		{"fallback.apns.key", nil, func(c c) (string, any) {
			return unless(!pushes(c) || c.Fallback.APNs.Key == "" || isSigningKey([]byte(c.Fallback.APNs.Key)), notSigningKey, nil)
		}},
		appleID("fallback.apns.key_id", pushKey, func(c c) string { return c.Fallback.APNs.KeyID }),
		appleID("fallback.apns.team_id", pushKey, func(c c) string { return c.Fallback.APNs.TeamID }),
		readable("fallback.apns.certificate_file", pushes, func(c c) string { return c.Fallback.APNs.CertificateFile }),
		readable("fallback.apns.certificate_password_file", pushes, func(c c) string { return c.Fallback.APNs.CertificatePasswordFile }),
		{"fallback.apns.certificate_password_file", nil, func(c c) (string, any) {
			return unless(c.Fallback.APNs.CertificatePasswordFile == "" || c.Fallback.APNs.CertificatePassword == "",
				"must not be set together with HEARTLINE_FALLBACK_APNS_CERTIFICATE_PASSWORD", c.Fallback.APNs.CertificatePasswordFile)
		}},
		{"fallback.apns.topic", nil, func(c c) (string, any) {
			return unless(c.Fallback.APNs.Topic == "" || bundleID.MatchString(c.Fallback.APNs.Topic), notBundleID, c.Fallback.APNs.Topic)
		}},
		word("fallback.apns.environment", func(c c) string { return c.Fallback.APNs.Environment }, EnvironmentProduction, EnvironmentSandbox),
		// Apple's protocol is HTTP/2 over TLS, and so is that of what stands in for it.
		webURL("fallback.apns.endpoint", func(c c) string { return c.Fallback.APNs.Endpoint }, "https"),
		{"fallback.apns.endpoint", nil, func(c c) (string, any) {
			u, err := url.Parse(c.Fallback.APNs.Endpoint)
			return unless(err != nil || u.Path+u.RawQuery+u.Fragment == "" || u.Path == "/" && u.RawQuery+u.Fragment == "",
				"must be a host and a port alone, as in https://127.0.0.1:2197", withoutPassword(c.Fallback.APNs.Endpoint))
		}},
		certificates("fallback.apns.ca_file", pushes, func(c c) string { return c.Fallback.APNs.CAFile }),
		span("fallback.apns.timeout", func(c c) time.Duration { return c.Fallback.APNs.Timeout }, time.Millisecond, 5*time.Minute),
		count("fallback.apns.max_concurrent", func(c c) int { return c.Fallback.APNs.MaxConcurrent }, 1, 100_000),
		span("fallback.apns.retry.initial", func(c c) time.Duration { return c.Fallback.APNs.Retry.Initial }, time.Millisecond, time.Hour),
		{"fallback.apns.retry.max", []string{"fallback.apns.retry.initial"}, func(c c) (string, any) {
			r := c.Fallback.APNs.Retry
			return unless(r.Max >= r.Initial, fmt.Sprintf("must not be shorter than fallback.apns.retry.initial (%s)", formatDuration(r.Initial)), r.Max)
		}},

		word("store.engine", func(c c) string { return c.Store.Engine }, EnginePebble, EngineMemory),
		span("store.history", func(c c) time.Duration { return c.Store.History }, 0, 8760*time.Hour),
		size("store.min_free", func(c c) ByteSize { return c.Store.MinFree }, 0, 1<<50),

		word("log.level", func(c c) string { return c.Log.Level }, "debug", "info", "warn", "error"),
		word("log.format", func(c c) string { return c.Log.Format }, FormatText, FormatJSON),
	}
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

// appRules are those of the list, an entry each.
func appRules(c *Config) []rule {
	var out []rule
	enabled := func(c *Config) bool { return c.Fallback.APNs.Enabled }
	seen := map[string]int{}
	for i, a := range c.Fallback.APNs.Apps {
		at := fmt.Sprintf("fallback.apns.apps[%d].", i)
		needs := []string{"fallback.apns.apps", "fallback.apns.environment"}
		environment := a.Environment
		if environment == "" {
			environment = c.Fallback.APNs.Environment
		}
		name := a.Topic + " " + environment
		first, twice := seen[name]
		if !twice {
			seen[name] = i
		}
		withKey := func(c *Config) bool { return enabled(c) && a.KeyFile != "" }
		for _, r := range []rule{
			{at + "topic", nil, func(*Config) (string, any) { return unless(bundleID.MatchString(a.Topic), notBundleID, a.Topic) }},
			{at + "topic", nil, func(*Config) (string, any) {
				return unless(!twice, fmt.Sprintf("must not have two entries for one environment: apps[%d] is of %s too", first, environment), a.Topic)
			}},
			word(at+"environment", func(*Config) string { return a.Environment }, "", EnvironmentProduction, EnvironmentSandbox),
			{at + "key_file", nil, func(c *Config) (string, any) {
				n := set(a.KeyFile) + set(a.CertificateFile)
				return unless(!enabled(c) || n == 1, fmt.Sprintf("must be set, or else certificate_file, exactly one of the two, has %d", n), nil)
			}},
			signingKey(at+"key_file", enabled, func(*Config) string { return a.KeyFile }),
			appleID(at+"key_id", withKey, func(*Config) string { return a.KeyID }),
			appleID(at+"team_id", withKey, func(*Config) string { return a.TeamID }),
			readable(at+"certificate_file", enabled, func(*Config) string { return a.CertificateFile }),
			readable(at+"certificate_password_file", enabled, func(*Config) string { return a.CertificatePasswordFile }),
		} {
			r.needs = append(r.needs, needs...)
			out = append(out, r)
		}
	}
	return out
}

// checkServes is for a process of its own, which is of no use without a listener;
// in someone else's broker the listeners are theirs.
func checkServes(c *Config, unreadable map[string]bool) []Finding {
	if anyOf(unreadable, []string{"mqtt.address", "mqtt.tls.address", "http.address"}) || c.MQTT.Address+c.MQTT.TLS.Address+c.HTTP.Address != "" {
		return nil
	}
	return []Finding{{Key: "mqtt.address", Rule: `must be set where mqtt.tls.address and http.address are "" too: nobody could connect`, HasGot: true}}
}

// The forms that rules come in.

func unless(holds bool, broken string, got any) (string, any) {
	if holds {
		return "", nil
	}
	return broken, got
}

func set(s string) int {
	if s == "" {
		return 0
	}
	return 1
}

func word(key string, get func(*Config) string, words ...string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		for _, w := range words {
			if get(c) == w {
				return "", nil
			}
		}
		list := strings.TrimPrefix(strings.Join(words[:len(words)-1], ", "), ", ") + " or " + words[len(words)-1]
		return "must be " + list, get(c)
	}}
}

func span(key string, get func(*Config) time.Duration, least, most time.Duration) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(get(c) >= least && get(c) <= most, fmt.Sprintf("must be from %s to %s", formatDuration(least), formatDuration(most)), get(c))
	}}
}

func longer(key, other string, get func(*Config) (d, other time.Duration)) rule {
	return rule{key, []string{other}, func(c *Config) (string, any) {
		d, o := get(c)
		return unless(d > o, fmt.Sprintf("must be longer than %s (%s)", other, formatDuration(o)), d)
	}}
}

func size(key string, get func(*Config) ByteSize, least, most ByteSize) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(get(c) >= least && get(c) <= most, fmt.Sprintf("must be from %s to %s", least, most), get(c))
	}}
}

func count(key string, get func(*Config) int, least, most int) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(get(c) >= least && get(c) <= most, fmt.Sprintf("must be from %d to %d", least, most), get(c))
	}}
}

func needed(key, where string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(!when(c) || get(c) != "", "must be set "+where, nil)
	}}
}

func address(key string, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		a := get(c)
		host, port, err := net.SplitHostPort(a)
		_, perr := strconv.ParseUint(port, 10, 16)
		return unless(a == "" || err == nil && perr == nil && validHost(host), `must be host:port with a port from 0 to 65535, or "" for none`, a)
	}}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return true // "" is every address of the machine
	}
	return hostName.MatchString(host)
}

func distinct(key, other string, get func(*Config) (a, other string)) rule {
	return rule{key, []string{other}, func(c *Config) (string, any) {
		a, o := get(c)
		// Port 0 asks for any free port: two of them are not the same.
		return unless(a != o || a == "" || strings.HasSuffix(a, ":0"), "must not be the same as "+other, a)
	}}
}

// openOnLoopback refuses to let everyone in from everywhere.
func openOnLoopback(key string, get func(*Config) string) rule {
	return rule{key, []string{"auth.mode"}, func(c *Config) (string, any) {
		host, _, err := net.SplitHostPort(get(c))
		return unless(c.Auth.Mode != AuthNone || get(c) == "" || err != nil || Loopback(host),
			"must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt or http to listen on others", get(c))
	}}
}

// Loopback reports whether a listener on host is reached from this machine alone.
// The empty host is every address of the machine.
func Loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// topicPrefix: topic names of the form prefix/devices/... must be valid, and none
// of the levels may be a wildcard.
func topicPrefix(p string) (string, any) {
	const broken = "must be one or more topic levels without wildcards, as in heartline or acme/push, of at most 128 bytes"
	holds := p != "" && len(p) <= 128 && utf8.ValidString(p) &&
		!strings.HasPrefix(p, "$") && // [MQTT-4.7.2-1]: the server's own topics
		!strings.ContainsAny(p, "+#") && // [MQTT-4.7.1-1]
		!strings.ContainsFunc(p, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
	for level := range strings.SplitSeq(p, "/") {
		holds = holds && level != ""
	}
	return unless(holds, broken, p)
}

func webURL(key string, get func(*Config) string, schemes ...string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		text := get(c)
		if text == "" {
			return "", nil
		}
		u, err := url.Parse(text)
		ok := false
		for _, s := range schemes {
			ok = ok || err == nil && u.Scheme == s && u.Host != "" && u.Opaque == ""
		}
		if !ok {
			return "must be a URL that begins with " + strings.Join(schemes, ":// or ") + "://", withoutPassword(text)
		}
		// It would be printed with the rest of the configuration.
		return unless(u.User == nil, "must not hold a user or a password", withoutPassword(text))
	}}
}

var userinfo = regexp.MustCompile(`//[^/?#]*@`)

func withoutPassword(u string) string { return userinfo.ReplaceAllString(u, "//"+redacted+"@") }

// What Apple's identifiers look like.
var (
	bundleID     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$`)
	appleKeyOrID = regexp.MustCompile(`^[A-Za-z0-9]{10}$`)
)

const notBundleID = "must be a bundle ID, as in com.example.app"

func appleID(key string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(!when(c) || appleKeyOrID.MatchString(get(c)), "must be the 10 letters and digits that Apple shows beside the key", get(c))
	}}
}

// readable: the file is there now; a process that finds out at the first
// connection, or at the first push, has started for nothing.
func readable(key string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if !when(c) || get(c) == "" {
			return "", nil
		}
		_, broken := readNamed(get(c))
		return unless(broken == "", broken, get(c))
	}}
}

// readNamed reads a file that a key names.
func readNamed(path string) (content []byte, broken string) {
	content, err := readAll(path)
	if err == nil {
		return content, ""
	}
	return nil, "must name a file that can be read (" + reason(err) + ")"
}

func keyPair(certKey, keyKey string, when func(*Config) bool, get func(*Config) (cert, key string)) rule {
	return rule{certKey, []string{keyKey}, func(c *Config) (string, any) {
		certFile, keyFile := get(c)
		if !when(c) || certFile == "" || keyFile == "" {
			return "", nil
		}
		cert, broken := readNamed(certFile)
		key, brokenKey := readNamed(keyFile)
		if broken+brokenKey != "" {
			return "", nil // has a finding of its own
		}
		_, err := tls.X509KeyPair(cert, key)
		if err == nil {
			return "", nil
		}
		return fmt.Sprintf("must hold a PEM certificate that goes with %s (%s)", keyKey, strings.TrimPrefix(err.Error(), "tls: ")), certFile
	}}
}

func certificates(key string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if !when(c) || get(c) == "" {
			return "", nil
		}
		content, broken := readNamed(get(c))
		if broken != "" {
			return broken, get(c)
		}
		return unless(x509.NewCertPool().AppendCertsFromPEM(content), "must hold at least one PEM certificate", get(c))
	}}
}

const notSigningKey = "must be the token signing key that Apple hands out, a PEM file that ends in .p8"

func signingKey(key string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		if !when(c) || get(c) == "" {
			return "", nil
		}
		content, broken := readNamed(get(c))
		if broken != "" {
			return broken, get(c)
		}
		return unless(isSigningKey(content), notSigningKey, get(c))
	}}
}

// isSigningKey: PKCS #8 in PEM is what Apple hands out; which curve it is on is for
// the signer to find out.
func isSigningKey(content []byte) bool {
	block, _ := pem.Decode(content)
	if block == nil {
		return false
	}
	_, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	return err == nil
}
