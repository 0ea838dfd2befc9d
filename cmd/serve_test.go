package cmd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/heartline-mqtt/heartline/config"
)

func TestServe(t *testing.T) {
	var got *config.Config
	s := start(t, func(p *program) {
		p.serve = func(_ context.Context, cfg *config.Config, opts ServeOptions) error {
			got = cfg
			opts.Log.Info("ready")
			opts.Log.Debug("quiet")
			opts.Ready("127.0.0.1:1", "")
			return nil
		}
	}, []string{"HEARTLINE_MQTT_ADDRESS=127.0.0.1:0"}, "serve", "--log-format", "json", "--ack-window", "1s")
	if code := expect(t, "the end", s.code); code != 0 {
		t.Fatalf("exit code %d: %s", code, s.errs)
	}
	if got.MQTT.Address != "127.0.0.1:0" || got.Delivery.AckWindow != time.Second || got.DataDir != "./heartline-data" {
		t.Errorf("got %+v", got)
	}
	if log := s.errs.String(); !strings.Contains(log, `"msg":"ready"`) || strings.Contains(log, "quiet") {
		t.Errorf("log: %s", log)
	}
}

func TestServeFails(t *testing.T) {
	for _, tt := range []struct {
		err  error
		args []string
		code int
		want string
	}{
		{errors.New("open store: locked"), nil, 1, "heartline: open store: locked\n"},
		{&net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}, nil, 1, "heartline: listen tcp: address already in use: another process listens there; stop it, or choose another address with --mqtt-address, --mqtt-tls-address or --http-address\n"},
		{nil, []string{"--mqtt-address", "0.0.0.0:1883"}, 2, "heartline: the configuration is wrong:\nheartline:   mqtt.address: must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt, http or tls to listen on others, got 0.0.0.0:1883 (from --mqtt-address)\n"},
		{nil, []string{"--dev", "--http-address", ":8080"}, 2, "heartline: the configuration is wrong:\nheartline:   http.address: must be a loopback address (127.0.0.1, ::1, localhost) where auth.mode is none: set auth.mode to file, jwt, http or tls to listen on others, got :8080 (from --http-address)\n"},
	} {
		s := start(t, func(p *program) {
			p.serve = func(context.Context, *config.Config, ServeOptions) error { return tt.err }
		}, nil, append([]string{"serve"}, tt.args...)...)
		if code := expect(t, "the end", s.code); code != tt.code || s.errs.String() != tt.want {
			t.Errorf("exit code %d:\n%s\nwant %d:\n%s", code, s.errs, tt.code, tt.want)
		}
	}
}

// TestServeDev: whatever file and environment say of addresses, authentication and
// Apple, nothing leaves the machine and nothing is left on it.
func TestServeDev(t *testing.T) {
	file := filepath.Join(t.TempDir(), "heartline.yaml")
	if err := os.WriteFile(file, []byte(`
data_dir: /var/lib/heartline
mqtt: {address: "0.0.0.0:1883", tls: {address: "0.0.0.0:8883", cert_file: missing, key_file: missing, client_ca_file: missing, crl_file: missing}}
auth: {mode: jwt}
delivery: {ack_window: 1s}
store: {engine: postgres, postgres: {url_file: missing}}
cluster: {address: "10.0.0.1:7883", advertise: "10.0.0.1:7883", tls: {cert_file: missing, key_file: missing, ca_file: missing}}
receipts: {webhooks: [{url: "https://backend.example/events", secret_file: missing}]}
xmpp: {components: [{domain: push.example.org, address: "127.0.0.1:5347", secret_file: missing, hosts: [example.org]}]}
http: {internal: {address: "10.0.0.1:9090"}, proxy_protocol: true}
fallback: {apns: {key_file: missing.p8, certificate_file: missing.p12, apps: [{topic: com.example.other}]}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg *config.Config
	s := start(t, func(p *program) {
		p.serve = func(ctx context.Context, c *config.Config, opts ServeOptions) error {
			cfg = c
			if err := push(cfg); err != nil {
				t.Errorf("push to the simulator: %v", err)
			}
			opts.Ready("127.0.0.1:1883", "127.0.0.1:8081")
			<-ctx.Done()
			return nil
		}
	}, []string{"HEARTLINE_FALLBACK_APNS_KEY=x"}, "serve", "--dev", "-c", file, "--http-address", "127.0.0.1:8081")
	banner := s.out.until(t, "--wait")
	s.cancel()
	if code := expect(t, "the end", s.code); code != 0 {
		t.Fatalf("exit code %d: %s", code, s.errs)
	}
	if cfg.MQTT.Address != "127.0.0.1:1883" || cfg.HTTP.Address != "127.0.0.1:8081" || cfg.Auth.Mode != "none" || !cfg.HTTP.WebTerminal {
		t.Errorf("got %+v", cfg)
	}
	if cfg.Store.Engine != config.EnginePebble || cfg.Store.Postgres != config.Default().Store.Postgres || !reflect.DeepEqual(cfg.Cluster, config.Default().Cluster) ||
		len(cfg.Receipts.Webhooks)+len(cfg.XMPP.Components) > 0 || cfg.HTTP.Internal.Address != "" || cfg.HTTP.ProxyProtocol {
		t.Errorf("it would touch what the file is for: %+v", cfg)
	}
	if cfg.Delivery.AckWindow != time.Second {
		t.Error("the file is not read")
	}
	if a := cfg.Fallback.APNs; !a.Enabled || a.CertificateFile != "" || a.Key != "" || len(a.Apps) != 0 || !strings.HasPrefix(a.Endpoint, "https://127.0.0.1:") {
		t.Errorf("got %+v", a)
	}
	if _, err := os.Stat(filepath.Dir(cfg.DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", filepath.Dir(cfg.DataDir), err)
	}
	for _, part := range []string{
		"heartline terminal --account alice --device phone\n",
		"heartline send --server http://127.0.0.1:8081 --account alice ",
		cfg.Fallback.APNs.Endpoint,
	} {
		if !strings.Contains(banner, part) {
			t.Errorf("no %q in:\n%s", part, banner)
		}
	}
}

// TestHangup: a server for trying out ends with its terminal, and deletes its data. Another
// server reloads its configuration.
func TestHangup(t *testing.T) {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // the tests may run under nohup
	defer signal.Stop(heard)
	for _, args := range [][]string{{"serve", "--dev"}, {"serve"}} {
		hangups := make(chan os.Signal, 1)
		dir := make(chan string, 1)
		s := start(t, func(p *program) {
			p.Reload = func() <-chan os.Signal { return hangups }
			p.serve = func(ctx context.Context, c *config.Config, opts ServeOptions) error {
				dir <- filepath.Dir(c.DataDir)
				select {
				case <-opts.Hangups:
				case <-ctx.Done():
				}
				return nil
			}
		}, nil, args...)
		data := expect(t, "the start", dir)
		hangups <- syscall.SIGHUP
		if code := expect(t, "the end", s.code); code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, s.errs)
		}
		if _, err := os.Stat(data); len(args) > 1 && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", data, err)
		}
	}
}

// push opens a connection to the endpoint as the configuration says.
func push(cfg *config.Config) error {
	ca, err := os.ReadFile(cfg.Fallback.APNs.CAFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(cfg.Fallback.APNs.Endpoint, "https://"), &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
	if err != nil {
		return err
	}
	return conn.Close()
}

// TestAPNsSim: apns-sim prints a configuration that works.
func TestAPNsSim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	s := start(t, nil, nil, "apns-sim", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--cert-dir", dir)
	printed := s.out.until(t, "# Control API: ")
	if err := yaml.Unmarshal([]byte(printed), new(any)); err != nil {
		t.Errorf("%v in\n%s", err, printed)
	}
	file := filepath.Join(dir, "heartline.yaml")
	if err := os.WriteFile(file, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := push(cfg); err != nil {
		t.Error(err)
	}

	client, err := pusher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	for _, token := range []string{"00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0", "zz"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cfg.Fallback.APNs.Endpoint+"/3/device/"+token, strings.NewReader(`{"aps":{"alert":"x"}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("apns-topic", "com.example.app")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		s.out.until(t, fmt.Sprintf("  %d ", resp.StatusCode))
	}

	_, control, _ := strings.Cut(printed, "# Control API: ")
	resp, err := http.Get(strings.TrimSpace(control))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	s.cancel()
	if code := expect(t, "the end", s.code); code != 0 {
		t.Errorf("exit code %d: %s", code, s.errs)
	}
}

func pusher(cfg *config.Config) (*http.Client, error) {
	ca, err := os.ReadFile(cfg.Fallback.APNs.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}, nil
}
