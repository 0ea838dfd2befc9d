package cluster

import (
	"context"
	"time"
)

// Referee is one life of a node in the database that all nodes share, which alone
// decides who owns a partition. The errors of Beat, Claim and GiveUp wrap store.ErrFenced
// once another node has ended this life; any other error is to be tried again.
type Referee interface {
	// ID is the number of this life, which is never given twice.
	ID() int64
	// Beat renews the lease.
	Beat(ctx context.Context) error
	// Trusted returns nil while no other node can have ended this life, by this node's
	// monotonic clock alone.
	Trusted() error
	// Now is the time of the database, as of the last Beat.
	Now() time.Time
	// Members returns all lives, this one too.
	Members(ctx context.Context) ([]Member, error)
	// FenceOff ends the life of another node, unless it has renewed its lease since dead
	// was read; ok is false then. When it returns, no write of that life takes effect
	// any more, and its partitions are free.
	FenceOff(ctx context.Context, dead Member) (ok bool, err error)
	// Parts returns all partitions.
	Parts(ctx context.Context) ([]Ownership, error)
	// Claim takes up to n free partitions and returns those that it got.
	Claim(ctx context.Context, n int) ([]Ownership, error)
	// GiveUp frees partitions of this life that it owns under their terms. Their next owners give
	// out numbers above their floors.
	GiveUp(ctx context.Context, freed []Ownership) error
	// Raise raises the terms of partitions of this life, so that no GiveUp from before takes effect
	// any more, and returns those that it still owns.
	Raise(ctx context.Context, parts []uint16) ([]Ownership, error)
	// SetLeaving tells the other nodes that this one claims nothing more.
	SetLeaving(ctx context.Context) error
	// Leave ends this life.
	Leave(ctx context.Context) error
}

// Member is a life of a node.
type Member struct {
	ID      int64
	Name    string
	Address string // of its relay
	Leaving bool
	Expires time.Time // end of its lease, by the clock of the database
	// Patience is how long Expires must not change, from when it was read, before this life is
	// taken for dead; 0: for a lease.
	Patience time.Duration
}

// Ownership says who owns a partition.
type Ownership struct {
	Part  uint16
	Node  int64  // a life; 0: nobody
	Term  uint64 // grows with each change
	Floor uint64 // no Seq or Number up to here any more
}
