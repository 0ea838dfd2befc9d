package config

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// mqttRules are those of mqtt, and of the three addresses together.
func mqttRules() []rule {
	type c = *Config
	mqttTLS := func(c c) bool { return c.MQTT.TLS.Address != "" }
	return []rule{
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

		readable("mqtt.tls.crl_file", mqttTLS, func(c c) string { return c.MQTT.TLS.CRLFile }),
		needed("mqtt.tls.client_ca_file", "where mqtt.tls.crl_file is", func(c c) bool { return c.MQTT.TLS.CRLFile != "" }, func(c c) string { return c.MQTT.TLS.ClientCAFile }),
		count("mqtt.limits.devices", func(c c) int { return c.MQTT.Limits.Devices }, 0, 1_000_000),
		address("http.internal.address", func(c c) string { return c.HTTP.Internal.Address }),
		distinct("http.internal.address", "http.address", func(c c) (string, string) { return c.HTTP.Internal.Address, c.HTTP.Address }),
		distinct("http.internal.address", "mqtt.address", func(c c) (string, string) { return c.HTTP.Internal.Address, c.MQTT.Address }),
		distinct("http.internal.address", "mqtt.tls.address", func(c c) (string, string) { return c.HTTP.Internal.Address, c.MQTT.TLS.Address }),

		{"mqtt.allowed_origins", nil, func(c c) (string, any) {
			for _, entry := range c.MQTT.AllowedOrigins {
				if _, ok := OriginPattern(entry); !ok {
					return notOrigin, entry
				}
			}
			return "", nil
		}},
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
		count("mqtt.limits.topic_levels", func(c c) int { return c.MQTT.Limits.TopicLevels }, 0, 65_535),
		count("mqtt.limits.subscriptions", func(c c) int { return c.MQTT.Limits.Subscriptions }, 0, 10_000_000),
		count("mqtt.limits.publish_rate", func(c c) int { return c.MQTT.Limits.PublishRate }, 0, 10_000_000),
		size("mqtt.limits.retained_bytes", func(c c) ByteSize { return c.MQTT.Limits.RetainedBytes }, 0, 1<<50),
		count("mqtt.limits.sessions", func(c c) int { return c.MQTT.Limits.Sessions }, 0, 10_000_000),
		size("mqtt.limits.session_bytes", func(c c) ByteSize { return c.MQTT.Limits.SessionBytes }, 64*KiB, 1<<40),
		span("mqtt.connect_timeout", func(c c) time.Duration { return c.MQTT.ConnectTimeout }, 10*time.Millisecond, 5*time.Minute),
		span("mqtt.write_timeout", func(c c) time.Duration { return c.MQTT.WriteTimeout }, 10*time.Millisecond, 5*time.Minute),
	}
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

// checkServes is for a process of its own, which is of no use without a listener;
// in someone else's broker the listeners are theirs.
func checkServes(c *Config, unreadable map[string]bool) []Finding {
	if anyOf(unreadable, []string{"mqtt.address", "mqtt.tls.address", "http.address"}) || c.MQTT.Address+c.MQTT.TLS.Address+c.HTTP.Address != "" {
		return nil
	}
	return []Finding{{Key: "mqtt.address", Rule: `must be set where mqtt.tls.address and http.address are "" too: nobody could connect`, HasGot: true}}
}
