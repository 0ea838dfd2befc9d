package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// NodeOptions configure a Node. All but Mesh are required.
type NodeOptions struct {
	// Join begins a life, with a fresh Outbox behind its Cores.
	Join func(ctx context.Context) (Life, error)
	// Router serves the partitions that the Node owns.
	Router *Router
	// Mesh relays to the other nodes; nil: nothing is asked of them. The Node begins and ends
	// its lives; it does not close it.
	Mesh *relay.Mesh
	// Companion is told which partitions this node owns; nil: nobody is.
	Companion Companion
	// Lease is how long a node is trusted after it has begun to renew its lease.
	Lease time.Duration
	// Cede, where there is one, is called when partitions are given up, before another
	// node can claim them, and when a life has ended. It returns when whatever else depends
	// on owning them has ended at this node.
	Cede func(parts []uint16)
	Log  *slog.Logger
}

// Companion does for the owner of a partition what its Core does not, such as webhooks.
type Companion interface {
	// Begin is called when the Node has begun to serve a partition in a life, by a Core that is
	// among Router.Cores already.
	Begin(life Life, part uint16, core *delivery.Core)
	// End is called before the Node frees partitions, and after somebody has freed them by hand. It
	// returns when all that Begin has begun for them has stopped. ctx bounds the wait for the answers of others.
	End(ctx context.Context, parts []uint16)
	// Lose is called when another node may serve the partitions already. It does not wait. The life
	// is over as a rule, and refuses late writes.
	Lose(parts []uint16)
}

// Life is a joined node.
type Life interface {
	Referee
	// Core makes the Core of a partition, not started yet: with the partition's Shard and
	// Floor, the Referee's Now and Trusted, and Router.Neighbours.
	Core(o Ownership) *delivery.Core
	// Backlog reads what the Cores of some partitions take up.
	Backlog(parts []uint16) (delivery.Backlog, error)
	// Fenced is closed when a write of this life has been refused because another node
	// has taken over.
	Fenced() <-chan struct{}
	// Close closes the Outbox. The Cores are stopped or abandoned.
	Close() error
}

// looks is how many times a beat a node looks at the cluster while partitions change hands.
const looks = 5

// Node owns partitions: it renews its lease, claims free partitions up to its share, frees
// those above it, and ends the lives of nodes that have stopped renewing. Between Start
// and Stop one goroutine renews, and another does the rest. Drain has the other nodes take
// its partitions before Stop.
type Node struct {
	opts NodeOptions
	life Life                  // nil: none yet, or another node has ended it
	own  map[uint16]*ownedPart // partitions of life
	seen map[int64]*sighting   // all lives
	loop sync.WaitGroup
	ctx  context.Context //nolint:containedctx // it ends when Stop begins
	quit context.CancelFunc

	joins, balances fault // of the loop
	mover           mover

	leaving  atomic.Bool   // Drain has been called
	told     int64         // the life that is recorded as leaving
	kick     chan struct{} // of capacity 1: look at the cluster now
	drained  chan struct{} // closed when Drain is over
	drainErr error         // of it, set before

	takeovers, abandoned, moved atomic.Uint64

	starting sync.Mutex // held by Start and Stop
	started  bool
	stopped  bool
	stopErr  error

	endBeats chan struct{} // of life
	beating  sync.WaitGroup
	lost     chan error // a beat of life found it ended

	mu   sync.Mutex
	good time.Time // since when every beat has renewed the lease in time
	beat time.Time // the last that did
}

// NewNode returns a Node that has not joined yet.
func NewNode(o NodeOptions) *Node {
	ctx, quit := context.WithCancel(context.Background())
	return &Node{
		opts: o, own: map[uint16]*ownedPart{}, seen: map[int64]*sighting{}, ctx: ctx, quit: quit,
		kick: make(chan struct{}, 1), drained: make(chan struct{}),
	}
}

// Start joins and claims the first partitions. After an error of that it may be called
// again. It returns delivery.ErrStopped after Stop, and does nothing on a Node that has
// started.
func (n *Node) Start(ctx context.Context) error {
	n.starting.Lock()
	defer n.starting.Unlock()
	if n.stopped {
		return delivery.ErrStopped
	}
	if n.started {
		return nil
	}
	if err := n.join(ctx); err != nil {
		return err
	}
	if _, err := n.balance(ctx); err != nil {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		return errors.Join(fmt.Errorf("claim partitions: %w", err), n.leave(leaving))
	}
	n.started = true
	n.loop.Go(n.run)
	return nil
}

func (n *Node) join(ctx context.Context) error {
	life, err := n.opts.Join(ctx)
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	n.life, n.endBeats, n.lost = life, make(chan struct{}), make(chan error, 1)
	n.mu.Lock()
	n.good, n.beat = time.Now(), time.Now()
	n.mu.Unlock()
	clear(n.seen)
	if n.opts.Mesh != nil {
		n.opts.Mesh.Begin(life.ID())
	}
	n.beating.Go(func() { n.renewAll(life, n.endBeats, n.lost) })
	return nil
}

// Stop frees every partition and leaves. It returns when all Cores have stopped. It is
// safe before Start, twice, and twice at once: each call returns the error of the first.
func (n *Node) Stop(ctx context.Context) error {
	n.starting.Lock()
	defer n.starting.Unlock()
	if !n.stopped {
		n.stopped = true
		n.quit()
		n.loop.Wait()
		n.stopErr = n.leave(ctx)
	}
	return n.stopErr
}

// ErrAlone says that there is no other node to take partitions over.
var ErrAlone = errors.New("there is no other node to take the accounts over")

// Drain tells the other nodes that this one leaves, and frees its partitions, some at a
// time, for them to claim. The node goes on: it serves the partitions that it still has, and
// its Router relays requests for the others. Drain returns nil once other nodes own all
// partitions, and otherwise ErrAlone, the cause of ctx's end, or delivery.ErrStopped if the
// node does not run. After ErrAlone the node keeps its partitions until Stop; after the end
// of ctx it goes on freeing them until then. It is safe to call twice, also at once.
func (n *Node) Drain(ctx context.Context) error {
	n.starting.Lock()
	running := n.started && !n.stopped
	n.starting.Unlock()
	if !running {
		return delivery.ErrStopped
	}
	n.leaving.Store(true)
	select {
	case n.kick <- struct{}{}:
	default:
	}
	select {
	case <-n.drained:
		return n.drainErr
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.ctx.Done():
		return delivery.ErrStopped
	}
}

// endDrain has Drain return. The first call counts.
func (n *Node) endDrain(err error) {
	select {
	case <-n.drained:
	default:
		n.drainErr = err
		close(n.drained)
	}
}

func (n *Node) run() {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		pause := n.opts.Lease / beats
		if n.turn() {
			pause /= looks
		}
		next.Reset(pause)
		var fenced <-chan struct{}
		if n.life != nil {
			fenced = n.life.Fenced()
		}
		select {
		case <-next.C:
		case <-n.kick:
		case <-fenced:
			n.abandon(store.ErrFenced)
		case err := <-n.lost:
			n.abandon(err)
		case <-n.ctx.Done():
			return
		}
	}
}

// turn looks at the cluster once. It reports whether partitions change hands, so that
// the next turn is to come soon.
func (n *Node) turn() (moving bool) {
	if n.life == nil {
		if err := n.join(n.ctx); err != nil { // may wait for another life to end
			if n.ctx.Err() == nil {
				n.joins.tell(n.opts.Log, slog.LevelError, "not joined again, retrying", err)
			}
			return false
		}
		n.joins = fault{}
		n.opts.Log.Info("joined the cluster again", "life", n.life.ID())
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.Lease)
	defer cancel()
	err := n.fenceOffDead(ctx)
	if err == nil {
		moving, err = n.balance(ctx)
	}
	switch {
	case n.ctx.Err() != nil:
	case errors.Is(err, store.ErrFenced):
		n.abandon(err)
	default:
		n.balances.tell(n.opts.Log, slog.LevelWarn, "partitions not balanced, retrying", err)
	}
	return moving
}

// fault is of something that is tried again and again. It is logged when it begins, when
// its error becomes another, and, but for a join, when it is over.
type fault struct{ told string }

func (f *fault) tell(log *slog.Logger, level slog.Level, fails string, err error) {
	switch {
	case err == nil && f.told != "":
		log.Info("over: " + fails)
		f.told = ""
	case err != nil && err.Error() != f.told:
		log.Log(context.Background(), level, fails, "error", err)
		f.told = err.Error()
	}
}

// Status is what an operator wants to know of a Node.
type Status struct {
	Renewed   time.Time // the last time that the lease was renewed
	Leaving   bool      // Drain has been called
	Owned     int       // partitions that this node serves
	Unserved  int       // partitions that no node serves, as far as this one knows
	Takeovers uint64    // lives of other nodes that this one has ended
	Abandoned uint64    // lives of its own that others have ended
	Moved     uint64    // devices asked to move, for which this node did not reach the owner
	Peers     []relay.PeerStatus
}

// Status returns the present Status. It is safe for concurrent use.
func (n *Node) Status() Status {
	s := Status{Leaving: n.leaving.Load(), Takeovers: n.takeovers.Load(), Abandoned: n.abandoned.Load(), Moved: n.moved.Load()}
	n.mu.Lock()
	s.Renewed = n.beat
	n.mu.Unlock()
	s.Owned, s.Unserved = n.opts.Router.counts()
	if n.opts.Mesh != nil {
		s.Peers = n.opts.Mesh.Status()
	}
	return s
}

// Renewing reports whether this node renews its lease in time.
func (n *Node) Renewing() bool {
	_, ok := n.renewing()
	return ok
}

// meet tells the Mesh which nodes there are. A life that is not among them has ended:
// the calls to it are repeated at its successors.
func (n *Node) meet(members []Member) {
	if n.opts.Mesh == nil {
		return
	}
	peers := make([]relay.Member, 0, len(members))
	for _, m := range members {
		if m.ID != n.life.ID() {
			peers = append(peers, relay.Member{ID: m.ID, Name: m.Name, Address: m.Address})
		}
	}
	n.opts.Mesh.Update(peers)
}

// abandon ends the Cores of a life that another node has ended, or that the database has
// outlived by failing over: nothing is written or pushed any more. The next turn joins again.
func (n *Node) abandon(why error) {
	if n.life == nil { // both a beat and a write found it ended
		return
	}
	n.abandoned.Add(1)
	n.opts.Log.Error("another node has taken over, joining again", "error", why, "partitions", len(n.own))
	n.drop(slices.Collect(maps.Keys(n.own)))
	life := n.life
	n.end()
	// After a fail-over the database still has the life, and its partitions would be nobody's
	// until its lease has ended.
	ctx, cancel := context.WithTimeout(n.ctx, n.opts.Lease/2)
	defer cancel()
	if err := life.Leave(ctx); err != nil && n.ctx.Err() == nil {
		n.opts.Log.Warn("a life that is over has not left, its lease ends by itself", "life", life.ID(), "error", err)
	}
}

func (n *Node) cede(parts []uint16) {
	if n.opts.Cede != nil {
		n.opts.Cede(parts)
	}
}

func (n *Node) end() {
	if n.opts.Mesh != nil {
		n.opts.Mesh.End()
	}
	close(n.endBeats)
	n.beating.Wait()
	if err := n.life.Close(); err != nil {
		n.opts.Log.Warn("the store of a life that has ended was not closed", "error", err)
	}
	n.life = nil
}

func (n *Node) leave(ctx context.Context) error {
	if n.life == nil {
		return nil
	}
	err := n.life.SetLeaving(ctx)
	if err == nil {
		err = n.giveUp(ctx, slices.Collect(maps.Keys(n.own)))
	}
	n.drop(slices.Collect(maps.Keys(n.own))) // its lease ends by itself
	if err == nil {
		err = n.life.Leave(ctx)
	}
	n.end()
	return err
}
