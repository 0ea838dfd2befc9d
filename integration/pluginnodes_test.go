package integration

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
)

// host is someone's own mochi server with Heartline attached.
type host struct {
	*broker.Heartline
	address string
}

func attachNode(t *testing.T, url, name string) host {
	t.Helper()
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	for _, err := range []error{server.AddHook(new(auth.AllowHook), nil), server.AddListener(tcp)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o := broker.Options{DataDir: t.TempDir()}
	o.Store.Engine, o.Store.Postgres.URL = config.EnginePostgres, config.Secret(url)
	o.Cluster.Address, o.Cluster.Name = "127.0.0.1:0", name
	h, err := broker.Attach(server, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
		_ = server.Close()
	})
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	return host{h, tcp.Address()}
}

// TestPluginNodes: two plugins over one database are one Heartline. When one is closed the
// other serves all accounts.
func TestPluginNodes(t *testing.T) {
	pg, env := database(t)
	url := pg.URL("admin", "postgres", "")
	a, b := attachNode(t, url, "a"), attachNode(t, url, "b")
	await(t, "both nodes to own partitions", func() bool { return bothOwn(t, env) })
	const accounts = 16 // some of them are each node's
	notify := func(at host, account, title string) {
		t.Helper()
		if _, err := at.Notify(t.Context(), delivery.Request{Account: account, Title: title}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range accounts {
		account, phone := fmt.Sprint("account", i), fmt.Sprint("phone", i)
		c := dial(t, b.address, phone, account, "heartline/devices/"+phone+"/notifications")
		t.Cleanup(c.Close)
		notify(a, account, "from a")
		if pk := receive(t, c); !strings.Contains(string(pk.Payload), "from a") {
			t.Errorf("%s got %s", phone, pk.Payload)
		} else if err := c.Puback(pk.PacketID); err != nil {
			t.Fatal(err)
		}
		if i == accounts/2 {
			if err := a.Close(t.Context()); err != nil {
				t.Error(err)
			}
			a = b
		}
	}
}

// TestPluginNodesNeedTLS: off loopback a plugin that forgets TLS is refused, as serve is.
func TestPluginNodesNeedTLS(t *testing.T) {
	var o broker.Options
	o.Store.Engine, o.Store.Postgres.URL = config.EnginePostgres, "postgres://127.0.0.1:1/none"
	o.Cluster.Address = "10.0.0.1:7883"
	h, err := broker.Attach(mqtt.New(nil), o)
	if err == nil || !strings.Contains(err.Error(), "cluster.tls") {
		t.Errorf("%v, %v", h, err)
	}
}
