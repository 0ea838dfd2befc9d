package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// member is a node of a test's cluster.
type member struct {
	*Broker
	stop  context.CancelFunc
	ended chan error
}

func joined(t *testing.T, url, name string, set ...func(*config.Config)) *member {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	cfg.Store.Engine, cfg.Store.Postgres.URL = config.EnginePostgres, config.Secret(url)
	cfg.Cluster.Address, cfg.Cluster.Name = "127.0.0.1:0", name
	cfg.Cluster.Drain = time.Minute // it ends sooner
	for _, fn := range set {
		fn(cfg)
	}
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &member{b, stop, make(chan error, 1)}
	ready := make(chan struct{})
	go func() { m.ended <- b.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-m.ended:
		t.Fatal(err)
	}
	return m
}

// leave is SIGTERM.
func (m *member) leave(t *testing.T) {
	t.Helper()
	m.stop()
	if err := <-m.ended; err != nil {
		t.Error(err)
	}
}

func (m *member) owned() int { return m.node.node.Status().Owned }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what, "did not come")
		}
	}
}

// terminalOf is a device, at the node at which it is.
type terminalOf struct {
	*rawmqtt.Client
	account string
	version byte
}

func (m *member) connect(t *testing.T, account string) *terminalOf {
	t.Helper()
	return m.connectBy(t, 5, account)
}

func (m *member) connectBy(t *testing.T, version byte, account string) *terminalOf {
	t.Helper()
	c, err := rawmqtt.Dial(m.MQTTAddr(), version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if pk, err := c.Connect(rawmqtt.Connect{ID: "phone-" + account, Username: account, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x, %v", pk.ReasonCode, err)
	}
	if err := c.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "heartline/devices/phone-" + account + "/notifications", Qos: 1}},
	}); err != nil {
		t.Fatal(err)
	}
	return &terminalOf{c, account, version}
}

// read acknowledges everything until the connection ends, and returns the code that came
// before.
func (c *terminalOf) read() (code byte) {
	for {
		pk, err := c.Read(time.Minute)
		if err != nil {
			return code
		}
		switch pk.FixedHeader.Type {
		case packets.Publish:
			_ = c.Puback(pk.PacketID) // the connection may be over
		case packets.Disconnect:
			code = pk.ReasonCode
		}
	}
}

// A node that leaves hands its accounts over, ends its connections with "use another
// server", and has nothing left that would have to be taken over. Every request at any node is
// accepted until then, and everything is acknowledged by the devices at the other node.
func TestLeave(t *testing.T) {
	pg := testtool.StartPostgres(t)
	url := pg.URL("admin", "postgres", "")
	one, two := joined(t, url, "one"), joined(t, url, "two")
	eventually(t, "an equal share", func() bool { return one.owned() == 512 && two.owned() == 512 })
	eventually(t, "word of the standbys", func() bool {
		checks, _ := one.Ready()
		return checks["replication"] == "none"
	})

	const accounts = 20
	var devices sync.WaitGroup
	codes := make([]byte, accounts)
	moved := make(chan *terminalOf, accounts)
	for i := range accounts {
		account := fmt.Sprint("account", i)
		if err := one.Core().PutDevice(t.Context(), account, "phone-"+account, nil); err != nil {
			t.Fatal(err)
		}
		c := one.connect(t, account)
		devices.Go(func() {
			codes[i] = c.read()
			moved <- c
		})
	}
	left := make(chan struct{})
	var backends sync.WaitGroup
	var mu sync.Mutex
	var accepted []string
	for i := range accounts {
		backends.Go(func() {
			for n := 0; ; n++ {
				at := []*member{one, two}[(i+n)%2]
				got, err := at.Notify(t.Context(), delivery.Request{Account: fmt.Sprint("account", i), Title: fmt.Sprint(n)})
				select {
				case <-left:
					return // at the end it refuses, like any server that is gone
				default:
				}
				if err != nil {
					if at == one && (errors.Is(err, delivery.ErrStopped) || errors.Is(err, delivery.ErrInDoubt)) {
						return // likewise: in doubt is a request that it had passed on
					}
					t.Error(err)
					return
				}
				mu.Lock()
				accepted = append(accepted, got.ID)
				mu.Unlock()
			}
		})
	}
	eventually(t, "load", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted) > 100
	})
	one.stop()
	for range accounts {
		c := <-moved
		back := two.connect(t, c.account)
		devices.Go(func() { back.read() })
	}
	if err := <-one.ended; err != nil {
		t.Error(err)
	}
	close(left)
	backends.Wait()
	for i, code := range codes {
		if code != packets.ErrUseAnotherServer.Code {
			t.Errorf("device %d was told 0x%02x", i, code)
		}
	}
	if st := two.node.node.Status(); st.Owned != cluster.Parts || st.Takeovers != 0 {
		t.Errorf("%d partitions, %d take-overs", st.Owned, st.Takeovers)
	}
	for _, id := range accepted {
		eventually(t, "the ack of "+id, func() bool {
			v, err := two.Timeline(t.Context(), id)
			return err == nil && v.State == delivery.StateAcked
		})
	}
	t.Logf("%d notifications accepted meanwhile, all acknowledged", len(accepted))
	two.leave(t) // nobody is there: at once
	devices.Wait()
}

// While a node leaves it is unready, and HTTP clients are told to connect again.
func TestLeavingIsTold(t *testing.T) {
	cfg := config.Default()
	cfg.Store.Engine, cfg.MQTT.Address, cfg.HTTP.Address = config.EngineMemory, "", "127.0.0.1:0"
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	for _, leaving := range []bool{false, true} {
		b.leaving.Store(leaving)
		w := httptest.NewRecorder()
		b.web.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+b.HTTPAddr()+"/readyz", nil))
		if unready := w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "leaving"); unready != leaving {
			t.Errorf("leaving %v: %d %s", leaving, w.Code, w.Body)
		}
		if again := w.Header().Get("Connection") == "close"; again != leaving {
			t.Errorf("leaving %v: %v", leaving, w.Header())
		}
	}
}

// Connections end evenly over the time that is left, and soon where they are few.
func TestShedNow(t *testing.T) {
	for _, c := range []struct {
		left      int
		remaining time.Duration
		want      int
	}{
		{3, 20 * time.Second, 50}, {10_000, 20 * time.Second, 50}, {100_000, 20 * time.Second, 500}, {100_000, 50 * time.Millisecond, 100_000}, {100_000, -time.Second, 100_000},
	} {
		if got := shedNow(c.left, c.remaining); got != c.want {
			t.Errorf("%d in %v: %d, want %d", c.left, c.remaining, got, c.want)
		}
	}
}
