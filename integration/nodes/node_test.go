package nodes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// lease is that of the nodes in these tests.
const lease = 5 * time.Second

// program is a process of these tests: a node with its Router, its Mesh and its Cores on
// PostgreSQL, and devices and backends that standard input commands:
//
//	online ACCOUNT         a device of the account connects; it acknowledges everything
//	accept N ACCOUNT       a backend asks for notification N
//	stop                   SIGTERM
//
// It says on standard output "accepted N", "refused N ERROR" and "got ACCOUNT N SEQ
// REDELIVERY".
type program struct {
	db      *pgstore.DB
	router  *cluster.Router
	node    *cluster.Node
	mesh    *relay.Mesh
	reading *reading
	out     sync.Mutex
}

func options() delivery.Options {
	return delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: time.Hour, MaxOutstanding: 1000, MaxInflight: 16, ForgetDeviceAfter: 1000 * time.Hour,
	}
}

func (p *program) say(format string, args ...any) {
	p.out.Lock()
	defer p.out.Unlock()
	fmt.Printf(format+"\n", args...)
}

// run is the process.
func run(name string) error {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p := &program{}
	address := l.Addr().String()
	p.db, err = pgstore.Open(ctx, pgstore.Options{URL: os.Getenv("NODE_URL"), Name: name, Address: address, Lease: lease, Logger: log})
	if err != nil {
		return err
	}
	defer p.db.Close()
	p.reading = &reading{}
	observers := &delivery.Observers{}
	p.router = cluster.NewRouter(cluster.RouterOptions{
		Reader: delivery.New(options(), p.reading, nil, log), Observers: observers, Parts: cluster.Parts, Name: name, Hold: lease + 2*time.Second, Log: log,
	})
	p.mesh = relay.NewMesh(relay.Options{
		Name: name, Address: address, Local: p.router, Beat: lease / 10, Patience: lease + 2*time.Second, Log: log,
	})
	p.mesh.Serve(l)
	p.node = cluster.NewNode(cluster.NodeOptions{
		Join:   func(ctx context.Context) (cluster.Life, error) { return p.join(ctx, observers, log) },
		Router: p.router, Mesh: p.mesh, Lease: lease, Log: log,
	})
	if err := p.node.Start(ctx); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch f := strings.Fields(in.Text()); f[0] {
		case "online":
			go p.online(f[1])
		case "accept":
			p.router.AcceptAsync(delivery.Request{Account: f[2], Title: f[1]}, func(_ delivery.Receipt, err error) {
				if err != nil {
					p.say("refused %s %v", f[1], err)
				} else {
					p.say("accepted %s", f[1])
				}
			})
		case "stop":
			if err := p.node.Stop(ctx); err != nil {
				return err
			}
			p.mesh.Close()
			p.router.Close()
			p.say("stopped")
			return nil
		}
	}
	return nil
}

// device is a device's connection. It takes its packets in their order.
type device struct {
	p       *program
	account string
	packets chan delivery.Publication
}

// Publish only queues: the Core's mutex is held.
func (d *device) Publish(pub delivery.Publication) error {
	select {
	case d.packets <- pub:
		return nil
	default:
		return errors.New("queue full")
	}
}

func (d *device) run() {
	for pub := range d.packets {
		n, err := d.p.router.Notification(pub.Seq)
		if err != nil {
			pub.Nacked(err.Error())
			continue
		}
		d.p.say("got %s %s %d %v", d.account, n.Title, pub.Seq, pub.Redelivery)
		pub.Acked()
	}
}

func (d *device) Closed() bool { return false }

func (p *program) online(account string) {
	d := &device{p: p, account: account, packets: make(chan delivery.Publication, 1000)}
	go d.run()
	if _, err := p.router.Online(delivery.OnlineInfo{Device: "phone-" + account, Account: account, Channel: d, Keepalive: time.Minute}); err != nil {
		p.say("offline %s %v", account, err)
		return
	}
	p.say("online %s", account)
}

// reading is the Outbox of the Core that only reads. Its engine outlives the life that it
// is of: a read needs no fence.
type reading struct{ delivery.Reader }

func (*reading) Commit(_ *delivery.Batch, done func(error))   { done(nil) } // there is nothing to write
func (*reading) OnGroupDone(func())                           {}
func (*reading) InMemory(delivery.Seq) *delivery.Notification { return nil }

// life is one life of the process on the database.
type life struct {
	*pgstore.Node
	*store.Outbox
	p         *program
	observers *delivery.Observers
	log       *slog.Logger
}

func (p *program) join(ctx context.Context, observers *delivery.Observers, log *slog.Logger) (cluster.Life, error) {
	node, err := p.db.Join(ctx)
	if err != nil {
		return nil, err
	}
	if p.reading.Reader == nil {
		engine, err := node.Open(false)
		if err != nil {
			return nil, err
		}
		p.reading.Reader = engine
	}
	out, err := store.New(store.Options{Open: node.Open, Logger: log})
	if err != nil {
		return nil, err
	}
	return &life{node, out, p, observers, log}, nil
}

func (l *life) Core(o cluster.Ownership) *delivery.Core {
	opts := options()
	opts.Shard, opts.Floor = delivery.Shard{Index: o.Part, Of: cluster.Parts}, o.Floor
	opts.Neighbours, opts.Now, opts.Trusted, opts.Observers = l.p.router.Neighbours(o.Part), l.Now, l.Trusted, l.observers
	return delivery.New(opts, l.View(), nil, l.log)
}

func (l *life) Members(ctx context.Context) (all []cluster.Member, err error) {
	members, err := l.p.db.Members(ctx)
	for _, m := range members {
		all = append(all, cluster.Member{ID: m.ID, Name: m.Name, Address: m.Address, Leaving: m.Leaving, Expires: m.Expires})
	}
	return all, err
}

func (l *life) FenceOff(ctx context.Context, dead cluster.Member) (bool, error) {
	return l.p.db.FenceOff(ctx, pgstore.Member{ID: dead.ID, Name: dead.Name, Expires: dead.Expires})
}

func owned(parts []pgstore.Part, err error) (all []cluster.Ownership, _ error) {
	for _, p := range parts {
		all = append(all, cluster.Ownership(p))
	}
	return all, err
}

func (l *life) Parts(ctx context.Context) ([]cluster.Ownership, error) {
	return owned(l.p.db.Parts(ctx))
}

func (l *life) Claim(ctx context.Context, n int) ([]cluster.Ownership, error) {
	return owned(l.Node.Claim(ctx, n))
}

func (l *life) GiveUp(ctx context.Context, freed []cluster.Ownership) error {
	var parts []pgstore.Part
	for _, o := range freed {
		parts = append(parts, pgstore.Part(o))
	}
	return l.Node.GiveUp(ctx, parts)
}

func (l *life) Raise(ctx context.Context, parts []uint16) ([]cluster.Ownership, error) {
	return owned(l.Node.Raise(ctx, parts))
}

func (l *life) Close() error {
	err := l.Outbox.Close()
	l.Node.Close()
	return err
}

func (l *life) Fenced() <-chan struct{} { return l.Node.Fenced() }
