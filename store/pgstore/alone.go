package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/heartline-mqtt/heartline/store"
)

// beats is how many times a lease is renewed while it lasts.
const beats = 10

// Alone is a node that is the only one on its database: a second one is refused while it
// lives, and takes over once it has shown no sign of life for the length of its lease.
type Alone struct {
	*Node
	stop   context.CancelFunc
	ended  chan struct{}
	fenced chan struct{} // closed when another node has taken over
	once   sync.Once
	err    error // of Close
}

// StartAlone joins, and waits for the end of the lease of a node that is gone. The error
// is an *OccupiedError where another node lives.
func StartAlone(ctx context.Context, opts Options) (*Alone, error) {
	d, err := Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	n, err := d.joinAlone(ctx)
	if err != nil {
		d.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &Alone{Node: n, stop: cancel, ended: make(chan struct{}), fenced: make(chan struct{})}
	go a.run(ctx)
	return a, nil
}

func (d *DB) joinAlone(ctx context.Context) (*Node, error) {
	seen := map[int64]Member{}
	since := map[int64]time.Time{}
	for {
		n, err := d.Join(ctx)
		var occupied *OccupiedError
		if !errors.As(err, &occupied) {
			return n, err
		}
		o := occupied.Other
		before, known := seen[o.ID]
		switch {
		case known && !before.Expires.Equal(o.Expires):
			return nil, fmt.Errorf("%s: %w: it has just renewed its lease. Stop it first, or set cluster.address on both", d.Place(), occupied)
		case !known:
			seen[o.ID], since[o.ID] = o, now()
			d.log.Info("another node uses the database, waiting for a sign of life", "node", o.Name, "id", o.ID, "lease", d.opts.Lease)
		case now().Sub(since[o.ID]) >= d.opts.Lease:
			ok, err := d.FenceOff(ctx, o)
			if err != nil {
				return nil, err
			}
			if ok {
				d.log.Warn("took over from a node that has shown no sign of life", "node", o.Name, "id", o.ID)
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(d.opts.Lease / beats):
		}
	}
}

// Fenced is closed when another node has taken over.
func (a *Alone) Fenced() <-chan struct{} { return a.fenced }

// run renews the lease on a connection of its own, until ctx ends or another node has
// taken over.
func (a *Alone) run(ctx context.Context) {
	defer close(a.ended)
	every := a.db.opts.Lease / beats
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
	}()
	t := time.NewTicker(every)
	defer t.Stop()
	failing := false
	for {
		beat, cancel := context.WithTimeout(ctx, a.db.opts.Lease/2)
		var err error
		if conn == nil {
			conn, err = a.db.dial(beat, fmt.Sprintf("node %d lease", a.member.ID), nil)
		}
		if err == nil {
			err = a.Beat(beat, conn)
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrFenced):
			a.db.log.Error("another node has taken over", "error", err)
			close(a.fenced)
			return
		case err != nil:
			if conn != nil {
				hangUp(conn)
				conn = nil
			}
			if !failing {
				a.db.log.Error("lease not renewed, retrying; no push is sent once it has ended", "error", err)
			}
		case failing:
			a.db.log.Info("lease renewed again")
		}
		failing = err != nil
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close leaves, so that another node need not wait for the end of the lease, and closes
// the database. The engines are closed before it.
func (a *Alone) Close() error {
	a.once.Do(func() {
		a.stop()
		<-a.ended
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		if a.db.pool.Stat().TotalConns() > 0 || a.Trusted() == nil { // else the database is away
			a.err = a.Leave(ctx)
		}
		a.db.Close()
	})
	return a.err
}
