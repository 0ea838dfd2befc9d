package broker

import (
	"context"
	"time"

	"github.com/heartline-mqtt/heartline/store/pgstore"
)

// replicationEvery is how often the database is asked about its standbys.
const replicationEvery = 5 * time.Second

// watchReplication asks the database about its standbys until ctx ends. /readyz must not wait for
// the database.
func (n *node) watchReplication(ctx context.Context) {
	tick := time.NewTicker(replicationEvery)
	defer tick.Stop()
	for {
		n.replication.Store(n.askReplication(ctx))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// askReplication returns nil if the database does not tell: /readyz then says why.
func (n *node) askReplication(ctx context.Context) *pgstore.Replication {
	ctx, cancel := context.WithTimeout(ctx, replicationEvery)
	defer cancel()
	r, err := n.db.Replication(ctx)
	if err != nil {
		return nil
	}
	return &r
}

// replicationFigures tells of synchronous standbys, where the database has some.
func replicationFigures(s scrape, r *pgstore.Replication) {
	if r == nil {
		return
	}
	s.gauge("store_standbys_wanted", "Synchronous standbys that each commit of the database waits for.", float64(r.Wanted))
	s.gauge("store_standbys_attached", "Standbys of the database that are attached, of whatever kind.", float64(r.Standbys))
	s.gauge("store_standby_away", "1 while commits wait for a synchronous standby that is not attached: notifications are refused.", bit(r.Away()))
}
