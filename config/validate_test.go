package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

// TestRules breaks each rule, alone where that can be, and keeps each on the side
// where it holds. It fails for a rule that no row breaks.
func TestRules(t *testing.T) {
	pem := inFiles(t)
	type c = *config.Config
	const (
		notAddress  = `: must be host:port with a port from 0 to 65535, or "" for none, got `
		notLoopback = `: must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt, http or tls to listen on others, got `
		notID       = `: must be the 10 letters and digits that Apple shows next to the key, got `
		notKey      = `: must be the token signing key that Apple hands out, a PEM file that ends in .p8`
		notShell    = `data_dir: must be written out, as only a shell replaces ~ and $ at its beginning; for a directory of that name write ./ before it, got `
		notPrefix   = `mqtt.topic_prefix: must be one or more topic levels without wildcards, as in heartline or acme/push, of at most 128 bytes, got `
		missing     = `: must name a file that can be read (no such file or directory), got missing`
		noAccount   = `: has type ""; must be service_account: make one in the Firebase console: Project settings, Service accounts, Generate new private key`
		noVAPID     = `: holds neither PEM nor the 32 bytes in base64url that web-push tools print; heartline webpush-key makes a key`
		noCert      = `: must hold at least one PEM certificate, got users.yaml`
	)
	insecure := func(section string) string {
		return ": must be a loopback address, or speak TLS, unless " + section + ".insecure is true: passwords and notifications cross the network for everybody to read, got "
	}
	tls := func(c c) {
		c.MQTT.TLS = config.MQTTTLS{Address: "127.0.0.1:8883", CertFile: "cert.pem", KeyFile: "key.pem", ClientCAFile: "cert.pem"}
	}
	push := func(c c) {
		a := &c.Fallback.APNs
		a.Enabled, a.KeyFile, a.KeyID, a.TeamID, a.CAFile = true, "AuthKey.p8", "ABC123DEFG", "TEAM123456", "cert.pem"
	}
	app := func(c c) *config.APNsApp {
		push(c)
		c.Fallback.APNs.Apps = append(c.Fallback.APNs.Apps, config.APNsApp{Topic: "com.example.app", KeyFile: "AuthKey.p8", KeyID: "ABC123DEFG", TeamID: "TEAM123456"})
		return &c.Fallback.APNs.Apps[len(c.Fallback.APNs.Apps)-1]
	}
	fcm := func(c c) { c.Fallback.FCM.Enabled, c.Fallback.FCM.ServiceAccountFile = true, "account.json" }
	project := func(c c) *config.FCMApp {
		fcm(c)
		c.Fallback.FCM.Apps = []config.FCMApp{{ServiceAccountFile: "account.json"}}
		return &c.Fallback.FCM.Apps[0]
	}
	browsers := func(c c) {
		w := &c.Fallback.WebPush
		w.Enabled, w.KeyFile, w.Contact = true, "key.pem", "mailto:ops@example.com"
	}
	website := func(c c) *config.WebPushApp {
		browsers(c)
		c.Fallback.WebPush.Apps = []config.WebPushApp{{KeyFile: "key.pem"}}
		return &c.Fallback.WebPush.Apps[0]
	}
	acl := func(c c, filter, access string) {
		c.Auth.ACL = append(c.Auth.ACL, config.ACLEntry{Filter: filter, Access: access})
	}
	jwt := func(c c) { c.Auth.Mode, c.Auth.JWT.SecretFile = "jwt", "password" }
	file := func(c c) { c.Auth.Mode, c.Auth.File.Path = "file", "users.yaml" }

	broken := map[string]bool{}
	for _, tt := range []struct {
		set  func(c c)
		want string // "" where nothing is broken
	}{
		{func(c c) {}, ""},
		{func(c c) { c.DataDir = "~/heartline" }, notShell + "~/heartline"},
		{func(c c) { c.DataDir = "$HOME/heartline" }, notShell + "$HOME/heartline"},
		{func(c c) { c.DataDir = "" }, `data_dir: must name a directory (only store.engine memory does without), got ""`},
		{func(c c) { c.DataDir, c.Store.Engine = "", "memory" }, ""},

		{func(c c) { c.MQTT.Address = "" }, ""},
		{func(c c) {
			c.MQTT.AllowedOrigins = []string{"*", "https://app.example.org/", "http://[::1]:3000", "localhost:*"}
		}, ""},
		{func(c c) { c.MQTT.AllowedOrigins = []string{"*", "bogus origin"} }, "mqtt.allowed_origins: must be an origin as a browser sends it, as in https://app.example.org, or a host, with * for a part of it, without a path; \"*\" for any, got \"bogus origin\""},
		{func(c c) { c.MQTT.Address = "localhost:0" }, ""},
		{func(c c) { c.MQTT.Address = "[::1]:1883" }, ""},
		{func(c c) { c.MQTT.Address = "127.1.2.3:1883" }, ""},
		{func(c c) { c.MQTT.Address = "1883" }, "mqtt.address" + notAddress + "1883"},
		{func(c c) { c.MQTT.Address = "127.0.0.1:65536" }, "mqtt.address" + notAddress + "127.0.0.1:65536"},
		{func(c c) { c.MQTT.Address = "127.0.0.1:mqtt" }, "mqtt.address" + notAddress + "127.0.0.1:mqtt"},
		{func(c c) { c.MQTT.Address = "::1:1883" }, "mqtt.address" + notAddress + "::1:1883"},
		{func(c c) { file(c); c.MQTT.Insecure, c.MQTT.Address = true, "a host:1883" }, "mqtt.address" + notAddress + `"a host:1883"`},
		{func(c c) { tls(c); c.MQTT.TLS.Address = "127.0.0.1" }, "mqtt.tls.address" + notAddress + "127.0.0.1"},
		{func(c c) { c.HTTP.Address = "http://127.0.0.1:80" }, "http.address" + notAddress + "http://127.0.0.1:80"},
		{func(c c) { tls(c); c.MQTT.TLS.Address = "127.0.0.1:1883" }, "mqtt.tls.address: must not be the same as mqtt.address, got 127.0.0.1:1883"},
		{func(c c) { c.HTTP.Address = "127.0.0.1:1883" }, "http.address: must not be the same as mqtt.address, got 127.0.0.1:1883"},
		{func(c c) { tls(c); c.HTTP.Address = "127.0.0.1:8883" }, "http.address: must not be the same as mqtt.tls.address, got 127.0.0.1:8883"},
		{func(c c) { c.MQTT.Address, c.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0" }, ""},

		{tls, ""},
		{func(c c) { tls(c); c.MQTT.TLS.CertFile = "" }, "mqtt.tls.cert_file: must be set where mqtt.tls.address is set"},
		{func(c c) { tls(c); c.MQTT.TLS.KeyFile = "" }, "mqtt.tls.key_file: must be set where mqtt.tls.address is set"},
		{func(c c) { c.MQTT.TLS.CertFile = "cert.pem" }, "mqtt.tls.address: must be set where mqtt.tls.cert_file, key_file or client_ca_file is"},
		{func(c c) { tls(c); c.MQTT.TLS.CertFile = "missing" }, "mqtt.tls.cert_file" + missing},
		{func(c c) { tls(c); c.MQTT.TLS.KeyFile = "missing" }, "mqtt.tls.key_file" + missing},
		{func(c c) { tls(c); c.MQTT.TLS.KeyFile = "folder" }, "mqtt.tls.key_file: must name a file that can be read (it is a directory), got folder"},
		{func(c c) { tls(c); c.MQTT.TLS.CertFile = "users.yaml" }, "mqtt.tls.cert_file: must hold a PEM certificate that goes with mqtt.tls.key_file (failed to find any PEM data in certificate input), got users.yaml"},
		{func(c c) { tls(c); c.MQTT.TLS.ClientCAFile = "users.yaml" }, "mqtt.tls.client_ca_file" + noCert},

		{func(c c) { c.MQTT.TopicPrefix = "acme/push/v1" }, ""},
		{func(c c) { c.MQTT.TopicPrefix = "" }, notPrefix + `""`},
		{func(c c) { c.MQTT.TopicPrefix = "a/+" }, notPrefix + "a/+"},
		{func(c c) { c.MQTT.TopicPrefix = "a#" }, notPrefix + "a#"},
		{func(c c) { c.MQTT.TopicPrefix = "/a" }, notPrefix + "/a"},
		{func(c c) { c.MQTT.TopicPrefix = "a//b" }, notPrefix + "a//b"},
		{func(c c) { c.MQTT.TopicPrefix = "a/" }, notPrefix + "a/"},
		{func(c c) { c.MQTT.TopicPrefix = "$SYS/a" }, notPrefix + "$SYS/a"},
		{func(c c) { c.MQTT.TopicPrefix = "a\x00b" }, notPrefix + `"a\x00b"`},
		{func(c c) { c.MQTT.TopicPrefix = strings.Repeat("a", 129) }, notPrefix + strings.Repeat("a", 120) + "…"},
		{func(c c) { c.MQTT.MaxKeepalive = 12 * time.Hour }, ""},
		{func(c c) { c.MQTT.MaxKeepalive = 13 * time.Hour }, "mqtt.max_keepalive: must be from 1s to 12h, got 13h"},
		{func(c c) { c.MQTT.MaxKeepalive = 0 }, "mqtt.max_keepalive: must be from 1s to 12h, got 0s"},
		{func(c c) { c.MQTT.MaxKeepalive = 1500 * time.Millisecond }, "mqtt.max_keepalive: must be whole seconds, which is what MQTT counts in, got 1.5s"},
		{func(c c) { c.MQTT.MaxPacketSize = 1023 }, "mqtt.max_packet_size: must be from 1KiB to 256MiB, got 1023B"},
		{func(c c) { c.MQTT.MaxConnections = 0 }, "mqtt.max_connections: must be from 1 to 10000000, got 0"},
		{func(c c) { c.MQTT.MaxConnectionsPerAddress = -1 }, "mqtt.max_connections_per_address: must be from 0 to 10000000, got -1"},
		{func(c c) { c.MQTT.ConnectTimeout = 0 }, "mqtt.connect_timeout: must be from 10ms to 5m, got 0s"},
		{func(c c) { c.MQTT.Limits.TopicLevels = -1 }, "mqtt.limits.topic_levels: must be from 0 to 65535, got -1"},
		{func(c c) { c.MQTT.Limits.Subscriptions = -1 }, "mqtt.limits.subscriptions: must be from 0 to 10000000, got -1"},
		{func(c c) { c.MQTT.Limits.PublishRate = -1 }, "mqtt.limits.publish_rate: must be from 0 to 10000000, got -1"},
		{func(c c) { c.MQTT.Limits.RetainedBytes = -1 }, "mqtt.limits.retained_bytes: must be from 0B to 1024TiB, got -1B"},
		{func(c c) { c.MQTT.Limits.Sessions = -1 }, "mqtt.limits.sessions: must be from 0 to 10000000, got -1"},
		{func(c c) { c.MQTT.Limits.SessionBytes = 0 }, "mqtt.limits.session_bytes: must be from 64KiB to 1TiB, got 0B"},
		{func(c c) { c.MQTT.WriteTimeout = time.Hour }, "mqtt.write_timeout: must be from 10ms to 5m, got 1h"},

		{func(c c) { c.HTTP.TLS = config.HTTPTLS{CertFile: "cert.pem", KeyFile: "key.pem"} }, ""},
		{func(c c) { c.HTTP.TLS.CertFile = "cert.pem" }, "http.tls.key_file: must be set where http.tls.cert_file is set"},
		{func(c c) { c.HTTP.TLS.KeyFile = "key.pem" }, "http.tls.cert_file: must be set where http.tls.key_file is set"},
		{func(c c) { c.HTTP.TLS = config.HTTPTLS{CertFile: "missing", KeyFile: "key.pem"} }, "http.tls.cert_file" + missing},
		{func(c c) { c.HTTP.TLS = config.HTTPTLS{CertFile: "cert.pem", KeyFile: "missing"} }, "http.tls.key_file" + missing},
		{func(c c) { c.HTTP.TLS = config.HTTPTLS{CertFile: "cert.pem", KeyFile: "users.yaml"} }, "http.tls.cert_file: must hold a PEM certificate that goes with http.tls.key_file (failed to find any PEM data in key input), got cert.pem"},

		{func(c c) { c.Auth.Mode = "ldap" }, "auth.mode: must be none, file, jwt, http or tls, got ldap"},
		{func(c c) { c.MQTT.Address = "0.0.0.0:1883" }, "mqtt.address" + notLoopback + "0.0.0.0:1883"},
		{func(c c) { c.MQTT.Address = ":1883" }, "mqtt.address" + notLoopback + ":1883"},
		{func(c c) { c.MQTT.Address = "[::ffff:10.0.0.1]:1883" }, "mqtt.address" + notLoopback + "[::ffff:10.0.0.1]:1883"},
		{func(c c) { c.MQTT.Address = "localhost.example.com:1883" }, "mqtt.address" + notLoopback + "localhost.example.com:1883"},
		{func(c c) { tls(c); c.MQTT.TLS.Address = "[::]:8883" }, "mqtt.tls.address" + notLoopback + "[::]:8883"},
		{func(c c) { c.HTTP.Address = "192.168.0.1:80" }, "http.address" + notLoopback + "192.168.0.1:80"},
		{func(c c) { file(c); c.MQTT.Address, c.MQTT.Insecure = ":1883", true }, ""},
		{func(c c) { file(c); c.HTTP.Address, c.HTTP.Insecure = "0.0.0.0:80", true }, ""},
		{func(c c) { file(c); c.MQTT.Address = ":1883" }, "mqtt.address" + insecure("mqtt") + ":1883"},
		{func(c c) { file(c); c.HTTP.Address = "0.0.0.0:80" }, "http.address" + insecure("http") + "0.0.0.0:80"},
		{func(c c) { file(c); c.HTTP.Internal.Address = "10.0.0.1:9090" }, "http.internal.address: must be a loopback address, unless http.internal.insecure is true: passwords and notifications cross the network for everybody to read, got 10.0.0.1:9090"},
		{func(c c) { file(c); c.HTTP.Internal.Address, c.HTTP.Insecure = ":9090", true }, "http.internal.address: must be a loopback address, unless http.internal.insecure is true: passwords and notifications cross the network for everybody to read, got :9090"},
		{func(c c) { file(c); c.HTTP.Internal.Address, c.HTTP.Internal.Insecure = "10.0.0.1:9090", true }, ""},
		{func(c c) { file(c); c.HTTP.Internal.Address = "127.0.0.1:9090" }, ""},
		{func(c c) {
			file(c)
			c.HTTP.Address = "0.0.0.0:80"
			c.HTTP.TLS = config.HTTPTLS{CertFile: "cert.pem", KeyFile: "key.pem"}
		}, ""},
		{func(c c) { c.HTTP.Internal.Address = "x" }, "http.internal.address" + notAddress + "x"},
		{func(c c) { c.HTTP.Internal.Address = "127.0.0.1:8080" }, "http.internal.address: must not be the same as http.address, got 127.0.0.1:8080"},
		{func(c c) { c.HTTP.Internal.Address = "127.0.0.1:1883" }, "http.internal.address: must not be the same as mqtt.address, got 127.0.0.1:1883"},
		{func(c c) { tls(c); c.HTTP.Internal.Address = "127.0.0.1:8883" }, "http.internal.address: must not be the same as mqtt.tls.address, got 127.0.0.1:8883"},
		{func(c c) { c.HTTP.Internal.Address = "10.0.0.1:80" }, "http.internal.address" + notLoopback + "10.0.0.1:80"},
		{func(c c) { tls(c); c.MQTT.TLS.CRLFile = "missing" }, "mqtt.tls.crl_file" + missing},
		{func(c c) { tls(c); c.MQTT.TLS.CRLFile, c.MQTT.TLS.ClientCAFile = "cert.pem", "" }, "mqtt.tls.client_ca_file: must be set where mqtt.tls.crl_file is"},
		{func(c c) { c.MQTT.Limits.Devices = -1 }, "mqtt.limits.devices: must be from 0 to 1000000, got -1"},
		{func(c c) { c.Auth.Mode = "tls" }, "auth.mode: must not be tls without mqtt.tls.address and mqtt.tls.client_ca_file, got tls"},
		{func(c c) { tls(c); c.Auth.Mode = "tls" }, ""},
		{func(c c) { c.Auth.TLS.Account = "ou" }, "auth.tls.account: must be cn, email, dns or uri, got ou"},
		{func(c c) { c.Auth.TLS.Device = "ou" }, "auth.tls.device: must be cn, email, dns or uri, got ou"},
		{func(c c) { c.MQTT.ProxyProtocol = true }, "trusted_proxies: must name the proxies where proxy_protocol is on: anybody could claim any address"},
		{func(c c) { c.HTTP.ProxyProtocol, c.TrustedProxies = true, []string{"10.0.0.0/8", "::1"} }, ""},
		{func(c c) { c.TrustedProxies = []string{"10.0.0.1", "proxy"} }, "trusted_proxies: must be addresses or prefixes, as in 192.0.2.7 and 10.0.0.0/8, got proxy"},
		{func(c c) { c.Auth.DevicePattern = "{account}-*" }, ""},
		{func(c c) { c.Auth.DevicePattern = "{user}-*" }, "auth.device_pattern: must be a client identifier in which {account} stands for the account and * for any text, as in {account}-*, got {user}-*"},
		{func(c c) { c.Auth.File.VerifierTTL = time.Second }, "auth.file.verifier_ttl: must be from 1m to 8760h, got 1s"},
		{func(c c) { c.Auth.File.VerifierKey, c.Auth.File.VerifierKeyFile = "x", "y" }, "auth.file.verifier_key_file: must not be set together with HEARTLINE_AUTH_FILE_VERIFIER_KEY, got y"},
		{func(c c) { file(c); c.Auth.File.VerifierKeyFile = c.DataDir + "/key" }, "auth.file.verifier_key_file: must not be in data_dir: who takes a backup of one must not have the other, got ./heartline-data/key"},
		{func(c c) { file(c); c.Auth.File.VerifierKeyFile = "../key" }, ""},
		{func(c c) { c.Auth.JWT.JWKSURL = "ftp://x" }, "auth.jwt.jwks_url: must be a URL that begins with http:// or https://, got ftp://x"},
		{func(c c) { c.Auth.Mode, c.Auth.JWT.JWKSURL = "jwt", "http://keys.example" }, "auth.jwt.jwks_url: must be an https:// URL, or lead to this machine: who can change the answer can sign tokens, got http://keys.example"},
		{func(c c) { c.Auth.Mode, c.Auth.JWT.JWKSURL = "jwt", "https://keys.example" }, ""},
		{func(c c) { c.Auth.Mode, c.Auth.HTTP.URL = "http", "http://auth.example/?key=x" }, "auth.http.url: must be an https:// URL, or lead to this machine, unless auth.http.insecure is true: passwords cross the network for everybody to read, got http://auth.example/?[secret]"},
		{func(c c) { c.Auth.Mode, c.Auth.HTTP.URL, c.Auth.HTTP.Insecure = "http", "http://auth.example/", true }, ""},
		{func(c c) { c.Auth.HTTP.Cache = -1 }, "auth.http.cache: must be from 0s to 1h, got -1ns"},
		{func(c c) { acl(c, "a/x{account}", "read") }, "auth.acl[0].filter: must have {account} and {device} as levels of their own, got a/x{account}"},
		{func(c c) { acl(c, "users/{account}/{device}/#", "read") }, ""},
		{func(c c) { c.Auth.Mode = "file" }, "auth.file.path: must be set where auth.mode is file"},
		{func(c c) { c.Auth.Mode, c.Auth.File.Path = "file", "missing" }, "auth.file.path" + missing},
		{func(c c) { c.Auth.File.Path = "missing" }, ""}, // not in use
		{jwt, ""},
		{func(c c) { c.Auth.Mode, c.Auth.JWT.Secret = "jwt", "x" }, ""},
		{func(c c) { jwt(c); c.Auth.JWT.SecretFile = "" }, "auth.jwt: must have exactly one of jwks_url, jwks_file, public_key_file and secret_file (or HEARTLINE_AUTH_JWT_SECRET) where auth.mode is jwt, has 0"},
		{func(c c) { jwt(c); c.Auth.JWT.Secret = "x" }, "auth.jwt: must have exactly one of jwks_url, jwks_file, public_key_file and secret_file (or HEARTLINE_AUTH_JWT_SECRET) where auth.mode is jwt, has 2"},
		{func(c c) { jwt(c); c.Auth.JWT.SecretFile = "missing" }, "auth.jwt.secret_file" + missing},
		{func(c c) { c.Auth.Mode, c.Auth.JWT.JWKSFile = "jwt", "missing" }, "auth.jwt.jwks_file" + missing},
		{func(c c) { c.Auth.Mode, c.Auth.JWT.PublicKeyFile = "jwt", "missing" }, "auth.jwt.public_key_file" + missing},
		{func(c c) { c.Auth.Mode = "http" }, "auth.http.url: must be set where auth.mode is http"},
		{func(c c) { c.Auth.Mode, c.Auth.HTTP.URL = "http", "http://127.0.0.1:9000/auth?a=b" }, ""},
		{func(c c) { c.Auth.HTTP.URL = "auth.example.com" }, "auth.http.url: must be a URL that begins with http:// or https://, got auth.example.com"},
		{func(c c) { c.Auth.HTTP.URL = "https://" }, "auth.http.url: must be a URL that begins with http:// or https://, got https://"},
		{func(c c) { c.Auth.HTTP.URL = "https://a:b@auth.example.com" }, "auth.http.url: must not hold a user or a password, got https://[secret]@auth.example.com"},
		{func(c c) { c.Auth.HTTP.Timeout = 0 }, "auth.http.timeout: must be from 1ms to 1m, got 0s"},

		{func(c c) {
			for _, f := range []string{"a", "a/+/b", "+/#", "%u/%c/#", "$SYS/#", "heartlines/x", "a//b", "100%"} {
				acl(c, f, "deny")
			}
			acl(c, "a", "read")
			acl(c, "a", "write")
			acl(c, "a", "readwrite")
		}, ""},
		{func(c c) { acl(c, "a", "deny"); acl(c, "a", "rw") }, "auth.acl[1].access: must be deny, read, write or readwrite, got rw"},
		{func(c c) { acl(c, "", "deny") }, `auth.acl[0].filter: must be a topic filter of 1 to 65535 bytes, got ""`},
		{func(c c) { acl(c, "a/#/b", "deny") }, "auth.acl[0].filter: must be a topic filter: + and # are levels of their own, and # is the last, got a/#/b"},
		{func(c c) { acl(c, "a/b+", "deny") }, "auth.acl[0].filter: must be a topic filter: + and # are levels of their own, and # is the last, got a/b+"},
		{func(c c) { acl(c, "$share/g/a", "deny") }, "auth.acl[0].filter: must be without $share: an entry holds for shared subscriptions as for others, got $share/g/a"},
		{func(c c) { acl(c, "user-%u/a", "deny") }, "auth.acl[0].filter: must have %u and %c as levels of their own, got user-%u/a"},
		{func(c c) { acl(c, "heartline/devices/#", "deny") }, "auth.acl[0].filter: must not be below mqtt.topic_prefix (heartline), where devices and services have their own topics, got heartline/devices/#"},
		{func(c c) { acl(c, "heartline", "deny") }, "auth.acl[0].filter: must not be below mqtt.topic_prefix (heartline), where devices and services have their own topics, got heartline"},

		{func(c c) { c.Delivery.Ack = "read" }, "delivery.ack: must be received or displayed, got read"},
		{func(c c) { c.Delivery.AckWindow = -time.Second }, "delivery.ack_window: must be from 1ms to 1h, got -1s"},
		{func(c c) { c.Delivery.FallbackWindow = time.Second }, ""}, // shorter than ack_window
		{func(c c) { c.Delivery.FallbackWindow = 0 }, "delivery.fallback_window: must be from 1ms to 1h, got 0s"},
		{func(c c) { c.Delivery.TTL = time.Second }, "delivery.ttl: must be longer than delivery.ack_window (3s), got 1s"},
		{func(c c) { c.Delivery.TTL = 720 * time.Hour }, ""},
		{func(c c) { c.Delivery.TTL = 720*time.Hour + 1 }, "delivery.ttl: must be at most 720h, got 720h0m0.000000001s"},
		{func(c c) { c.Delivery.MaxOutstandingPerDevice = 2_000_000 }, "delivery.max_outstanding_per_device: must be from 1 to 1000000, got 2000000"},
		{func(c c) { c.Delivery.MaxInflightPerDevice = 0 }, "delivery.max_inflight_per_device: must be from 1 to 32768, got 0"},
		{func(c c) { c.Delivery.MaxInflightPerDevice = 1001 }, "delivery.max_inflight_per_device: must be at most delivery.max_outstanding_per_device (1000), got 1001"},
		{func(c c) { c.Delivery.UnknownAccounts = "hold" }, ""},
		{func(c c) { c.Delivery.UnknownAccounts = "keep" }, "delivery.unknown_accounts: must be refuse or hold, got keep"},
		{func(c c) { c.Delivery.ForgetDeviceAfter = 24 * time.Hour }, "delivery.forget_device_after: must be longer than delivery.ttl (24h), got 24h"},

		{push, ""},
		{func(c c) { c.Fallback.APNs.KeyFile = "missing" }, ""}, // not in use
		{func(c c) { push(c); c.Fallback.APNs.KeyFile = "" }, "fallback.apns: must have exactly one of key_file (or HEARTLINE_FALLBACK_APNS_KEY) and certificate_file where it is enabled, or entries in apps, has 0"},
		{func(c c) { push(c); c.Fallback.APNs.CertificateFile = "app.p12" }, "fallback.apns: must have exactly one of key_file (or HEARTLINE_FALLBACK_APNS_KEY) and certificate_file where it is enabled, or entries in apps, has 2"},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile, c.Fallback.APNs.CertificateFile = "", "app.p12" }, ""},
		{func(c c) { app(c); c.Fallback.APNs.KeyFile = "" }, ""},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile, c.Fallback.APNs.Key = "", config.Secret(pem) }, ""},
		{func(c c) { push(c); c.Fallback.APNs.Key = config.Secret(pem) }, "fallback.apns.key_file: must not be set together with HEARTLINE_FALLBACK_APNS_KEY, got AuthKey.p8"},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile, c.Fallback.APNs.Key = "", "x" }, "fallback.apns.key" + notKey},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile = "missing" }, "fallback.apns.key_file" + missing},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile = "users.yaml" }, "fallback.apns.key_file" + notKey + ", got users.yaml"},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile = "cert.pem" }, "fallback.apns.key_file" + notKey + ", got cert.pem"},
		{func(c c) { push(c); c.Fallback.APNs.KeyID = "" }, "fallback.apns.key_id" + notID + `""`},
		{func(c c) { push(c); c.Fallback.APNs.TeamID = "TEAM 12345" }, "fallback.apns.team_id" + notID + `"TEAM 12345"`},
		{func(c c) { push(c); c.Fallback.APNs.KeyFile, c.Fallback.APNs.CertificateFile = "", "missing" }, "fallback.apns.certificate_file" + missing},
		{func(c c) { push(c); c.Fallback.APNs.CertificatePasswordFile = "missing" }, "fallback.apns.certificate_password_file" + missing},
		{func(c c) {
			push(c)
			c.Fallback.APNs.CertificatePasswordFile, c.Fallback.APNs.CertificatePassword = "password", "x"
		}, "fallback.apns.certificate_password_file: must not be set together with HEARTLINE_FALLBACK_APNS_CERTIFICATE_PASSWORD, got password"},
		{func(c c) { c.Fallback.APNs.Topic = "my app" }, `fallback.apns.topic: must be a bundle ID, as in com.example.app, got "my app"`},
		{func(c c) { c.Fallback.APNs.Environment = "development" }, "fallback.apns.environment: must be production or sandbox, got development"},
		{func(c c) { c.Fallback.APNs.Endpoint = "https://127.0.0.1:2197/" }, ""},
		{func(c c) { c.Fallback.APNs.Endpoint = "http://127.0.0.1:2197" }, "fallback.apns.endpoint: must be a URL that begins with https://, got http://127.0.0.1:2197"},
		{func(c c) { c.Fallback.APNs.Endpoint = "https://127.0.0.1/3/device" }, "fallback.apns.endpoint: must be a host and a port alone, as in https://127.0.0.1:2197, got https://127.0.0.1/3/device"},
		{func(c c) { push(c); c.Fallback.APNs.CAFile = "users.yaml" }, "fallback.apns.ca_file" + noCert},
		{func(c c) { push(c); c.Fallback.APNs.CAFile = "missing" }, "fallback.apns.ca_file" + missing},
		{func(c c) { c.Fallback.APNs.Timeout = 0 }, "fallback.apns.timeout: must be from 1ms to 5m, got 0s"},
		{func(c c) { c.Fallback.APNs.MaxConcurrent = 0 }, "fallback.apns.max_concurrent: must be from 1 to 100000, got 0"},
		{func(c c) { c.Fallback.APNs.Retry.Initial = 0 }, "fallback.apns.retry.initial: must be from 1ms to 1h, got 0s"},
		{func(c c) { c.Fallback.APNs.Retry.Max = time.Millisecond }, "fallback.apns.retry.max: must not be shorter than fallback.apns.retry.initial (1s), got 1ms"},

		{func(c c) { app(c) }, ""},
		{func(c c) { app(c); app(c).Environment = "sandbox" }, ""},
		{func(c c) { app(c).Topic = "" }, `fallback.apns.apps[0].topic: must be a bundle ID, as in com.example.app, got ""`},
		{func(c c) { app(c); app(c).Environment = "production" }, "fallback.apns.apps[1].topic: must not have two entries for one environment: apps[0] is of production too, got com.example.app"},
		{func(c c) { app(c).Environment = "test" }, `fallback.apns.apps[0].environment: must be production or sandbox, got test`},
		{func(c c) { app(c).KeyFile = "" }, "fallback.apns.apps[0].key_file: must be set, or else certificate_file, exactly one of the two, has 0"},
		{func(c c) { app(c).CertificateFile = "app.p12" }, "fallback.apns.apps[0].key_file: must be set, or else certificate_file, exactly one of the two, has 2"},
		{func(c c) { app(c).KeyFile = "missing" }, "fallback.apns.apps[0].key_file" + missing},
		{func(c c) { app(c).KeyID = "short" }, "fallback.apns.apps[0].key_id" + notID + "short"},
		{func(c c) { app(c).TeamID = "" }, "fallback.apns.apps[0].team_id" + notID + `""`},
		{func(c c) { a := app(c); a.KeyFile, a.CertificateFile = "", "missing" }, "fallback.apns.apps[0].certificate_file" + missing},
		{func(c c) { app(c).CertificatePasswordFile = "missing" }, "fallback.apns.apps[0].certificate_password_file" + missing},

		{func(c c) { fcm(c) }, ""},
		{func(c c) { fcm(c); c.Fallback.FCM.ServiceAccountFile = "" }, "fallback.fcm: must have service_account_file (or HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT) where it is enabled, or entries in apps"},
		{func(c c) { fcm(c); c.Fallback.FCM.ServiceAccount = "{}" }, "fallback.fcm.service_account_file: must not be set together with HEARTLINE_FALLBACK_FCM_SERVICE_ACCOUNT, got account.json\nfallback.fcm.service_account" + noAccount},
		{func(c c) { fcm(c); c.Fallback.FCM.ServiceAccountFile = "missing" }, "fallback.fcm.service_account_file" + missing},
		{func(c c) { fcm(c); c.Fallback.FCM.ServiceAccountFile = "jwks.json" }, "fallback.fcm.service_account_file" + noAccount + ", got jwks.json"},
		{func(c c) { c.Fallback.FCM.ServiceAccountFile = "missing" }, ""}, // not in use
		{func(c c) { c.Fallback.FCM.Style = "both" }, "fallback.fcm.style: must be notification or data, got both"},
		{func(c c) { c.Fallback.FCM.Endpoint = "http://127.0.0.1" }, "fallback.fcm.endpoint: must be a URL that begins with https://, got http://127.0.0.1"},
		{func(c c) { c.Fallback.FCM.Endpoint = "https://127.0.0.1/v1" }, "fallback.fcm.endpoint: must be a host and a port alone, as in https://127.0.0.1:2197, got https://127.0.0.1/v1"},
		{func(c c) { fcm(c); c.Fallback.FCM.CAFile = "users.yaml" }, "fallback.fcm.ca_file" + noCert},
		{func(c c) { c.Fallback.FCM.Timeout = 0 }, "fallback.fcm.timeout: must be from 1ms to 5m, got 0s"},
		{func(c c) { c.Fallback.FCM.MaxConcurrent = 0 }, "fallback.fcm.max_concurrent: must be from 1 to 100000, got 0"},
		{func(c c) { c.Fallback.FCM.Retry.Initial = 0 }, "fallback.fcm.retry.initial: must be from 1ms to 1h, got 0s"},
		{func(c c) { c.Fallback.FCM.Retry.Max = time.Second }, "fallback.fcm.retry.max: must not be shorter than fallback.fcm.retry.initial (10s), got 1s"},
		{func(c c) { project(c) }, ""},
		{func(c c) { project(c).ServiceAccountFile = "" }, "fallback.fcm.apps[0].service_account_file: must be set for a further project"},
		{func(c c) { project(c).ServiceAccountFile = "missing" }, "fallback.fcm.apps[0].service_account_file" + missing},
		{func(c c) { project(c).Style = "both" }, "fallback.fcm.apps[0].style: must be notification or data, got both"},

		{func(c c) { browsers(c) }, ""},
		{func(c c) { browsers(c); c.Fallback.WebPush.KeyFile, c.Fallback.WebPush.Contact = "", "" }, "fallback.webpush: must have key_file (or HEARTLINE_FALLBACK_WEBPUSH_KEY) where it is enabled, or entries in apps; heartline webpush-key makes a key"},
		{func(c c) { browsers(c); c.Fallback.WebPush.Key = "secret" }, "fallback.webpush.key_file: must not be set together with HEARTLINE_FALLBACK_WEBPUSH_KEY, got key.pem\nfallback.webpush.key" + noVAPID},
		{func(c c) { browsers(c); c.Fallback.WebPush.KeyFile = "missing" }, "fallback.webpush.key_file" + missing},
		{func(c c) { browsers(c); c.Fallback.WebPush.KeyFile = "password" }, "fallback.webpush.key_file" + noVAPID + ", got password"},
		{func(c c) { browsers(c); c.Fallback.WebPush.Contact = "" }, "fallback.webpush.contact: must be set where fallback.webpush has a key"},
		{func(c c) { c.Fallback.WebPush.Contact = "mailto:ops@localhost" }, `fallback.webpush.contact: must name a public domain, Apple refuses "localhost", got mailto:ops@localhost`},
		{func(c c) { c.Fallback.WebPush.Allow = []string{"https://x.example", "*.example"} }, "fallback.webpush.allow[0]: must be a host name such as *.push.example.com, without scheme, port and path, got https://x.example"},
		{func(c c) { c.Fallback.WebPush.AllowPrivate = []string{"10.0.0.1"} }, "fallback.webpush.allow_private[0]: must be an address range, as in 10.0.0.0/8, got 10.0.0.1"},
		{func(c c) { browsers(c); c.Fallback.WebPush.CAFile = "users.yaml" }, "fallback.webpush.ca_file" + noCert},
		{func(c c) { c.Fallback.WebPush.Timeout = 0 }, "fallback.webpush.timeout: must be from 1ms to 5m, got 0s"},
		{func(c c) { c.Fallback.WebPush.MaxConcurrent = 0 }, "fallback.webpush.max_concurrent: must be from 1 to 100000, got 0"},
		{func(c c) { c.Fallback.WebPush.Retry.Initial = 0 }, "fallback.webpush.retry.initial: must be from 1ms to 1h, got 0s"},
		{func(c c) { c.Fallback.WebPush.Retry.Max = time.Millisecond }, "fallback.webpush.retry.max: must not be shorter than fallback.webpush.retry.initial (1s), got 1ms"},
		{func(c c) { website(c) }, ""},
		{func(c c) { website(c).KeyFile = "" }, "fallback.webpush.apps[0].key_file: must be set for a further key"},
		{func(c c) { website(c).KeyFile = "missing" }, "fallback.webpush.apps[0].key_file" + missing},
		{func(c c) { website(c); c.Fallback.WebPush.KeyFile, c.Fallback.WebPush.Contact = "", "" }, "fallback.webpush.apps[0].contact: must be set, or fallback.webpush.contact"},
		{func(c c) { website(c).Contact = "ops@example.com" }, "fallback.webpush.apps[0].contact: must begin with mailto: or https:, such as mailto:ops@example.com, got ops@example.com"},

		{func(c c) { hook(c) }, ""},
		{func(c c) { hook(c).Name = "b"; hook(c) }, ""},
		{func(c c) { c.Receipts.Retain = 0 }, "receipts.retain: must be from 1m to 8760h, got 0s"},
		{func(c c) { hook(c).URL = "" }, "receipts.webhooks[0].url: must be set to the address that takes the events, as in https://backend.example.org/heartline"},
		{func(c c) { hook(c).URL = "backend" }, "receipts.webhooks[0].url: must be a URL that begins with https:// or http://, got backend"},
		{func(c c) { hook(c).URL = "http://backend.example/x?key=k" }, "receipts.webhooks[0].url: must be https, unless insecure is true: everybody on the way can read the events, got http://backend.example/x?[secret]"},
		{func(c c) { h := hook(c); h.URL, h.Insecure = "http://backend.example", true }, ""},
		{func(c c) { hook(c).URL = "http://localhost:8081/hook" }, ""},
		{func(c c) { hook(c).Name = "a b" }, "receipts.webhooks[0].name: must be at most 128 bytes without spaces and control characters; set one if the URL's host and path are longer, got \"a b\""},
		{func(c c) { hook(c); hook(c) }, "receipts.webhooks[1].name: must not be the same as of receipts.webhooks[0]: give each webhook a name of its own, got backend.example/hook"},
		{func(c c) { hook(c).SecretFile = "" }, "receipts.webhooks[0].secret_file: must be set to the file that holds the secret (heartline webhooks secret makes one)"},
		{func(c c) { hook(c).SecretFile = "missing" }, "receipts.webhooks[0].secret_file" + missing},
		{func(c c) { hook(c).SecretFile = "password" }, "receipts.webhooks[0].secret_file: line 1: must begin with whsec_ (heartline webhooks secret makes one), got password"},
		{func(c c) { hook(c).Events = []string{"acked"} }, "receipts.webhooks[0].events: must be names of events; did you mean nacked?, got acked"},
		{func(c c) { hook(c).Accounts = []string{""} }, `receipts.webhooks[0].accounts: must be accounts, or patterns with *, of 1 to 256 bytes, got ""`},
		{func(c c) { hook(c).CAFile = "users.yaml" }, "receipts.webhooks[0].ca_file" + noCert},
		{func(c c) { hook(c).Timeout = time.Hour }, "receipts.webhooks[0].timeout: must be from 1s to 1m, got 1h"},

		{func(c c) { component(c) }, ""},
		{func(c c) { component(c); c.XMPP.RegistrationKeyFile = "missing" }, "xmpp.registration_key_file" + missing},
		{func(c c) { component(c); c.XMPP.RegistrationKeyFile = "password" }, "xmpp.registration_key_file: must hold at least 16 bytes, got password"},
		{func(c c) { c.XMPP.NotifyOn = "calls" }, "xmpp.notify_on: must be messages or all, got calls"},
		{func(c c) { c.XMPP.Title = "" }, `xmpp.title: must have 1 to 256 bytes, got ""`},
		{func(c c) { c.XMPP.MinInterval = time.Minute }, "xmpp.min_interval: must be from 1ms to 20s, got 1m"},
		{func(c c) { c.XMPP.MaxStanzaSize = 1000 }, "xmpp.max_stanza_size: must be from 10KiB to 64MiB, got 1000B"},
		{func(c c) { c.XMPP.WriteTimeout = 0 }, "xmpp.write_timeout: must be from 1ms to 5m, got 0s"},
		{func(c c) { c.XMPP.PingInterval = 0 }, "xmpp.ping_interval: must be from 1s to 1h, got 0s"},
		{func(c c) { c.XMPP.Reconnect.Initial = 0 }, "xmpp.reconnect.initial: must be from 1ms to 1h, got 0s"},
		{func(c c) { c.XMPP.Reconnect.Max = time.Millisecond }, "xmpp.reconnect.max: must not be shorter than xmpp.reconnect.initial (1s), got 1ms"},
		{func(c c) { component(c).Domain = "Push.example.org" }, "xmpp.components[0].domain: must be the component's name at the server, as in push.example.org, got Push.example.org"},
		{func(c c) { component(c); component(c).Hosts = []string{"example.net"} }, "xmpp.components[1].domain: must not be the same as xmpp.components[0].domain, got push.example.org"},
		{func(c c) { component(c); component(c).Domain = "push.example.net" }, "xmpp.components[1].hosts: must not be the same as xmpp.components[0].hosts, got example.org"},
		{func(c c) { component(c).Address = "" }, "xmpp.components[0].address: must be set to the server's component port, as in 127.0.0.1:5347"},
		{func(c c) { component(c).Address = "localhost" }, `xmpp.components[0].address: must be host:port with a port from 0 to 65535, or "" for none, got localhost`},
		{func(c c) { component(c).Address = "10.0.0.1:5347" }, "xmpp.components[0].address: must be a loopback address, unless allow_remote is true: nothing on the link is encrypted, got 10.0.0.1:5347"},
		{func(c c) { x := component(c); x.Address, x.AllowRemote = "10.0.0.1:5347", true }, ""},
		{func(c c) { component(c).SecretFile = "" }, "xmpp.components[0].secret_file: must be set to the file that holds the secret shared with the server"},
		{func(c c) { component(c).SecretFile = "missing" }, "xmpp.components[0].secret_file" + missing},
		{func(c c) { component(c).Hosts = nil }, "xmpp.components[0].hosts: must name at least one domain"},
		{func(c c) { component(c).Hosts = []string{"push.example.org"} }, "xmpp.components[0].hosts: must be domains of users, as in example.org, got push.example.org"},

		{func(c c) { c.Store.Engine = "bolt" }, "store.engine: must be pebble, journal, postgres or memory, got bolt"},
		{func(c c) { c.Store.Engine = "postgres" }, "store.postgres.url_file: must be set to a file with the URL of the database (or HEARTLINE_STORE_POSTGRES_URL) where store.engine is postgres"},
		{func(c c) { postgres(c).URLFile = "missing" }, "store.postgres.url_file: must not be set together with HEARTLINE_STORE_POSTGRES_URL, got missing\nstore.postgres.url_file" + missing},
		{func(c c) { postgres(c).URL = "postgres://u:hunter2@h:port/d" }, "store.postgres.url: must hold a PostgreSQL URL, as in postgres://user:password@host:5432/database?sslmode=verify-full"},
		{func(c c) { postgres(c).Schema = "Heartline" }, "store.postgres.schema: must have 1 to 63 of a-z, 0-9 and _, and begin with no digit, got Heartline"},
		{func(c c) { postgres(c).Lanes = 2 }, "store.postgres.lanes: must be from 1 to 1, got 2"},
		{func(c c) { postgres(c); c.Cluster.Address = "127.0.0.1:7946" }, ""},
		{func(c c) { c.Cluster.Address = "127.0.0.1:7946" }, "cluster.address: must not be set without store.engine postgres: several nodes share a database, got 127.0.0.1:7946"},
		{func(c c) { postgres(c); c.Cluster.Address = "10.0.0.1:7946" }, "cluster.tls: must have cert_file, key_file and ca_file: nodes tell each other everything, and obey (only on loopback all three may be left out)"},
		{func(c c) { postgres(c); c.Cluster.Address = "127.0.0.1:7946"; c.Cluster.TLS.CAFile = "cert.pem" }, "cluster.tls: must have cert_file, key_file and ca_file: nodes tell each other everything, and obey (only on loopback all three may be left out)"},
		{func(c c) {
			postgres(c)
			c.Cluster.Address, c.Cluster.TLS = ":7946", config.ClusterTLS{CertFile: "cert.pem", KeyFile: "key.pem", CAFile: "cert.pem"}
		}, "cluster.advertise: must be set to the host:port under which other nodes reach this one, as cluster.address names none"},
		{func(c c) { postgres(c); c.Cluster.Address = "here" }, "cluster.address" + notAddress + "here\ncluster.advertise: must be set to the host:port under which other nodes reach this one, as cluster.address names none\ncluster.tls: must have cert_file, key_file and ca_file: nodes tell each other everything, and obey (only on loopback all three may be left out)"},
		{func(c c) { c.Cluster.Advertise = "here" }, "cluster.advertise" + notAddress + "here"},
		{func(c c) {
			c.Cluster.TLS = config.ClusterTLS{CertFile: "missing", KeyFile: "key.pem", CAFile: "cert.pem"}
		}, "cluster.tls.cert_file" + missing},
		{func(c c) {
			c.Cluster.TLS = config.ClusterTLS{CertFile: "cert.pem", KeyFile: "missing", CAFile: "cert.pem"}
		}, "cluster.tls.key_file" + missing},
		{func(c c) {
			c.Cluster.TLS = config.ClusterTLS{CertFile: "cert.pem", KeyFile: "key.pem", CAFile: "users.yaml"}
		}, "cluster.tls.ca_file" + noCert},
		{func(c c) {
			c.Cluster.TLS = config.ClusterTLS{CertFile: "users.yaml", KeyFile: "key.pem", CAFile: "cert.pem"}
		}, "cluster.tls.cert_file: must hold a PEM certificate that goes with cluster.tls.key_file (failed to find any PEM data in certificate input), got users.yaml"},
		{func(c c) { c.Cluster.Name = "a\n" }, "cluster.name: must have at most 128 bytes without control characters, got \"a\\n\""},
		{func(c c) { c.Cluster.Lease = time.Second }, "cluster.lease: must be from 2s to 1m, got 1s"},
		{func(c c) { c.Cluster.Drain = -1 }, "cluster.drain: must be from 0s to 10m, got -1ns"},
		{func(c c) { c.Store.History = -1 }, "store.history: must be from 0s to 8760h, got -1ns"},
		{func(c c) { c.Store.Housekeeping = 0 }, "store.housekeeping: must be from 1s to 1h, got 0s"},
		{func(c c) { c.Store.History = 59 * time.Second }, "store.history: must be at least store.housekeeping (1m), after which it is looked at, got 59s"},
		{func(c c) { c.Store.History, c.Store.Housekeeping = time.Second, time.Second }, ""},
		{func(c c) { c.Store.MinFree = 0 }, ""},
		{func(c c) { c.Store.MinFree = -1 }, "store.min_free: must be from 0B to 1024TiB, got -1B"},
		{func(c c) { c.Log.Level = "warning" }, "log.level: must be debug, info, warn or error, got warning"},
		{func(c c) { c.Log.Format = "xml" }, "log.format: must be text or json, got xml"},
	} {
		c := config.Default()
		tt.set(c)
		got := ""
		if err := c.Validate(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
		keys := config.RuleKeys(c)
		for _, i := range config.BrokenRules(c) {
			broken[ruleName(keys, i)] = true
		}
	}

	one := config.Default()
	app(one)
	project(one)
	website(one)
	component(one)
	hook(one)
	one.Fallback.WebPush.Allow, one.Fallback.WebPush.AllowPrivate = []string{"*.example"}, []string{"10.0.0.0/8"}
	acl(one, "a", "deny")
	keys := config.RuleKeys(one)
	for i := range keys {
		if name := ruleName(keys, i); !broken[name] {
			t.Errorf("no row breaks the rule %s", name)
		}
	}
}

// hook adds a webhook.
func hook(c *config.Config) *config.Webhook {
	c.Receipts.Webhooks = append(c.Receipts.Webhooks, config.Webhook{
		URL: "https://backend.example/hook?key=k", SecretFile: "webhook.secret", Events: []string{"received"}, Accounts: []string{"ann", "eu-*"},
	})
	return &c.Receipts.Webhooks[len(c.Receipts.Webhooks)-1]
}

// TestEventNames: a webhook can ask for each event that there is.
func TestEventNames(t *testing.T) {
	for kind := delivery.EventAccepted; kind.String() != "unknown"; kind++ {
		if !slices.Contains(config.EventNames, kind.String()) {
			t.Errorf("%s is missing", kind)
		}
	}
	if n := len(config.EventNames); delivery.EventKind(n).String() == "unknown" || delivery.EventKind(n+1).String() != "unknown" {
		t.Errorf("%d names", n)
	}
}

// component adds an XMPP server.
func component(c *config.Config) *config.XMPPComponent {
	c.XMPP.Components = append(c.XMPP.Components, config.XMPPComponent{
		Domain: "push.example.org", Address: "127.0.0.1:5347", SecretFile: "password", Hosts: []string{"example.org"},
	})
	return &c.XMPP.Components[len(c.XMPP.Components)-1]
}

// ruleName counts the rules of one key.
func ruleName(keys []string, i int) string {
	n := 0
	for _, k := range keys[:i] {
		if k == keys[i] {
			n++
		}
	}
	name := strings.NewReplacer("apps[1]", "apps[0]", "acl[1]", "acl[0]").Replace(keys[i])
	return name + " #" + string(rune('1'+n))
}

func TestValidateReportsEverything(t *testing.T) {
	c := config.Default()
	c.Delivery.AckWindow, c.Delivery.Ack, c.Log.Level, c.Store.Engine = 0, "no", "no", "no"
	err := c.Validate()
	if errs, ok := errors.AsType[config.Errors](err); !ok || len(errs) != 4 || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v", err)
	}
}

// A process without a listener is a mistake; a plugin in someone else's broker has
// none of its own.
func TestNoListener(t *testing.T) {
	off := []string{"HEARTLINE_MQTT_ADDRESS=", "HEARTLINE_HTTP_ADDRESS="}
	want := []string{`mqtt.address: must be set where mqtt.tls.address and http.address are "" too: nobody could connect, got "" (from HEARTLINE_MQTT_ADDRESS)`}
	if got := findings(t, config.Source{Environ: off}); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	c := config.Default()
	c.MQTT.Address, c.HTTP.Address = "", ""
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

// postgres has a configuration use a database, by a URL from the environment.
func postgres(c *config.Config) *config.Postgres {
	c.Store.Engine, c.Store.Postgres.URL = config.EnginePostgres, "postgres://heartline:hunter2@db.example.org/heartline"
	return &c.Store.Postgres
}
