package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// reloadable is a running broker and the configuration that its next reload reads.
type reloadable struct {
	*Broker
	*testing.T
	mu   sync.Mutex
	next *config.Config
	err  error // of the next reload
}

func runReloadable(t *testing.T, cfg *config.Config, log *slog.Logger) *reloadable {
	t.Helper()
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0"
	r := &reloadable{T: t, next: cfg}
	b, err := NewReloadable(cfg, log, Reloading{Load: func() (*config.Config, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.next, r.err
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Broker = b
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// change reloads with a changed copy of the configuration.
func (r *reloadable) change(change func(*config.Config)) error {
	r.mu.Lock()
	next := *r.next
	change(&next)
	r.next = &next
	r.mu.Unlock()
	return r.Reload(r.Context())
}

func (r *reloadable) mustChange(change func(*config.Config)) {
	r.Helper()
	if err := r.change(change); err != nil {
		r.Fatal(err)
	}
}

// raw connects a client whose password is its account.
func (r *reloadable) raw(account, id string) *rawmqtt.Client {
	r.Helper()
	c, err := rawmqtt.Dial(r.MQTTAddr(), 5)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(c.Close)
	if ack, err := c.Connect(rawmqtt.Connect{ID: id, Username: account, Password: account, Keepalive: 120, Clean: true}); err != nil || ack.ReasonCode != 0 {
		r.Fatalf("connect %s: %+v %v", id, ack, err)
	}
	return c
}

const readPatience = 2 * time.Minute

// subscribed returns the reason code of a SUBSCRIBE.
func (r *reloadable) subscribed(c *rawmqtt.Client, filter string) byte {
	r.Helper()
	codes, err := c.Subscribe(1, 1, filter)
	if err != nil {
		r.Fatal(err)
	}
	return codes[0]
}

// published returns the reason code of a PUBACK, dropping earlier packets.
func (r *reloadable) published(c *rawmqtt.Client, topic string) byte {
	r.Helper()
	if err := c.Publish(7, 1, topic, []byte("x")); err != nil {
		r.Fatal(err)
	}
	for {
		pk, err := c.Read(readPatience)
		if err != nil {
			r.Fatal(err)
		}
		if pk.FixedHeader.Type == packets.Puback {
			return pk.ReasonCode
		}
	}
}

func (r *reloadable) want(what string, got, want byte) {
	r.Helper()
	if got != want {
		r.Errorf("%s: reason code %#x, want %#x", what, got, want)
	}
}

// TestReloadRules: the running broker takes up auth.acl and mqtt.limits, refuses a broken
// configuration, and neither drops a connection nor loses a message meanwhile.
func TestReloadRules(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Store.Engine, cfg.DataDir = config.EngineMemory, filepath.Join(dir, "data")
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, users(t, dir, "alice", "bob")
	own := config.ACLEntry{Filter: "{account}/#", Access: config.AccessReadWrite}
	cfg.Auth.ACL = []config.ACLEntry{own}
	b := runReloadable(t, cfg, slog.New(slog.DiscardHandler))

	// bob's messages flow through all of it.
	sender, receiver := b.raw("bob", "sender"), b.raw("bob", "receiver")
	b.want("bob subscribes", b.subscribed(receiver, "bob/#"), 1)
	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	sent := make(chan int, 1)
	traffic.Go(func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if err := sender.Publish(7, 1, "bob/n", fmt.Append(nil, n)); err != nil {
				t.Error(err)
				break
			}
			if pk, err := sender.Read(readPatience); err != nil || pk.ReasonCode >= 0x80 {
				t.Errorf("message %d: %+v %v", n, pk, err)
				break
			}
		}
		sent <- n
		if err := sender.Publish(7, 1, "bob/n", []byte("end")); err != nil {
			t.Error(err)
		}
	})
	traffic.Go(func() {
		for n := 0; ; n++ {
			pk, err := receiver.Read(readPatience)
			if err != nil {
				t.Error(err)
				return
			}
			if err := receiver.Puback(pk.PacketID); err != nil {
				t.Error(err)
				return
			}
			if string(pk.Payload) == "end" {
				if all := <-sent; n != all {
					t.Errorf("%d of %d messages arrived", n, all)
				}
				return
			}
			if string(pk.Payload) != fmt.Sprint(n) {
				t.Errorf("got message %s, want %d", pk.Payload, n)
			}
		}
	})

	alice := b.raw("alice", "tool")
	b.want("her own topics", b.subscribed(alice, "alice/#"), 1)
	b.want("shared topics", b.subscribed(alice, "shared/#"), 0x87)
	b.want("publish to shared topics", b.published(alice, "shared/a"), 0x87)
	b.mustChange(func(c *config.Config) {
		c.Auth.ACL = []config.ACLEntry{own, {Filter: "shared/#", Access: config.AccessReadWrite}}
	})
	b.want("shared topics that have been opened", b.subscribed(alice, "shared/#"), 1)
	b.want("publish to opened topics", b.published(alice, "shared/a"), 0)

	// A subscription that a rule forbids brings nothing more.
	b.mustChange(func(c *config.Config) {
		c.Auth.ACL = []config.ACLEntry{own, {Filter: "shared/#", Access: config.AccessWrite}}
	})
	b.want("publish to topics of writers", b.published(alice, "shared/b"), 0)
	b.want("publish to her own", b.published(alice, "alice/mark"), 0)
	for {
		pk, err := alice.Read(readPatience)
		if err != nil {
			t.Fatal(err)
		}
		if pk.TopicName == "shared/b" {
			t.Error("a client got a message that the new rules forbid")
		}
		if pk.TopicName == "alice/mark" {
			break
		}
	}

	// Limits.
	b.want("five levels", b.published(alice, "alice/1/2/3/4"), 0)
	b.mustChange(func(c *config.Config) {
		c.MQTT.Limits.TopicLevels, c.MQTT.Limits.Subscriptions, c.MQTT.Limits.Devices = 3, 2, 1
	})
	b.want("five levels of three", b.published(alice, "alice/1/2/3/4"), 0x90)
	b.want("a third subscription", b.subscribed(alice, "alice/x"), 0x97)
	b.want("a first device", b.subscribed(b.raw("alice", "phone"), "heartline/devices/phone/notifications"), 1)
	b.want("a second device", b.subscribed(b.raw("alice", "watch"), "heartline/devices/watch/notifications"), 0x97)
	b.mustChange(func(c *config.Config) { c.MQTT.Limits.Devices = 2 })
	b.want("a second device of two", b.subscribed(b.raw("alice", "watch"), "heartline/devices/watch/notifications"), 1)

	// A broken configuration changes nothing.
	broken := errors.New("auth.acl[0].access: must be one of deny, read, write, readwrite, got loud")
	b.err = broken
	if err := b.change(func(c *config.Config) { c.Auth.ACL = nil; c.MQTT.Limits.TopicLevels = 1 }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the fault", err)
	}
	b.want("her own topics after a refused reload", b.published(alice, "alice/1"), 0)

	stop()
	traffic.Wait()
}

// TestReloadPage: docs/operating.md lists the keys that a running server takes up, and
// no others.
func TestReloadPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "### Changes without a restart")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("the section is not there")
	}
	var listed []string
	for line := range strings.Lines(section) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for key := range strings.SplitSeq(cell, ", ") {
			listed = append(listed, strings.Trim(key, "`"))
		}
	}
	want := live()
	slices.Sort(want)
	slices.Sort(listed)
	if !slices.Equal(listed, want) {
		t.Errorf("the page lists\n%q, the broker takes up\n%q", listed, want)
	}
}

// TestReloadPush: the running broker takes up a key, an app and a switched-off notification
// server, mends a registration that was suspended for the former configuration, and loses
// no notification of a device that is connected meanwhile.
func TestReloadPush(t *testing.T) {
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	}()
	key := sim.Key()
	wrong, err := apnssim.NewKey(key.KeyID, key.TeamID)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := config.Default()
	cfg.Store.Engine, cfg.Fallback.APNs.Enabled = config.EngineMemory, false
	b := runReloadable(t, cfg, slog.New(slog.DiscardHandler))

	// tablet is connected, and acknowledges.
	tablet := b.raw("bob", "tablet")
	b.want("subscribe", b.subscribed(tablet, "heartline/devices/tablet/notifications"), 1)
	const all = 300
	var traffic sync.WaitGroup
	got := make(chan struct{}, all)
	traffic.Go(func() {
		for n := range all {
			pk, err := tablet.Read(readPatience)
			if err != nil {
				t.Errorf("after %d notifications: %v", n, err)
				return
			}
			if id := string(pk.Properties.CorrelationData); id != fmt.Sprint("n", n) {
				t.Errorf("got %s, want n%d", id, n)
			}
			if err := tablet.Puback(pk.PacketID); err != nil {
				t.Error(err)
				return
			}
			got <- struct{}{}
		}
	})
	traffic.Go(func() {
		for n := range all {
			notify(t, b.Heartline, "bob", fmt.Sprint("n", n))
			<-got // one at a time: the traffic lasts as long as the reloads
		}
	})

	// phone is reached by pushes alone.
	events := b.Subscribe(10_000)
	defer events.Close()
	until := func(id, event string) {
		t.Helper()
		for deadline := time.After(readPatience); ; {
			select {
			case e := <-events.C:
				if e.ID == id && e.Kind.String() == event {
					return
				}
			case <-deadline:
				t.Fatalf("%s: no %s", id, event)
			}
		}
	}
	token := strings.Repeat("ab", 32)
	if err := b.PutDevice(t.Context(), "alice", "phone", &delivery.Registration{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: token}); err != nil {
		t.Fatal(err)
	}
	notify(t, b.Heartline, "alice", "off")
	until("off", "waiting")
	path := write("key.p8", wrong.PEM)
	b.mustChange(func(c *config.Config) {
		a := &c.Fallback.APNs
		a.Enabled, a.Endpoint, a.CAFile = true, sim.URL(), write("ca.pem", sim.CAPEM())
		a.KeyFile, a.KeyID, a.TeamID, a.Topic = path, key.KeyID, key.TeamID, "com.example.app"
	})
	until("off", "push_retry") // 403 InvalidProviderToken: the app is paused

	// A file that is no key is refused, and so is a webhook's secret that is missing; both
	// are named.
	write("key.p8", []byte("no key"))
	err = b.change(func(c *config.Config) {
		c.Receipts.Webhooks = []config.Webhook{{URL: "https://example.org", SecretFile: filepath.Join(dir, "none")}}
	})
	if err == nil || !strings.Contains(err.Error(), "key.p8") || !strings.Contains(err.Error(), "secret_file") {
		t.Errorf("a broken configuration: %v", err)
	}
	b.next = cfgWithout(b.next)

	write("key.p8", key.PEM)
	b.mustChange(func(*config.Config) {})
	until("off", "pushed")
	before := b.servers.pushers[delivery.ServerAPNs]
	b.mustChange(func(c *config.Config) { c.Delivery.AckWindow = 4 * time.Second })
	if b.servers.pushers[delivery.ServerAPNs] != before {
		t.Error("a server whose configuration has not changed was replaced")
	}

	// The app's configuration was at fault for the token.
	sim.Script(apnssim.Script{Token: token, Status: 400, Reason: "BadDeviceToken", Times: 1})
	notify(t, b.Heartline, "alice", "suspended")
	until("suspended", "token_suspended")
	b.mustChange(func(c *config.Config) {
		c.Fallback.APNs.Endpoint = strings.Replace(sim.URL(), "127.0.0.1", "localhost", 1)
	})
	until("suspended", "pushed")

	b.mustChange(func(c *config.Config) { c.Fallback.APNs.Enabled = false })
	notify(t, b.Heartline, "alice", "off-again")
	until("off-again", "waiting")
	traffic.Wait()
}

// cfgWithout is a configuration without webhooks.
func cfgWithout(c *config.Config) *config.Config {
	next := *c
	next.Receipts.Webhooks = nil
	return &next
}

// TestReloadFiles: a reload takes up the files of users and certificates, also where nothing
// but their content has changed, and is refused while one of them cannot be read.
func TestReloadFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Store.Engine, cfg.DataDir = config.EngineMemory, filepath.Join(dir, "data")
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, users(t, dir, "alice")
	cfg.MQTT.TLS.Address = "127.0.0.1:0"
	cfg.MQTT.TLS.CertFile, cfg.MQTT.TLS.KeyFile = certificate(t, dir)
	b := runReloadable(t, cfg, slog.New(slog.DiscardHandler))
	same := func(*config.Config) {}

	before, err := os.Stat(cfg.Auth.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	users(t, dir, "carol")
	if err := os.Chtimes(cfg.Auth.File.Path, before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	b.mustChange(same)
	b.raw("carol", "phone")

	refused := func(key string) {
		t.Helper()
		if err := b.change(same); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("with a file that cannot be read: %v, want %s", err, key)
		}
	}
	for _, c := range []struct{ key, path string }{{"auth.file.path", cfg.Auth.File.Path}, {"mqtt.tls.key_file", cfg.MQTT.TLS.KeyFile}} {
		if err := os.Rename(c.path, c.path+".kept"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(c.path, 0o700); err != nil { // as root reads every file, this is one that nobody can
			t.Fatal(err)
		}
		refused(c.key)
		if err := errors.Join(os.Remove(c.path), os.Rename(c.path+".kept", c.path)); err != nil {
			t.Fatal(err)
		}
		b.mustChange(same)
	}
	b.raw("carol", "phone")

	// The running server needs a restart for another path, and the former file no longer.
	other := filepath.Join(dir, "other.yaml")
	if err := os.Rename(cfg.Auth.File.Path, other); err != nil {
		t.Fatal(err)
	}
	b.mustChange(func(c *config.Config) { c.Auth.File.Path = other })
}
