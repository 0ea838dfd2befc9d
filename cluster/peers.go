package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/heartline-mqtt/heartline/cluster/relay"
	"github.com/heartline-mqtt/heartline/delivery"
)

var _ relay.Local = (*Router)(nil)

var (
	errMoved  = fmt.Errorf("another node serves the account now: %w", delivery.ErrStopped)
	errNoPart = fmt.Errorf("%w: no such partition", delivery.ErrInvalid)
)

// Assign says which life of another node owns a partition; 0: none does. A term lower
// than one before is ignored. The partition is served once there is a relay to that node.
func (r *Router) Assign(part uint16, term uint64, life int64) {
	peer := r.peer(life)
	s := &r.table.slots[part]
	s.mu.Lock()
	if term < s.term || term == s.term && (s.core != nil || s.life == life && s.at(peer)) {
		s.mu.Unlock()
		return
	}
	o := s.assignLocked(part, term, life, peer)
	s.mu.Unlock()
	if o != nil {
		r.announce(part, o)
	}
}

// at reports whether the owner is reached by a Session; nil: there is none.
func (s *slot) at(peer *relay.Session) bool {
	remote, _ := s.owner.(*relay.Remote)
	if remote == nil {
		return peer == nil
	}
	return remote.Session() == peer
}

func (s *slot) assignLocked(part uint16, term uint64, life int64, peer *relay.Session) (o owner) {
	if peer != nil {
		o = peer.Owner(part, term)
	}
	s.setLocked(o, term)
	s.life = life
	return o
}

// sessions returns the relays to other nodes.
func (r *Router) sessions() (all []*relay.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.peers {
		all = append(all, s)
	}
	return all
}

func (r *Router) peer(life int64) *relay.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peers[life]
}

// OnUp implements relay.Local.
func (r *Router) OnUp(peer *relay.Session) {
	life := peer.Peer().ID
	r.mu.Lock()
	r.peers[life] = peer
	r.mu.Unlock()
	var ours []relay.Serving
	for i := range r.table.slots {
		part := uint16(i)
		s := &r.table.slots[i]
		s.mu.Lock()
		var o owner
		switch {
		case s.core != nil:
			ours = append(ours, relay.Serving{Part: part, Term: s.term})
		case s.life == life && !s.at(peer):
			o = s.assignLocked(part, s.term, life, peer)
		}
		s.mu.Unlock()
		if o != nil {
			r.announce(part, o)
		}
	}
	if len(ours) > 0 {
		peer.Serving(ours)
	}
}

// OnDown implements relay.Local.
func (r *Router) OnDown(peer *relay.Session) {
	life := peer.Peer().ID
	r.mu.Lock()
	if r.peers[life] == peer {
		delete(r.peers, life)
	}
	r.mu.Unlock()
	for i := range r.table.slots {
		s := &r.table.slots[i]
		s.mu.Lock()
		if s.owner != nil && s.at(peer) {
			s.assignLocked(uint16(i), s.term, s.life, nil)
		}
		s.mu.Unlock()
	}
}

// OnServing implements relay.Local.
func (r *Router) OnServing(peer *relay.Session, parts []relay.Serving) {
	for _, p := range parts {
		if p.Part < r.opts.Parts {
			r.Assign(p.Part, p.Term, peer.Peer().ID)
		}
	}
}

// Owner implements relay.Local.
func (r *Router) Owner(part uint16, term uint64) (o relay.Owner, wait <-chan struct{}, err error) {
	if part >= r.opts.Parts {
		return nil, nil, errNoPart
	}
	s := &r.table.slots[part]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.term > term:
		return nil, nil, errMoved
	case s.core != nil && s.term == term:
		return s.core, nil, nil
	}
	return nil, s.changedLocked(), nil
}

// Current implements relay.Local.
func (r *Router) Current(part uint16, term uint64) bool {
	s := &r.table.slots[part]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term <= term
}

// End implements relay.Local.
func (r *Router) End(device, account string, session bool) bool {
	return r.opts.End != nil && r.opts.End(device, account, session)
}

// endPatience bounds the wait for other nodes to end connections.
const endPatience = 2 * time.Second

// EndElsewhere ends the connections that devices have at the other nodes, with session their
// sessions, too, and reports whether there was one; see relay.Local.End. A node that does not
// answer within 2 s is left out: it ends them when it is back, if its relay lasts until then.
func (r *Router) EndElsewhere(ctx context.Context, account string, session bool, devices ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	var ended atomic.Bool
	var asked sync.WaitGroup
	for _, peer := range r.sessions() {
		for _, device := range devices {
			asked.Go(func() {
				had, err := peer.End(ctx, device, account, session)
				if err != nil {
					r.seldom.Warn(r.opts.Log, "another node was not heard to end a device's connection, it may stay connected there", "device", device, "node", peer.Peer().Name, "error", err)
				}
				if had {
					ended.Store(true)
				}
			})
		}
	}
	asked.Wait()
	return ended.Load()
}

// OnClaimed implements relay.Local.
func (r *Router) OnClaimed(from uint16, c delivery.Claim) {
	r.start(func() { r.onClaimed(from, c) })
}

// FlushAll is Flush at all nodes. One that is not reached is left out: nobody has an
// answer yet that depends on its pending writes.
func (r *Router) FlushAll(ctx context.Context) error {
	errs := []error{r.Flush(ctx)}
	for _, s := range r.sessions() {
		if err := s.FlushAll(ctx); !moved(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
