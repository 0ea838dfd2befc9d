package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveHeartline runs Heartline with a store in memory.
func serveHeartline(t *testing.T) (address string, api *url.URL) {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir, cfg.Store.Engine = t.TempDir(), config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0"
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b.MQTTAddr(), &url.URL{Scheme: "http", Host: b.HTTPAddr()}
}

// serveMochi runs a plain mochi broker.
func serveMochi(t *testing.T, hooks ...mqtt.Hook) (address string, server *mqtt.Server) {
	t.Helper()
	server = mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	for _, hook := range append(hooks, new(auth.AllowHook)) {
		if err := server.AddHook(hook, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeMochi(server) })
	return tcp.Address(), server
}

func closeMochi(server *mqtt.Server) {
	server.Listeners.ClientsWg.Wait() // Close and a client that leaves can block each other
	_ = server.Close()
}

// options are those of a small run.
func options(address, mode string) Options {
	o := Defaults()
	o.Address, o.Mode = address, mode
	o.Devices, o.Publishers, o.Inflight, o.Count = 10, 3, 4, 600
	return o
}

func mustRun(t *testing.T, o Options) *Result {
	t.Helper()
	res, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// checkAll checks that n messages were sent and all came once, in order.
func checkAll(t *testing.T, res *Result, n int64) {
	t.Helper()
	if want := (Totals{Sent: n, Accepted: n, Delivered: n}); res.Totals != want {
		t.Errorf("got %+v, want %+v (%s %s %v)", res.Totals, want, res.Dropped, res.Refused, res.Lost)
	}
	for name, l := range map[string]Latency{"delivery": res.Delivery, "accept": res.Accept, "lag": res.Lag} {
		if l.Count != n || l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
			t.Errorf("%s: got %+v", name, l)
		}
	}
	if res.Throughput <= 0 || res.Measured <= 0 {
		t.Errorf("got %f/s over %f ms", res.Throughput, res.Measured)
	}
}

func TestHeartline(t *testing.T) {
	address, api := serveHeartline(t)
	for _, mode := range modes() {
		for _, version := range []byte{version311, version5} {
			t.Run(mode+" "+versionName(version), func(t *testing.T) {
				o := options(address, mode)
				o.API, o.Version, o.Prefix = api, version, fmt.Sprint(mode, "-v", version)
				checkAll(t, mustRun(t, o), 600)
			})
		}
	}
	t.Run("at a rate, in lockstep", func(t *testing.T) {
		o := options(address, ModeNotifications)
		o.Rate, o.Window, o.Inflight, o.Prefix = 5000, WindowDelivered, 1, "lockstep"
		checkAll(t, mustRun(t, o), 600)
	})
	t.Run("an account with devices", func(t *testing.T) {
		for _, mode := range []string{ModeNotifications, ModeHTTP, ModeBatch} {
			o := options(address, mode)
			o.API, o.Username, o.PublisherUsername, o.Prefix = api, "alice", "backend", "alice-"+mode
			checkAll(t, mustRun(t, o), 600)
		}
	})
	t.Run("devices that return", func(t *testing.T) {
		o := options(address, ModeNotifications)
		o.Prefix, o.Offline, o.Return = "away", 0.5, true
		res := mustRun(t, o)
		if want := (Totals{Sent: 600, Accepted: 600, Delivered: 600}); res.Totals != want {
			t.Errorf("got %+v, want %+v", res.Totals, want)
		}
		if r := res.Return; res.Offline != 5 || r == nil || r.Devices != 5 || r.Messages != 300 || r.Subscribed <= 0 || r.Delivered <= 0 {
			t.Errorf("got %d offline, %+v", res.Offline, r)
		}
	})
	t.Run("devices that stay away, and that never acknowledge", func(t *testing.T) {
		o := options(address, ModeNotifications)
		o.Prefix, o.Offline, o.Silent = "quiet", 0.2, 0.2
		res := mustRun(t, o)
		got := res.Totals
		if res.Offline != 2 || res.Silent == 0 || got.Accepted != 600 || got.Lost != 0 || got.Kept == 0 || got.Delivered+got.Kept != 600 {
			t.Errorf("%d offline, %d silent, got %+v", res.Offline, res.Silent, got)
		}
	})
	t.Run("too many for a device", func(t *testing.T) {
		o := options(address, ModeNotifications)
		o.Prefix, o.Devices, o.Offline, o.Count = "full", 1, 1, 1100
		res := mustRun(t, o)
		if got := res.Totals; got.Accepted != 1000 || got.Refused != 100 || got.Kept != 1000 || got.Lost != 0 || !strings.Contains(res.Refused, "0x97") {
			t.Errorf("got %+v, %q", got, res.Refused)
		}
	})
}

// TestStorm: every device comes back, and nothing is lost meanwhile.
func TestStorm(t *testing.T) {
	address, _ := serveHeartline(t)
	o := options(address, ModeNotifications)
	o.Storm, o.Rate, o.Count = 50*time.Millisecond, 2000, 1000
	res := mustRun(t, o)
	if len(res.Storms) == 0 || res.Storms[0].Devices != 10 || res.Storms[0].Subscribed <= 0 {
		t.Errorf("got %+v", res.Storms)
	}
	if got := res.Totals; got.Accepted != 1000 || got.Delivered != 1000 || got.Lost != 0 || got.Dropped != 0 {
		t.Errorf("got %+v, %s", got, res.Dropped)
	}
}

func TestMochi(t *testing.T) {
	address, _ := serveMochi(t)
	for _, version := range []byte{version311, version5} {
		o := options(address, ModeTopics)
		o.Version = version
		checkAll(t, mustRun(t, o), 600)
	}
	o := options(address, ModeTopics)
	o.Count, o.Duration, o.Warmup = 0, 50*time.Millisecond, 10*time.Millisecond
	if res := mustRun(t, o); res.Totals.Lost != 0 || res.Totals.Sent == 0 || res.Delivery.Count >= res.Totals.Delivered {
		t.Errorf("%d latencies of %+v", res.Delivery.Count, res.Totals)
	}
	o = options(address, ModeTopics)
	o.Publishers, o.Count, o.Duration, o.ServerPID = 0, 0, time.Millisecond, os.Getpid()
	if res := mustRun(t, o); res.Idle == nil || res.Idle.Resident < 1<<20 {
		t.Errorf("idle: got %+v", res.Idle)
	}
}

// TestTLSAndSecrets: over TLS, to a broker and an API that authenticate.
func TestTLSAndSecrets(t *testing.T) {
	address, api := serveHeartline(t)
	proxy := httputil.NewSingleHostReverseProxy(api)
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	trust := x509.NewCertPool()
	trust.AddCert(front.Certificate())
	client := &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12, ServerName: "example.com"}

	o := options(address, ModeHTTP)
	o.APIToken, o.APITLS, o.Inflight, o.Count = []byte("token"), client, 1, 60
	o.API, _ = url.Parse(front.URL)
	checkAll(t, mustRun(t, o), 60)
	o.APIToken = []byte("another")
	if res := mustRun(t, o); res.Totals.Refused != 60 || res.Refused != "401 Unauthorized" {
		t.Errorf("got %+v, %q", res.Totals, res.Refused)
	}

	o = options(serveTLS(t, front.TLS.Certificates[0]), ModeTopics)
	o.TLS, o.Username, o.Password, o.PublisherUsername, o.PublisherPassword = client, "phones", []byte("p"), "backend", []byte("b")
	checkAll(t, mustRun(t, o), 600)
	o.PublisherPassword = []byte("p")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "publisher ") || !strings.Contains(err.Error(), "bad user name or password (0x86)") {
		t.Errorf("got %v", err)
	}
	o.Version = version311
	o.Password = nil
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "device bench-") || !strings.Contains(err.Error(), "not authorized (0x05)") {
		t.Errorf("got %v", err)
	}
}

// serveTLS runs Heartline with two users, phones and backend, on a TLS listener.
func serveTLS(t *testing.T, cert tls.Certificate) (address string) {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hash := func(password string) string {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(h)
	}
	cfg := config.Default()
	cfg.DataDir, cfg.Store.Engine = dir, config.EngineMemory
	cfg.MQTT.Address, cfg.HTTP.Address, cfg.MQTT.TLS.Address = "", "", "127.0.0.1:0"
	cfg.MQTT.TLS.CertFile = write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	cfg.MQTT.TLS.KeyFile = write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	cfg.Auth.Mode = config.AuthFile
	cfg.Auth.File.Path = write("users.yaml", fmt.Appendf(nil, "users:\n  - {name: phones, password_hash: %q, role: service}\n  - {name: backend, password_hash: %q, role: service}\n", hash("p"), hash("b")))
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b.TLSAddr()
}

// saboteur is a broker that errs on purpose, by the number of a message.
type saboteur struct {
	mqtt.HookBase
	server *mqtt.Server
	drop   int
	double int
	swap   int // is delivered after the one that follows
	mu     sync.Mutex
	n      int
	held   *packets.Packet
}

func (s *saboteur) Provides(b byte) bool { return b == mqtt.OnPublish || b == mqtt.OnPublished }

func (s *saboteur) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.n++; s.n {
	case s.swap:
		held := pk.Copy(false)
		s.held = &held
		return pk, packets.CodeSuccessIgnore
	case s.drop:
		return pk, packets.CodeSuccessIgnore
	}
	return pk, nil
}

func (s *saboteur) OnPublished(cl *mqtt.Client, pk packets.Packet) {
	if cl.Net.Inline {
		return
	}
	s.mu.Lock()
	again := s.n == s.double
	var held *packets.Packet
	if s.n > s.swap {
		held, s.held = s.held, nil
	}
	s.mu.Unlock()
	if again {
		_ = s.server.Publish(pk.TopicName, pk.Payload, false, 1)
	}
	if held != nil {
		_ = s.server.Publish(held.TopicName, held.Payload, false, 1)
	}
}

// TestPlantedFaults: a run finds what the broker does wrong, and which message it was.
func TestPlantedFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		hook *saboteur
		want Totals
		lost string
	}{
		{"lost", &saboteur{drop: 4}, Totals{Sent: 20, Accepted: 20, Delivered: 19, Lost: 1}, "message 3 of publisher 0, for device bench-000000"},
		{"duplicated", &saboteur{double: 4}, Totals{Sent: 20, Accepted: 20, Delivered: 20, Duplicated: 1}, ""},
		{"out of order", &saboteur{swap: 4}, Totals{Sent: 20, Accepted: 20, Delivered: 20, OutOfOrder: 1}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var address string
			address, tt.hook.server = serveMochi(t, tt.hook)
			o := options(address, ModeTopics)
			o.Devices, o.Publishers, o.Inflight, o.Count, o.Patience = 1, 1, 1, 20, 100*time.Millisecond
			res := mustRun(t, o)
			if res.Totals != tt.want || strings.Join(res.Lost, "\n") != tt.lost {
				t.Errorf("got %+v %q, want %+v %q", res.Totals, res.Lost, tt.want, tt.lost)
			}
		})
	}
}

// TestBrokerThatGoesAway: the run ends with an error that says so.
func TestBrokerThatGoesAway(t *testing.T) {
	address, server := serveMochi(t)
	o := options(address, ModeTopics)
	o.Count, o.Duration = 0, time.Minute
	var once sync.Once
	o.Progress = func(format string, _ ...any) {
		if format == "sending" {
			once.Do(func() {
				go server.DisconnectClient(clientOf(server, "bench-publisher-1"), packets.ErrServerShuttingDown)
			})
		}
	}
	_, err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "publisher 1: the broker disconnects it: server shutting down (0x8b)") {
		t.Errorf("got %v", err)
	}
}

func clientOf(server *mqtt.Server, id string) *mqtt.Client {
	cl, _ := server.Clients.Get(id)
	return cl
}

func TestErrorsNameWhatIsAtFault(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	mochi, _ := serveMochi(t)
	address, api := serveHeartline(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // something that takes connections, and speaks no MQTT
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example.com ESMTP\r\n"))
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })

	for _, tt := range []struct {
		name string
		with func(*Options)
		want string
	}{
		{"nobody listens", func(o *Options) { o.Address = nobody }, "nothing listens on " + nobody + ": start a broker, or name another with --server"},
		{"no broker", func(o *Options) { o.Address = l.Addr().String() }, "is it an MQTT broker, and does it take MQTT 5?"},
		{"no API", func(o *Options) {
			o.Address, o.API, o.Mode = address, &url.URL{Scheme: "http", Host: nobody}, ModeBatch
		}, "nothing listens on " + nobody + ": start a server, or name another with --http"},
		{"API that is none", func(o *Options) {
			o.Address, o.API, o.Mode = address, &url.URL{Scheme: "http", Host: api.Host, Path: "/nowhere"}, ModeBatch
		}, "refuses the batch: 404"},
		{"no process", func(o *Options) { o.Address, o.Mode, o.ServerPID = mochi, ModeTopics, 1<<30 }, "--server-pid"},
	} {
		o := options(mochi, ModeNotifications)
		o.Patience = 100 * time.Millisecond
		tt.with(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	o := Defaults()
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "--count, --duration: say how many") {
		t.Errorf("got %v", err)
	}
	o.Count = 1
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
	bad := Options{Address: "x", Mode: "x", Window: "x", Offline: 2, Silent: -1, Publishers: -1, Rate: -1, Count: 1, Duration: 1, Prefix: "a/b", APIToken: []byte("a b")}
	err := bad.Validate()
	if err == nil {
		t.Fatal("all wrong, and no error")
	}
	for _, flag := range []string{"--server", "--mqtt-version", "--mode", "--window", "--prefix", "--keepalive", "--devices", "--offline", "--silent", "--publishers", "--inflight", "--rate", "--count and --duration", "--patience", "--dialers", "--payload", "--token-file"} {
		if !strings.Contains(err.Error(), flag+":") {
			t.Errorf("nothing about %s in:\n%v", flag, err)
		}
	}
	o.Payload = 60
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "--payload: must be 8") {
		t.Errorf("got %v", err)
	}
}

func TestPayloads(t *testing.T) {
	for _, mode := range modes() {
		for _, username := range []string{"", "alice"} {
			o := Defaults()
			o.Mode, o.Username = mode, username
			r := &run{o: &o}
			d := &device{link: link{id: "bench-000001"}}
			b := r.appendPayload([]byte("head"), d, stamp{seq: 3})
			if s, ok := findStamp(b); len(b) != 4+o.Payload || !ok || s.seq != 3 {
				t.Errorf("%s: %d bytes, %s", mode, len(b), b)
			}
		}
	}
}

func TestPrint(t *testing.T) {
	r := &Result{
		Devices: 5, Offline: 1, Publishers: 2, Inflight: 3, Payload: 256, Measured: 2000, Throughput: 10, Accepted: 11, Delivery: Latency{Count: 20, P50: 1.5},
		Totals: Totals{Sent: 23, Lost: 1, Dropped: 1}, Server: &Usage{User: 5, System: 5, Each: 4}, Storms: []Storm{{Devices: 4, Subscribed: 100}},
		Return: &Storm{Devices: 1, Subscribed: 10, Delivered: 20, Messages: 2}, Lost: []string{"message 7"}, Dropped: "gone", Idle: &Usage{Resident: 4e6},
	}
	var b strings.Builder
	r.Print(&b)
	for _, want := range []string{"10/s delivered, 11/s accepted", "1.500", "sent         23:", "lost         1\n", "for example: message 7", "1 lost; the first: gone", "4 devices reconnected at once", "all 2 messages delivered after 0.02 s", "1000000 B for each", "4.0 µs of CPU a message (50% in the system)"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	_, _ = fmt.Fprint(io.Discard, b.String())
}
