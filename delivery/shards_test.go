package delivery_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

// shards is how many Cores share the store of a test, each with its part of the
// accounts. 0: one Core has all of it.
var shards = flag.Int("shards", 0, "run the tests with that many cores over one store")

// nodes is how many nodes, connected by relays, share those Cores. Devices and backends are
// at the first. cutAfter cuts each stream between them after up to that many bytes.
var (
	nodes    = flag.Int("nodes", 1, "with -shards: run the tests with the cores at that many nodes")
	cutAfter = flag.Int("cut", 0, "with -nodes: cut each stream after up to that many bytes")
)

// TestSuiteWithShards runs all tests of this package again with 9 Cores over one store (accounts a, b and c are in three of them):
// whatever one Core promises, several promise together.
func TestSuiteWithShards(t *testing.T) {
	if *shards > 0 {
		t.Skip("this process is such a run, and must not start another")
	}
	runSuite(t, "-shards=9")
}

// TestSuiteWithNodes runs them with the Cores of those shards at three nodes: most of
// what the tests ask goes over relays.
func TestSuiteWithNodes(t *testing.T) {
	if *shards > 0 {
		t.Skip("this process is such a run, and must not start another")
	}
	runSuite(t, "-shards=9", "-nodes=3")
}

// TestSuiteWithNodesCut is TestSuiteWithNodes while the streams between the nodes are cut
// again and again, in the midst of frames.
func TestSuiteWithNodesCut(t *testing.T) {
	if *shards > 0 {
		t.Skip("this process is such a run, and must not start another")
	}
	runSuite(t, "-shards=9", "-nodes=3", "-cut=3000")
}

// slack is how much later something may happen where streams are cut: what carries it
// may first have to be dialled again.
func slack() time.Duration {
	if *cutAfter > 0 {
		return time.Second
	}
	return 0
}

// settle waits until everything is done that can be done now.
func settle() {
	time.Sleep(slack())
	synctest.Wait()
}

func runSuite(t *testing.T, args ...string) {
	t.Helper()
	args = append(args, "-test.timeout=5m")
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// core is what the tests ask of a Core, or of several behind a Router.
type core interface {
	Start() error
	Stop(ctx context.Context) error
	Crash()
	SetWall(by time.Duration)

	Accept(ctx context.Context, r delivery.Request) (delivery.Receipt, error)
	AcceptAsync(r delivery.Request, done func(delivery.Receipt, error))
	AccountOf(id string) (string, error)
	AckByID(id, device, account string, kind delivery.AckKind) error
	Cancel(ctx context.Context, id string) error
	CheckOwner(id, account string) error
	Device(account, id string) (delivery.DeviceView, error)
	Devices(account string) ([]delivery.DeviceView, error)
	AllDevices(after string, limit int) ([]delivery.DeviceView, error)
	Dismiss(ctx context.Context, id string) error
	Erase(ctx context.Context, id string) error
	EraseAccount(ctx context.Context, account string) error
	Flush(ctx context.Context) error
	ForgetDevice(ctx context.Context, account, id string) error
	Get(ctx context.Context, id string) (*delivery.View, error)
	List(ctx context.Context, f delivery.Filter) ([]*delivery.View, delivery.Seq, error)
	Notification(seq delivery.Seq) (*delivery.Notification, error)
	Online(info delivery.OnlineInfo) (delivery.Up, error)
	PushPossible(server, app string)
	PutDevice(ctx context.Context, account, id string, r *delivery.Registration) error
	Register(id, account string) error
	RegisterVia(id, account, via string) error
	RemoveRegistrations(id, account, server, kind string) error
	SetRegistration(id, account string, r delivery.Registration) error
	SignOut(ctx context.Context, id, account string) error
	Reconfigure(s delivery.Settings)
	Subscribe(buffer int) *delivery.Subscription
	Observe(o delivery.Observer)
	EventsFrom(after delivery.Position, fn func(at delivery.Position, account string, e delivery.Event) bool) error
	EventsEnd() (delivery.Place, error)
}

// newCore is delivery.New, of as many Cores as -shards says.
func newCore(opts delivery.Options, out delivery.Outbox, pusher delivery.Pusher, log *slog.Logger) core {
	if *shards == 0 {
		return delivery.New(opts, out, pusher, log)
	}
	s := &sharded{observers: &delivery.Observers{}, out: out, interval: opts.ForgetInterval, after: opts.ForgetDeviceAfter}
	opts.Observers = s.observers
	views := &views{Outbox: out}
	for range *nodes {
		s.routers = append(s.routers, cluster.NewRouter(cluster.RouterOptions{
			Reader: delivery.New(opts, views.view(), nil, log), Observers: s.observers,
			Parts: uint16(*shards), Name: "test", Hold: time.Second, Log: log,
		}))
	}
	s.Router = s.routers[0]
	if *nodes > 1 {
		s.meshes = meshes(s.routers, log)
	}
	for i := range uint16(*shards) {
		o := opts
		o.Shard = delivery.Shard{Index: i, Of: uint16(*shards)}
		o.Neighbours = s.routers[s.at(i)].Neighbours(i)
		s.cores = append(s.cores, delivery.New(o, views.view(), pusher, log))
	}
	return s
}

// sharded is several Cores that stand for one.
type sharded struct {
	*cluster.Router
	routers   []*cluster.Router // of the nodes; the first is Router
	meshes    []*relay.Mesh
	cores     []*delivery.Core
	observers *delivery.Observers
	out       delivery.Outbox
	interval  time.Duration
	after     time.Duration
	quit      chan struct{}
	quitting  sync.Once
	janitor   sync.WaitGroup
}

// at returns the node that owns a shard.
func (s *sharded) at(shard uint16) int { return int(shard) % len(s.routers) }

func (s *sharded) Start() error {
	var errs []error
	for i, c := range s.cores {
		errs = append(errs, c.Start())
		for n, r := range s.routers {
			if n == s.at(uint16(i)) {
				r.Serve(uint16(i), 1, c)
			} else {
				r.Assign(uint16(i), 1, int64(s.at(uint16(i))+1))
			}
		}
	}
	s.quit = make(chan struct{})
	s.janitor.Go(s.forget)
	return errors.Join(errs...)
}

// forget does what the janitor of a cluster does.
func (s *sharded) forget() {
	interval := s.interval
	if interval == 0 {
		interval = time.Hour
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.ForgetOld(time.Now().Add(-s.after)); err != nil && !errors.Is(err, delivery.ErrStopped) {
				panic(err)
			}
		case <-s.quit:
			return
		}
	}
}

func (s *sharded) end() {
	for _, m := range s.meshes {
		m.Close()
	}
	for _, r := range s.routers {
		r.Close()
	}
	if s.quit != nil {
		s.quitting.Do(func() { close(s.quit) })
		s.janitor.Wait()
	}
	s.observers.Close()
}

func (s *sharded) Stop(ctx context.Context) error {
	errs := make([]error, len(s.cores))
	var all sync.WaitGroup
	for i, c := range s.cores {
		all.Go(func() { errs[i] = c.Stop(ctx) })
	}
	all.Wait()
	s.end()
	return errors.Join(errs...)
}

func (s *sharded) Crash() {
	for _, c := range s.cores {
		c.Abandon()
	}
	s.end()
}

func (s *sharded) SetWall(by time.Duration) {
	for _, c := range s.cores {
		c.SetWall(by)
	}
}

func (s *sharded) Observe(o delivery.Observer) { s.observers.Observe(o) }

func (s *sharded) Reconfigure(to delivery.Settings) {
	for _, c := range s.cores {
		c.Reconfigure(to)
	}
}

// meshes connects Routers by pipes.
func meshes(routers []*cluster.Router, log *slog.Logger) (all []*relay.Mesh) {
	random := rand.New(rand.NewPCG(1, uint64(*cutAfter)))
	dials := map[string]int{}
	var mu sync.Mutex
	dial := func(from int, address string) (net.Conn, error) {
		var to int
		if _, err := fmt.Sscan(address, &to); err != nil {
			return nil, err
		}
		here, there := net.Pipe()
		if *cutAfter > 0 {
			mu.Lock()
			left := random.IntN(*cutAfter)
			pair := fmt.Sprint(from, "-", to)
			if dials[pair]++; dials[pair]%4 == 0 { // or no large frame would ever pass
				left += *cutAfter * 100
			}
			here = &cutConn{Conn: here, left: left}
			mu.Unlock()
		}
		all[to].Handle(there)
		return here, nil
	}
	var members []relay.Member
	for i, r := range routers {
		from := func(_ context.Context, address string) (net.Conn, error) { return dial(i, address) }
		all = append(all, relay.NewMesh(relay.Options{Name: fmt.Sprint("node", i), Local: r, Dial: from, Patience: 7 * time.Second, Log: log}))
		members = append(members, relay.Member{ID: int64(i + 1), Name: fmt.Sprint("node", i), Address: fmt.Sprint(i)})
	}
	for i, m := range all {
		m.Begin(int64(i + 1))
	}
	for _, m := range all {
		m.Update(members)
	}
	return all
}

// cutConn is a connection that ends after a number of bytes in either direction.
type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int
}

// take returns how many of n bytes may pass.
func (c *cutConn) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if took := c.take(n); took < n {
		_ = c.Close()
		return took, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	may := c.take(len(b))
	n, err := c.Conn.Write(b[:may])
	if err == nil && n < len(b) {
		_ = c.Close()
		err = io.ErrShortWrite
	}
	return n, err
}

// views gives each of several Cores an Outbox of its own on one, which may be of any
// kind.
type views struct {
	delivery.Outbox
	mu  sync.Mutex
	fns []func()
}

type view struct {
	delivery.Outbox
	all *views
}

func (v *views) view() delivery.Outbox { return &view{v.Outbox, v} }

func (v *view) OnGroupDone(fn func()) {
	v.all.mu.Lock()
	defer v.all.mu.Unlock()
	v.all.fns = append(v.all.fns, fn)
	fns := v.all.fns
	v.Outbox.OnGroupDone(func() {
		for _, fn := range fns {
			fn()
		}
	})
}
