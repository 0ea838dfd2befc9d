package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// beats is how many times a lease is renewed while it lasts.
const beats = 10

// OccupiedError: another node has joined, and one of the two wants to be alone.
type OccupiedError struct {
	Other Member
	Place string // of the database, without user and password
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s: node %q (life %d) uses this database: stop it first, or set cluster.address on both", e.Place, e.Other.Name, e.Other.ID)
}

// JoinWaiting is Join that waits for the lease of a node that is gone to end, where that
// one or this one wants to be alone. The error is an *OccupiedError once the other shows
// a sign of life.
func (d *DB) JoinWaiting(ctx context.Context) (*Node, error) {
	seen := map[int64]Member{}
	since := map[int64]time.Time{}
	patience := map[int64]time.Duration{}
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
			return nil, occupied
		case !known:
			seen[o.ID], since[o.ID], patience[o.ID] = o, now(), o.Patience(d.opts.Lease)
			d.log.Info("another node uses the database, waiting for its lease to end", "node", o.Name, "life", o.ID, "lease", patience[o.ID])
		case now().Sub(since[o.ID]) >= patience[o.ID]:
			ok, err := d.FenceOff(ctx, o)
			if err != nil {
				return nil, err
			}
			if ok {
				d.log.Warn("took over from a node that has stopped renewing its lease", "node", o.Name, "life", o.ID)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(d.opts.Lease / beats):
		}
	}
}
