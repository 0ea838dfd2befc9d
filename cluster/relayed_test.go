package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// network connects machines by pipes, which it can cut.
type network struct {
	mu     sync.Mutex
	meshes map[string]*relay.Mesh
	down   map[string]bool // nodes that nobody reaches
	pipes  map[net.Conn][2]string
}

func (n *network) dialFrom(name string) func(context.Context, string) (net.Conn, error) {
	return func(_ context.Context, address string) (net.Conn, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.down[name] || n.down[address] || n.meshes[address] == nil {
			return nil, fmt.Errorf("%s is not reached", address)
		}
		here, there := net.Pipe()
		n.pipes[here] = [2]string{name, address}
		n.meshes[address].Handle(there)
		return here, nil
	}
}

// cut takes a node off the network, or brings it back.
func (n *network) cut(name string, down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[name] = down
	for c, ends := range n.pipes {
		if down && slices.Contains(ends[:], name) {
			_ = c.Close()
			delete(n.pipes, c)
		}
	}
}

// phone is a device's connection. It acknowledges everything.
type phone struct {
	slow time.Duration // to acknowledge

	mu       sync.Mutex
	got      []delivery.Publication
	replaced bool
}

func (p *phone) Publish(pub delivery.Publication) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, pub)
	go func() {
		time.Sleep(p.slow)
		pub.Acked()
	}()
	return nil
}

func (p *phone) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replaced
}

func (p *phone) Replaced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replaced = true
}

// relayed is three nodes with relays between them.
func relayed(t *testing.T, test func(t *testing.T, b *base, n *network, all []*machine)) {
	inCluster(t, func(t *testing.T, b *base) {
		n := &network{meshes: map[string]*relay.Mesh{}, down: map[string]bool{}, pipes: map[net.Conn][2]string{}}
		b.network = n
		all := []*machine{b.machine("one"), b.machine("two"), b.machine("three")}
		time.Sleep(10 * time.Second)
		b.want(map[string]int{"one": 4, "two": 4, "three": 4})
		test(t, b, n, all)
		for _, m := range all {
			m.stop(t)
		}
		totals, err := b.store.Totals()
		var left uint64
		_ = b.store.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { left++; return true })
		if err != nil || totals.Accepted-totals.Finished != left {
			t.Errorf("accepted %d, finished %d, left %d, error %v", totals.Accepted, totals.Finished, left, err)
		}
	})
}

// accounts has one account in each partition.
func accounts() (all []string) {
	for part := range uint16(parts) {
		for i := 0; ; i++ {
			if name := fmt.Sprint("a", i); cluster.Partition(name)%parts == part {
				all = append(all, name)
				break
			}
		}
	}
	return all
}

func online(t *testing.T, m *machine, account string) (*phone, delivery.Up) {
	t.Helper()
	return onlineAs(t, m, account, &phone{})
}

func onlineAs(t *testing.T, m *machine, account string, p *phone) (*phone, delivery.Up) {
	t.Helper()
	up, err := m.router.Online(delivery.OnlineInfo{Device: "phone-" + account, Account: account, Channel: p, Keepalive: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return p, up
}

// ids returns the notifications that a phone has, and whether they came once and in order.
func (p *phone) ids(t *testing.T, m *machine) (ids []string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	last := delivery.Seq(0)
	for _, pub := range p.got {
		if pub.Redelivery {
			continue
		}
		if pub.Seq <= last {
			t.Error("published twice or out of order:", pub.Seq, "after", last)
		}
		last = pub.Seq
		n, err := m.router.Notification(pub.Seq)
		if err != nil {
			t.Error(err)
			continue
		}
		ids = append(ids, n.Title)
	}
	return ids
}

// A device at any node gets the notifications of a backend at any node, whichever owns
// the account; reads at any node see it.
func TestAnyNode(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, _ *network, all []*machine) {
		for i, account := range accounts() {
			at, backend, reader := all[i%3], all[i/3%3], all[(i+1)%3]
			p, up := online(t, at, account)
			r, err := backend.router.Accept(t.Context(), delivery.Request{Account: account, Title: "hello"})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := p.ids(t, at); !slices.Equal(got, []string{"hello"}) {
				t.Errorf("%s got %v", account, got)
			}
			if v, err := reader.router.Get(t.Context(), r.Notification.ID); err != nil || v.State != delivery.StateAcked {
				t.Errorf("%s: %+v, error %v", account, v, err)
			}
			if d, err := reader.router.Device(account, "phone-"+account); err != nil || !d.Up {
				t.Errorf("%s: %+v, error %v", account, d, err)
			}
			if page, _, err := reader.router.List(t.Context(), delivery.Filter{Limit: 100}); err != nil || len(page) != i+1 {
				t.Errorf("a list of %d, error %v; want %d", len(page), err, i+1)
			}
			up.Offline("gone")
			synctest.Wait()
			if d, err := reader.router.Device(account, "phone-"+account); err != nil || d.Up {
				t.Errorf("%s: %+v, error %v", account, d, err)
			}
		}
	})
}

// Requests to a paused owner are answered by its successor within the lease
// and 2 s, once; devices at other nodes stay connected and get it.
func TestOwnerPaused(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, n *network, all []*machine) {
		phones := map[string]*phone{}
		for _, account := range accounts() {
			phones[account], _ = online(t, all[1], account)
		}
		time.Sleep(time.Second) // they are in the registry
		resume := all[0].pause()
		n.cut("one", true)
		begun := time.Now()
		var asked sync.WaitGroup
		for _, account := range accounts() {
			asked.Go(func() {
				for i := range 3 {
					if _, err := all[2].router.Accept(t.Context(), delivery.Request{Account: account, Title: fmt.Sprint(i)}); err != nil {
						t.Error(account, err)
					}
				}
			})
		}
		asked.Wait()
		if took := time.Since(begun); took > lease+2*time.Second {
			t.Error("answered after", took)
		}
		synctest.Wait()
		for account, p := range phones {
			if got := p.ids(t, all[1]); !slices.Equal(got, []string{"0", "1", "2"}) {
				t.Errorf("%s got %v", account, got)
			}
		}
		n.cut("one", false)
		resume()
		time.Sleep(15 * time.Second)
		b.want(map[string]int{"one": 4, "two": 4, "three": 4})
		for account, p := range phones {
			if _, err := all[0].router.Accept(t.Context(), delivery.Request{Account: account, Title: "3"}); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if got := p.ids(t, all[1]); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
				t.Errorf("%s got %v after the return", account, got)
			}
		}
	})
}

// A successor that does not know of a publication flags its own copy, on the connection
// that has had the first, as a redelivery.
func TestSuccessorFlagsItsCopy(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, n *network, all []*machine) {
		phones := map[string]*phone{}
		for _, account := range accounts() {
			phones[account], _ = online(t, all[1], account)
		}
		time.Sleep(time.Second) // they are in the registry
		for _, account := range accounts() {
			if _, err := all[2].router.Accept(t.Context(), delivery.Request{Account: account, Title: "0"}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		resume := all[0].pause() // published, and not recorded yet
		n.cut("one", true)
		time.Sleep(lease + 3*time.Second)
		copies := 0
		for account, p := range phones {
			if got := p.ids(t, all[1]); !slices.Equal(got, []string{"0"}) {
				t.Errorf("%s got %v", account, got)
			}
			copies += len(p.got) - 1
		}
		if copies != 4 {
			t.Errorf("%d copies by successors, want one in each partition of the paused node", copies)
		}
		n.cut("one", false)
		resume()
		time.Sleep(10 * time.Second)
	})
}

// Nodes that cannot reach each other go on for a device at the owner's node, and take the
// others up again when they can.
func TestCutBetweenNodes(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, n *network, all []*machine) {
		phones := map[string]*phone{}
		for _, account := range accounts() {
			phones[account], _ = online(t, all[1], account)
		}
		for round, away := range []time.Duration{time.Second, 20 * time.Second} {
			n.cut("two", true)
			for _, account := range accounts() { // at the owner
				ok := 0
				for _, m := range all {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					if _, err := m.router.Accept(ctx, delivery.Request{Account: account, Title: fmt.Sprint(round), ID: fmt.Sprint(account, "-", round)}); err == nil {
						ok++
					}
					cancel()
				}
				if ok == 0 {
					t.Error("nobody accepts for", account)
				}
			}
			time.Sleep(away)
			n.cut("two", false)
			time.Sleep(20 * time.Second)
			for account, p := range phones {
				p.mu.Lock()
				if seen := p.got; !slices.ContainsFunc(seen, func(pub delivery.Publication) bool {
					n, err := all[1].router.Notification(pub.Seq)
					return err == nil && n.Title == fmt.Sprint(round)
				}) {
					t.Errorf("%s has not got %d after the cut of %v", account, round, away)
				}
				p.mu.Unlock()
			}
		}
		if b.fencing != 0 {
			t.Error("lives ended by others:", b.fencing)
		}
	})
}

// A device that connects to another node has its older connection ended there.
func TestDeviceHops(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, _ *network, all []*machine) {
		for _, account := range accounts() {
			var last *phone
			for i := range 12 {
				p, _ := online(t, all[i%3], account)
				synctest.Wait()
				if last != nil && !last.Closed() {
					t.Fatal(account, "has two connections after hop", i)
				}
				if p.Closed() {
					t.Fatal(account, "has lost its newer connection at hop", i)
				}
				if _, err := all[(i+1)%3].router.Accept(t.Context(), delivery.Request{Account: account, Title: fmt.Sprint(i)}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := p.ids(t, all[0]); !slices.Equal(got, []string{fmt.Sprint(i)}) {
					t.Errorf("%s got %v at hop %d", account, got, i)
				}
				last = p
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
}

// A registration, and a device, that move between accounts of different nodes are
// dropped by the former owner.
func TestMovesBetweenNodes(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, _ *network, all []*machine) {
		names := accounts()
		for i, account := range names {
			token := &delivery.Registration{Server: delivery.ServerAPNs, App: "app", Token: "00"}
			if err := all[i%3].router.PutDevice(t.Context(), account, fmt.Sprint("tablet", i), token); err != nil {
				t.Fatal(err)
			}
			if err := all[i%3].router.PutDevice(t.Context(), account, "wanderer", nil); err != nil {
				t.Fatal(err)
			}
			// So that the account stays in memory at its owner.
			if _, err := all[i%3].router.Online(delivery.OnlineInfo{Device: fmt.Sprint("tablet", i), Account: account, Channel: &phone{}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if holder, err := all[(i+1)%3].router.AccountOf("wanderer"); err != nil || holder != account {
				t.Errorf("the device is %q's, error %v; want %q", holder, err, account)
			}
			for j := range i + 1 {
				d, err := all[(i+2)%3].router.Device(names[j], fmt.Sprint("tablet", j))
				if err != nil {
					t.Fatal(err)
				}
				if holds := len(d.Registrations) == 1; holds != (j == i) {
					t.Errorf("after move %d: tablet %d holds %v", i, j, d.Registrations)
				}
			}
		}
	})
}

// The list of all devices, and the search for old ones, wait once for a node that is not reached,
// however many devices it serves. The devices of the other nodes are listed as they are.
func TestAllDevicesOfUnreachedNode(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, n *network, all []*machine) {
		names := accounts()
		for _, account := range names {
			online(t, all[0], account)
			for i := range 4 {
				if err := all[0].router.PutDevice(t.Context(), account, fmt.Sprint("pad", i, "-", account), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Second) // they are in the registry
		unreached := b.ownedBy(all[1])
		n.cut("two", true)
		for _, relay := range []string{"just lost", "ended"} {
			begun := time.Now()
			page, err := all[0].router.AllDevices("", 100)
			if took := time.Since(begun); err != nil || len(page) != 5*len(names) || took > lease+2*time.Second {
				t.Errorf("%s: %d devices after %v, error %v", relay, len(page), took, err)
			}
			for _, d := range page {
				if phone := d.ID == "phone-"+d.Account; phone && !d.Up && !slices.Contains(unreached, d.Account) {
					t.Errorf("%s: %s of a node that is reached is not up", relay, d.ID)
				}
			}
			begun = time.Now()
			err = all[0].router.ForgetOld(time.Now().Add(time.Hour))
			if took := time.Since(begun); !errors.Is(err, delivery.ErrUnavailable) || took > lease+2*time.Second {
				t.Errorf("%s: searched for %v, error %v", relay, took, err)
			}
			time.Sleep(lease + 5*time.Second)
		}
		n.cut("two", false)
		time.Sleep(20 * time.Second)
	})
}

// TestPageWithoutRemovedDevice: a device that its owner has removed, and the store has not yet,
// does not shorten the page.
func TestPageWithoutRemovedDevice(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		account := b.ownedBy(all[1])[0]
		online(t, all[1], account)
		for _, id := range []string{"a", "b", "c", "d"} {
			if err := all[0].router.PutDevice(t.Context(), account, id, nil); err != nil {
				t.Fatal(err)
			}
		}
		resume := all[1].pause()
		removed := make(chan error, 1)
		go func() { removed <- all[0].router.ForgetDevice(t.Context(), account, "b") }()
		synctest.Wait()
		page, err := all[0].router.AllDevices("", 3)
		var ids []string
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		if want := []string{"a", "c", "d"}; err != nil || !slices.Equal(ids, want) {
			t.Errorf("%v, want %v, error %v", ids, want, err)
		}
		resume()
		if err := <-removed; err != nil {
			t.Error(err)
		}
	})
}

func (b *base) mesh(m *machine) *relay.Mesh {
	if b.network == nil {
		return nil
	}
	mesh := relay.NewMesh(relay.Options{
		Name: m.name, Address: m.name, Local: m.router, Dial: b.network.dialFrom(m.name), Beat: time.Second, Patience: lease + 2*time.Second,
		Log: slog.New(slog.DiscardHandler),
	})
	b.network.mu.Lock()
	defer b.network.mu.Unlock()
	b.network.meshes[m.name] = mesh
	return mesh
}

// TestAnsweredOnceStored: a call that changes an account of another node is answered once the store
// has the change: the caller may be told that it is on record, and the owner may be lost next.
func TestAnsweredOnceStored(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		here, owner := all[0].router, all[1]
		account := b.ownedBy(owner)[0]
		if err := here.PutDevice(t.Context(), account, "phone", nil); err != nil {
			t.Fatal(err)
		}
		r, err := here.Accept(t.Context(), delivery.Request{Account: account, Title: "t"})
		if err != nil {
			t.Fatal(err)
		}
		token := delivery.Registration{Server: delivery.ServerAPNs, App: "app", Token: "00"}
		for _, c := range []struct {
			name string
			call func() error
		}{
			{"ack", func() error { return here.AckByID(r.Notification.ID, "phone", account, delivery.AckReceived) }},
			{"late ack", func() error { return here.AckByID(r.Notification.ID, "phone", account, delivery.AckDisplayed) }},
			{"register", func() error { return here.Register("pad", account) }},
			{"register via", func() error { return here.RegisterVia("pad", account, delivery.ViaXMPP) }},
			{"set registration", func() error { return here.SetRegistration("pad", account, token) }},
			{"remove registrations", func() error { return here.RemoveRegistrations("pad", account, token.Server, "") }},
			{"put device", func() error { return here.PutDevice(t.Context(), account, "watch", nil) }},
			{"forget device", func() error { return here.ForgetDevice(t.Context(), account, "watch") }},
			{"sign out", func() error { return here.SignOut(t.Context(), "pad", account) }},
			{"erase", func() error { return here.Erase(t.Context(), r.Notification.ID) }},
			{"erase account", func() error { return here.EraseAccount(t.Context(), account) }},
		} {
			resume := owner.pause() // it writes nothing
			answered := make(chan error, 1)
			go func() { answered <- c.call() }()
			synctest.Wait()
			if len(answered) > 0 {
				t.Error("answered before it was stored:", c.name)
			}
			resume()
			if err := <-answered; err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}

// TestFlushAll: the events of every node are in the store once one node has flushed all.
func TestFlushAll(t *testing.T) {
	relayed(t, func(t *testing.T, b *base, _ *network, all []*machine) {
		for _, m := range all {
			account := b.ownedBy(m)[0]
			if err := m.router.PutDevice(t.Context(), account, "phone-"+account, nil); err != nil {
				t.Fatal(err)
			}
			r, err := m.router.Accept(t.Context(), delivery.Request{Account: account, Title: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.router.AckByID(r.Notification.ID, "phone-"+account, account, delivery.AckDisplayed); err != nil {
				t.Fatal(err)
			}
			stored := func() bool {
				events, err := b.store.Timeline(r.Notification.Seq)
				if err != nil {
					t.Fatal(err)
				}
				return slices.ContainsFunc(events, func(e delivery.Event) bool { return e.Kind == delivery.EventDisplayed })
			}
			if stored() {
				t.Error("stored at once: the test shows nothing")
			}
			if err := all[0].router.FlushAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !stored() {
				t.Errorf("an ack at node %s is not in the store", m.name)
			}
		}
	})
}
