package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Part says who owns a partition of the accounts.
type Part struct {
	Part  uint16
	Node  int64  // a life; 0: nobody
	Term  uint64 // raised at each change
	Floor uint64 // no Seq or Number up to here any more
}

func scanPart(row pgx.CollectableRow) (p Part, err error) {
	var part int16
	var node *int64
	var term, floor int64
	err = row.Scan(&part, &node, &term, &floor)
	p = Part{Part: uint16(part), Term: uint64(term), Floor: uint64(floor)}
	if node != nil {
		p.Node = *node
	}
	return p, err
}

// Parts returns all partitions, in their order.
func (d *DB) Parts(ctx context.Context) ([]Part, error) {
	rows, _ := d.pool.Query(ctx, d.sql.parts)
	all, err := pgx.CollectRows(rows, scanPart)
	return all, unavailable("read the partitions", err)
}

// Claim takes up to limit free partitions and returns those that it got. The error
// wraps store.ErrFenced once another node has taken over.
func (n *Node) Claim(ctx context.Context, limit int) (got []Part, err error) {
	err = n.alive(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, n.db.sql.claimParts, n.member.ID, limit)
		got, err = pgx.CollectRows(rows, scanPart)
		return err
	})
	if err != nil {
		return nil, n.unavailable("claim partitions", err)
	}
	return got, nil
}

// GiveUp frees partitions of this node: of each its number, its term, and the floor for whoever
// owns it next. One that this node does not own under that term is left alone. The error wraps
// store.ErrFenced once another node has taken over.
func (n *Node) GiveUp(ctx context.Context, freed []Part) error {
	numbers, floors, terms := make([]int16, len(freed)), make([]int64, len(freed)), make([]int64, len(freed))
	for i, p := range freed {
		numbers[i], floors[i], terms[i] = int16(p.Part), int64(p.Floor), int64(p.Term)
	}
	return n.unavailable("free partitions", n.alive(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, n.db.sql.giveUpParts, n.member.ID, numbers, floors, terms)
		return err
	}))
}

// Raise raises the terms of partitions of this node, so that no GiveUp from before takes effect any
// more, and returns those that are still its own. The error wraps store.ErrFenced once another node
// has taken over.
func (n *Node) Raise(ctx context.Context, parts []uint16) (kept []Part, err error) {
	numbers := make([]int16, len(parts))
	for i, p := range parts {
		numbers[i] = int16(p)
	}
	err = n.alive(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, n.db.sql.raiseParts, n.member.ID, numbers)
		kept, err = pgx.CollectRows(rows, scanPart)
		return err
	})
	if err != nil {
		return nil, n.unavailable("raise the terms of partitions", err)
	}
	return kept, nil
}

// SetLeaving tells the other nodes that this one claims nothing more.
func (n *Node) SetLeaving(ctx context.Context) error {
	return n.unavailable("tell that this node leaves", n.alive(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, n.db.sql.setLeaving, n.member.ID)
		return err
	}))
}

var errLeaseEnded = errors.New("its lease has ended")

// alive runs a transaction during which no other node can take over.
func (n *Node) alive(ctx context.Context, fn func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, n.db.pool, func(tx pgx.Tx) error {
		var one int
		if err := tx.QueryRow(ctx, n.db.sql.holdNode, n.member.ID).Scan(&one); errors.Is(err, pgx.ErrNoRows) {
			return n.fence(errLeaseEnded)
		} else if err != nil {
			return err
		}
		return fn(tx)
	})
}

func (n *Node) unavailable(what string, err error) error {
	if fenced := n.ended(); fenced != nil && err != nil {
		return fenced
	}
	return unavailable(fmt.Sprintf("node %d: %s", n.member.ID, what), err)
}

// DatabaseTime is the time of the database, as of the last Beat. It goes back if the clock of
// the database is set back.
func (n *Node) DatabaseTime() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.databaseTimeLocked()
}

func (n *Node) databaseTimeLocked() time.Time { return n.dbTime.Add(now().Sub(n.dbTimeAt)) }

// Now is DatabaseTime, but it never goes back.
func (n *Node) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := n.databaseTimeLocked()
	if at.Before(n.told) {
		return n.told
	}
	n.told = at
	return at
}
