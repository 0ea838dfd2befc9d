package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// inFiles changes to a new directory that holds the files which configurations in
// these tests name.
func inFiles(t testing.TB) (signingKey string) {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	put("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	put("key.pem", keyPEM)
	put("AuthKey.p8", keyPEM)
	put("users.yaml", []byte("users: []\n"))
	put("jwks.json", []byte("{}\n"))
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "shop-1", "client_email": "push@shop-1.example", "token_uri": "https://127.0.0.1/token",
		"private_key": string(rsaPEM(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	put("account.json", account)
	put("database.url", []byte("postgres://heartline:hunter2@db.example.org/heartline\n"))
	put("app.p12", []byte("not looked into\n"))
	put("password", []byte("hunter2\r\n"))
	put("webhook.secret", []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return string(keyPEM)
}

func rsaPEM(t testing.TB) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

// full sets every key that a file can hold to something else than its default.
const full = `
data_dir: /var/lib/heartline
mqtt:
  address: 0.0.0.0:1883
  tls: {address: ":8883", cert_file: cert.pem, key_file: key.pem, client_ca_file: cert.pem, crl_file: cert.pem}
  insecure: true
  proxy_protocol: true
  allowed_origins: ["https://app.example.org", "*.example.net"]
  topic_prefix: acme/push
  max_keepalive: 10m
  max_packet_size: 512KiB
  persistence: false
  max_connections: 5000
  max_connections_per_address: 50
  limits: {topic_levels: 20, subscriptions: 50, publish_rate: 100, retained_bytes: 1MiB, sessions: 10, devices: 10, session_bytes: 8MiB}
  connect_timeout: 5s
  write_timeout: 1500ms
http:
  address: "[::]:8443"
  tls: {cert_file: cert.pem, key_file: key.pem}
  web_terminal: true
  insecure: true
  proxy_protocol: true
  internal: {address: "10.0.0.1:8081", insecure: true}
trusted_proxies: [10.0.0.0/8, "::1"]
auth:
  mode: jwt
  device_pattern: "{account}-*"
  tls: {account: email, device: dns, services: [shop]}
  file: {path: users.yaml, verifier_key_file: key, verifier_ttl: 24h}
  jwt: {jwks_url: "", allow_without_expiry: true, jwks_file: jwks.json, public_key_file: "", secret_file: "", issuer: "https://id.example.com", audience: heartline}
  http: {url: "https://auth.example.com/mqtt", timeout: 1s, cache: 5s, insecure: true}
  acl: [{username: alice, filter: "private/%u/#", access: readwrite}, {username: "", filter: "private/#", access: deny}]
  obscure_refusals: true
delivery:
  ack: displayed
  ack_window: 5s
  fallback_window: 20s
  unknown_accounts: hold
  ttl: 48h
  max_outstanding_per_device: 100
  max_inflight_per_device: 8
  forget_device_after: 240h
fallback:
  apns:
    enabled: true
    key_file: AuthKey.p8
    key_id: ABC123DEFG
    team_id: "1234567890"
    certificate_file: ""
    certificate_password_file: password
    topic: com.example.app
    environment: sandbox
    apps:
      - {topic: com.example.other, environment: production, key_file: AuthKey.p8, key_id: 12345E6789, team_id: TEAM123456}
      - {topic: com.example.third, certificate_file: app.p12, certificate_password_file: password}
    endpoint: https://127.0.0.1:2197
    ca_file: cert.pem
    timeout: 7s
    max_concurrent: 100
    retry: {initial: 2s, max: 90s}
  fcm:
    enabled: true
    service_account_file: account.json
    style: data
    channel: orders
    apps:
      - {service_account_file: account.json, style: notification, channel: chat}
    endpoint: https://127.0.0.1:2198
    ca_file: cert.pem
    timeout: 8s
    max_concurrent: 90
    retry: {initial: 20s, max: 20m}
  webpush:
    enabled: true
    key_file: key.pem
    contact: mailto:ops@example.com
    allow: ["*.push.example.com", push.example.net]
    allow_private: [10.0.0.0/8]
    apps:
      - {key_file: key.pem, contact: "https://example.com/contact"}
    ca_file: cert.pem
    timeout: 9s
    max_concurrent: 80
    retry: {initial: 3s, max: 80s}
receipts:
  webhooks:
    - {name: backend, url: "https://backend.example.org/heartline", secret_file: webhook.secret, events: [received, expired], accounts: ["eu-*"], insecure: true, ca_file: cert.pem, timeout: 20s}
  retain: 240h
xmpp:
  components:
    - domain: push.example.org
      address: 127.0.0.1:5347
      secret_file: password
      hosts: [example.org, example.net]
    - {domain: p.example.com, address: "10.0.0.1:5347", secret_file: password, hosts: [example.com], allow_remote: true}
  registration_key_file: key.pem
  notify_on: all
  title: Something new
  show_body: true
  show_sender: true
  min_interval: 2s
  max_stanza_size: 1MiB
  write_timeout: 3s
  ping_interval: 20s
  reconnect: {initial: 2s, max: 40s}
store:
  engine: postgres
  history: 1h30m
  housekeeping: 7s
  min_free: 1GB
  postgres: {url_file: database.url, schema: other, lanes: 1}
cluster:
  address: 127.0.0.1:7946
  advertise: 127.0.0.1:7947
  name: one
  tls: {cert_file: cert.pem, key_file: key.pem, ca_file: cert.pem}
  lease: 9s
  drain: 40s
log: {level: debug, format: json}
`
