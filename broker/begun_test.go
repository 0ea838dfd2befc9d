package broker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/fallback/apnssim"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

// letterbox is a notification server that takes every push.
type letterbox struct {
	mu  sync.Mutex
	got []string
}

func (*letterbox) Apps() []fallback.App {
	return []fallback.App{{Server: delivery.ServerFCM, Name: "app"}}
}

func (*letterbox) Normalize(r delivery.Registration) (delivery.Registration, error) { return r, nil }
func (*letterbox) Fits(*delivery.Notification) error                                { return nil }
func (*letterbox) Concurrency(fallback.App) int                                     { return 1 }
func (*letterbox) Close() error                                                     { return nil }

func (l *letterbox) Push(_ context.Context, r fallback.Request) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, r.Notification.ID)
	return "", nil
}

// all returns the notifications that it has got.
func (l *letterbox) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.got)
}

// acknowledging is a device's connection that acknowledges all that it gets.
type acknowledging struct{}

func (acknowledging) Closed() bool { return false }
func (acknowledging) Publish(p delivery.Publication) error {
	go p.Acked() // the core must not be called from under its mutex
	return nil
}

// takenUp is a store whose accounts a node takes up, all in one partition.
type takenUp struct {
	*testing.T
	*node
	out *store.Outbox
}

func takeUp(t *testing.T) *takenUp {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	out, err := store.New(store.Options{Open: func(bool) (store.Engine, error) { return memory.New(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{opts: deliveryOptions(config.Default(), false), observers: &delivery.Observers{}, log: log}
	n.opts.Boottime = func() time.Duration { return 0 }
	n.Router = cluster.NewRouter(cluster.RouterOptions{
		Reader: delivery.New(n.opts, out.View(), nil, log), Observers: n.observers, Parts: cluster.Parts, Name: "one", Hold: time.Second, Log: log,
	})
	n.ctx, n.quit = context.WithCancel(t.Context())
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	return &takenUp{t, n, out}
}

// core starts a Core that pushes to the servers, and returns how to stop it.
func (u *takenUp) core(servers map[string]fallback.Pusher) (c *delivery.Core, stop func()) {
	u.Helper()
	router, err := newRouter(pushServers{pushers: servers}, u.out.Notification, nil, u.log)
	if err != nil {
		u.Fatal(err)
	}
	u.pusher = router
	c = delivery.New(u.opts, u.out.View(), router, u.log)
	if err := c.Start(); err != nil {
		u.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		for _, err := range []error{c.Stop(context.Background()), router.Close(context.Background())} {
			if err != nil {
				u.Error(err)
			}
		}
	})
	u.Cleanup(stop)
	return c, stop
}

// TestPushesOfATakenUpPartition: a delivery that waits for a notification server is pushed by the
// next owner of its account, at which that server is on. A device that is connected at another node
// has time to be announced first.
func TestPushesOfATakenUpPartition(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		u := takeUp(t)
		first, stop := u.core(nil)
		for account, device := range map[string]string{"alice": "phone", "bob": "pad"} {
			err := first.PutDevice(t.Context(), account, device, &delivery.Registration{Server: delivery.ServerFCM, App: "app", Kind: delivery.KindAlert, Token: device})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := first.Accept(t.Context(), delivery.Request{ID: "for-" + account, Account: account, Title: "t"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for _, account := range []string{"alice", "bob"} {
			if v, err := first.Get(t.Context(), "for-"+account); err != nil || v.State != delivery.StateWaiting {
				t.Fatalf("%+v, error %v", v, err)
			}
		}
		stop()

		box := &letterbox{}
		next, _ := u.core(map[string]fallback.Pusher{delivery.ServerFCM: box})
		u.Serve(0, 1, next)
		companion{u.node}.Begin(nil, 0, next)
		time.Sleep(time.Second)
		if _, err := next.Online(delivery.OnlineInfo{Device: "phone", Account: "alice", Channel: acknowledging{}, Keepalive: time.Hour}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got, want := box.all(), []string{"for-bob"}; !slices.Equal(got, want) {
			t.Errorf("pushed %q, want %q", got, want)
		}
	})
}

// TestWaitingIsPushedByRestartedNodes: notifications wait because APNs is off, and later because
// its configuration is at fault for the tokens. Each time the operator mends that and restarts node
// by node, and all of them are pushed.
func TestWaitingIsPushedByRestartedNodes(t *testing.T) {
	t.Parallel()
	sim, err := apnssim.Start(apnssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.p8")
	for path, content := range map[string][]byte{ca: sim.CAPEM(), key: sim.Key().PEM} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	endpoint := "" // APNs is off
	set := func(cfg *config.Config) {
		cfg.Delivery.AckWindow = 100 * time.Millisecond
		a := &cfg.Fallback.APNs
		a.Enabled, a.Endpoint, a.CAFile = endpoint != "", endpoint, ca
		a.KeyFile, a.KeyID, a.TeamID, a.Topic = key, sim.Key().KeyID, sim.Key().TeamID, "com.example.app"
	}
	url := testtool.StartPostgres(t).URL("admin", "postgres", "")
	names := []string{"one", "two"}
	nodes := make([]*member, len(names))
	for i, name := range names {
		nodes[i] = joined(t, url, name, set)
	}
	share := func() {
		t.Helper()
		eventually(t, "an equal share", func() bool { return nodes[0].owned() == 512 && nodes[1].owned() == 512 })
	}
	share()
	restart := func() {
		t.Helper()
		for i, name := range names {
			nodes[i].leave(t)
			nodes[i] = joined(t, url, name, set)
			share()
		}
	}
	const accounts = 12 // some of them are each node's
	token := func(i int) string { return fmt.Sprintf("%064x", i) }
	all := func(round, what string, is func(*delivery.View) bool) {
		t.Helper()
		for i := range accounts {
			eventually(t, fmt.Sprint(what, " of ", round, i), func() bool {
				v, err := nodes[0].Timeline(t.Context(), fmt.Sprint(round, i))
				return err == nil && is(v)
			})
		}
	}
	accept := func(round string) {
		t.Helper()
		for i := range accounts {
			if _, err := nodes[i%2].Notify(t.Context(), delivery.Request{ID: fmt.Sprint(round, i), Account: fmt.Sprint("account", i), Title: "t"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	pushed := func(v *delivery.View) bool { return v.Deliveries[0].Pushed }

	for i := range accounts {
		err := nodes[i%2].PutDevice(t.Context(), fmt.Sprint("account", i), fmt.Sprint("phone", i), &delivery.Registration{Server: delivery.ServerAPNs, Kind: delivery.KindAlert, Token: token(i)})
		if err != nil {
			t.Fatal(err)
		}
	}
	accept("off")
	all("off", "the wait", func(v *delivery.View) bool { return v.State == delivery.StateWaiting })
	endpoint = sim.URL()
	restart()
	all("off", "the push", pushed)

	for i := range accounts {
		sim.Script(apnssim.Script{Token: token(i), Status: 400, Reason: "BadDeviceToken", Times: 1})
	}
	accept("suspended")
	all("suspended", "the suspension", func(v *delivery.View) bool {
		return slices.ContainsFunc(v.Timeline, func(e delivery.Event) bool { return e.Kind == delivery.EventTokenSuspended })
	})
	endpoint = strings.Replace(sim.URL(), "127.0.0.1", "localhost", 1)
	restart()
	all("suspended", "the push", pushed)
	for _, m := range nodes {
		m.leave(t)
	}
}

// TestReloadWhileAPartitionIsTakenUp: a Core that was made before a reload, and is served after it,
// has the settings of the reload.
func TestReloadWhileAPartitionIsTakenUp(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		u := takeUp(t)
		core, _ := u.core(nil)
		next := u.opts.Settings()
		next.TTL = 7 * time.Minute
		u.Reconfigure(next)
		u.Serve(0, 1, core)
		companion{u.node}.Begin(nil, 0, core)
		if err := core.PutDevice(t.Context(), "alice", "phone", nil); err != nil {
			t.Fatal(err)
		}
		r, err := core.Accept(t.Context(), delivery.Request{Account: "alice", Title: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if ttl := r.Notification.ExpiresAt.Sub(r.Notification.AcceptedAt); ttl != next.TTL {
			t.Errorf("the TTL is %v, want %v", ttl, next.TTL)
		}
	})
}

// TestStopDuringTheWait: Stop ends the wait for the devices of a partition that was taken up, and
// nothing begins after it.
func TestStopDuringTheWait(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		u := takeUp(t)
		core, _ := u.core(nil)
		u.Serve(0, 1, core)
		companion{u.node}.Begin(nil, 0, core)
		begun := time.Now()
		if err := u.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begun); waited > 0 {
			t.Errorf("Stop took %s", waited)
		}
		u.background(func(context.Context) { t.Error("it runs after Stop") })
		synctest.Wait()
	})
}
