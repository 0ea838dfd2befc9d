package store

import (
	"errors"
	"fmt"

	"github.com/heartline-mqtt/heartline/delivery"
)

// Checkpointer is an Engine that can copy itself while it works.
type Checkpointer interface {
	// Checkpoint makes a directory with a store that holds every batch whose Apply with
	// Sync has returned, and no part of a batch. It may run concurrently with every other
	// method but Close. The directory is on the disk of the store; the caller copies its
	// files, which do not change, and calls remove, also after Close. Only one can exist
	// at a time: ErrCheckpointExists.
	Checkpoint() (dir string, remove func() error, err error)
	// CheckpointBytes is how much room a checkpoint takes at first.
	CheckpointBytes() uint64
}

// ErrCheckpointExists is the error of a second Checkpoint before the first is removed.
var ErrCheckpointExists = errors.New("another backup is being made")

// ErrNoCheckpoint is the error of an engine that is not a Checkpointer.
var ErrNoCheckpoint = errors.New("this store.engine cannot be backed up")

// hasRoomFor reports an error where n more bytes would leave too little room for what
// is accepted.
func (o *Outbox) hasRoomFor(n uint64) error {
	if o.opts.FreeBytes == nil {
		return nil
	}
	free, err := o.opts.FreeBytes()
	if err != nil {
		return err
	}
	if need := o.opts.MinFreeBytes + n; free < need {
		return fmt.Errorf("%w: the server's disk has %d bytes free, and a backup needs %d there", delivery.ErrUnavailable, free, need)
	}
	return nil
}

// Checkpoint returns what the engine's Checkpoint does. The error wraps delivery.ErrUnavailable while the
// store fails or has too little room.
func (o *Outbox) Checkpoint() (dir string, remove func() error, err error) {
	err = o.read(func(e Engine) (err error) {
		c, ok := e.(Checkpointer)
		if !ok {
			return ErrNoCheckpoint
		}
		if err := o.Ready(); err != nil {
			return fmt.Errorf("%w: %w", delivery.ErrUnavailable, err)
		}
		if err := o.hasRoomFor(c.CheckpointBytes()); err != nil {
			return err
		}
		dir, remove, err = c.Checkpoint()
		return err
	})
	return dir, remove, err
}

// Audit sums up a store: Unaccounted is Accepted - Finished - Unfinished, and
// anything but 0 means a lost delivery.
type Audit struct {
	delivery.Totals
	Unfinished  uint64
	Unaccounted int64
}

// AuditEngine compares the totals of an engine that nothing changes with the deliveries
// that are there.
func AuditEngine(e Engine) (Audit, error) {
	var a Audit
	var err error
	if a.Totals, err = e.Totals(); err != nil {
		return a, fmt.Errorf("audit: %w", err)
	}
	if err := e.Unfinished(delivery.Shard{}, func(*delivery.Record) bool { a.Unfinished++; return true }); err != nil {
		return a, fmt.Errorf("audit: %w", err)
	}
	a.Unaccounted = int64(a.Accepted - a.Finished - a.Unfinished)
	return a, nil
}
