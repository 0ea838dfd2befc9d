package cmd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// TestMistakesInFilesAndSecrets: config check and serve find the same mistakes, in the same
// words, with the exit code of a wrong configuration.
func TestMistakesInFilesAndSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := testtool.NewAuthority(t)
	cert, key := ca.Issue(net.IPv4(127, 0, 0, 1))
	clients := []string{
		"HEARTLINE_MQTT_TLS_ADDRESS=127.0.0.1:0", "HEARTLINE_MQTT_TLS_CERT_FILE=" + cert, "HEARTLINE_MQTT_TLS_KEY_FILE=" + key,
		"HEARTLINE_MQTT_TLS_CLIENT_CA_FILE=" + ca.File,
	}
	users := []string{"HEARTLINE_AUTH_MODE=file", "HEARTLINE_AUTH_FILE_PATH=" + write("users.yaml", `tokens: [{name: backend, sha256: "`+strings.Repeat("ab", 32)+`"}]`)}
	apple := []string{"HEARTLINE_FALLBACK_APNS_ENABLED=true", "HEARTLINE_FALLBACK_APNS_TOPIC=com.example.app"}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	p384 := write("key.p8", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	for _, c := range []struct {
		name string
		env  [][]string
		want []string
	}{
		{"a short secret", [][]string{{"HEARTLINE_AUTH_MODE=jwt", "HEARTLINE_AUTH_JWT_SECRET=short"}}, []string{"auth.jwt.secret: "}},
		{"a key of verifiers that is none", [][]string{users, {"HEARTLINE_AUTH_FILE_VERIFIER_KEY=abc"}}, []string{"auth.file.verifier_key: "}},
		{"the same where clients have certificates", [][]string{clients, users, {"HEARTLINE_AUTH_MODE=tls", "HEARTLINE_AUTH_FILE_VERIFIER_KEY=abc"}}, []string{"auth.file.verifier_key: "}},
		{"a broken users file", [][]string{users, {"HEARTLINE_AUTH_FILE_PATH=" + write("broken.yaml", "users: [")}}, []string{"auth.file.path: "}},
		{"no list of revoked certificates", [][]string{clients, {"HEARTLINE_MQTT_TLS_CRL_FILE=" + write("crl.pem", "garbage")}}, []string{"mqtt.tls.crl_file: "}},
		{"a key on another curve", [][]string{apple, {"HEARTLINE_FALLBACK_APNS_KEY_FILE=" + p384, "HEARTLINE_FALLBACK_APNS_KEY_ID=AAAAAAAAAA", "HEARTLINE_FALLBACK_APNS_TEAM_ID=BBBBBBBBBB"}}, []string{"fallback.apns: ", "P-256"}},
		{"a certificate that is none", [][]string{apple, {"HEARTLINE_FALLBACK_APNS_CERTIFICATE_FILE=" + write("cert.p12", "garbage")}}, []string{"fallback.apns: ", "cert.p12"}},
		{"two mistakes", [][]string{clients, {"HEARTLINE_MQTT_TLS_CRL_FILE=" + write("crl.pem", "garbage"), "HEARTLINE_AUTH_MODE=jwt", "HEARTLINE_AUTH_JWT_SECRET=short"}}, []string{"auth.jwt.secret: ", "mqtt.tls.crl_file: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var env []string
			for _, e := range c.env {
				env = append(env, e...)
			}
			checked := command(t, env, "", "config", "check")
			s := start(t, func(p *program) {
				p.serve = func(context.Context, *config.Config, ServeOptions) error { return nil }
			}, env, "serve")
			if code := expect(t, "the end", s.code); code != exitUsage || checked.code != exitUsage || s.errs.String() != checked.stderr {
				t.Errorf("config check exits with %d:\n%s\nserve exits with %d:\n%s", checked.code, checked.stderr, code, s.errs)
			}
			for _, want := range c.want {
				if !strings.Contains(checked.stderr, want) {
					t.Errorf("the message has no %q:\n%s", want, checked.stderr)
				}
			}
		})
	}
}
