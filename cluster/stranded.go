package cluster

import (
	"maps"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// A device is stranded here when the owner of its account lives but is not reached: it stays
// connected and gets nothing, and the owner, or another node, can serve it. Its client is asked to
// connect to another node, where the database shows that the owner is well: both this node
// and the owner renew their leases, and no relay between them has been had for as long as a
// take-over lasts. The successor of a dead owner is reached by itself, and a node that does not
// reach the database does not know who lives: it keeps its devices.

// moveOver is in how many leases the clients of stranded devices are asked to move, so that they
// do not come to the other nodes all at once; but moveLeast of them at each turn.
const (
	moveOver  = 2
	moveLeast = 25
)

// mover asks the clients of stranded devices to move. Only the Node's loop uses it.
type mover struct {
	reached map[int64]time.Time // lives of others: when there was a relay to each, or it was new
	until   time.Time           // by then those that were stranded first have moved; zero: none are
}

// moveStranded looks for stranded devices once a turn, and asks some of their clients to move.
func (n *Node) moveStranded(members []Member) {
	if n.opts.Mesh == nil {
		return
	}
	now := time.Now()
	_, renewing := n.renewing()
	reached := map[int64]time.Time{}
	var names []string
	cut := map[int64]bool{}
	for _, m := range members {
		if m.ID == n.life.ID() {
			continue
		}
		since, known := n.mover.reached[m.ID]
		if peer := n.opts.Router.peer(m.ID); !known || peer != nil && peer.Streaming() {
			since = now
		}
		reached[m.ID] = since
		lives := n.seen[m.ID] != nil && now.Sub(n.seen[m.ID].since) <= n.opts.Lease/2
		if renewing && lives && !m.Leaving && now.Sub(since) >= n.opts.Router.table.hold {
			cut[m.ID] = true
			names = append(names, m.Name)
		}
	}
	n.mover.reached = reached
	var stranded []*edge
	if len(cut) > 0 && !n.leaving.Load() {
		stranded = n.opts.Router.stranded(cut)
	}
	if len(stranded) == 0 {
		n.mover.until = time.Time{}
		return
	}
	if n.mover.until.IsZero() {
		n.mover.until = now.Add(moveOver * n.opts.Lease)
		slices.Sort(names)
		n.opts.Log.Warn("devices here are asked to connect to another node: this one does not reach the nodes that serve their accounts", "nodes", names, "devices", len(stranded))
	}
	turns := max(1, int(n.mover.until.Sub(now)/(n.opts.Lease/beats)))
	quota := max(moveLeast, (len(stranded)+turns-1)/turns)
	for _, e := range stranded[:min(quota, len(stranded))] {
		e.move()
	}
	n.moved.Add(uint64(min(quota, len(stranded))))
}

// stranded returns the channels whose accounts belong to lives that this node does not reach.
func (r *Router) stranded(cut map[int64]bool) (all []*edge) {
	for i := range r.table.slots {
		s := &r.table.slots[i]
		s.mu.Lock()
		var edges []*edge
		if s.owner == nil && cut[s.life] {
			edges = slices.Collect(maps.Keys(s.edges))
		}
		s.mu.Unlock()
		for _, e := range edges {
			if e.movable() != nil {
				all = append(all, e)
			}
		}
	}
	return all
}

// movable returns the channel of a client that can be asked to move; nil: it cannot, or has been.
func (e *edge) movable() delivery.Movable {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, ok := e.info.Channel.(delivery.Movable)
	if !ok || e.gone || e.moving || e.info.Channel.Closed() {
		return nil
	}
	return m
}

func (e *edge) move() {
	m := e.movable()
	if m == nil {
		return
	}
	e.mu.Lock()
	e.moving = true
	e.mu.Unlock()
	m.Move()
}
