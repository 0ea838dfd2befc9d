package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/heartline-mqtt/heartline/internal/loopback"
)

// xmppRules are those of xmpp but for the entries of its list.
func xmppRules() []rule {
	type c = *Config
	on := func(c c) bool { return len(c.XMPP.Components) > 0 }
	return []rule{
		holds("xmpp.registration_key_file", on, func(c c) string { return c.XMPP.RegistrationKeyFile }, isRegistrationKey),
		word("xmpp.notify_on", func(c c) string { return c.XMPP.NotifyOn }, NotifyMessages, NotifyAll),
		{"xmpp.title", nil, func(c c) (string, any) {
			return unless(c.XMPP.Title != "" && len(c.XMPP.Title) <= 256, "must have 1 to 256 bytes", c.XMPP.Title)
		}},
		span("xmpp.min_interval", func(c c) time.Duration { return c.XMPP.MinInterval }, time.Millisecond, 20*time.Second), // ejabberd waits 32 s for an answer
		size("xmpp.max_stanza_size", func(c c) ByteSize { return c.XMPP.MaxStanzaSize }, 10*KiB, 64*MiB),                   // RFC 6120 §13.12 asks for 10,000 bytes
		span("xmpp.write_timeout", func(c c) time.Duration { return c.XMPP.WriteTimeout }, time.Millisecond, 5*time.Minute),
		span("xmpp.ping_interval", func(c c) time.Duration { return c.XMPP.PingInterval }, time.Second, time.Hour),
		span("xmpp.reconnect.initial", func(c c) time.Duration { return c.XMPP.Reconnect.Initial }, time.Millisecond, time.Hour),
		{"xmpp.reconnect.max", []string{"xmpp.reconnect.initial"}, func(c c) (string, any) {
			r := c.XMPP.Reconnect
			return unless(r.Max >= r.Initial, fmt.Sprintf("must not be shorter than xmpp.reconnect.initial (%s)", formatDuration(r.Initial)), r.Max)
		}},
	}
}

// minKey is the length of a registration key: it signs what a server is trusted by.
const minKey = 16

func isRegistrationKey(b []byte) error {
	if len(strings.TrimRight(string(b), "\r\n")) < minKey {
		return fmt.Errorf("must hold at least %d bytes", minKey)
	}
	return nil
}

// xmppComponentRules are those of the list, an entry each.
func xmppComponentRules(c *Config) []rule {
	var out []rule
	always := func(*Config) bool { return true }
	seen := map[string]string{}
	for i, x := range c.XMPP.Components {
		at := fmt.Sprintf("xmpp.components[%d].", i)
		twice := func(key, name string) (string, any) {
			if first := seen[name]; first != "" && first != key {
				return "must not be the same as " + first, name
			}
			seen[name] = key
			return "", nil
		}
		for _, r := range []rule{
			{at + "domain", nil, func(*Config) (string, any) {
				if !isDomainName(x.Domain) {
					return "must be the component's name at the server, as in push.example.org", x.Domain
				}
				return twice(at+"domain", x.Domain)
			}},
			needed(at+"address", "to the server's component port, as in 127.0.0.1:5347", always, func(*Config) string { return x.Address }),
			address(at+"address", func(*Config) string { return x.Address }),
			{at + "address", nil, func(*Config) (string, any) {
				host, _, err := net.SplitHostPort(x.Address)
				return unless(err != nil || x.AllowRemote || loopback.Host(host),
					"must be a loopback address, unless allow_remote is true: nothing on the link is encrypted", x.Address)
			}},
			needed(at+"secret_file", "to the file that holds the secret shared with the server", always, func(*Config) string { return x.SecretFile }),
			holds(at+"secret_file", always, func(*Config) string { return x.SecretFile }, func(b []byte) error {
				if strings.TrimRight(string(b), "\r\n") == "" {
					return fmt.Errorf("must hold the secret, and is empty")
				}
				return nil
			}),
			{at + "hosts", nil, func(*Config) (string, any) {
				if len(x.Hosts) == 0 {
					return "must name at least one domain", nil
				}
				for _, h := range x.Hosts {
					if !isDomainName(h) || h == x.Domain {
						return "must be domains of users, as in example.org", h
					}
					if broken, got := twice(at+"hosts", h); broken != "" {
						return broken, got
					}
				}
				return "", nil
			}},
		} {
			r.needs = append(r.needs, "xmpp.components")
			out = append(out, r)
		}
	}
	return out
}

// isDomainName: the servers send domains in lower case.
func isDomainName(s string) bool {
	return len(s) <= 255 && hostName.MatchString(s) && s == strings.ToLower(s) && !slices.Contains(strings.Split(s, "."), "")
}
