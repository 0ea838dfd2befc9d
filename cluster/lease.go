package cluster

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/heartline-mqtt/heartline/store"
)

// beats is how many times a lease is renewed before it would end.
const beats = 10

// sighting is what this node has seen of another life, by its own monotonic clock.
type sighting struct {
	expires time.Time
	since   time.Time // when it first saw that
	// patience is how long that must last before the life is taken for dead.
	patience time.Duration
}

// renewAll renews the lease of a life until it ends, whatever else goes on.
func (n *Node) renewAll(life Life, end <-chan struct{}, lost chan<- error) {
	tick := time.NewTicker(n.opts.Lease / beats)
	defer tick.Stop()
	var renewed fault
	for {
		select {
		case <-tick.C:
		case <-end:
			return
		}
		err := n.renew(life)
		if errors.Is(err, store.ErrFenced) {
			lost <- err
			return
		}
		renewed.tell(n.opts.Log, slog.LevelWarn, "lease not renewed, retrying", err)
	}
}

// renew renews the lease once. A node that was late does not judge others until it has
// renewed in time for a whole lease.
func (n *Node) renew(life Life) error {
	ctx, cancel := context.WithTimeout(context.Background(), n.opts.Lease)
	defer cancel()
	began := time.Now()
	if err := life.Beat(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.beat) > n.opts.Lease/2 {
		n.good = time.Now()
	}
	n.beat = began
	return nil
}

// renewing returns since when this node has renewed its lease in time; ok: it does.
func (n *Node) renewing() (since time.Time, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.good, time.Since(n.beat) <= n.opts.Lease/2
}

// fenceOffDead ends the lives whose leases have not changed for as long as a lease
// lasts, by the clock of this node: a clock that is set, or a database that was away,
// makes nobody dead.
func (n *Node) fenceOffDead(ctx context.Context) error {
	members, err := n.life.Members(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	good, renewing := n.renewing()
	alive := map[int64]bool{}
	for _, m := range members {
		alive[m.ID] = true
		s := n.seen[m.ID]
		if s == nil || !s.expires.Equal(m.Expires) {
			n.seen[m.ID] = &sighting{expires: m.Expires, since: now, patience: max(m.Patience, n.opts.Lease)}
			continue
		}
		if m.ID == n.life.ID() || !renewing || now.Sub(s.since) < s.patience || now.Sub(good) < n.opts.Lease {
			continue
		}
		ok, err := n.life.FenceOff(ctx, m)
		if err != nil {
			return err
		}
		if ok {
			n.takeovers.Add(1)
			n.opts.Log.Warn("a node has stopped renewing its lease, taking over its accounts", "node", m.Name, "life", m.ID, "silent", now.Sub(s.since).Round(time.Millisecond))
		}
	}
	for id := range n.seen {
		if !alive[id] {
			delete(n.seen, id)
		}
	}
	return nil
}
