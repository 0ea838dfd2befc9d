package broker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/xmpp"
	"github.com/heartline-mqtt/heartline/xmpp/xmpptest"
)

// cable is the network between a node and the database: it can be cut.
type cable struct {
	socket  net.Listener
	target  string
	running sync.WaitGroup

	mu    sync.Mutex
	isCut bool
	open  map[net.Conn]bool
}

func newCable(t *testing.T, port int) *cable {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{socket: socket, target: fmt.Sprint("127.0.0.1:", port), open: map[net.Conn]bool{}}
	w.running.Go(w.accept)
	t.Cleanup(func() {
		_ = socket.Close()
		w.cut(true)
		w.running.Wait()
	})
	return w
}

// cut breaks every connection, and refuses others until it is called with false.
func (w *cable) cut(isCut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut = isCut; isCut {
		for c := range w.open {
			_ = c.Close()
		}
		clear(w.open)
	}
}

func (w *cable) accept() {
	for {
		here, err := w.socket.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = here.Close()
			continue
		}
		w.mu.Lock()
		if w.isCut {
			_, _ = here.Close(), there.Close()
		}
		w.open[here], w.open[there] = true, true
		w.mu.Unlock()
		for _, way := range [][2]net.Conn{{here, there}, {there, here}} {
			w.running.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_, _ = here.Close(), there.Close()
			})
		}
	}
}

// linkedNode is one of two nodes with an XMPP component.
type linkedNode struct {
	*Broker
	db *cable
}

// TestXMPPOfNodes: two nodes have one component. The owner of its name's partition has the link
// and is the edge of its devices, whose accounts either may own. The link is taken over from
// a node that is cut off from the database, and from one that stops, and the devices with it.
func TestXMPPOfNodes(t *testing.T) {
	t.Parallel()
	const name, host = "push.example.org", "example.org"
	pg := testtool.StartPostgres(t)
	server := xmpptest.New(t, name, "secret")
	dir := t.TempDir()
	secret, key := filepath.Join(dir, "secret"), filepath.Join(dir, "key")
	for file, text := range map[string]string{secret: "secret\n", key: "a key of at least 16 bytes\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func(node string) *linkedNode {
		db := newCable(t, pg.Port)
		cfg := config.Default()
		cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = filepath.Join(dir, node), "", ""
		cfg.Store.Engine = config.EnginePostgres
		cfg.Store.Postgres.URL = config.Secret(strings.Replace(pg.URL("admin", "postgres", ""), fmt.Sprint(":", pg.Port), ":"+fmt.Sprint(db.socket.Addr().(*net.TCPAddr).Port), 1))
		cfg.Cluster.Address, cfg.Cluster.Name, cfg.Cluster.Lease = "127.0.0.1:0", node, 10*time.Second // a beat that is late on a busy machine ends no trust
		cfg.Delivery.AckWindow = time.Minute                                                           // a busy machine pushes nothing
		cfg.XMPP.Components = []config.XMPPComponent{{Domain: name, Address: server.Addr(), SecretFile: secret, Hosts: []string{host}}}
		cfg.XMPP.RegistrationKeyFile, cfg.XMPP.PingInterval = key, time.Hour
		cfg.XMPP.Reconnect = config.Retry{Initial: time.Millisecond, Max: 10 * time.Millisecond}
		b, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", node))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.Background()) })
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		return &linkedNode{b, db}
	}
	eventually := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not come", what)
			}
		}
	}
	says := func(n *linkedNode) string {
		r := n.readiness() // its error is of a node without its lease
		state := r.Checks["xmpp "+name]
		if healthy := state == "up" || strings.HasPrefix(state, "held by node "); healthy == slices.Contains(r.Faults, "xmpp "+name) {
			t.Errorf("the link is %q, the faults are %q", state, r.Faults)
		}
		return state
	}
	a, b := start("a"), start("b")
	eventually("the balance", func() bool { return a.node.node.Status().Owned == 512 && b.node.node.Status().Owned == 512 })
	holder, other := a, b
	eventually("a link at one node", func() bool {
		if says(b) == "up" {
			holder, other = b, a
		}
		return says(holder) == "up" && strings.HasPrefix(says(other), "held by node ")
	})
	if !strings.HasSuffix(says(other), holder.node.name) {
		t.Errorf("the other node says %q, the link is at %s", says(other), holder.node.name)
	}
	link := server.Newest()

	var accounts []string // two of each node's
	for i, owned := 0, map[bool]int{}; len(accounts) < 4; i++ {
		account := fmt.Sprint("user", i, "@", host)
		if here := holder.node.Serves(cluster.Partition(account)); owned[here] < 2 {
			owned[here]++
			accounts = append(accounts, account)
		}
	}
	ping := func(account string) {
		t.Helper()
		link.Sendf("<iq type='get' from='%s/phone' to='"+name+"' id='sync'><ping xmlns='urn:xmpp:ping'/></iq>", account)
		if s := link.Next(); s.ID != "sync" || s.Type != "result" {
			t.Fatalf("a ping was answered with %+v", s)
		}
	}
	alone := func(at *linkedNode) { // no account moves any more
		t.Helper()
		eventually("all partitions at one node", func() bool { return at.node.node.Status().Owned == 1024 })
	}
	up := func(at *linkedNode) {
		t.Helper()
		eventually("the devices", func() bool {
			return !slices.ContainsFunc(accounts, func(account string) bool {
				d, err := at.Core().Device(account, xmpp.DeviceID(account, "phone"))
				return err != nil || !d.Up || d.Via != delivery.ViaXMPP
			})
		})
	}
	notify := func(at, reader *linkedNode) {
		t.Helper()
		var ids []string
		for _, account := range accounts {
			n, err := at.Notify(t.Context(), delivery.Request{Account: account, Devices: []string{xmpp.DeviceID(account, "phone")}, Title: "t"})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, n.ID)
			s := link.Next()
			if s.To != account+"/phone" || !strings.Contains(s.Child("notification").Text, n.ID) {
				t.Fatalf("%s got %+v, want %s", account, s, n.ID)
			}
			link.Result(s)
		}
		for _, id := range ids {
			eventually("the ack", func() bool {
				v, err := reader.Timeline(t.Context(), id)
				return err == nil && v.State == delivery.StateAcked
			})
			v, err := reader.Timeline(t.Context(), id)
			if err != nil || len(v.Timeline) != 3 || v.Timeline[1].Detail != "via xmpp" {
				t.Errorf("%+v, %v", v, err)
			}
		}
	}
	for _, account := range accounts {
		link.Announce(account+"/phone", name, "phone")
		ping(account)
	}
	up(holder)
	up(other)
	notify(holder, other)
	notify(other, holder)

	// A publish of the server, for a user whose account is the other node's, by a secret
	// that whichever node has the link can check.
	foreign := accounts[slices.IndexFunc(accounts, func(account string) bool { return other.node.Serves(cluster.Partition(account)) })]
	register := func() (secret string) {
		link.Sendf("<iq type='set' from='%s/pad' to='"+name+"' id='r'><command xmlns='http://jabber.org/protocol/commands' node='register-push-apns'><x xmlns='jabber:x:data'><field var='token'><value>"+strings.Repeat("ab", 32)+"</value></field><field var='device-id'><value>pad</value></field><field var='topic'><value>com.example.app</value></field></x></command></iq>", foreign)
		s := link.Next()
		for _, f := range s.Child("command").Child("x").Children {
			secret = f.Child("value").Text // the last
		}
		return secret
	}
	published := func(secret string) {
		t.Helper()
		link.Publish("p", host, name, xmpp.DeviceID(foreign, "pad"), secret, "", "text")
		if s := link.Next(); s.ID != "p" || s.Type != "result" {
			t.Errorf("a publish for a user of the other node: %+v", s)
		}
	}
	padSecret := register()
	published(padSecret)

	// The holder is cut off from the database. It hears of nothing, and closes the link when
	// its lease ends; only then the other node can take over.
	holder.db.cut(true)
	link.Ended()
	if s := says(holder); s == "up" {
		t.Errorf("the node without a lease says %q", s)
	}
	link = server.Newest()
	eventually("the link at the other node", func() bool { return says(other) == "up" })
	alone(other)
	up(other)
	notify(other, other)
	published(padSecret)

	// It is there again, and the other one stops.
	holder.db.cut(false)
	eventually("the return of the node", func() bool { return strings.HasPrefix(says(holder), "held by node ") || says(holder) == "up" })
	if err := other.Close(context.Background()); err != nil {
		t.Error(err)
	}
	eventually("the link at the node that is left", func() bool { return says(holder) == "up" })
	link = server.Newest()
	alone(holder)
	up(holder)
	notify(holder, holder)
}
