package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

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

// withoutQuery hides the query of a URL, which may hold a key.
func withoutQuery(u string) string {
	if path, _, ok := strings.Cut(u, "?"); ok {
		return path + "?" + redacted
	}
	return u
}

func withoutPassword(u string) string {
	return userinfo.ReplaceAllString(withoutQuery(u), "//"+redacted+"@")
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
	content, err := readAll(path, maxNamedFileSize)
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
