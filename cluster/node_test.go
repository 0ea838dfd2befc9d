package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/testtool"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	parts = 12
	lease = 5 * time.Second
)

var errAway = errors.New("the database is away")

// base is a database that all nodes share: it decides as PostgreSQL does.
type base struct {
	t       *testing.T
	store   *memory.Engine
	network *network // nil: no relays

	mu         sync.Mutex
	last       int64
	members    map[int64]*member
	parts      []cluster.Ownership
	clock      time.Duration // how far its clock is off
	away       bool
	silent     bool             // it does not answer GiveUp
	late       bool             // nor this, which is committed later
	commits    []func() error   // of GiveUps that were late
	cores      [][]begunCore    // of all lives, by partition
	fencing    int              // lives that others have ended
	unreadable error            // the answer to reading several partitions
	reading    func(m *machine) // called when a node has read a partition
	// outlived is the last life before the database failed over: it takes no write of those.
	outlived int64
}

type begunCore struct {
	cluster.Ownership
	core *delivery.Core
}

type member struct {
	cluster.Member
	life *life
}

func newBase(t *testing.T) *base {
	return newBaseOf(t, parts)
}

// newBaseOf is a base with n partitions.
func newBaseOf(t *testing.T, n int) *base {
	b := &base{t: t, store: memory.New(), members: map[int64]*member{}, parts: make([]cluster.Ownership, n), cores: make([][]begunCore, n)}
	for i := range b.parts {
		b.parts[i].Part = uint16(i)
	}
	return b
}

func (b *base) now() time.Time { return time.Now().Add(b.clock) }

// life is one life of a node.
type life struct {
	*store.Outbox
	b  *base
	m  *machine
	id int64

	mu      sync.Mutex
	trusted time.Time
}

// machine runs a node. While it is paused, nothing of it happens.
type machine struct {
	name        string
	router      *cluster.Router
	node        *cluster.Node
	mesh        *relay.Mesh
	mu          sync.Mutex
	paused      chan struct{} // nil: it runs
	away        atomic.Bool   // it does not reach the database
	ended, lost []uint16      // what the Companion was told
	// sessions are those of devices at this node: ID and Account.
	sessions []delivery.Device
}

func (m *machine) wait() {
	m.mu.Lock()
	paused := m.paused
	m.mu.Unlock()
	if paused != nil {
		<-paused
	}
}

func (m *machine) pause() (resume func()) {
	c := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = c
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(c)
		m.paused = nil
	}
}

func options() delivery.Options {
	return delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: time.Hour, MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: time.Hour * 1000,
		Boottime: func() time.Duration { return 0 },
	}
}

func (b *base) machine(name string) *machine {
	m := &machine{name: name}
	reading, err := store.New(store.Options{Open: func(bool) (store.Engine, error) { return shared{b.store, nil}, nil }})
	if err != nil {
		b.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m.router = cluster.NewRouter(cluster.RouterOptions{
		Reader: delivery.New(options(), reading, nil, log), Observers: &delivery.Observers{},
		Parts: uint16(len(b.parts)), Name: name, Hold: lease + 2*time.Second, End: m.end, Log: log,
		Able: func() bool { return !m.away.Load() },
	})
	m.mesh = b.mesh(m)
	m.node = cluster.NewNode(cluster.NodeOptions{
		Mesh:   m.mesh,
		Join:   func(context.Context) (cluster.Life, error) { return b.join(m) },
		Router: m.router, Lease: lease, Log: log, Companion: companion{m},
	})
	if err := m.node.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = reading.Close() })
	return m
}

// companion records its calls.
type companion struct{ m *machine }

func (companion) Begin(cluster.Life, uint16, *delivery.Core) {}

func (c companion) End(_ context.Context, parts []uint16) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.ended = append(c.m.ended, parts...)
}

func (c companion) Lose(parts []uint16) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.lost = append(c.m.lost, parts...)
}

func (m *machine) stop(t *testing.T) {
	if err := m.node.Stop(context.Background()); err != nil {
		t.Error(m.name, err)
	}
	if m.mesh != nil {
		m.mesh.Close()
	}
	m.router.Close()
}

// shared is the engine of one life on the store of all.
type shared struct {
	*memory.Engine
	life *life
}

func (s shared) Apply(batch *delivery.Batch) error {
	s.life.m.wait()
	s.life.b.mu.Lock()
	defer s.life.b.mu.Unlock()
	if s.life.b.away || s.life.m.away.Load() {
		return errAway
	}
	if s.life.b.members[s.life.id] == nil || s.life.id <= s.life.b.outlived {
		return store.ErrFenced
	}
	s.life.onlyOwn(batch)
	return s.Engine.Apply(batch)
}

// onlyOwn reports changes to deliveries of partitions that another node owns, or nobody.
func (l *life) onlyOwn(batch *delivery.Batch) {
	own := func(what string, seq delivery.Seq) {
		if p := l.b.parts[int(seq)%len(l.b.parts)]; p.Node != l.id {
			l.b.t.Errorf("%s by life %d in partition %d, which is that of %d", what, l.id, p.Part, p.Node)
		}
	}
	for _, a := range batch.Accept {
		own("accept", a.Notification.Seq)
	}
	for _, r := range batch.Update {
		own("update", r.Seq)
	}
	for _, f := range batch.Finish {
		own("finish", f.Seq)
	}
}

func (b *base) join(m *machine) (*life, error) {
	m.wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away || m.away.Load() {
		return nil, errAway
	}
	b.last++
	l := &life{b: b, m: m, id: b.last, trusted: time.Now().Add(lease - time.Second)}
	b.members[l.id] = &member{cluster.Member{ID: l.id, Name: m.name, Address: m.name, Expires: b.now().Add(lease)}, l}
	var err error
	l.Outbox, err = store.New(store.Options{Open: func(bool) (store.Engine, error) { return shared{b.store, l}, nil }})
	return l, err
}

// with runs fn as one transaction of a life.
func (l *life) with(fn func() error) error {
	l.m.wait()
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if l.b.away || l.m.away.Load() {
		return errAway
	}
	if l.b.members[l.id] == nil {
		return store.ErrFenced
	}
	return fn()
}

func (l *life) ID() int64 { return l.id }

func (l *life) Beat(context.Context) error {
	began := time.Now()
	return l.with(func() error {
		l.b.members[l.id].Expires = l.b.now().Add(lease)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.trusted = began.Add(lease - time.Second)
		return nil
	})
}

func (l *life) Trusted() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.trusted) {
		return nil
	}
	return errors.New("lease over")
}

func (l *life) Now() time.Time { return time.Now() }

func (l *life) Members(context.Context) (all []cluster.Member, err error) {
	err = l.with(func() error {
		for _, m := range l.b.members {
			all = append(all, m.Member)
		}
		return nil
	})
	return all, err
}

func (l *life) FenceOff(_ context.Context, dead cluster.Member) (ok bool, err error) {
	err = l.with(func() error {
		m := l.b.members[dead.ID]
		if m == nil || !m.Expires.Equal(dead.Expires) {
			return nil
		}
		if m.life.Trusted() == nil {
			l.b.t.Error("a life was ended while it trusted itself:", m.Name)
		}
		ok = true
		l.b.fencing++
		l.b.end(dead.ID, uint64(dead.Expires.UnixNano()))
		return nil
	})
	return ok, err
}

func (b *base) end(id int64, floor uint64) {
	delete(b.members, id)
	for i := range b.parts {
		if p := &b.parts[i]; p.Node == id {
			p.Node, p.Term, p.Floor = 0, p.Term+1, max(p.Floor, floor)
		}
	}
}

func (l *life) Parts(context.Context) (all []cluster.Ownership, err error) {
	err = l.with(func() error { all = append(all, l.b.parts...); return nil })
	return all, err
}

func (l *life) Claim(_ context.Context, n int) (got []cluster.Ownership, err error) {
	err = l.with(func() error {
		for i := range l.b.parts {
			if p := &l.b.parts[i]; p.Node == 0 && len(got) < n {
				p.Node, p.Term = l.id, p.Term+1
				got = append(got, *p)
			}
		}
		return nil
	})
	return got, err
}

func (l *life) GiveUp(ctx context.Context, freed []cluster.Ownership) error {
	commit := func() error {
		return l.with(func() error {
			for _, f := range freed {
				p := &l.b.parts[f.Part]
				if p.Node != l.id {
					return fmt.Errorf("partition %d is not ours", f.Part)
				}
				if p.Term == f.Term {
					p.Node, p.Term, p.Floor = 0, p.Term+1, max(p.Floor, f.Floor)
				}
			}
			return nil
		})
	}
	l.b.mu.Lock()
	silent := l.b.silent || l.b.late
	if l.b.late {
		l.b.late, l.b.commits = false, append(l.b.commits, commit)
	}
	l.b.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return commit()
}

func (l *life) Raise(_ context.Context, raised []uint16) (kept []cluster.Ownership, err error) {
	err = l.with(func() error {
		for _, part := range raised {
			if p := &l.b.parts[part]; p.Node == l.id {
				p.Term++
				kept = append(kept, *p)
			}
		}
		return nil
	})
	return kept, err
}

func (l *life) SetLeaving(context.Context) error {
	return l.with(func() error { l.b.members[l.id].Leaving = true; return nil })
}

func (l *life) Leave(context.Context) error {
	return l.with(func() error { l.b.end(l.id, 0); return nil })
}

func (l *life) Backlog(parts []uint16) (delivery.Backlog, error) {
	if l.b.unreadable != nil {
		return nil, l.b.unreadable
	}
	b, err := l.Outbox.Backlog(parts)
	return backlog{b, l}, err
}

// backlog calls base.reading after the last read of a partition.
type backlog struct {
	delivery.Backlog
	l *life
}

func (b backlog) Dismissals(of delivery.Shard, fn func(*delivery.Dismissal) bool) error {
	err := b.Backlog.Dismissals(of, fn)
	if b.l.b.reading != nil {
		b.l.b.reading(b.l.m)
	}
	return err
}

func (l *life) Core(o cluster.Ownership) *delivery.Core {
	opts := options()
	opts.Shard, opts.Floor = delivery.Shard{Index: o.Part, Of: uint16(len(l.b.parts))}, o.Floor
	opts.Neighbours, opts.Now, opts.Trusted = l.m.router.Neighbours(o.Part), l.Now, l.Trusted
	core := delivery.New(opts, l.View(), nil, slog.New(slog.DiscardHandler))
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	l.b.cores[o.Part] = append(l.b.cores[o.Part], begunCore{o, core})
	return core
}

// owners returns how many partitions each node owns.
func (b *base) owners() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, p := range b.parts {
		if m := b.members[p.Node]; m != nil {
			n[m.Name]++
		} else {
			n[""]++
		}
	}
	return n
}

func (b *base) want(want map[string]int) {
	b.t.Helper()
	if got := b.owners(); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("partitions: %v, want %v", got, want)
	}
}

// accept has a node that owns the account's partition accept a notification for it.
func accept(t *testing.T, account string, among ...*machine) delivery.Seq {
	t.Helper()
	var errs []error
	for _, m := range among {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		err := m.router.PutDevice(ctx, account, "phone-"+account, nil)
		cancel()
		if err == nil {
			r, err := m.router.Accept(t.Context(), delivery.Request{Account: account, Title: "t"})
			if err != nil {
				t.Error(err)
				return 0
			}
			return r.Notification.Seq
		}
		errs = append(errs, err)
	}
	t.Error("nobody serves", account, errors.Join(errs...))
	return 0
}

func inCluster(t *testing.T, test func(t *testing.T, b *base)) {
	testtool.Bubble(t, func(t *testing.T) { test(t, newBase(t)) })
}

// Nodes share the partitions evenly, and one that leaves frees its own at once.
func TestShare(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one := b.machine("one")
		time.Sleep(time.Second)
		b.want(map[string]int{"one": parts})
		two, three := b.machine("two"), b.machine("three")
		time.Sleep(5 * time.Second)
		b.want(map[string]int{"one": 4, "two": 4, "three": 4})
		before := map[string]delivery.Seq{}
		for i := range 40 {
			account := fmt.Sprint("a", i)
			before[account] = accept(t, account, one, two, three)
		}
		freed := slices.Clone(b.parts)
		two.stop(t)
		time.Sleep(time.Second)
		b.want(map[string]int{"one": 6, "three": 6})
		for account, seq := range before {
			part := cluster.Partition(account) % parts
			if was, is := freed[part], b.parts[part]; is.Node != was.Node && is.Floor < uint64(seq) {
				t.Errorf("partition %d was freed with the floor %d, below %d", part, is.Floor, seq)
			}
			if after := accept(t, account, one, three); after <= seq {
				t.Errorf("%s: %d after %d", account, after, seq)
			}
		}
		if b.fencing != 0 {
			t.Error("lives ended by others:", b.fencing)
		}
		one.stop(t)
		three.stop(t)
		b.want(map[string]int{"": parts})
	})
}

// The partitions of a paused node are taken over within the lease and 2 s, never while
// it trusts itself; it writes nothing when it wakes, and joins again.
func TestTakeOver(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one, two := b.machine("one"), b.machine("two")
		time.Sleep(12 * time.Second)
		b.want(map[string]int{"one": 6, "two": 6})
		before := map[string]delivery.Seq{}
		for i := range 40 {
			account := fmt.Sprint("a", i)
			before[account] = accept(t, account, one, two)
		}
		resume := one.pause()
		time.Sleep(lease + 2*time.Second)
		b.want(map[string]int{"two": parts})
		for account, seq := range before {
			if after := accept(t, account, two); after <= seq {
				t.Errorf("%s: %d after %d", account, after, seq)
			}
		}
		time.Sleep(13 * time.Second)
		resume()
		time.Sleep(5 * time.Second)
		b.want(map[string]int{"one": 6, "two": 6})
		for account := range before {
			accept(t, account, one, two)
		}
		if b.fencing != 1 {
			t.Error("lives ended by others:", b.fencing)
		}
		one.stop(t)
		two.stop(t)
		totals, err := b.store.Totals()
		var left uint64
		_ = b.store.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { left++; return true })
		if err != nil || totals.Accepted != 120 || totals.Accepted-totals.Finished != left {
			t.Errorf("accepted %d, finished %d, left %d, error %v", totals.Accepted, totals.Finished, left, err)
		}
	})
}

// A node whose lease is longer renews it less often. It is not taken for dead before its own lease
// may have ended.
func TestTakeOverFromALongerLease(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one, two := b.machine("one"), b.machine("two")
		time.Sleep(12 * time.Second)
		b.mu.Lock()
		for _, m := range b.members {
			if m.Name == "one" {
				m.Patience = 4 * lease
			}
		}
		b.mu.Unlock()
		time.Sleep(lease) // two reads it
		resume := one.pause()
		time.Sleep(3 * lease)
		b.want(map[string]int{"one": 6, "two": 6})
		time.Sleep(2 * lease)
		b.want(map[string]int{"two": parts})
		resume()
		time.Sleep(5 * time.Second) // it joins again
		one.stop(t)
		two.stop(t)
	})
}

// Nobody is taken for dead because the database was away for longer than a lease, or
// because its clock was set.
func TestDatabaseAwayOrItsClockSet(t *testing.T) {
	inCluster(t, func(t *testing.T, b *base) {
		one, two, three := b.machine("one"), b.machine("two"), b.machine("three")
		time.Sleep(12 * time.Second)
		for _, step := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
			b.mu.Lock()
			b.clock += step
			b.mu.Unlock()
			time.Sleep(20 * time.Second)
		}
		for _, away := range []time.Duration{time.Second, 8 * time.Second, time.Minute} {
			b.mu.Lock()
			b.away = true
			b.mu.Unlock()
			time.Sleep(away)
			b.mu.Lock()
			b.away = false
			b.mu.Unlock()
			time.Sleep(20 * time.Second)
		}
		if b.fencing != 0 {
			t.Error("lives ended by others:", b.fencing)
		}
		b.want(map[string]int{"one": 4, "two": 4, "three": 4})
		one.stop(t)
		two.stop(t)
		three.stop(t)
	})
}
