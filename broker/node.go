package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/heartline-mqtt/heartline/cluster"
	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/fallback"
	"github.com/heartline-mqtt/heartline/hooks/ordinary"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/receipts"
	"github.com/heartline-mqtt/heartline/store"
	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// node is the core and the store of a process whose store is PostgreSQL: a
// delivery.Core for each partition that it owns, and the Outbox of its present life
// behind them.
type node struct {
	*cluster.Router
	lives     lives // its store
	cfg       *config.Config
	name      string
	db        *pgstore.DB
	unread    func() (time.Time, bool)
	observers *delivery.Observers
	mesh      *relay.Mesh        // nil: it is alone
	topics    *sharedTopics      // shared with the other nodes; nil: none are
	receipts  *receipts.Receipts // of its partitions; nil: it is alone, and they have no owner
	node      *cluster.Node
	log       *slog.Logger

	// Of its Cores. They are set before Start.
	opts   delivery.Options
	pusher *fallback.Router
	links  links           // of XMPP
	rooms  *newcomers.List // of devices that are about to become known
	// replication is what the database told lately of its standbys; nil: nothing.
	replication atomic.Pointer[pgstore.Replication]
	// end ends a connection of this node; nil: it has none yet.
	end atomic.Pointer[func(device, account string, session bool) bool]

	mu       sync.Mutex
	settings *delivery.Settings // nil: those of opts

	former former // of joining and of closing a life, which one goroutine does

	// What the node does until Stop.
	ctx     context.Context
	quit    context.CancelFunc
	janitor sync.WaitGroup // it grows under mu, and no more once ctx is done
	once    sync.Once
	err     error // of Stop
}

var (
	_ core   = (*node)(nil)
	_ outbox = (*lives)(nil)
)

// connectPatience bounds the beginning: connecting, and waiting for the lease of a
// process that is gone.
const connectPatience = 30 * time.Second

// doubtPatience is how long a request whose write has failed waits for the database, which
// alone knows what became of it.
const doubtPatience = 5 * time.Second

// reconnectEvery is the longest pause between two attempts to write to the database again: a
// few nodes ask, and each second without the database costs refused requests.
const reconnectEvery = time.Second

// postgresOptions are those of the database that cfg names.
func postgresOptions(cfg *config.Config, log *slog.Logger) (o pgstore.Options, err error) {
	url, err := config.ReadSecret(cfg.Store.Postgres.URL, cfg.Store.Postgres.URLFile)
	if err != nil {
		return o, fmt.Errorf("store.postgres.url_file: %w", err)
	}
	name := cfg.Cluster.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			name = "heartline"
		}
	}
	var reread func() (string, error)
	if file := cfg.Store.Postgres.URLFile; file != "" {
		reread = func() (string, error) {
			url, err := config.ReadSecret("", file)
			return string(url), err
		}
	}
	return pgstore.Options{URL: string(url), Reread: reread, Schema: cfg.Store.Postgres.Schema, Name: name, Lease: cfg.Cluster.Lease, Logger: log}, nil
}

// openNode opens the database. The node joins with Start. hub routes ordinary messages; nil: they
// are another server's.
func openNode(cfg *config.Config, unread func() (time.Time, bool), hub *ordinary.Hub, log *slog.Logger) (_ *node, err error) {
	opts, err := postgresOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	n := &node{cfg: cfg, name: opts.Name, unread: unread, observers: &delivery.Observers{}, log: log}
	n.ctx, n.quit = context.WithCancel(context.Background())
	n.rooms = &newcomers.List{Owner: n.roomAtOwner}
	var socket net.Listener
	if err := CheckNodes(cfg); err != nil {
		return nil, err
	}
	if cfg.Cluster.Address != "" {
		if socket, err = bind("cluster.address", cfg.Cluster.Address); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, socket.Close())
			}
		}()
		opts.Address = cmp.Or(cfg.Cluster.Advertise, socket.Addr().String())
	}
	if err = os.MkdirAll(cfg.DataDir, 0o700); err != nil { // for small files of other parts
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectPatience)
	defer cancel()
	if n.db, err = pgstore.Open(ctx, opts); err != nil {
		return nil, fmt.Errorf("store.postgres: %w", err)
	}
	n.Router = cluster.NewRouter(cluster.RouterOptions{
		Reader: delivery.New(deliveryOptions(cfg, false), &n.lives, nil, log), Observers: n.observers,
		Parts: cluster.Parts, Name: n.name, Hold: cfg.Cluster.Lease + 2*time.Second, Able: n.able, End: n.endHere, Log: log,
	})
	if socket != nil {
		if hub != nil {
			n.topics = newSharedTopics(hub, cfg.MQTT.TopicPrefix, n.now, log)
		}
		if err = n.meshOn(socket, opts.Address); err != nil {
			n.db.Close()
			return nil, err
		}
	}
	n.node = cluster.NewNode(cluster.NodeOptions{Join: n.join, Router: n.Router, Mesh: n.mesh, Companion: companion{n}, Lease: cfg.Cluster.Lease, Cede: n.links.cede, Log: log})
	return n, nil
}

// able reports whether this node reaches the database.
func (n *node) able() bool {
	l := n.lives.life.Load()
	return l != nil && l.out.Ready() == nil && n.node.Renewing()
}

// endHere ends a connection of this node for another.
func (n *node) endHere(device, account string, session bool) bool {
	end := n.end.Load()
	return end != nil && (*end)(device, account, session)
}

// companion sends the webhooks of the partitions that the node owns, and asks for the pushes that
// have become possible.
type companion struct{ n *node }

var _ cluster.Companion = companion{}

// Begin implements cluster.Companion. The positions are written in the life that owns the
// partition, and not in a later one.
func (b companion) Begin(of cluster.Life, part uint16, core *delivery.Core) {
	if r := b.n.receipts; r != nil {
		l := of.(*life)
		r.Take(part, receipts.Tenure{State: l.out, Trusted: l.Trusted})
	}
	b.n.begun(core)
}

// begun is called for each Core that this node has begun to serve. A reload either finds the Core
// among those of the Router, or has replaced the settings and the notification servers before.
func (n *node) begun(core *delivery.Core) {
	n.mu.Lock()
	settings := n.settingsLocked()
	core.Reconfigure(settings) // those of a reload since the Core was made
	n.mu.Unlock()
	// After a start devices get an ack window's time to come back before anything is pushed. Those
	// at other nodes are still connected, and this Core does not know of them yet.
	n.background(func(ctx context.Context) {
		select {
		case <-time.After(settings.Windows.Ack):
			pushesPossible(core, n.pusher) // a Core that has stopped does nothing
		case <-ctx.Done():
		}
	})
}

// background runs fn until Stop, which waits for it; after Stop it runs nothing.
func (n *node) background(fn func(ctx context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() == nil {
		n.janitor.Go(func() { fn(n.ctx) })
	}
}

// End implements cluster.Companion.
func (b companion) End(ctx context.Context, parts []uint16) {
	if r := b.n.receipts; r != nil {
		r.Yield(ctx, parts...)
	}
}

// Lose implements cluster.Companion.
func (b companion) Lose(parts []uint16) {
	if r := b.n.receipts; r != nil {
		r.Lose(parts...)
	}
}

// meshOn relays to other nodes.
func (n *node) meshOn(socket net.Listener, address string) error {
	c := n.cfg
	o := relay.Options{
		Name: n.name, Address: address, Local: n.Router, Beat: time.Second, Patience: c.Cluster.Lease + 2*time.Second, Webhook: n.onOrder, KeepRoom: n.onKeepRoom, Log: n.log,
		Equal: map[string]string{"mqtt.topic_prefix": c.MQTT.TopicPrefix, "auth.mode": c.Auth.Mode, "cluster.lease": c.Cluster.Lease.String()},
		Alike: map[string]string{
			"delivery.ack": c.Delivery.Ack, "delivery.ack_window": c.Delivery.AckWindow.String(), "delivery.fallback_window": c.Delivery.FallbackWindow.String(),
			"delivery.ttl": c.Delivery.TTL.String(), "delivery.max_outstanding_per_device": fmt.Sprint(c.Delivery.MaxOutstandingPerDevice),
			"delivery.max_inflight_per_device": fmt.Sprint(c.Delivery.MaxInflightPerDevice), "store.history": c.Store.History.String(),
			"receipts.webhooks": webhookNames(c.Receipts), "receipts.retain": c.Receipts.Retain.String(),
		},
	}
	if len(c.XMPP.Components) > 0 {
		key, err := registrationKey(c)
		if err != nil {
			return err
		}
		// With two keys, a push registration that one node has signed is refused by the next.
		o.Equal["xmpp.registration_key_file"] = fmt.Sprintf("the key %.6x…", sha256.Sum256(key))
		o.Alike["xmpp.components"] = componentsText(c.XMPP.Components)
	}
	if n.topics != nil {
		o.Topics = n.topics
	}
	if t := c.Cluster.TLS; t.CertFile != "" {
		credentials := relay.Credentials{CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile}
		o.Dial, socket = credentials.Dial, credentials.Listener(socket)
	}
	n.mesh = relay.NewMesh(o)
	n.mesh.Serve(socket)
	return nil
}

// life is one life of a node: its row in the database, and the Outbox under its fence.
type life struct {
	*pgstore.Node
	n   *node
	out *store.Outbox
}

var _ cluster.Life = (*life)(nil)

func (n *node) join(ctx context.Context) (cluster.Life, error) {
	joined, err := n.db.JoinWaiting(ctx)
	if err != nil {
		return nil, err
	}
	l := &life{Node: joined, n: n}
	l.out, err = store.New(store.Options{
		Open: joined.Open, History: n.cfg.Store.History, HousekeepingInterval: n.cfg.Store.Housekeeping, Unread: n.unread,
		Now:        joined.DatabaseTime,
		KeepsHouse: func() bool { return n.Serves(0) }, Doubt: doubtPatience, RetryMax: reconnectEvery, Logger: n.log,
	})
	if err != nil {
		joined.Close()
		return nil, errors.Join(err, joined.Leave(ctx))
	}
	n.lives.begin(l)
	n.tellLoss(ctx, joined.Timeline())
	return l, nil
}

// former keeps the timeline and the last notifications of the life before.
type former struct {
	timeline string
	accepted []*delivery.Notification // lately
}

// tellLoss logs what a database that has failed over has lost of the notifications that this
// node has accepted: nothing, if the standby was synchronous.
func (n *node) tellLoss(ctx context.Context, timeline string) {
	was := n.former
	n.former = former{}
	if was.timeline == "" || was.timeline == timeline {
		return
	}
	n.log.Warn("the database has failed over, all accounts of this node are read again", "timeline", timeline, "former", was.timeline)
	ids := map[delivery.Seq]string{}
	seqs := make([]delivery.Seq, len(was.accepted))
	for i, a := range was.accepted {
		seqs[i], ids[a.Seq] = a.Seq, a.ID
	}
	switch missing, err := n.db.Missing(ctx, seqs); {
	case err != nil:
		n.log.Error("it is not known whether the database has lost notifications when it failed over", "checked", len(seqs), "error", err)
	case len(missing) > 0:
		n.log.Error("the database lacks notifications that were accepted: it has failed over to a standby without them", "lost", len(missing), "checked", len(seqs), "notification", ids[missing[0]])
	default:
		n.log.Info("the database has everything that was accepted lately", "checked", len(seqs))
	}
}

// now is the time of the database, by which all nodes number.
func (n *node) now() time.Time {
	if l := n.lives.life.Load(); l != nil {
		return l.Now()
	}
	return time.Now()
}

// Core implements cluster.Life.
func (l *life) Core(o cluster.Ownership) *delivery.Core {
	n := l.n
	opts := n.opts
	opts.Shard, opts.Floor = delivery.Shard{Index: o.Part, Of: cluster.Parts}, o.Floor
	opts.Neighbours, opts.Now, opts.Wall = n.Neighbours(o.Part), l.Now, l.DatabaseTime
	opts.Trusted, opts.Observers = l.Trusted, n.observers
	c := delivery.New(opts, l.out.View(), n.pusher, n.log)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.settings != nil {
		c.Reconfigure(*n.settings)
	}
	return c
}

// Backlog implements cluster.Life.
func (l *life) Backlog(parts []uint16) (delivery.Backlog, error) { return l.out.Backlog(parts) }

// Close implements cluster.Life.
func (l *life) Close() error {
	l.n.lives.end(l)
	err := l.out.Close()
	l.n.former = former{l.Timeline(), l.out.Recent()}
	l.Node.Close()
	return err
}

// Members implements cluster.Referee.
func (l *life) Members(ctx context.Context) ([]cluster.Member, error) {
	all, err := l.n.db.Members(ctx)
	members := make([]cluster.Member, len(all))
	for i, m := range all {
		members[i] = cluster.Member{ID: m.ID, Name: m.Name, Address: m.Address, Leaving: m.Leaving, Expires: m.Expires, Patience: m.Patience(l.n.cfg.Cluster.Lease)}
	}
	return members, err
}

// FenceOff implements cluster.Referee.
func (l *life) FenceOff(ctx context.Context, dead cluster.Member) (bool, error) {
	return l.n.db.FenceOff(ctx, pgstore.Member{ID: dead.ID, Expires: dead.Expires})
}

// Parts implements cluster.Referee.
func (l *life) Parts(ctx context.Context) ([]cluster.Ownership, error) {
	return ownerships(l.n.db.Parts(ctx))
}

// Claim implements cluster.Referee.
func (l *life) Claim(ctx context.Context, n int) ([]cluster.Ownership, error) {
	return ownerships(l.Node.Claim(ctx, n))
}

// GiveUp implements cluster.Referee.
func (l *life) GiveUp(ctx context.Context, freed []cluster.Ownership) error {
	parts := make([]pgstore.Part, len(freed))
	for i, f := range freed {
		parts[i] = pgstore.Part(f)
	}
	return l.Node.GiveUp(ctx, parts)
}

// Raise implements cluster.Referee.
func (l *life) Raise(ctx context.Context, parts []uint16) ([]cluster.Ownership, error) {
	return ownerships(l.Node.Raise(ctx, parts))
}

func ownerships(parts []pgstore.Part, err error) ([]cluster.Ownership, error) {
	all := make([]cluster.Ownership, len(parts))
	for i, p := range parts {
		all[i] = cluster.Ownership(p)
	}
	return all, err
}

// Start joins and serves the node's first share of the partitions.
func (n *node) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectPatience+pgstore.MaxLease)
	defer cancel()
	if err := n.node.Start(ctx); err != nil {
		return fmt.Errorf("store.postgres: %w", err)
	}
	n.background(n.forget)
	n.background(n.watchReplication)
	return nil
}

// forget has old devices forgotten while this node serves partition 0.
func (n *node) forget(ctx context.Context) {
	tick := time.NewTicker(forgetInterval(n.cfg))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !n.Serves(0) {
			continue
		}
		n.mu.Lock()
		after := n.opts.ForgetDeviceAfter
		if n.settings != nil {
			after = n.settings.ForgetDeviceAfter
		}
		n.mu.Unlock()
		if err := n.ForgetOld(n.now().Add(-after)); err != nil && !errors.Is(err, delivery.ErrStopped) {
			n.log.Error("devices not forgotten, trying again", "error", err)
		}
	}
}

// Stop implements Core. The node keeps its partitions until Close, so that acks that come
// meanwhile are still written.
func (n *node) Stop(ctx context.Context) error {
	n.once.Do(func() {
		n.mu.Lock()
		n.quit()
		n.mu.Unlock()
		var stopping errgroup.Group
		for _, c := range n.Cores() {
			stopping.Go(func() error { return c.Stop(ctx) })
		}
		n.err = stopping.Wait()
		n.Router.Close()
		n.janitor.Wait()
		n.observers.Close()
	})
	return n.err
}

// leavePatience bounds freeing the partitions at the end. Where the database is away, the
// lease ends by itself.
const leavePatience = 5 * time.Second

// Close frees all partitions, leaves and closes the database, after Stop.
func (n *node) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
	defer cancel()
	defer context.AfterFunc(ctx, n.db.Interrupt)() // a database that stands still must not hold the stop up
	err := errors.Join(n.Stop(ctx), n.node.Stop(ctx))
	if n.mesh != nil {
		n.mesh.Close()
	}
	if n.topics != nil {
		n.topics.close()
	}
	n.db.Close()
	return err
}

// Observe implements Core.
func (n *node) Observe(o delivery.Observer) { n.observers.Observe(o) }

// Reconfigure implements Core.
func (n *node) Reconfigure(s delivery.Settings) {
	n.mu.Lock()
	n.settings = &s
	n.mu.Unlock()
	for _, c := range n.Cores() {
		c.Reconfigure(s)
	}
}

// settingsLocked returns the present settings of this node's Cores.
func (n *node) settingsLocked() delivery.Settings {
	if n.settings != nil {
		return *n.settings
	}
	return n.opts.Settings()
}

// ChannelsUp implements Core: the devices of this node's partitions.
func (n *node) ChannelsUp() (up int) {
	for _, c := range n.Cores() {
		up += c.ChannelsUp()
	}
	return up
}
