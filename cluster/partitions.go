package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/heartline-mqtt/heartline/delivery"
)

// freeAtOnce returns how many of the partitions may be without an owner before a node frees
// more of its own. Its next owner reads that many in a fraction of a second.
func freeAtOnce(parts int) int { return max(4, parts/16) }

// The backlogs of claimed partitions are read for readAtOnce of them at a time, by so many
// readers.
const (
	readAtOnce = 32
	readers    = 4
)

// companionPatience is how long Companion.End may wait before a partition is freed.
const companionPatience = time.Second

// stopPatience is how long a Core that gives its partition up waits for the answers of
// pushes that are under way.
const stopPatience = 5 * time.Second

type ownedPart struct {
	Ownership
	core *delivery.Core
}

// balance takes up to this node's share of the partitions, and frees some above it. A node
// that leaves has no share, and counts for nobody's. moving reports whether partitions change
// hands.
func (n *Node) balance(ctx context.Context) (moving bool, err error) {
	leaving := n.leaving.Load()
	if leaving && n.told != n.life.ID() { // another life of this node may have begun
		if err := n.life.SetLeaving(ctx); err != nil {
			return false, err
		}
		n.told = n.life.ID()
	}
	members, err := n.life.Members(ctx)
	if err != nil {
		return false, err
	}
	parts, err := n.life.Parts(ctx)
	if err != nil {
		return false, err
	}
	n.meet(members)
	defer n.moveStranded(members) // after the partitions have their owners
	nodes := 0                    // that take partitions
	for _, m := range members {
		if !m.Leaving {
			nodes++
		}
	}
	free, unserved := n.assign(parts)
	if len(unserved) > 0 {
		// The answer of a Claim was lost, or that of a GiveUp, which may still be on its way.
		kept, err := n.life.Raise(ctx, numbers(unserved))
		if err != nil {
			return false, err
		}
		return n.begin(kept)
	}
	share := 0
	switch {
	case !leaving:
		share = (len(parts) + nodes - 1) / max(nodes, 1)
	case nodes == 0:
		n.endDrain(ErrAlone)
		return false, nil
	case len(n.own) == 0 && free == 0:
		n.endDrain(nil)
		return false, nil
	}
	if missing := min(share-len(n.own), free); missing > 0 {
		claimed, err := n.life.Claim(ctx, missing)
		if err != nil {
			return false, err
		}
		return n.begin(claimed)
	}
	var surplus []uint16
	for part := range n.own {
		if len(n.own)-len(surplus) <= share || free+len(surplus) >= freeAtOnce(len(parts)) {
			break
		}
		surplus = append(surplus, part)
	}
	// Others may free partitions that this node lacks, or claim those that it freed, before the
	// next beat.
	moving = leaving || len(n.own) > share || free == 0 && len(n.own) < len(parts)/max(nodes, 1)
	return moving, n.giveUp(ctx, surplus)
}

// assign tells the Router who owns the partitions, and ends the Cores that this node runs for those that are
// not its own any more. It returns how many nobody owns, and those that are this node's and not served.
func (n *Node) assign(parts []Ownership) (free int, unserved []Ownership) {
	var gone []Ownership
	for _, p := range parts {
		switch {
		case p.Node == 0:
			free++
			n.opts.Router.Assign(p.Part, p.Term, 0)
			gone = append(gone, p)
		case p.Node != n.life.ID():
			n.opts.Router.Assign(p.Part, p.Term, p.Node)
			gone = append(gone, p)
		case n.own[p.Part] == nil || n.own[p.Part].Term < p.Term:
			unserved = append(unserved, p)
		}
	}
	n.dropFormer(gone)
	return free, unserved
}

// dropFormer ends the Cores that serve partitions under an earlier term: somebody has changed the
// partitions in the database by hand.
func (n *Node) dropFormer(now []Ownership) {
	var former, taken, left []uint16
	for _, p := range now {
		own := n.own[p.Part]
		switch {
		case own == nil || own.Term >= p.Term:
			continue
		case p.Node == 0 || p.Node == n.life.ID():
			left = append(left, p.Part)
		default:
			taken = append(taken, p.Part)
		}
		former = append(former, p.Part)
	}
	if len(former) == 0 {
		return
	}
	n.opts.Log.Warn("partitions were taken from this node by hand, their accounts are no longer served here", "partitions", len(former))
	n.dropCores(former)
	if n.opts.Companion != nil && len(taken) > 0 {
		n.opts.Companion.Lose(taken)
	}
	n.endCompanion(n.ctx, left) // this node may begin with them again at once
}

// drop ends the Cores of partitions that another node may serve already: nothing is written or
// pushed for them any more.
func (n *Node) drop(parts []uint16) {
	if n.opts.Companion != nil && len(parts) > 0 {
		n.opts.Companion.Lose(parts)
	}
	n.dropCores(parts)
}

func (n *Node) dropCores(parts []uint16) {
	for _, part := range parts {
		p := n.own[part]
		n.opts.Router.Serve(part, p.Term, nil)
		p.core.Abandon()
		delete(n.own, part)
	}
	n.cede(parts)
}

// begin starts the Cores of claimed partitions. Their backlog is read for some at once, and by
// several readers. A partition that cannot be taken up is freed. It reports whether all were
// taken up.
func (n *Node) begin(claimed []Ownership) (all bool, err error) {
	n.dropFormer(claimed)
	var failed []Ownership
	var mu sync.Mutex
	var starting errgroup.Group
	starting.SetLimit(readers)
	for some := range slices.Chunk(claimed, readAtOnce) {
		starting.Go(func() error {
			var cores []*delivery.Core
			taking := n.opts.Router.take()
			defer func() { n.opts.Router.taken(taking, cores) }()
			backlog, err := n.life.Backlog(numbers(some))
			for _, o := range some {
				core := n.life.Core(o)
				err := err
				switch {
				case err == nil:
					err = core.StartFrom(backlog)
				case !errors.Is(err, delivery.ErrUnavailable): // the fault may be in one of them alone
					err = core.Start()
				}
				if err != nil {
					core.Abandon()
					n.opts.Log.Error("partition not taken up, freeing it", "partition", o.Part, "error", err)
					mu.Lock()
					failed = append(failed, o)
					mu.Unlock()
					continue
				}
				mu.Lock()
				n.own[o.Part] = &ownedPart{o, core}
				n.opts.Router.Serve(o.Part, o.Term, core)
				mu.Unlock()
				cores = append(cores, core)
				if n.opts.Companion != nil {
					n.opts.Companion.Begin(n.life, o.Part, core)
				}
			}
			return nil
		})
	}
	_ = starting.Wait() // none returns an error
	if len(failed) == 0 {
		return true, nil
	}
	return false, n.free(failed)
}

func numbers(parts []Ownership) []uint16 {
	all := make([]uint16, len(parts))
	for i, p := range parts {
		all[i] = p.Part
	}
	return all
}

// giveUp stops the Cores of some partitions, which flush, and frees the partitions.
// Requests are held meanwhile.
func (n *Node) giveUp(ctx context.Context, parts []uint16) error {
	if len(parts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	n.endCompanion(ctx, parts)
	var stopping errgroup.Group
	freed := make([]Ownership, len(parts))
	for i, part := range parts {
		p := n.own[part]
		delete(n.own, part)
		n.opts.Router.Serve(part, p.Term, nil)
		stopping.Go(func() error {
			err := p.core.Stop(ctx)
			p.core.Abandon() // an ack that is late must not write over the next owner
			freed[i] = p.Ownership
			freed[i].Floor = max(p.Floor, p.core.LastNumber())
			if err != nil && !errors.Is(err, delivery.ErrUnavailable) {
				return fmt.Errorf("stop serving partition %d: %w", part, err)
			}
			return nil
		})
	}
	stopping.Go(func() error { n.cede(parts); return nil })
	if err := stopping.Wait(); err != nil {
		return err
	}
	return n.free(freed)
}

func (n *Node) endCompanion(ctx context.Context, parts []uint16) {
	if n.opts.Companion == nil || len(parts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, companionPatience)
	defer cancel()
	n.opts.Companion.End(ctx, parts)
}

// free gives partitions back. A database whose network is cut must not hold the node up.
func (n *Node) free(parts []Ownership) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	return n.life.GiveUp(ctx, parts)
}
