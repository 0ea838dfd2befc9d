package config

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"regexp"
	"time"
)

// apnsRules are those of fallback.apns but for the entries of its apps.
func apnsRules() []rule {
	type c = *Config
	on := func(c c) bool { return c.Fallback.APNs.Enabled }
	withKey := func(c c) bool { return on(c) && (c.Fallback.APNs.KeyFile != "" || c.Fallback.APNs.Key != "") }
	return append([]rule{
		{"fallback.apns", []string{"fallback.apns.enabled", "fallback.apns.key_file", "fallback.apns.certificate_file", "fallback.apns.apps"}, func(c c) (string, any) {
			a := c.Fallback.APNs
			n := min(1, set(a.KeyFile)+set(string(a.Key))) + set(a.CertificateFile)
			return unless(!a.Enabled || n == 1 || n == 0 && len(a.Apps) > 0,
				fmt.Sprintf("must have exactly one of key_file (or HEARTLINE_FALLBACK_APNS_KEY) and certificate_file where it is enabled, or entries in apps, has %d", n), nil)
		}},
		{"fallback.apns.key_file", nil, func(c c) (string, any) {
			return unless(c.Fallback.APNs.KeyFile == "" || c.Fallback.APNs.Key == "", "must not be set together with HEARTLINE_FALLBACK_APNS_KEY", c.Fallback.APNs.KeyFile)
		}},
		signingKey("fallback.apns.key_file", on, func(c c) string { return c.Fallback.APNs.KeyFile }),
		{"fallback.apns.key", nil, func(c c) (string, any) {
			return unless(!on(c) || c.Fallback.APNs.Key == "" || isSigningKey([]byte(c.Fallback.APNs.Key)), notSigningKey, nil)
		}},
		appleID("fallback.apns.key_id", withKey, func(c c) string { return c.Fallback.APNs.KeyID }),
		appleID("fallback.apns.team_id", withKey, func(c c) string { return c.Fallback.APNs.TeamID }),
		readable("fallback.apns.certificate_file", on, func(c c) string { return c.Fallback.APNs.CertificateFile }),
		readable("fallback.apns.certificate_password_file", on, func(c c) string { return c.Fallback.APNs.CertificatePasswordFile }),
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
		hostAlone("fallback.apns.endpoint", func(c c) string { return c.Fallback.APNs.Endpoint }),
		certificates("fallback.apns.ca_file", on, func(c c) string { return c.Fallback.APNs.CAFile }),
	}, requestRules("fallback.apns.", func(c c) (time.Duration, int, Retry) {
		a := c.Fallback.APNs
		return a.Timeout, a.MaxConcurrent, a.Retry
	})...)
}

// apnsAppRules are those of the list, an entry each.
func apnsAppRules(c *Config) []rule {
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

// Forms of Apple's identifiers.
var (
	bundleID     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,254}$`)
	appleKeyOrID = regexp.MustCompile(`^[A-Za-z0-9]{10}$`)
)

const (
	notBundleID   = "must be a bundle ID, as in com.example.app"
	notSigningKey = "must be the token signing key that Apple hands out, a PEM file that ends in .p8"
)

func appleID(key string, when func(*Config) bool, get func(*Config) string) rule {
	return rule{key, nil, func(c *Config) (string, any) {
		return unless(!when(c) || appleKeyOrID.MatchString(get(c)), "must be the 10 letters and digits that Apple shows next to the key", get(c))
	}}
}

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
