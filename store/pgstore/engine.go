package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/store"
)

// parts is the number of partitions of the accounts: the remainder of a Seq.
const parts = 1024

// Engine is a store.Engine on PostgreSQL: one connection that writes, under the fence of
// a Node, and the pool of its DB to read. See store.Engine for its methods.
type Engine struct {
	node    *Node
	db      *DB
	conn    *pgx.Conn // of the lane
	session [lanes]int32
	opened  uint64 // the highest number when it was opened
	failed  atomic.Pointer[error]
	local   atomic.Bool // a commit was made without the synchronous standby

	mu   sync.Mutex // held by Apply
	used time.Time  // the latest answer of the lane
	// The highest Seq of an acceptance, and the highest number of an event, of each partition.
	// Events are written later than acceptances with a higher number.
	lastSeq, lastEvent [parts]uint64
	number             int64 // of the latest commit
	unsynced           bool
}

var _ store.Engine = (*Engine)(nil)

// laneSettings are those of a lane's session. The planner is held to nested loops over
// the indexes: the churning table is empty by its statistics, and full of dead rows.
var laneSettings = map[string]string{
	"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off", "plan_cache_mode": "force_generic_plan",
	// A connection that hangs in a transaction keeps others from taking over.
	"idle_in_transaction_session_timeout": "10000",
}

// sessionTimeout bounds how long a new session waits for a write of the one before.
// Longer than that only a synchronous standby can hold it up.
const sessionTimeout = 20 * time.Second

// numberStep is how many commit numbers are left out when a session begins: more than
// a crash can take away of those that readers have seen.
const numberStep = 1 << 20

// Open begins a session of the node's lane. Every session before it is cut off: Open
// waits for a write that is under way, and later ones are refused. readOnly is refused:
// while the database takes no session, it takes no reads either.
func (n *Node) Open(readOnly bool) (store.Engine, error) {
	if readOnly {
		return nil, errors.New("PostgreSQL is not opened for reading alone")
	}
	ctx, cancel := context.WithTimeout(n.db.ctx, sessionTimeout+connectTimeout)
	defer cancel()
	e := &Engine{node: n, db: n.db}
	conn, err := n.db.dial(ctx, fmt.Sprintf("node %d lane %d", n.member.ID, lane), laneSettings, e.onNotice)
	if err != nil {
		return nil, err
	}
	e.conn = conn
	if err := e.begin(ctx); err != nil {
		hangUp(conn)
		return nil, err
	}
	return e, nil
}

func (e *Engine) begin(ctx context.Context) error {
	switch err := e.node.sameTimeline(ctx, e.conn); {
	case errors.Is(err, errFailedOver):
		return e.node.fence(err)
	case err != nil:
		return e.db.explain(err)
	}
	if err := keepCommits(ctx, e.conn); err != nil {
		return e.db.explain(err)
	}
	err := e.db.withoutHalves(ctx, e.node.member.ID, e.conn, sessionTimeout, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, setHalfPatience); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, e.db.sql.newSession, e.node.member.ID)
		var of int16
		var session int32
		if _, err := pgx.ForEachRow(rows, []any{&of, &session}, func() error {
			e.session[of] = session
			return nil
		}); err != nil {
			return err
		}
		if e.session[lane] == 0 { // the row is gone
			return pgx.ErrNoRows
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", sessionTimeout.Milliseconds())); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, e.db.sql.newNumber, e.node.member.Stream, numberStep).Scan(&e.number); err != nil {
			return err
		}
		return tx.QueryRow(ctx, e.db.sql.last).Scan(&e.opened)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return e.node.fence(errLeaseEnded)
	case code(err) == codeLockTimeout:
		return fmt.Errorf("PostgreSQL at %s: a write of the session before is still under way, which waits for a synchronous standby: %w", e.db.place(), err)
	case err != nil:
		return e.db.explain(err)
	}
	e.used = now()
	for i := range parts {
		e.lastSeq[i], e.lastEvent[i] = e.opened, e.opened
	}
	return nil
}

// onNotice notes that somebody has cancelled the wait of a commit for its synchronous standby.
func (e *Engine) onNotice(n *pgconn.Notice) {
	if n.Routine == "SyncRepWaitForLSN" { // its text is in the language of the server
		e.local.Store(true)
	}
}

var errLocal = errors.New("a commit was made without the synchronous standby, as its wait was cancelled")

var errAbandoned = errors.New("given up, since a write did not return")

// Abandon implements store.Engine. What the server has of a write under way may still
// take effect, until the next session begins.
func (e *Engine) Abandon() {
	err := errAbandoned
	e.failed.CompareAndSwap(nil, &err)
	_ = e.conn.PgConn().Conn().Close()
}

func (e *Engine) broken() error {
	if err := e.failed.Load(); err != nil {
		return fmt.Errorf("PostgreSQL at %s: %w", e.db.place(), broken(bare{*err}))
	}
	return nil
}

// fail sorts an error of a write on the lane: what wraps ErrBroken leaves its outcome
// unknown, and any other means that nothing has taken effect.
func (e *Engine) fail(err error) error {
	if was := e.failed.Load(); was != nil {
		return e.broken()
	}
	if code(err) == codeFenced {
		return e.node.fence(bare{err})
	}
	if connectionLost(err) {
		e.failed.CompareAndSwap(nil, &err)
		hangUp(e.conn)
		if errors.Is(err, store.ErrUnsent) {
			return fmt.Errorf("%w: %w", store.ErrUnsent, e.broken())
		}
		return e.broken()
	}
	return fmt.Errorf("PostgreSQL at %s: %w", e.db.place(), bare{err})
}

// closeTimeout bounds the last write of an engine.
const closeTimeout = 10 * time.Second

// Close implements store.Engine.
func (e *Engine) Close() error {
	var err error
	if e.failed.Load() == nil && e.unsynced {
		t := time.AfterFunc(closeTimeout, e.Abandon)
		err = e.Apply(&delivery.Batch{Sync: true})
		t.Stop()
		if errors.Is(err, store.ErrFenced) {
			err = nil
		}
	}
	if e.failed.Load() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = e.conn.Close(ctx)
	} else {
		hangUp(e.conn)
	}
	if err != nil {
		return fmt.Errorf("flush at the end: %w", err)
	}
	return nil
}
