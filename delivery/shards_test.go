package delivery_test

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/delivery"
)

// shards is how many Cores share the store of a test, each with its part of the
// accounts. 0: one Core has all of it.
var shards = flag.Int("shards", 0, "run the tests with that many cores over one store")

// TestSuiteWithShards runs all tests of this package again with 9 Cores over one store (accounts a, b and c are in three of them):
// whatever one Core promises, several promise together.
func TestSuiteWithShards(t *testing.T) {
	if *shards > 0 {
		t.Skip("this is that run")
	}
	args := []string{"-shards=9", "-test.timeout=5m"}
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
	EventsEnd() (delivery.Position, error)
}

// newCore is delivery.New, of as many Cores as -shards says.
func newCore(opts delivery.Options, out delivery.Outbox, pusher delivery.Pusher, log *slog.Logger) core {
	if *shards == 0 {
		return delivery.New(opts, out, pusher, log)
	}
	s := &sharded{observers: &delivery.Observers{}, out: out, interval: opts.ForgetInterval, after: opts.ForgetDeviceAfter}
	opts.Observers = s.observers
	views := &views{Outbox: out}
	s.Router = cluster.NewRouter(cluster.RouterOptions{
		Reader: delivery.New(opts, views.view(), nil, log), Observers: s.observers,
		Parts: uint16(*shards), Name: "test", Hold: time.Second, Log: log,
	})
	for i := range uint16(*shards) {
		o := opts
		o.Shard = delivery.Shard{Index: i, Of: uint16(*shards)}
		o.Neighbours = s.Neighbours(i)
		s.cores = append(s.cores, delivery.New(o, views.view(), pusher, log))
	}
	return s
}

// sharded is several Cores that stand for one.
type sharded struct {
	*cluster.Router
	cores     []*delivery.Core
	observers *delivery.Observers
	out       delivery.Outbox
	interval  time.Duration
	after     time.Duration
	quit      chan struct{}
	quitting  sync.Once
	janitor   sync.WaitGroup
}

func (s *sharded) Start() error {
	var errs []error
	for i, c := range s.cores {
		errs = append(errs, c.Start())
		s.Serve(uint16(i), 1, c)
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
	s.Close()
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
