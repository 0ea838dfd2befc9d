package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// Member is a node as the database knows it.
type Member struct {
	ID      int64 // of this life; never given twice
	Name    string
	Address string // empty: it wants to be alone
	Version int
	Stream  int
	Leaving bool
	Expires time.Time     // its lease, by the clock of the database
	Left    time.Duration // until then, when it was read; negative: that long ago
}

// MaxLease is the longest lease that a node may have.
const MaxLease = time.Minute

// Patience is how long a lease must stay unrenewed, from when it was read, before its node is taken for
// dead: for a lease of the observer, or for the rest of this one, since the node may have a longer lease
// and renew it less often. If more than MaxLease is left of it, the clock of the database was set.
func (m Member) Patience(lease time.Duration) time.Duration {
	if m.Left > MaxLease {
		return lease
	}
	return max(lease, m.Left)
}

// Node is one life of a node: a row of membership and the fence of its lane. Its lease
// has to be renewed by Beat. All methods are safe for concurrent use.
type Node struct {
	db       *DB
	member   Member
	timeline string // of the database, when it joined

	beatMu sync.Mutex
	conn   *pgx.Conn // of Beat; nil: none

	mu       sync.Mutex
	trusted  time.Time     // it is the owner of what it owns until then, by its own clock
	fenced   error         // another node has taken over
	over     chan struct{} // closed with it
	dbTime   time.Time     // of the database, at
	dbTimeAt time.Time     // by this node's clock
	told     time.Time     // by Now
}

// trustMargin is how long before the end of its lease a node stops trusting itself:
// longer than any pause between asking and acting on the answer.
const trustMargin = time.Second

// The writer lanes of a node, each with a row of the fence: the engine's, and that of
// MQTT state, so that the two do not wait for each other's commits.
const (
	lane = iota
	stateLane
	lanes
)

// Join begins a life. An error that is an *OccupiedError names the node in the way.
func (d *DB) Join(ctx context.Context) (*Node, error) {
	n := &Node{db: d, member: Member{Name: d.opts.Name, Address: d.opts.Address, Version: version}, over: make(chan struct{})}
	began := now()
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		var minVersion, parts int
		if err := tx.QueryRow(ctx, d.sql.lockMeta).Scan(&minVersion, &parts); err != nil { // one joins at a time
			return err
		}
		if minVersion > version {
			return fmt.Errorf("schema %q wants nodes of version %d or newer, and this one is %d: start a newer Heartline", d.opts.Schema, minVersion, version)
		}
		others, err := d.members(ctx, tx)
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.Address == "" || d.opts.Address == "" {
				return &OccupiedError{Other: o, Place: d.Place()}
			}
		}
		if err := tx.QueryRow(ctx, d.sql.freeStream).Scan(&n.member.Stream); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, d.sql.incarnation).Scan(&n.member.ID); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, timelineNow).Scan(&n.timeline); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue(d.sql.makeStream, n.member.Stream)
		b.Queue(d.sql.join, n.member.ID, n.member.Name, n.member.Address, version, n.member.Stream, d.opts.Lease)
		for l := range lanes {
			b.Queue(d.sql.joinFence, n.member.ID, l)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		n.dbTimeAt = now()
		return tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&n.dbTime)
	})
	if occupied, ok := errors.AsType[*OccupiedError](err); ok {
		return nil, occupied
	}
	if err != nil {
		return nil, d.explain(err)
	}
	n.trusted = began.Add(d.opts.Lease - trustMargin)
	return n, nil
}

// timelineNow changes when a standby becomes the primary. It needs no privilege.
const timelineNow = `SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (d *DB) members(ctx context.Context, q querier) ([]Member, error) {
	rows, err := q.Query(ctx, d.sql.nodes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Member, err error) {
		var at time.Time
		err = row.Scan(&m.ID, &m.Name, &m.Address, &m.Version, &m.Stream, &m.Leaving, &m.Expires, &at)
		m.Left = m.Expires.Sub(at)
		return m, err
	})
}

// Members returns the nodes that have joined, by ID.
func (d *DB) Members(ctx context.Context) ([]Member, error) {
	ms, err := d.members(ctx, d.pool)
	return ms, unavailable("read the nodes", err)
}

// FenceOff ends the life of a node that has shown no sign of life since its lease was
// seen to end at dead.Expires: from then on nothing that it writes takes effect. It
// waits for a write of it that is under way, unless only a part of that has arrived. ok is false
// where the node lives.
func (d *DB) FenceOff(ctx context.Context, dead Member) (ok bool, err error) {
	err = d.withoutHalves(ctx, dead.ID, d.pool, 0, func(tx pgx.Tx) error {
		ok = false // the node may have renewed its lease since the attempt before
		var one int
		switch err := tx.QueryRow(ctx, d.sql.lockDead, dead.ID, dead.Expires).Scan(&one); {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		ok = true
		return d.end(ctx, tx, dead.ID, dead.Expires.UnixNano())
	})
	return ok && err == nil, unavailable(fmt.Sprintf("fence off node %d", dead.ID), err)
}

// halfPatience is how long a transaction waits for the fence of a node before it looks for sessions
// that have sent only a part of a write.
const halfPatience = 200 * time.Millisecond

var setHalfPatience = fmt.Sprintf("SET LOCAL lock_timeout = %d", halfPatience.Milliseconds())

// withoutHalves runs a transaction that waits for the fence of a node, under setHalfPatience. Of a
// client that has vanished the server may have only a part of a write. It waits for the rest for
// hours, and no timeout of PostgreSQL ends that wait before version 17: the session is ended here.
// Where the role may end no sessions, the wait goes on. After patience, if that is not 0, it gives up.
func (d *DB) withoutHalves(ctx context.Context, node int64, conn beginner, patience time.Duration, fn func(pgx.Tx) error) error {
	for began := now(); ; {
		err := pgx.BeginFunc(ctx, conn, fn)
		if code(err) != codeLockTimeout || ctx.Err() != nil || patience > 0 && now().Sub(began) >= patience {
			return err
		}
		if _, err := d.pool.Exec(ctx, d.sql.endHalves, node); err != nil && code(err) != codeNoRights {
			return fmt.Errorf("end sessions with a part of a write: %w", err)
		}
	}
}

// end removes a life: its counters move to the totals, and its partitions become free.
// Their next numbers are above all that the life has written, and above floor.
func (d *DB) end(ctx context.Context, tx pgx.Tx, node, floor int64) error {
	if _, err := tx.Exec(ctx, setHalfPatience); err != nil {
		return err
	}
	var last int64 // locking the fence waits for a write that is under way
	if err := tx.QueryRow(ctx, d.sql.lastOfNode, node).Scan(&last); err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(d.sql.removeNode, node)
	b.Queue(d.sql.endFence, node)
	b.Queue(d.sql.freeParts, node, max(floor, last))
	return tx.SendBatch(ctx, b).Close()
}

// ID returns the number of this life.
func (n *Node) ID() int64 { return n.member.ID }

// Timeline names the history of the database that this life is in: another after a standby has
// become the primary.
func (n *Node) Timeline() string { return n.timeline }

// Stream is the Partition of the Positions of this node's events.
func (n *Node) Stream() int { return n.member.Stream }

// Beat renews the lease, on a connection of its own: nothing else can delay it. Its error
// wraps store.ErrFenced once another node has taken over; any other says that it could
// not be renewed, and is to be tried again.
func (n *Node) Beat(ctx context.Context) error {
	n.beatMu.Lock()
	defer n.beatMu.Unlock()
	began := now()
	at, err := n.renewLocked(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return n.fenceLocked(errLeaseEnded)
	case errors.Is(err, errFailedOver):
		return n.fenceLocked(err)
	case err != nil:
		return fmt.Errorf("renew the lease of node %d: %w: %w", n.member.ID, delivery.ErrUnavailable, err)
	}
	n.trusted = began.Add(n.db.opts.Lease - trustMargin)
	n.dbTime, n.dbTimeAt = at, began
	return nil
}

// renewLocked renews the lease and returns the time of the database. beatMu is held.
func (n *Node) renewLocked(ctx context.Context) (at time.Time, err error) {
	if n.conn == nil {
		if n.conn, err = n.db.dial(ctx, fmt.Sprintf("node %d lease", n.member.ID), nil, nil); err != nil {
			return at, err
		}
		if err = n.sameTimeline(ctx, n.conn); err != nil {
			n.hangUpLocked()
			return at, err
		}
	}
	if err = n.conn.QueryRow(ctx, n.db.sql.beat, n.member.ID, n.db.opts.Lease).Scan(&at); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		n.hangUpLocked()
		return at, bare{err}
	}
	return at, err
}

var errFailedOver = errors.New("the database has failed over")

// sameTimeline reports an error that wraps errFailedOver if the database has failed over since the
// node joined. The standby may lack that another node has taken over, so no lease counts any more.
func (n *Node) sameTimeline(ctx context.Context, conn *pgx.Conn) error {
	var timeline string
	if err := conn.QueryRow(ctx, timelineNow).Scan(&timeline); err != nil {
		return bare{err}
	}
	if timeline != n.timeline {
		return fmt.Errorf("%w (timeline %s, now %s): the process must start again and read it", errFailedOver, n.timeline, timeline)
	}
	return nil
}

func (n *Node) hangUpLocked() {
	if n.conn != nil {
		hangUp(n.conn)
		n.conn = nil
	}
}

// Fenced is closed when a Beat, a write or a claim has found that another node has taken
// over.
func (n *Node) Fenced() <-chan struct{} { return n.over }

// fenceLocked notes that another node has taken over. mu is held.
func (n *Node) fenceLocked(why error) error {
	if n.fenced == nil {
		n.fenced = fmt.Errorf("node %d: %w: %w", n.member.ID, store.ErrFenced, why)
		close(n.over)
	}
	return n.fenced
}

func (n *Node) fence(why error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fenceLocked(why)
}

// ended returns the error of a node that has been taken over; nil: it has not.
func (n *Node) ended() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fenced
}

// Trusted returns nil while no other node can have taken over, by this node's clock
// alone. Whatever cannot be taken back, such as a push, is done only while it does.
func (n *Node) Trusted() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fenced != nil {
		return n.fenced
	}
	if over := now().Sub(n.trusted); over >= 0 {
		return fmt.Errorf("the lease of node %d was last renewed %v ago: %w", n.member.ID, (over + n.db.opts.Lease - trustMargin).Round(10*time.Millisecond), delivery.ErrUnavailable)
	}
	return nil
}

// Leave ends the life, so that nobody waits for the end of its lease. The engines on it
// are closed.
func (n *Node) Leave(ctx context.Context) error {
	err := n.db.withoutHalves(ctx, n.member.ID, n.db.pool, 0, func(tx pgx.Tx) error {
		var one int
		switch err := tx.QueryRow(ctx, n.db.sql.lockNode, n.member.ID).Scan(&one); {
		case errors.Is(err, pgx.ErrNoRows):
			return nil // it was fenced off
		case err != nil:
			return err
		}
		return n.db.end(ctx, tx, n.member.ID, 0)
	})
	return unavailable(fmt.Sprintf("leave as node %d", n.member.ID), err)
}

// Close closes the connection of Beat. It is safe to call twice.
func (n *Node) Close() {
	n.beatMu.Lock()
	defer n.beatMu.Unlock()
	n.hangUpLocked()
}
