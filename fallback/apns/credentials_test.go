package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
)

// clientCertificate writes a push certificate with its key, and returns its CA.
func clientCertificate(t *testing.T, expires time.Time) (file string, ca *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: expires,
		Subject: pkix.Name{CommonName: "Apple Push Services: " + topic, ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: topic},
		}},
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "push.pem")
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca = x509.NewCertPool()
	ca.AddCert(cert)
	return file, ca
}

// TestCertificate: pushes go out under a client certificate, which names the
// topic itself and is warned of before it ends.
func TestCertificate(t *testing.T) {
	file, ca := clientCertificate(t, time.Now().Add(29*24*time.Hour+time.Hour))
	sim := startSim(t, apnssim.Options{ClientCAs: ca})
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	a, err := New(Config{Endpoint: sim.URL(), CAFile: caFile, Logger: log.logger(), Apps: []App{{CertificateFile: file, Environment: EnvironmentProduction}}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{a}})
	for range 3 {
		if res := do(t, r, pushTo(deviceToken, "n")); res.Outcome != delivery.PushAccepted {
			t.Fatalf("%+v", res)
		}
	}
	if got := sim.Received()[0]; !strings.Contains(got.Certificate, "Apple Push Services") || got.Topic != topic || got.KeyID != "" {
		t.Errorf("%+v", got)
	}
	s := r.Status()[0]
	if s.Credentials.CertificateExpires.IsZero() || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "in 29 days") {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(log.String(), "certificate expires on"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// TestCertificateFiles: the files were made by OpenSSL 3, of one key pair, with the password
// secret: openssl pkcs12 -export, with a CA's certificate in openssl3.p12, and with -legacy,
// as macOS exports, in legacy.p12; encrypted.pem by openssl pkcs12 -in openssl3.p12.
func TestCertificateFiles(t *testing.T) {
	for _, c := range []struct {
		file, password string
		chain          int
		want           string // of the error
	}{
		{"openssl3.p12", "secret", 2, ""},
		{"legacy.p12", "secret", 1, ""},
		{"nopassword.p12", "", 1, ""},
		{"openssl3.p12", "guess", 0, "the password is wrong"},
		{"legacy.p12", "guess", 0, "the password is wrong"},
		{"openssl3.p12", "", 0, "set certificate_password_file"},
		{"payload_plain.json", "", 0, "openssl pkcs12 -in"},
		{"encrypted.pem", "secret", 0, "openssl pkey"},
	} {
		cert, err := loadCertificate(filepath.Join("testdata", c.file), c.password)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s with password %q: %v, want %s", c.file, c.password, err, c.want)
			}
			continue
		}
		if err != nil || len(cert.Certificate) != c.chain || certificateTopic(&cert) != "com.example.app" {
			t.Errorf("%s with password %q: %d certificates, %v", c.file, c.password, len(cert.Certificate), err)
		}
	}
}

// TestCertificateOfAnotherKey is refused at the start: Apple would refuse each connection.
func TestCertificateOfAnotherKey(t *testing.T) {
	one, _ := clientCertificate(t, time.Now().Add(time.Hour))
	two, _ := clientCertificate(t, time.Now().Add(time.Hour))
	mixed := filepath.Join(t.TempDir(), "mixed.pem")
	a, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, _ := strings.Cut(string(a), "-----BEGIN PRIVATE")
	_, key, _ := strings.Cut(string(b), "-----BEGIN PRIVATE")
	if err := os.WriteFile(mixed, []byte(cert+"-----BEGIN PRIVATE"+key), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadCertificate(mixed, ""); err == nil || !strings.Contains(err.Error(), "not that of the private key") {
		t.Error(err)
	}
}

func TestUntrustedEndpoint(t *testing.T) {
	sim := startSim(t, apnssim.Options{})
	k := sim.Key()
	a, err := New(Config{Endpoint: sim.URL(), Apps: []App{{Topic: topic, KeyPEM: k.PEM, KeyID: k.KeyID, TeamID: k.TeamID}}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{a}})
	if res := do(t, r, pushTo(deviceToken, "n")); res.Outcome != delivery.PushRetry || !strings.Contains(res.Err.Error(), "ca_file") {
		t.Errorf("%+v", res)
	}
	if s := r.Status()[0]; s.State != "paused" {
		t.Errorf("%+v", s)
	}
}

func TestConfigErrors(t *testing.T) {
	key, err := apnssim.NewKey("KEY", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	other, err := apnssim.NewKey("KEY", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	notKey := filepath.Join(t.TempDir(), "not.p8")
	if err := os.WriteFile(notKey, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := App{Topic: topic, KeyPEM: key.PEM, KeyID: "KEY", TeamID: "TEAM"}
	with := func(fn func(*App)) []App {
		a := good
		fn(&a)
		return []App{a}
	}
	for name, c := range map[string]struct {
		cfg  Config
		want []string // all of them
	}{
		"none":          {Config{}, []string{"no app"}},
		"no credential": {Config{Apps: []App{{Topic: topic}}}, []string{topic, "key file", "certificate"}},
		"both":          {Config{Apps: with(func(a *App) { a.CertificateFile = "x" })}, []string{"either"}},
		"no team":       {Config{Apps: with(func(a *App) { a.TeamID = "" })}, []string{"team ID"}},
		"no topic":      {Config{Apps: with(func(a *App) { a.Topic = "" })}, []string{"topic"}},
		"environment":   {Config{Apps: with(func(a *App) { a.Environment = "dev" })}, []string{`"dev"`}},
		"missing key":   {Config{Apps: with(func(a *App) { a.KeyPEM, a.KeyFile = nil, "/does/not/exist.p8" })}, []string{"/does/not/exist.p8"}},
		"not a key":     {Config{Apps: with(func(a *App) { a.KeyPEM, a.KeyFile = nil, notKey })}, []string{notKey, ".p8"}},
		"no such cert":  {Config{Apps: []App{{Topic: topic, CertificateFile: "/none.p12"}}}, []string{"/none.p12"}},
		"not a cert":    {Config{Apps: []App{{Topic: topic, CertificateFile: notKey}}}, []string{notKey}},
		"twice":         {Config{Apps: []App{good, good}}, []string{"twice"}},
		"two keys":      {Config{Apps: []App{good, {Topic: "b", KeyPEM: other.PEM, KeyID: "KEY", TeamID: "TEAM"}}}, []string{"another key"}},
		"endpoint":      {Config{Apps: []App{good}, Endpoint: "http://x"}, []string{"https://host:port"}},
		"ca":            {Config{Apps: []App{good}, CAFile: notKey}, []string{"CA file"}},
		"default":       {Config{Apps: []App{good}, DefaultEnvironment: "x"}, []string{"default environment"}},
		"several": {
			Config{Apps: append(with(func(a *App) { a.TeamID = "" }), App{Topic: "com.example.b"}), Endpoint: "x", DefaultEnvironment: "x"},
			[]string{"app 1", "app 2", "com.example.b", "endpoint", "default environment"},
		},
	} {
		_, err := New(c.cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in %v", name, want, err)
			}
		}
	}
}

func TestNormalize(t *testing.T) {
	key, err := apnssim.NewKey("KEY", "TEAM")
	if err != nil {
		t.Fatal(err)
	}
	app := func(topic, env string) App {
		return App{Topic: topic, Environment: env, KeyPEM: key.PEM, KeyID: "KEY", TeamID: "TEAM"}
	}
	a, err := New(Config{DefaultEnvironment: EnvironmentSandbox, Apps: []App{app("com.a", ""), app("com.b", EnvironmentProduction)}})
	if err != nil {
		t.Fatal(err)
	}
	r := newRouter(t, fallback.Options{Pushers: []fallback.Pusher{a}})
	for _, c := range []struct{ token, app, env, want string }{
		{"AABB", "", "", "aabb com.a sandbox"},
		{"aabb", "com.a", EnvironmentProduction, "aabb com.a production"},
		{"aabb", "com.b", "", "aabb com.b production"},
	} {
		got, err := r.Normalize(delivery.Registration{Token: c.token, App: c.app, Environment: c.env})
		if err != nil || got.Server != delivery.ServerAPNs || got.Token+" "+got.App+" "+got.Environment != c.want {
			t.Errorf("%v: %+v %v", c, got, err)
		}
	}
	for _, c := range []struct {
		token, app, env string
		notConfigured   bool
		want            []string
	}{
		{"", "", "", false, []string{"empty"}},
		{"abc", "", "", false, []string{"odd"}},
		{"aabb/../x", "", "", false, []string{"odd"}},
		{"aabb/../xx", "", "", false, []string{"not hex", "character 5"}},
		{"aabg", "", "", false, []string{"not hex", "character 4"}},
		{strings.Repeat("ab", 200), "", "", false, []string{"400", "256"}},
		{"aabb", "com.c", "", true, []string{`"com.c"`, "com.a", "com.b"}},
		{"aabb", "com.b", EnvironmentSandbox, true, []string{"com.b", "production only", "development builds"}},
		{"aabb", "com.a", "development", false, []string{`"development"`, "sandbox"}},
	} {
		err := r.Validate(delivery.Registration{Token: c.token, App: c.app, Environment: c.env})
		if err == nil || errors.Is(err, fallback.ErrNotConfigured) != c.notConfigured {
			t.Errorf("%v: %v", c, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %q is not in %v", c, want, err)
			}
		}
		if len(c.token) > 3 && strings.Contains(err.Error(), c.token) {
			t.Errorf("the error tells the token: %v", err)
		}
	}
}

func TestCertificateWarning(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for days, want := range map[int]string{31: "", 30: "in 30 days", 1: "in 1 days", -1: "expired on 2025-12-31"} {
		if got := expiryWarning(now.AddDate(0, 0, days), now); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%d days: %q", days, got)
		}
	}
	if expiryWarning(time.Time{}, now) != "" {
		t.Error("no certificate, no warning")
	}
}

// TestProviderTokenOutlivesItsClient: a changed configuration makes another Client. Apple
// counts the provider tokens of a key, and refuses a second one within 20 minutes.
func TestProviderTokenOutlivesItsClient(t *testing.T) {
	s := startSim(t, apnssim.Options{})
	cfg := Config{Endpoint: s.URL(), CAPEM: s.CAPEM(), Apps: []App{{Topic: topic, KeyPEM: s.Key().PEM, KeyID: s.Key().KeyID, TeamID: s.Key().TeamID}}}
	client := func(change func(*Config)) (c *Client, bearer string) {
		t.Helper()
		cfg := cfg
		cfg.Apps = slices.Clone(cfg.Apps)
		change(&cfg)
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		bearer, err = c.apps[c.list[0]].token.get()
		if err != nil {
			t.Fatal(err)
		}
		return c, bearer
	}
	first, bearer := client(func(*Config) {})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := apnssim.NewKey(s.Key().KeyID, s.Key().TeamID)
	if err != nil {
		t.Fatal(err)
	}
	for what, row := range map[string]struct {
		change func(*Config)
		same   bool
	}{
		"another topic":  {func(c *Config) { c.Apps[0].Topic = "com.example.other" }, true},
		"another key":    {func(c *Config) { c.Apps[0].KeyPEM = other.PEM }, false},
		"another key ID": {func(c *Config) { c.Apps[0].KeyID = "OTHER" }, false},
		"another team":   {func(c *Config) { c.Apps[0].TeamID = "OTHER" }, false},
	} {
		_, now := client(func(c *Config) { c.Former = first; row.change(c) })
		if (now == bearer) != row.same {
			t.Errorf("%s: the same provider token: %v, want %v", what, now == bearer, row.same)
		}
	}
}
